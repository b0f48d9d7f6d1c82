"""Forms of method.py and of a NumPy function that cost less time.

They are harder to read, and equal by test. Both heads, loss and backward of 200 classes on a 28 x
28 grid are three times faster with them (benchmarks/bench_calm.py).
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from calm.method import map_of_label


def heads(
    features: torch.Tensor, conv_last: nn.Conv2d, attention: nn.Sequential
) -> tuple[torch.Tensor, torch.Tensor]:
    """`method.heads` in one convolution, with the attention as one more channel of conv_last."""
    layer: Any = attention[0]
    activation = attention[1:]
    weight = torch.cat([conv_last.weight, layer.weight])
    bias = torch.cat([conv_last.bias, layer.bias])  # type: ignore[list-item]  # it has one
    both = F.conv2d(features, weight, bias)
    return both[:, :-1], activation(both[:, -1:])


def log_conditional_likelihood_of(
    f: torch.Tensor, labels: torch.Tensor, total: torch.Tensor
) -> torch.Tensor:
    """Return `map_of_label(log_conditional_likelihood(f), labels)` (B,1,h,w).

    No tensor of the size of f is kept.

    Args:
        f: (B,C,h,w).
        labels: (B,).
        total: `f.logsumexp(1, keepdim=True)` (B,1,h,w), the logarithm of the softmax's divisor.
    """
    return map_of_label(f, labels) - total


def likelihood_of(f: torch.Tensor, total: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return `likelihood(joint_likelihood(conditional_likelihood(f), g))` (B,C).

    It takes one tensor of the size of f in place of three.

    Args:
        f: (B,C,h,w).
        total: as above; the objective needs it too, so that the softmax's sums are formed once.
        g: p(z|x), (B,1,h,w).
    """
    s = (f - total).exp_()
    return torch.einsum("bchw,bhw->bc", s, g[:, 0])


def nearest_value(
    points: np.ndarray, values: np.ndarray, rows: slice, columns: slice
) -> np.ndarray:
    """Return at each pixel of a picture's part the value of the nearest point; the first of equals.

    It is `values[((points - (column, row)) ** 2).sum(1).argmin()]`. The number of a point stands in
    the lowest bits of its distance, so that one minimum over the points finds both.

    Args:
        points: (n,2) int64 x, y, one at least.
        values: (n,).
        rows, columns: h and w pixels.
    Returns:
        (h,w) of the dtype of `values`.
    """
    bits = len(points).bit_length()
    farthest = int(np.abs(points).max()) + max(rows.stop, columns.stop)
    kind = np.int32 if 2 * farthest**2 < 2 ** (30 - bits) else np.int64
    x = points[:, 0, None]
    y = points[:, 1, None]
    along_columns = ((x - np.arange(columns.start, columns.stop)) ** 2 << bits).astype(kind)
    along_rows = ((y - np.arange(rows.start, rows.stop)) ** 2 << bits).astype(kind)
    along_rows += np.arange(len(points), dtype=kind)[:, None]

    nearest = np.add(along_rows[0][:, None], along_columns[0])
    distance = np.empty_like(nearest)
    for of_rows, of_columns in zip(along_rows[1:], along_columns[1:], strict=True):
        np.add(of_rows[:, None], of_columns, out=distance)
        np.minimum(nearest, distance, out=nearest)
    nearest &= (1 << bits) - 1
    return values.take(nearest)


class BinLookup:
    """Finds how many edges are <= each value, mostly by a table.

    The result is exactly that of `np.searchsorted(edges, values, side="right")`, without its
    search.

    The exponent and the first 12 bits of the mantissa of a float64 name a cell, and a table holds
    the answer for each cell. Values in a cell with an edge inside, and those that are negative or 4
    and more, are searched.
    """

    BITS, LOWEST = 12, -24

    def __init__(self, edges: np.ndarray) -> None:
        self.edges = edges
        self.shift = np.uint64(52 - self.BITS)

        # The cells of 2^LOWEST to 4: how many edges lie at or below the start of each, and below
        # its end.
        first = (1023 + self.LOWEST) << self.BITS
        last = (1023 + 2) << self.BITS
        bounds = (np.arange(first, last + 1, dtype=np.int64) << (52 - self.BITS)).view(np.float64)
        below_start = np.searchsorted(edges, bounds, side="right")[:-1]
        below_end = np.searchsorted(edges, bounds, side="left")[1:]

        at_zero = np.searchsorted(edges, 0.0, side="right")
        self.table = np.full(last + 1, at_zero, np.int16)
        self.table[first:last] = np.where(below_end > below_start, -1, below_start)
        self.table[last] = -1  # 4 and more, NaN, and everything with a sign
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        """Buffers for `size` values: fresh pages cost more than the arithmetic."""
        self._cell = np.empty(size, np.uint64)
        self._place = np.empty(size, np.int16)
        self._is_open = np.empty(size, bool)

    @classmethod
    def of(cls, edges: np.ndarray) -> "BinLookup | None":
        """A table for rising edges within 0..3, or None where it would not be exact."""
        is_too_low = (edges > 0) & (edges < 2.0**cls.LOWEST)
        if len(edges) >= 2**13 or is_too_low.any() or edges[0] < 0:
            return None
        return cls(edges)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(n,) float64 to (n,) int16, valid until the next call; NaN counts as above all edges."""
        if self._cell.size != values.size:
            self._make_room(values.size)
        np.right_shift(values.view(np.uint64), self.shift, out=self._cell)
        np.take(self.table, self._cell.view(np.int64), mode="clip", out=self._place)
        is_open = np.flatnonzero(np.less(self._place, 0, out=self._is_open))
        self._place[is_open] = np.searchsorted(self.edges, values[is_open], side="right")
        return self._place
