"""Which values the public functions take; a ValueError that names the first other one.

A label of 0.9, a NaN, a keypoint outside the image or k = 0 would otherwise pass without a word:
such a label has no keypoint, such a keypoint reads pixels from the other side. Values of tensors
are looked at on the CPU in eager mode; on a GPU that would wait for the device, under torch.compile
and torch.func it would break the graph.
"""

from numbers import Integral

import numpy as np
import torch

from common.aliases import one_module
from common.domain import DomainError, is_readable

one_module(__name__, "oass.data_checks")


def require_labels(labels: torch.Tensor | np.ndarray, what: str = "labels") -> None:
    """DomainError that names the first value that is neither 0 nor 1, and its place."""
    if isinstance(labels, torch.Tensor):
        if not is_readable(labels):
            return
        labels = labels.detach().double().numpy()
    strange = (labels != 0) & (labels != 1)
    if strange.any():
        place = tuple(np.argwhere(strange)[0].tolist())
        found = f"{labels[place]:g} at {list(place)}"
        raise DomainError(f"{what}: {found} is no label; labels are 0 and 1")


def require_finite(values: torch.Tensor, what: str) -> None:
    """DomainError for NaN or infinity."""
    if is_readable(values) and not bool(values.detach().isfinite().all()):
        raise DomainError(f"{what}: holds NaN or infinity")


def require_in_range(values: torch.Tensor, low: int, high: int, what: str) -> None:
    """DomainError for the first value outside low .. high."""
    if not is_readable(values):
        return
    outside = (values < low) | (values > high)
    if bool(outside.any()):
        raise DomainError(f"{what}: {values[outside][0].item()} is not in {low} .. {high}")


def require_sizes(values: torch.Tensor, sizes: tuple[int | None, ...], what: str) -> None:
    """DomainError where a shape differs; None stands for any length."""
    found = tuple(values.shape)
    fits = len(found) == len(sizes)
    for length, wanted in zip(found, sizes, strict=False):
        fits = fits and wanted in (None, length)
    if not fits:
        shown = str(sizes).replace("None", "any")
        raise DomainError(f"{what}: shape {found}, expected {shown}")


def require_count(value: object, what: str, low: int = 0) -> None:
    """DomainError where `value` is no whole number from `low` on."""
    is_whole = isinstance(value, Integral | np.integer)
    if isinstance(value, float):
        is_whole = value.is_integer()
    if not is_whole or value < low:  # type: ignore[operator]  # a number by now
        raise DomainError(f"{what} {value!r}: must be a whole number from {low} on")
