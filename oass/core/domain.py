"""Which values the public functions of the method take; a ValueError where they get others.

A label of 0.9, a NaN, a keypoint outside the image or k = 0 would otherwise pass without a word: such a label has no
keypoint, such a keypoint reads pixels from the other side. Values are looked at on the CPU in eager mode; on a GPU
that would wait for the device, under torch.compile and torch.func it would break the graph.
"""

import math
from numbers import Integral, Real

import numpy as np
import torch

from common.aliases import one_module
from common.domain import is_readable

one_module(__name__, "oass.core.domain")


def require_labels(labels: torch.Tensor, name: str = "labels") -> None:
    """ValueError that names the first value that is neither 0 nor 1, and its place."""
    if is_readable(labels):
        _require_zeros_and_ones(labels.detach().double().numpy(), name)


def require_label_array(labels: np.ndarray, name: str = "labels") -> None:
    """The same for an array."""
    _require_zeros_and_ones(labels, name)


def _require_zeros_and_ones(labels: np.ndarray, name: str) -> None:
    strange = (labels != 0) & (labels != 1)
    if strange.any():
        place = tuple(np.argwhere(strange)[0].tolist())
        raise ValueError(
            f"{name}: {labels[place]:g} at {list(place)} is no label; labels are 0 and 1"
        )


def labels_or_nan(labels: torch.Tensor) -> torch.Tensor:
    """The labels; NaN in place of those that are neither 0 nor 1, which makes their loss NaN. No look at values."""
    return torch.where((labels == 0) | (labels == 1), labels, torch.nan)


def require_finite(values: torch.Tensor, name: str) -> None:
    """ValueError for NaN or infinity."""
    if is_readable(values) and not bool(values.detach().isfinite().all()):
        raise ValueError(f"{name}: holds NaN or infinity")


def require_in_range(values: torch.Tensor, low: int, high: int, name: str) -> None:
    """ValueError for the first value outside low .. high."""
    if not is_readable(values):
        return
    outside = (values < low) | (values > high)
    if bool(outside.any()):
        raise ValueError(f"{name}: {values[outside][0].item()} is not in {low} .. {high}")


def require_shape(values: torch.Tensor, shape: tuple[int | None, ...], name: str) -> None:
    """ValueError where a shape differs; None stands for any length."""
    found = tuple(values.shape)
    fits = len(found) == len(shape) and all(
        w in (None, f) for f, w in zip(found, shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name}: shape {found}, expected ({wanted})")


def require_number(
    value: object,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
) -> None:
    """ValueError where `value` is no finite number with low <= value <= high and above < value."""
    is_number = isinstance(value, Real | np.number) and math.isfinite(value)
    if is_number and low <= value <= high and value > above:
        return
    bounds = [f"above {above:g}"] if math.isfinite(above) else []
    bounds += [f"at least {low:g}"] if math.isfinite(low) else []
    bounds += [f"at most {high:g}"] if math.isfinite(high) else []
    raise ValueError(f"{name} {value!r}: must be a finite number {' and '.join(bounds)}".rstrip())


def require_count(value: object, name: str, low: int = 0) -> None:
    """ValueError where `value` is no whole number from `low` on."""
    is_whole = isinstance(value, Integral | np.integer) or (
        isinstance(value, float) and value.is_integer()
    )
    if not is_whole or value < low:
        raise ValueError(f"{name} {value!r}: must be a whole number from {low} on")


def require_choice(value: object, choices: tuple[str, ...], name: str) -> None:
    """ValueError that lists the choices."""
    if value not in choices:
        raise ValueError(f"{name} {value!r}: choose from {', '.join(choices)}")
