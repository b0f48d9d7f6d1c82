"""Which values the public functions of a method take.

A label beyond the last class or a threshold of 25 passes through most formulas without a word.
Where values can be looked at they are an error. Looking would wait for a GPU, and would break a
graph that torch.compile or torch.func is tracing, so that there the formulas take what comes.
"""

import math
from collections.abc import Sequence
from numbers import Real

import torch

from common.errors import DomainError  # re-exported: what the functions below raise


def is_readable(*tensors: torch.Tensor) -> bool:
    """Whether the values of tensors may be looked at: plain ones on the CPU, in eager mode.

    Not where torch.compile or torch.jit traces the call, or torch.func transforms it.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    plain = (torch.Tensor, torch.nn.Parameter)
    return all(type(tensor) in plain and tensor.device.type == "cpu" for tensor in tensors)


def require_shape(tensor: torch.Tensor, shape: Sequence[int], what: str) -> None:
    """DomainError where a tensor has another shape: broadcasting would hide it."""
    if tuple(tensor.shape) != tuple(shape):
        raise DomainError(f"{what}: shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def require_indices(indices: torch.Tensor, count: int, what: str) -> None:
    """DomainError where a class or row is no whole number from 0 to count - 1; names the first."""
    if not is_readable(indices):
        return
    values = indices.detach().flatten().double()
    fits = (values >= 0) & (values < count) & (values == values.floor())
    if not fits.all():
        place = int((~fits).nonzero()[0])
        found = indices.flatten()[place].item()
        expected = f"expected whole numbers from 0 to {count - 1}"
        raise DomainError(f"{what}: {found} at {place}; {expected}")


def require_one_of(value: object, allowed: Sequence[str], what: str) -> None:
    """DomainError where `value` is none of the words `allowed`."""
    if value not in allowed:
        raise DomainError(f"{what} {value!r}: choose from {', '.join(allowed)}")


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
