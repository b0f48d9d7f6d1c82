"""Pixel-wise precision and recall of score maps, from histograms that add up over images."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from calm.fast import BinLookup
from calm.method import pixel_average_precision, require_labels
from common.aliases import one_module
from common.cli import UserError
from common.domain import DomainError, is_readable

one_module(__name__, "calm.evaluate_pixels")


class UnfitDataset(UserError, ValueError):
    """A data set that has not what an evaluation needs."""


class PixelPR:
    """Histograms (groups, bins) int64 of map values at foreground and at background pixels.

    Edges: thresholds and then 1, 2, 3, as the released code has it; half-open bins, the last one
        closed. Values
    below the first edge fall into no bin there; here they are counted besides, in column 0 of
    `counts`.
    """

    def __init__(self, thresholds: Sequence[float], groups: int = 1) -> None:
        rising = [0.0, *thresholds, 1.0]
        if not all(low <= high for low, high in zip(rising, rising[1:], strict=False)):
            raise ValueError("the thresholds must rise, from 0 at least to 1 at most")
        self.edges = torch.tensor([*thresholds, 1.0, 2.0, 3.0], dtype=torch.float64)
        self.counts = torch.zeros(groups, 2, len(self.edges), dtype=torch.int64)
        self._lookup = BinLookup.of(self.edges.numpy())

    def add(self, maps: torch.Tensor, gt: torch.Tensor, groups: torch.Tensor | None = None) -> None:
        """Count maps (n,H,W) against gt (n,H,W) in {0,1}, where 255 is ignored.

        Map i belongs to group groups[i].

        ValueError where shapes differ, for a group that there is not and, on a CPU, for another
        value in gt or NaN.
        """
        if maps.shape != gt.shape:
            raise ValueError(
                f"maps {tuple(maps.shape)} and masks {tuple(gt.shape)} must have the same shape"
            )
        rows = torch.zeros(len(maps), dtype=torch.int64)
        if groups is not None:
            rows = groups.cpu()
        require_labels(rows, len(self.counts), len(maps), "groups")
        if is_readable(maps) and bool(maps.isnan().any()):
            raise DomainError("a map must not hold NaN")
        if is_readable(gt):
            _check_masks(gt)
        lookup = self._lookup
        if maps.device.type == "cpu" and maps.dtype == torch.float64 and lookup is not None:
            self._add_on_host(maps, gt, rows, lookup)
        else:
            self._add_on_device(maps, gt, rows)

    def _add_on_host(
        self, maps: torch.Tensor, gt: torch.Tensor, rows: torch.Tensor, lookup: BinLookup
    ) -> None:
        """Count one map at a time, which stays in the processor's cache.

        For each value the number of edges <= value is found, and these numbers are counted.
        """
        bins = len(self.edges)
        n = len(maps)
        flat = maps.reshape(n, -1).contiguous().numpy()
        masks = gt.cpu().reshape(n, -1).byte().contiguous().numpy()
        counts = self.counts.numpy()
        for values, mask, row in zip(flat, masks, rows.tolist(), strict=True):
            code = lookup(values)
            if code.size and code.max() == bins:
                code[values == 3.0] = bins - 1
            code += np.multiply(mask, np.int16(bins + 1), dtype=np.int16)
            if mask.size and mask.max() > 1:
                code = code[mask <= 1]
            found = torch.bincount(torch.from_numpy(code), minlength=2 * bins + 2).numpy()
            # Foreground first; what lies beyond the last edge is in no bin.
            counts[row] += found.reshape(2, bins + 1)[::-1, :bins]

    def _add_on_device(self, maps: torch.Tensor, gt: torch.Tensor, rows: torch.Tensor) -> None:
        """All maps in one call."""
        n = len(maps)
        bins = len(self.edges)
        values = maps.reshape(n, -1)
        gt = gt.to(maps.device).reshape(n, -1)
        # right=True: the number of edges <= value, so 0 is below the first edge and `bins` beyond
        # the last
        place = torch.bucketize(values, self.edges.to(maps.device, maps.dtype), right=True)
        place = torch.where(values == 3.0, bins - 1, place)
        cell = (2 * rows.to(maps.device)[:, None] + (gt != 1)) * bins + place
        counted = (gt <= 1) & (place < bins)
        found = torch.bincount(cell[counted], minlength=self.counts.numel())
        self.counts += found.view(self.counts.shape).cpu()

    def reduce(self, accelerator: Accelerator) -> None:
        """Sum the counts of all processes."""
        if accelerator.num_processes > 1:
            self.counts = accelerator.reduce(self.counts.to(accelerator.device), "sum").cpu()

    def histograms(self, group: int = 0, keep: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts (bins,) at foreground and background.

        With `keep` there is a first bin of the values below the first edge.
        """
        true, false = self.counts[group].numpy()
        if keep:
            return true, false
        return true[1:], false[1:]


def _check_masks(gt: torch.Tensor) -> None:
    """ValueError for a mask that holds anything but 0, 1 and 255."""
    small = gt.byte()
    strange = (small > 1) & (small != 255)
    if gt.dtype not in (torch.uint8, torch.bool):
        strange |= small != gt
    if strange.any():
        raise DomainError(f"a mask holds {gt[strange][0].item()}; expected 0, 1, or 255 (ignored)")


def try_average_precision(hist_true: np.ndarray, hist_false: np.ndarray) -> float | None:
    """PxAP in percent, or None where it is undefined."""
    try:
        return pixel_average_precision(hist_true, hist_false)[0]
    except RuntimeError:
        return None


def require_mask_dataset(dataset_name: str) -> None:
    """Only CUB and OpenImages have masks; UnfitDataset (a ValueError) otherwise."""
    if dataset_name not in ("CUB", "OpenImages"):
        raise UnfitDataset(
            f"{dataset_name} has no masks; pixel-wise evaluation needs CUB or OpenImages"
        )
