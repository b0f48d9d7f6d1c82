"""The released updates and accuracies, by name; the formulas are in method.py and baselines/."""

from collections.abc import Callable
from typing import Literal

import torch

from cavl import method as formulas
from cavl.baselines import BASELINES
from cavl.data_checks import require_candidates
from cavl.evaluate import accuracy_check, accuracy_check_cam, accuracy_check_train
from cavl.method import CAVL, CavKind, Mask, class_activation_value
from common.aliases import one_module
from common.cam import at_least_float32
from common.domain import require_indices, require_number, require_shape

one_module(__name__, "cavl.utils.utils_algo")

__all__ = [
    "accuracy_check",
    "accuracy_check_cam",
    "accuracy_check_train",
    "class_activation_value",
    "confidence_update",
    "confidence_update_lw",
    "confidence_update_rc",
    "label_smoothing",
    "update_from_outputs",
]

Method = Literal["cavl", "rc", "proden", "lws", "uniform"]
Network = Callable[[torch.Tensor], torch.Tensor]

_BASELINES = {name: baseline() for name, baseline in BASELINES.items()}


def update_from_outputs(
    outputs: torch.Tensor,
    batchY: torch.Tensor,
    method: Method = "cavl",
    *,
    cav: CavKind = "logit",
    mask: Mask = "candidates",
    smoothing: float = 0.0,
    temperature: float | None = None,
) -> torch.Tensor:
    """A method's new rows (B, K) of the confidence table, from outputs and candidate sets (B, K).

    The keywords are those of `method.CAVL`. ValueError for a method without a table and for values
    that CAVL does not take.
    """
    require_shape(batchY, outputs.shape, "candidates")
    require_candidates(batchY, "candidates")
    own = CAVL(cav=cav, mask=mask, smoothing=smoothing, temperature=temperature)
    rules = {"cavl": own, **_BASELINES}
    if method not in rules:
        raise ValueError(f"method {method!r} is unknown; use one of {', '.join(rules)}")

    outputs = at_least_float32(outputs)
    belief = rules[method].update(outputs, batchY)
    rows = rules[method].confidence(belief, batchY)
    if rows is None:
        raise ValueError(f"method {method!r} has no confidence table")
    return rows.to(outputs.dtype)


@torch.no_grad()
def confidence_update(
    model: Network,
    confidence: torch.Tensor,
    batchX: torch.Tensor,
    batchY: torch.Tensor,
    batch_index: torch.Tensor,
    *,
    cav: CavKind = "logit",
    mask: Mask = "candidates",
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Overwrite rows batch_index of confidence (N, K) with the selected labels; return it.

    The forward pass runs in the model's present mode: in train mode BatchNorm statistics move once
    more.
    """
    rows = update_from_outputs(model(batchX), batchY, cav=cav, mask=mask, smoothing=smoothing)
    return _write_rows(confidence, batch_index, rows)


@torch.no_grad()
def confidence_update_rc(
    model: Network,
    confidence: torch.Tensor,
    batchX: torch.Tensor,
    batchY: torch.Tensor,
    batch_index: torch.Tensor,
) -> torch.Tensor:
    """Overwrite rows batch_index of confidence (N, K) with p Y / sum(p Y); return it."""
    return _write_rows(confidence, batch_index, update_from_outputs(model(batchX), batchY, "rc"))


@torch.no_grad()
def confidence_update_lw(
    model: Network,
    confidence: torch.Tensor,
    batchX: torch.Tensor,
    batchY: torch.Tensor,
    batch_index: torch.Tensor,
) -> torch.Tensor:
    """Overwrite rows batch_index of confidence (N, K) with the LWS weights; return it."""
    return _write_rows(confidence, batch_index, update_from_outputs(model(batchX), batchY, "lws"))


def label_smoothing(outputs: torch.Tensor, epsion: float = 0.1) -> torch.Tensor:
    """(1 - epsion) * outputs + epsion / K of (B, K); ValueError for epsion outside [0, 1]."""
    require_number(epsion, "epsion", 0, 1)
    return formulas.label_smoothing(outputs, epsion)


def _write_rows(confidence: torch.Tensor, index: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    require_indices(index, len(confidence), "batch_index")
    confidence[index] = rows.to(confidence.dtype)
    return confidence
