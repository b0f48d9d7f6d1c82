"""Which values the functions of method.py take: everything else is a ValueError of one line.

Values of tensors are looked at on the CPU only, outside of torch.compile and torch.func.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn


def require_one_of(value: str, allowed: Sequence[str], what: str) -> None:
    """A word is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{what} {value!r}: choose from {', '.join(allowed)}")


def require_rho(rho: float, threshold_on: str = "prob", what: str = "rho") -> None:
    """A threshold of probabilities is between 0 and 1, one of logits a finite number."""
    require_one_of(threshold_on, ("prob", "logit"), "threshold_on")
    if threshold_on == "prob" and not 0 < rho < 1:
        raise ValueError(f"{what} {rho!r}: expected a finite number above 0 and below 1")
    if not math.isfinite(rho):
        raise ValueError(f"{what} {rho!r}: expected a finite number")


def require_shape(tensor: torch.Tensor, shape: Sequence[int], what: str) -> None:
    """A tensor has the shape expected: broadcasting would hide another one."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{what}: shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def may_look(values: torch.Tensor) -> bool:
    """Whether looking at the values neither waits for a GPU nor breaks a graph that is traced."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return values.device.type == "cpu" and type(values) in (torch.Tensor, nn.Parameter)


def require_between(values: torch.Tensor, high: float, what: str, expected: str) -> None:
    """Values are from 0 to high, where they may be looked at."""
    if not may_look(values):
        return
    if not values.numel():
        return
    least, most = values.aminmax()
    if not (least >= 0 and most <= high):  # also where one is NaN
        fits = (values >= 0) & (values <= high)
        stranger = values[~fits].flatten()[0].item()
        raise ValueError(f"{what}: {stranger}; expected {expected}")


def require_classes(label: torch.Tensor, num_classes: int) -> None:
    """Labels are classes; see `require_between`."""
    expected = f"whole numbers from 0 to {num_classes - 1}"
    require_between(label, num_classes - 1, "label", expected)


def require_weights(weight: torch.Tensor) -> None:
    """Weights are finite, none negative, and not all 0."""
    most = torch.finfo(weight.dtype).max
    require_between(weight, most, "weight", "finite numbers, none negative")
    if may_look(weight) and not weight.any():
        raise ValueError("weight: all images weigh 0")
