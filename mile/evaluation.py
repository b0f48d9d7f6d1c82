"""Evaluation in a run: the metrics after each generation, and all logits for the study at the end."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from common.loading import gather_in_order
from mile.config import setting
from mile.schedule import rho_at
from mile.sources import EvalBatch, Source, as_matrix
from mile.thresholds import covering_rho
from mile.utils import RealMetrics

# real_f1 is also reported at the thresholds of the authors
FURTHER_RHOS = {"real_f1_025": 0.25, "real_f1_05": 0.5}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[EvalBatch],
    num_classes: int,
    conf: Any,
    accelerator: Accelerator,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """RealMetrics of a model over all processes, real_f1 also at 0.25 and 0.5; training mode restored.

    `poll` is called between batches, so that a stop signal is answered here too.
    """
    schema, protocol = conf.schema, conf.protocol
    rhos = {"": setting(conf, "eval_rho")} | FURTHER_RHOS
    top5 = {"top5": conf.dataset == "webvision"}  # its published figures are top-1 and top-5
    metrics = {name: RealMetrics(num_classes, schema, rho, protocol, **top5) for name, rho in rhos.items()}
    was_training = model.training
    model.eval()
    for batch in batches:
        with accelerator.autocast():
            logits = model(batch.input)
        for metric in metrics.values():
            metric.update(logits, batch.label, batch.real)
        if accelerator.num_processes == 1:
            poll()
    model.train(was_training)
    results = {name: metric.compute(accelerator) for name, metric in metrics.items()}
    return results[""] | {name: results[name]["real_f1"] for name in FURTHER_RHOS}


def chosen_rho(
    conf: Any, teacher: nn.Module, source: Source, generation: int, generations: int, accelerator: Accelerator
) -> float:
    """The threshold of the coming imitation phase: rho, annealed from rho_start, or chosen on held-out images."""
    if conf.rho_cover is None:
        return rho_at(conf, generation, generations, conf.rho)
    logits, label, _ = all_logits(teacher, source.held_out(), source.num_classes, accelerator)
    return covering_rho(logits.sigmoid(), label, conf.rho_cover)


@torch.inference_mode()
def all_logits(
    model: nn.Module, batches: Iterable[EvalBatch], num_classes: int, accelerator: Accelerator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (n,C) float32, labels (n,), label sets (n,C) bool of all images in order, on the CPU."""
    was_training = model.training
    model.eval()
    columns: list[list[torch.Tensor]] = [[], [], [], []]
    for batch in batches:
        with accelerator.autocast():
            logits = model(batch.input).float()
        rows = (batch.index, logits, batch.label, as_matrix(batch.real, num_classes, logits.device))
        for column, part in zip(columns, rows, strict=True):
            column.append(part.cpu())
    model.train(was_training)
    index, *rest = (torch.cat(column) for column in columns)
    _, logits, label, real = gather_in_order(index, *rest, accelerator=accelerator)
    return logits, label, real
