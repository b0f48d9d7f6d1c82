"""The original's `eval` and `save_model`, with their settings from a class like `config`.

The metrics.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from common.aliases import one_module
from mile.build import device_named
from mile.config import config, setting
from mile.evaluate import RealMetrics, multi_hot  # noqa: F401
from mile.method import PROTOCOLS, prediction_set, probabilities, set_at  # noqa: F401
from mile.options_table import COMPARABLE
from mile.report_weights import save_weights

one_module(__name__, "mile.utils")


class Evaluation(NamedTuple):
    """What `eval` returns; the first four in the order of the unofficial code."""

    acc: float
    real_f1: float
    real_acc: float
    label_coverage: float
    any_hit: float
    precision: float
    recall: float
    n: int
    n_real: int


@torch.inference_mode()
def eval(model: nn.Module, imgNet_dataloader: Iterable, conf: Any = config) -> Evaluation:  # noqa: A001 - the name of the original
    """Evaluate a model on a loader of (input, label, real).

    Real as bool (N,C) or N lists of indices.

    The device is conf.device (without a GPU the CPU), the threshold conf.eval_rho or conf.rho; the
    model is put in evaluation mode.
    """
    device = device_of(conf)
    model.to(device).eval()
    metrics: RealMetrics | None = None
    for input, label, real in imgNet_dataloader:
        logits = model(input.to(device, non_blocking=True))
        if metrics is None:
            metrics = RealMetrics(
                logits.shape[1],
                setting(conf, "schema"),
                setting(conf, "eval_rho"),
                setting(conf, "protocol"),
            )
        metrics.update(logits, label.to(device), real)
    found: dict[str, Any] = (metrics or RealMetrics(1)).compute()
    return Evaluation(**found)


def device_of(conf: Any = config) -> torch.device:
    """conf.device, or the CPU (with one warning) where that is a GPU which is not there."""
    return device_named(setting(conf, "device"))


def save_model(model: nn.Module, name: str, conf: Any = config) -> Path:
    """report_weights.save_weights: to checkpoint_path/CLASS/name, name = SCHEMA_EPOCH.pth."""
    says = {name: setting(conf, name) for name in COMPARABLE}
    return save_weights(
        model,
        name,
        folder=setting(conf, "checkpoint_path"),
        keep=setting(conf, "max_checkpoint_num"),
        says=says | {"classes": None},
    )
