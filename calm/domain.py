"""Checks of what public functions are given: ValueError where it is outside their domain.

Made in eager mode on a CPU only. On a GPU, under torch.compile and under functorch a check would wait for the device
or break the graph; there an index out of range ends in the device's own error.
"""

import math
from numbers import Real

import torch

from common.aliases import one_module
from common.domain import DomainError, is_readable

one_module(__name__, "calm.domain")


def check_labels(
    labels: torch.Tensor, classes: int, images: int | None = None, name: str = "labels"
) -> None:
    """ValueError unless `labels` (B,) are whole numbers in 0..classes - 1; B is `images` where that is given."""
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise DomainError(f"{name} must be whole numbers, not {labels.dtype}")
    if labels.ndim != 1 or (images is not None and len(labels) != images):
        expected = "(B,)" if images is None else f"({images},)"
        raise DomainError(f"{name} must be {expected}, not {tuple(labels.shape)}")
    if not is_readable(labels) or not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DomainError(f"{name} must be in 0..{classes - 1}, found {low if low < 0 else high}")


def check_not_negative(values: torch.Tensor, name: str) -> None:
    """ValueError where a value is below 0. NaN passes: the guard of a run names the images that it comes from."""
    if is_readable(values) and bool((values < 0).any()):
        raise DomainError(
            f"{name} must not be negative, found {float(values[values < 0].min()):.4g}"
        )


def check_no_nan(values: torch.Tensor, name: str) -> None:
    """ValueError where a value is NaN, which has no rank."""
    if is_readable(values) and bool(values.isnan().any()):
        raise DomainError(f"{name} must not hold NaN")


def check_count(value: int, name: str, low: int = 1) -> None:
    """ValueError unless a whole number of at least `low`."""
    if isinstance(value, bool) or int(value) != value or value < low:
        raise DomainError(f"{name} must be a whole number of at least {low}, not {value!r}")


def check_share(value: Real, name: str) -> None:
    """ValueError unless in 0..1."""
    if not 0 <= value <= 1:
        raise DomainError(f"{name} must be in 0..1, not {value!r}")


def check_positive(value: Real, name: str) -> None:
    """ValueError unless above 0 and finite."""
    if not 0 < value < math.inf:
        raise DomainError(f"{name} must be above 0 and finite, not {value!r}")
