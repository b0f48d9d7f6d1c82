"""Which pixels are erased, and what replaces them (remove-and-classify, spec e.1)."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from calm.domain import check_count, check_no_nan, check_positive, check_share
from common.aliases import one_module
from common.cam import at_least_float32

one_module(__name__, "calm.erasing")

BASELINES = ("zero", "mean", "noise", "blur")


def rank_pixels(scoremaps: torch.Tensor, among_equals: torch.Tensor | None = None) -> torch.Tensor:
    """Flat pixel indices (B,H*W) from the highest score to the lowest of maps (B,1,H,W).

    Equal scores: lowest index first, or in the order `among_equals` (B,H*W) of all pixels. ValueError for NaN.
    """
    check_no_nan(scoremaps, "a score map")
    flat = scoremaps.flatten(1)
    if among_equals is None:
        return flat.sort(dim=1, descending=True, stable=True).indices
    return among_equals.gather(
        1, flat.gather(1, among_equals).sort(dim=1, descending=True, stable=True).indices
    )


def masks_from_ranking(ranking: torch.Tensor, k: float, size: tuple[int, int]) -> torch.Tensor:
    """(B,1,H,W) float32: 0 at the first int(k H W) pixels of each ranking (B,H*W), else 1."""
    check_share(k, "k")
    count = int(k * size[0] * size[1])  # multiplied in this order, as released
    return masks_of_first(ranking, count, size)


def masks_of_first(ranking: torch.Tensor, count: int, size: tuple[int, int]) -> torch.Tensor:
    """(B,1,H,W) float32: 0 at the first `count` pixels of each ranking (B,H*W), else 1."""
    mask = torch.ones(ranking.shape, device=ranking.device)
    mask.scatter_(1, ranking[:, :count], 0.0)
    return mask.view(-1, 1, *size)


def get_topk_to_zero_mask(
    mu: torch.Tensor, k: float, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """0 at the int(k H W) highest values of each map mu (B,1,H,W), else 1; ties by the lowest flat index."""
    return masks_from_ranking(rank_pixels(mu.to(device)), k, tuple(mu.shape[-2:]))


def random_mask_generator(
    inputs: torch.Tensor, device: torch.device | str, k: float
) -> torch.Tensor:
    """(B,1,H,W): per image int(k H W) distinct positions are 0, drawn from NumPy's global generator."""
    height, width = inputs.shape[-2:]
    rows = [np.random.permutation(height * width) for _ in range(len(inputs))]  # noqa: NPY002 - as the original
    return masks_from_ranking(torch.from_numpy(np.stack(rows)).to(device), k, (height, width))


def get_baseline(
    kind: str, inputs: torch.Tensor, device: torch.device | str, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """What erased pixels of inputs (B,C,H,W) become: zero, mean (per image and channel), noise, blur.

    noise: mean + 0.2 n with n (B,C,H,W) standard normal, from the global generator where none is given.
    """
    x = inputs.detach().to(device)
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if kind == "noise":
        n = torch.randn_like(x) if noise is None else noise.to(x)
        return x.mean((2, 3), keepdim=True) + 0.2 * n
    if kind == "blur":
        return GaussianSmoothing(x.shape[1], 31, 15.0).to(x.device)(x)
    raise ValueError(f"baseline {kind!r}: choose from {', '.join(BASELINES)}")


def compute_padding(kernel_size: int) -> int:
    """The padding on each side that keeps the size under an odd kernel; ValueError for an even one."""
    if kernel_size % 2 != 1 or kernel_size < 1:
        raise ValueError(f"kernel size {kernel_size}: must be odd and positive")
    return kernel_size // 2


class GaussianSmoothing(nn.Module):
    """A Gaussian of `kernel_size` taps and `sigma` pixels on each of `channels` channels, reflecting at the border."""

    def __init__(self, channels: int, kernel_size: int, sigma: float) -> None:
        super().__init__()
        check_count(channels, "channels")
        check_positive(sigma, "sigma")
        self.padding = compute_padding(kernel_size)
        position = torch.arange(kernel_size, dtype=torch.float64) - self.padding
        taps = torch.exp(-((position / sigma) ** 2) / 2)
        kernel = (taps / taps.sum()).float()
        self.channels = channels
        self.register_buffer("rows", kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1))
        self.register_buffer("columns", kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) to the same shape and dtype; half precision, and autocast, are computed in float32.

        A side that is shorter than the padding is continued by its border value.
        """
        padding = (self.padding,) * 4
        mode = "reflect" if min(x.shape[-2:]) > self.padding else "replicate"

        with torch.autocast(x.device.type, enabled=False):
            padded = F.pad(at_least_float32(x), padding, mode=mode)
            along_rows = F.conv2d(padded, self.rows.to(padded), groups=self.channels)
            smooth = F.conv2d(along_rows, self.columns.to(padded), groups=self.channels)
        return smooth.to(x.dtype)


def smoothing(maps: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Maps (B,h,w) under a Gaussian of `kernel_size` taps, sigma = kernel_size / 6 (1: unchanged)."""
    compute_padding(kernel_size)
    if kernel_size == 1:
        return maps
    return GaussianSmoothing(1, kernel_size, kernel_size / 6).to(maps.device)(maps[:, None])[:, 0]
