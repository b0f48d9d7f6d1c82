"""Which values the public functions of the method take: labels 1, 0 and -1, and finite settings.

A label that is none of these trains or scores nothing in the formulas: a smoothed 0.9, pandas' NaN
for a missing value or a class index 2 would pass without a word. Where values can be looked at they
are an error; where looking would wait for the device or break a traced graph, the loss becomes NaN,
which the guard of a run reports.
"""

import math
from numbers import Integral, Real

import numpy as np
import torch

from common.aliases import one_module
from common.domain import is_readable, is_transformed
from csl.src.errors import SettingsError

one_module(__name__, "csl.src.domain")

__all__ = [
    "COMPLETE",
    "PARTIAL",
    "are_labels",
    "as_array",
    "is_readable",
    "is_transformed",
    "require_count",
    "require_labels",
    "require_number",
]

PARTIAL = (-1, 1)  # smallest and largest label: un-annotated -1, negative 0, positive 1
COMPLETE = (0, 1)
NAMES = {
    PARTIAL: "1 (positive), 0 (negative) or -1 (un-annotated)",
    COMPLETE: "1 (positive) or 0 (negative)",
}


def are_labels(values: np.ndarray | torch.Tensor, kind: tuple[int, int] = PARTIAL) -> bool:
    """Whether all values (of any shape) are labels of a kind; NaN and fractions are none."""
    low, high = kind
    if math.prod(values.shape) == 0:
        return True
    if isinstance(values, torch.Tensor):
        has_fractions = values.is_floating_point() or values.is_complex()
    else:
        has_fractions = values.dtype.kind not in "biu"
    if not has_fractions:
        return low <= int(values.min()) and int(values.max()) <= high
    found = (values == 0) | (values == 1)
    if low == -1:
        found = found | (values == -1)
    return bool(found.all())


def as_array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """A tensor of any device as an array, half precision as float32; others as numpy sees them."""
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    is_half = values.dtype in (torch.float16, torch.bfloat16)
    return (values.float() if is_half else values).numpy()


def require_labels(
    values: np.ndarray | torch.Tensor,
    what: str,
    kind: tuple[int, int] = PARTIAL,
) -> None:
    """SettingsError (a ValueError) that names the first value that is no label, and its place."""
    if are_labels(values, kind):
        return
    array = as_array(values)
    known = np.isin(array, np.arange(kind[0], kind[1] + 1))
    place = np.argwhere(~known)[0].tolist()
    value = array[tuple(place)]
    raise SettingsError(f"{what}: {value:g} at {place} is no label; labels are {NAMES[kind]}")


def require_number(
    value: object,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    below_high: bool = False,
) -> None:
    """SettingsError (a ValueError) where `value` is no finite number in low..high.

    `below_high`: high itself is outside.
    """
    is_number = isinstance(value, Real | np.number) and math.isfinite(value)
    if is_number and low <= value and (value < high if below_high else value <= high):
        return
    bounds = f", from {low:g}" if math.isfinite(low) else ""
    if math.isfinite(high):
        bounds += f" to {'below ' if below_high else ''}{high:g}"
    raise SettingsError(f"{name} {value!r}: must be a finite number{bounds}")


def require_count(value: object, name: str, low: int = 0) -> None:
    """SettingsError (a ValueError) where `value` is no whole number from `low` on."""
    is_whole = isinstance(value, Integral | np.integer)
    if isinstance(value, float):
        is_whole = value.is_integer()
    if not is_whole or value < low:
        raise SettingsError(f"{name} {value!r}: must be a whole number from {low} on")
