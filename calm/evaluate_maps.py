"""Score maps of a network, and the thresholds that they are cut at.

The maps are made, smoothed, resized and checked here.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from calm.method import Superclass
from calm.network.head import AttributionNet
from calm.network.universal import DeadAttention
from calm.options_names import THRESHOLD_TYPES
from calm.score_map_method import GRADIENT_PROCESSES, activation_map, backprop, gradients
from common.aliases import one_module
from common.cam import at_least_float32, resize_maps
from common.domain import require_number

one_module(__name__, "calm.evaluate_maps")

MapFunction = Callable[..., torch.Tensor]


def get_score_map(process: str, method: str) -> MapFunction:
    """Return the function (model=, images=, targets=, ...) -> maps of a process.

    `*_grad` means backprop in any case.
    """
    if process in GRADIENT_PROCESSES:
        return partial(GRADIENT_PROCESSES[process], method=backprop)
    if method != "activation_map":
        raise ValueError(
            f"score_map_method {method!r} has no process {process!r}; use activation_map"
        )
    return partial(activation_map, score_map_process=process)


@dataclass
class ScoreMapper:
    """A network and a process as one callable: images and labels in, maps on the device out.

    Args:
        model: the network.
        process, method: --score_map_process and --score_map_method.
        superclass: the groups of classes that superclass processes need.
        smoothing_ksize: taps of a Gaussian over the maps; 1 for none.
        settings: the numbers of the gradient processes.
        dead: counts the images that came with zero attention (not those of `of_classes` with a
            gradient process).
        autocast: what the network runs under (--mixed_precision); heads and maps are float32 in any
            case.
    """

    model: AttributionNet
    process: str
    method: str = "activation_map"
    superclass: Superclass | None = None
    smoothing_ksize: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    dead: DeadAttention = field(default_factory=DeadAttention)
    autocast: Callable[[], AbstractContextManager] = nullcontext

    @property
    def is_gradient(self) -> bool:
        """Whether the maps live in input space and need a backward."""
        return self.process in GRADIENT_PROCESSES

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Maps (B,h,w), or (B,H,W) of a gradient process, of `labels` (B,)."""
        return self.with_probs(images, labels)[0]

    def with_probs(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The maps, and p(y|x) (B,C) from the same forward."""
        process = self.model.process
        with torch.no_grad():
            f, f_former, attention = self._encode(images)
            probs = process.input_for_loss(f, f_former, attention)["probs"]
        if self.is_gradient:
            maps = self._gradient(images, labels)
        else:
            maps = process.get_cam(f, f_former, labels, self.superclass, self.process)
        return smoothing(maps, self.smoothing_ksize), probs

    def of_classes(
        self, images: torch.Tensor, rows: Sequence[int], classes: Sequence[int]
    ) -> torch.Tensor:
        """Maps (M,h,w) of M pairs (row of an image, class) from one forward over the images."""
        image_rows = torch.tensor(rows, device=images.device)
        labels = torch.tensor(classes, device=images.device)
        if self.is_gradient:
            maps = self._gradient(images[image_rows], labels)
            return smoothing(maps, self.smoothing_ksize)

        process = self.model.process
        with torch.no_grad():
            f, f_former, _ = self._encode(images)
            cams = process.class_maps(f, f_former, self.process)[image_rows]
            maps = process.select(cams, labels, self.superclass, self.process)
        return smoothing(maps, self.smoothing_ksize)

    def _encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with self.autocast():
            f, f_former, attention = self.model.encode(images)
        if not self.model.process.is_cam:
            self.dead.add(attention)
        return f, f_former, attention

    def _gradient(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return gradient maps, so many rows at a time as fit a forward.

        Cue localisation asks for many classes an image.
        """
        function = get_score_map(self.process, self.method)
        rows = max(1, gradients.PIXELS_PER_FORWARD // images[0, 0].numel())
        maps = []
        with self.autocast():
            for some, targets in zip(images.split(rows), labels.split(rows), strict=True):
                maps.append(
                    function(model=self.model, images=some, targets=targets, **self.settings)
                )
        return torch.cat(maps)


# ---- smoothing, size, range ----------------------------------------------------------


def compute_padding(kernel_size: int) -> int:
    """Return the padding on each side that keeps the size under an odd kernel.

    ValueError for an even one.
    """
    if kernel_size % 2 != 1 or kernel_size < 1:
        raise ValueError(f"kernel size {kernel_size}: must be odd and positive")
    return kernel_size // 2


class GaussianSmoothing(nn.Module):
    """A Gaussian on each of `channels` channels, reflecting at the border.

    It has `kernel_size` taps and a deviation of `sigma` pixels.
    """

    def __init__(self, channels: int, kernel_size: int, sigma: float) -> None:
        super().__init__()
        require_number(channels, "channels", 1)
        require_number(sigma, "sigma", 0, open_low=True)
        self.padding = compute_padding(kernel_size)
        position = torch.arange(kernel_size, dtype=torch.float64) - self.padding
        taps = torch.exp(-((position / sigma) ** 2) / 2)
        kernel = (taps / taps.sum()).float()
        self.channels = channels
        self.rows: torch.Tensor
        self.columns: torch.Tensor
        self.register_buffer("rows", kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1))
        self.register_buffer("columns", kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Smooth (B,C,H,W), to the same shape and dtype.

        Half precision, and autocast, are computed in float32. A side that is shorter than the
        padding is continued by its border value.
        """
        padding = (self.padding,) * 4
        mode = "reflect" if min(x.shape[-2:]) > self.padding else "replicate"

        with torch.autocast(x.device.type, enabled=False):
            padded = F.pad(at_least_float32(x), padding, mode=mode)
            along_rows = F.conv2d(padded, self.rows.to(padded), groups=self.channels)
            smooth = F.conv2d(along_rows, self.columns.to(padded), groups=self.channels)
        return smooth.to(x.dtype)


def smoothing(maps: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Return maps (B,h,w) under a Gaussian of `kernel_size` taps.

    sigma = kernel_size / 6; with 1 they are unchanged.
    """
    compute_padding(kernel_size)
    if kernel_size == 1:
        return maps
    gaussian = GaussianSmoothing(1, kernel_size, kernel_size / 6).to(maps.device)
    return gaussian(maps[:, None])[:, 0]


def t2n(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array on the host."""
    return tensor.detach().cpu().numpy()


def resize_scoremap(scoremap: np.ndarray, size: tuple[int, int] = (224, 224)) -> np.ndarray:
    """A map (h,w) at `size` (H,W), bilinear, unless it has that size already."""
    return resize_scoremaps(np.asarray(scoremap)[None], "numpy", size)[0]


def resize_scoremaps(
    scoremaps: np.ndarray | torch.Tensor, dtype: str = "tensor", size: tuple[int, int] = (224, 224)
) -> Any:
    """Return maps (B,h,w) at `size`, bilinear.

    "tensor" gives (B,1,H,W), "numpy" gives (B,H,W) of the input's dtype.
    """
    if dtype not in ("tensor", "numpy"):
        raise ValueError(f"dtype {dtype!r}: choose from tensor, numpy")
    if not isinstance(scoremaps, torch.Tensor):
        scoremaps = torch.from_numpy(np.ascontiguousarray(scoremaps))
    maps = scoremaps[:, None]
    if tuple(maps.shape[-2:]) != tuple(size):
        maps = resize_maps(maps, (size[0], size[1]))
    return maps if dtype == "tensor" else t2n(maps[:, 0])


def check_scoremap_validity(scoremap: np.ndarray, name: str = "") -> None:
    """Check that a map is a float64 array of two dimensions inside [0,1], without NaN.

    TypeError unless a float64 array; ValueError for the rest; `name` is the image.
    """
    where = f"score map of {name}: " if name else "score map: "
    if not isinstance(scoremap, np.ndarray) or scoremap.dtype != np.float64:
        found = getattr(scoremap, "dtype", type(scoremap).__name__)
        raise TypeError(f"{where}expected a float64 array, got {found}")
    if scoremap.ndim != 2:
        raise ValueError(f"{where}expected two axes, got shape {scoremap.shape}")
    if np.isnan(scoremap).any():
        raise ValueError(f"{where}contains NaN")
    if (scoremap > 1).any() or (scoremap < 0).any():
        raise ValueError(f"{where}outside [0, 1]: {scoremap.min():.4g} to {scoremap.max():.4g}")


def get_threshold_list(cam_curve_interval: float = 0.001, type: str = "even") -> list[float]:
    """Return the thresholds that maps are cut at.

    even: 0, d, 2d, ... below 1; log: 10^-t for t descending over arange(0, 7, 7d), ending in
    exactly 1. ValueError for another type, and for an interval that is not strictly between 0 and
    1.
    """
    interval = cam_curve_interval
    if not 0 < interval < 1:
        raise ValueError(f"interval {interval!r}: must lie strictly between 0 and 1")
    if type == "even":
        return list(np.arange(0, 1, interval))
    if type == "log":
        return [10.0**-t for t in np.arange(0, 7, 7 * interval)[::-1]]
    raise ValueError(f"threshold_type {type!r}: choose from {', '.join(THRESHOLD_TYPES)}")
