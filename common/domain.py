"""Which values the public functions of a method take.

A candidate matrix with 2 in it, a label beyond the last class or a threshold of 25 passes through
most formulas without a word. Where values can be looked at they are an error. Looking would wait
for a GPU, and would break a graph that torch.compile or torch.func is tracing, so that there the
formulas take what comes.
"""

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch

from common.errors import DomainError  # re-exported: what the functions below raise


def is_transformed() -> bool:
    """Whether torch.compile or torch.jit traces this call, or torch.func transforms it."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._are_functorch_transforms_active()


def is_readable(*tensors: torch.Tensor) -> bool:
    """Whether the values of tensors may be looked at: plain ones on the CPU, in eager mode."""
    if is_transformed():
        return False
    plain = (torch.Tensor, torch.nn.Parameter)
    return all(type(tensor) in plain and tensor.device.type == "cpu" for tensor in tensors)


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy()


def require_shape(tensor: torch.Tensor, shape: Sequence[int], what: str) -> None:
    """DomainError where a tensor has another shape: broadcasting would hide it."""
    if tuple(tensor.shape) != tuple(shape):
        raise DomainError(f"{what}: shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def require_candidates(
    candidates: torch.Tensor, what: str, *, allow_empty_rows: bool = False
) -> None:
    """DomainError where a matrix (n,K) is not of 0 and 1; names the first row without a 1."""
    if not is_readable(candidates):
        return
    values = _array(candidates)
    if values.ndim != 2:
        raise DomainError(f"{what}: shape {values.shape}, expected a matrix (n, K)")

    is_zero_or_one = (values == 0) | (values == 1)
    if not is_zero_or_one.all():
        row, column = np.argwhere(~is_zero_or_one)[0].tolist()
        found = f"{values[row, column]} in row {row}, class {column}"
        raise DomainError(f"{what}: {found}; expected 0 or 1")

    has_label = values.any(axis=1)
    if not allow_empty_rows and not has_label.all():
        empty = np.flatnonzero(~has_label)
        shown = ", ".join(map(str, empty[:5]))
        raise DomainError(f"{what}: {len(empty)} rows have no candidate; first: {shown}")


def require_indices(indices: torch.Tensor, count: int, what: str) -> None:
    """DomainError where a class or row is no whole number from 0 to count - 1; names the first."""
    if not is_readable(indices):
        return
    values = _array(indices)
    fits = (values >= 0) & (values < count)
    if values.dtype.kind == "f":
        fits &= values == np.floor(values)
    if not fits.all():
        place = int(np.flatnonzero(~fits.reshape(-1))[0])
        expected = f"expected whole numbers from 0 to {count - 1}"
        raise DomainError(f"{what}: {values.reshape(-1)[place]} at {place}; {expected}")


def require_weights(weights: torch.Tensor, what: str) -> None:
    """DomainError where a weight is negative, infinite or NaN."""
    if not is_readable(weights):
        return
    values = _array(weights)
    is_weight = (values >= 0) & (values < math.inf)
    if not is_weight.all():
        value = values[~is_weight].flat[0]
        raise DomainError(f"{what}: {value}; expected finite weights, none negative")


def require_shares(shares: torch.Tensor, what: str) -> None:
    """DomainError where a value is outside [0, 1] or NaN."""
    if not is_readable(shares):
        return
    values = _array(shares)
    is_share = (values >= 0) & (values <= 1)
    if not is_share.all():
        value = values[~is_share].flat[0]
        raise DomainError(f"{what}: {value}; expected values from 0 to 1")


def require_one_of(value: object, allowed: Sequence[str], what: str) -> None:
    """DomainError where `value` is none of the words `allowed`."""
    if value not in allowed:
        raise DomainError(f"{what} {value!r}: choose from {', '.join(allowed)}")


def require_threshold(value: object, what: str) -> None:
    """DomainError where a threshold of probabilities is no number above 0 and below 1."""
    require_number(value, what, 0, 1, open_low=True, open_high=True)


def require_number(
    value: object,
    what: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """DomainError where `value` is no finite number from low to high, or an end that is `open_`."""
    if isinstance(value, Real) and math.isfinite(value):
        number = float(value)
        is_outside = number < low or number > high
        is_open_end = (open_low and number == low) or (open_high and number == high)
        if not is_outside and not is_open_end:
            return

    bounds = []
    if low > -math.inf:
        relation = ("at least", "above")[open_low]
        bounds.append(f"{relation} {low:g}")
    if high < math.inf:
        relation = ("at most", "below")[open_high]
        bounds.append(f"{relation} {high:g}")
    raise DomainError(f"{what} {value!r}: expected a finite number {' and '.join(bounds)}".rstrip())
