"""Evaluation in a run: what the network says of all images of a set, and the metrics of that."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.cli import UserError
from common.loading import gather_in_order
from mile.schedule import rho_at
from mile.sources import EvalBatch, Source, as_matrix
from mile.thresholds import covering_rho
from mile.utils import RealMetrics

one_module(__name__, "mile.evaluation")

# real_f1 is also reported at the thresholds of the authors
FURTHER_RHOS = {"real_f1_025": 0.25, "real_f1_05": 0.5}


class Outputs(NamedTuple):
    """Of the n images of a set, in order, on the CPU: logits (n,C) float32, labels (n,), label sets (n,C) bool.

    index (n,) int64 are their places in the set: with --skip_corrupt images may be missing.
    """

    logits: torch.Tensor
    label: torch.Tensor
    real: torch.Tensor
    index: torch.Tensor


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[EvalBatch],
    num_classes: int,
    accelerator: Accelerator,
    poll: Callable[[], None] = lambda: None,
) -> Outputs:
    """What a model says of every image, gathered over all processes; training mode restored.

    `poll` is called between batches, so that a stop signal is answered here too. UserError where no image of the
    set can be read.
    """
    was_training = model.training
    model.eval()
    nothing = (
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, num_classes),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, num_classes, dtype=torch.bool),
    )
    columns = [[part] for part in nothing]
    for batch in batches:
        with accelerator.autocast():
            logits = model(batch.input).float()
        parts = (
            batch.index,
            logits,
            batch.label,
            as_matrix(batch.real, num_classes, logits.device),
        )
        for column, part in zip(columns, parts, strict=True):
            column.append(part.cpu())
        poll()
    model.train(was_training)
    index, *rest = (torch.cat(column) for column in columns)
    index, *rest = gather_in_order(index, *rest, accelerator=accelerator)
    if not len(index):
        raise UserError("no image of an evaluation can be read; check the data")
    return Outputs(*rest, index)


def skipped_of(outputs: Outputs, source: Source) -> int:
    """How many images of the evaluation set these outputs are without: they cannot be read (--skip_corrupt)."""
    return source.left_out + source.test_size - len(outputs.index)


def metrics_of(outputs: Outputs, conf: Any) -> dict[str, float]:
    """RealMetrics at eval_rho, and real_f1 also at 0.25 and 0.5."""
    top5 = conf.dataset == "webvision"  # its published figures are top-1 and top-5

    def at(rho: float) -> dict[str, float]:
        metrics = RealMetrics(outputs.logits.shape[1], conf.schema, rho, conf.protocol, top5=top5)
        metrics.update(outputs.logits, outputs.label, outputs.real)
        return metrics.compute()

    return at(conf.eval_rho) | {name: at(rho)["real_f1"] for name, rho in FURTHER_RHOS.items()}


def chosen_rho(
    conf: Any,
    teacher: nn.Module,
    source: Source,
    generation: int,
    generations: int,
    accelerator: Accelerator,
    poll: Callable[[], None] = lambda: None,
) -> float:
    """The threshold of the coming imitation phase: rho, annealed from rho_start, or chosen on held-out images."""
    if conf.rho_cover is None:
        return rho_at(conf, generation, generations, conf.rho)
    held_out = evaluate(teacher, source.held_out(), source.num_classes, accelerator, poll)
    return covering_rho(held_out.logits.sigmoid(), held_out.label, conf.rho_cover)
