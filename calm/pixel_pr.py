"""Pixel-wise precision and recall of score maps, from histograms that add up over images (PxAP, spec b.1)."""

from collections.abc import Sequence

import numpy as np
import torch

from calm.domain import check_labels, check_no_nan
from common.aliases import one_module
from common.cli import UserError
from common.domain import DomainError, is_readable

one_module(__name__, "calm.pixel_pr")


class UnfitDataset(UserError, ValueError):
    """A data set that has not what an evaluation needs."""


class BinLookup:
    """Number of edges <= value for float64 values, by the leading bits of the value; exact, and needs no search.

    The exponent and 12 bits of the mantissa name a cell; where an edge lies inside a cell its values are searched
    as usual, and so are values that are negative or beyond the table. Edges in (0, 2^-24), negative edges: `None`.
    """

    BITS, LOWEST = 12, -24

    def __init__(self, edges: np.ndarray) -> None:
        self.edges, self.shift = edges, np.uint64(52 - self.BITS)
        first, last = ((1023 + e) << self.BITS for e in (self.LOWEST, 2))
        bounds = (np.arange(first, last + 1, dtype=np.int64) << (52 - self.BITS)).view(np.float64)
        at, before_next = (np.searchsorted(edges, bounds, side=side) for side in ("right", "left"))
        self.table = np.full(last + 1, np.searchsorted(edges, 0.0, side="right"), np.int16)
        self.table[first:last] = np.where(before_next[1:] > at[:-1], -1, at[:-1])
        self.table[last] = -1  # 4 and more, NaN, and everything with a sign
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        """Buffers for `size` values: fresh pages cost more than the arithmetic."""
        self._cell, self._place, self._is_open = (
            np.empty(size, kind) for kind in (np.uint64, np.int16, bool)
        )

    @classmethod
    def of(cls, edges: np.ndarray) -> "BinLookup | None":
        """A table for rising edges within 0..3, or None where it would not be exact."""
        fits = len(edges) < 2**13 and not ((edges > 0) & (edges < 2.0**cls.LOWEST)).any()
        return cls(edges) if fits and edges[0] >= 0 else None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(n,) float64 to (n,) int16, valid until the next call; NaN counts as above all edges."""
        if self._cell.size != values.size:
            self._make_room(values.size)
        np.right_shift(values.view(np.uint64), self.shift, out=self._cell)
        np.take(self.table, self._cell.view(np.int64), mode="clip", out=self._place)
        is_open = np.flatnonzero(np.less(self._place, 0, out=self._is_open))
        self._place[is_open] = np.searchsorted(self.edges, values[is_open], side="right")
        return self._place


class PixelPR:
    """Histograms (groups, bins) int64 of map values at foreground and at background pixels.

    Edges: thresholds and then 1, 2, 3, as the released code has it; half-open bins, the last one closed. Values
    below the first edge fall into no bin there; here they are counted besides, in column 0 of `counts`.
    """

    def __init__(self, thresholds: Sequence[float], groups: int = 1) -> None:
        rising = [0.0, *thresholds, 1.0]
        if not all(low <= high for low, high in zip(rising, rising[1:], strict=False)):
            raise ValueError("the thresholds must rise, from 0 at least to 1 at most")
        self.edges = torch.tensor([*thresholds, 1.0, 2.0, 3.0], dtype=torch.float64)
        self.counts = torch.zeros(groups, 2, len(self.edges), dtype=torch.int64)
        self._lookup = BinLookup.of(self.edges.numpy())

    def add(self, maps: torch.Tensor, gt: torch.Tensor, groups: torch.Tensor | None = None) -> None:
        """Count maps (n,H,W) against gt (n,H,W) in {0,1}; 255 is ignored; map i belongs to group groups[i].

        ValueError where shapes differ, for a group that there is not and, on a CPU, for another value in gt or NaN.
        """
        if maps.shape != gt.shape:
            raise ValueError(
                f"maps {tuple(maps.shape)} and masks {tuple(gt.shape)} must have the same shape"
            )
        rows = torch.zeros(len(maps), dtype=torch.int64) if groups is None else groups.cpu()
        check_labels(rows, len(self.counts), len(maps), "groups")
        check_no_nan(maps, "a map")
        if is_readable(gt):
            _check_masks(gt)
        if maps.device.type == "cpu" and maps.dtype == torch.float64 and self._lookup is not None:
            self._add_on_host(maps, gt, rows)
        else:
            self._add_on_device(maps, gt, rows)

    def _add_on_host(self, maps: torch.Tensor, gt: torch.Tensor, rows: torch.Tensor) -> None:
        """One map at a time, which stays in the processor's cache: the number of edges <= value, then a count."""
        bins, counts, n = len(self.edges), self.counts.numpy(), len(maps)
        flat, masks = (
            maps.reshape(n, -1).contiguous().numpy(),
            gt.cpu().reshape(n, -1).byte().contiguous().numpy(),
        )
        for values, mask, row in zip(flat, masks, rows.tolist(), strict=True):
            code = self._lookup(values)
            if code.size and code.max() == bins:
                code[values == 3.0] = bins - 1
            code += np.multiply(mask, np.int16(bins + 1), dtype=np.int16)
            if mask.size and mask.max() > 1:
                code = code[mask <= 1]
            found = (
                torch.bincount(torch.from_numpy(code), minlength=2 * bins + 2)
                .numpy()
                .reshape(2, bins + 1)
            )
            counts[row] += found[
                ::-1, :bins
            ]  # foreground first; what lies beyond the last edge is in no bin

    def _add_on_device(self, maps: torch.Tensor, gt: torch.Tensor, rows: torch.Tensor) -> None:
        """All maps in one call."""
        n, bins = len(maps), len(self.edges)
        values, gt = maps.reshape(n, -1), gt.to(maps.device).reshape(n, -1)
        # right=True: the number of edges <= value, so 0 is below the first edge and `bins` beyond the last
        place = torch.bucketize(values, self.edges.to(maps.device, maps.dtype), right=True)
        place = torch.where(values == 3.0, bins - 1, place)
        cell = (2 * rows.to(maps.device)[:, None] + (gt != 1)) * bins + place
        counted = (gt <= 1) & (place < bins)
        found = torch.bincount(cell[counted], minlength=self.counts.numel())
        self.counts += found.view(self.counts.shape).cpu()

    def histograms(self, group: int = 0, keep: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(bins,) counts at foreground and background; with `keep` a first bin of the values below the first edge."""
        true, false = self.counts[group].numpy()
        return (true, false) if keep else (true[1:], false[1:])


def _check_masks(gt: torch.Tensor) -> None:
    """ValueError for a mask that holds anything but 0, 1 and 255."""
    small = gt.byte()
    strange = (small > 1) & (small != 255)
    if gt.dtype not in (torch.uint8, torch.bool):
        strange |= small != gt
    if strange.any():
        raise DomainError(f"a mask holds {gt[strange][0].item()}; expected 0, 1, or 255 (ignored)")


def average_precision(
    hist_true: np.ndarray, hist_false: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """PxAP in percent, recall (bins,), precision (bins,; NaN where 0/0) from two histograms over rising edges.

    tp and fp are cumulative sums from the highest bin; auc = 100 sum_{i>=1} precision_i (recall_i -
    recall_{i-1}) over the bins with tp + fp != 0. RuntimeError without a positive pixel or a prediction.
    """
    total = hist_true.sum()
    if total <= 0:
        raise RuntimeError("no foreground pixel was counted: the ground-truth masks are empty")
    tp, fp = hist_true[::-1].cumsum(), hist_false[::-1].cumsum()
    seen = (tp + fp) > 0
    if not seen.any():
        raise RuntimeError("no pixel was counted: the histograms are empty")
    precision = np.divide(tp, tp + fp, out=np.full(len(tp), np.nan), where=seen)
    recall = tp / total
    gain = np.diff(recall)[seen[1:]]
    return float(100 * (precision[1:][seen[1:]] * gain).sum()), recall, precision


def try_average_precision(hist_true: np.ndarray, hist_false: np.ndarray) -> float | None:
    """PxAP in percent, or None where it is undefined."""
    try:
        return average_precision(hist_true, hist_false)[0]
    except RuntimeError:
        return None


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the defined values, None without any."""
    defined = [v for v in values if v is not None]
    return sum(defined) / len(defined) if defined else None


def require_mask_dataset(dataset_name: str) -> None:
    """Only CUB and OpenImages have masks; UnfitDataset (a ValueError) otherwise."""
    if dataset_name not in ("CUB", "OpenImages"):
        raise UnfitDataset(
            f"{dataset_name} has no masks; pixel-wise evaluation needs CUB or OpenImages"
        )
