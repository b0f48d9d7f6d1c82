"""Looks at a picture at several scales and mirrored, and their maps put back onto it.

Shapes: B images, C classes, G cells of a view's map, S pixels of the side on which maps are
compared.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch.nn import functional as F

from common.aliases import one_module
from common.domain import require_number
from common.precision import has_float64
from oass.data_checks import require_count
from oass.data_transforms import EvalTransform, Picture
from oass.method import upsample_cams

one_module(__name__, "oass.data_views")

CELLS = 32  # sides of the square are multiples of it
SMALLEST = 64


class View(NamedTuple):
    """One look: the picture scaled, maybe mirrored, at the top left of a square of `side`."""

    scale: float
    is_flipped: bool
    side: int

    @property
    def is_plain(self) -> bool:
        """Whether it is the picture as it is."""
        return self.scale == 1 and not self.is_flipped


def views_of(image_size: int, scales: Sequence[float] = (1.0,), flip: bool = False) -> list[View]:
    """A view for each scale, with `flip` each mirrored as well.

    The square of scale 1 has `image_size` pixels a side; the others are in proportion, from 64 on,
    rounded up to a multiple of 32, so that what fits at scale 1 fits at every scale. ValueError for
    a scale that is not above 0.
    """
    require_count(image_size, "image_size", 1)
    found = []
    for scale in scales:
        require_number(scale, "scale", 0, open_low=True)
        cells = math.ceil(round(image_size * scale / CELLS, 6))
        side = image_size if scale == 1 else max(SMALLEST, cells * CELLS)
        found.append(View(float(scale), False, side))
        if flip:
            found.append(View(float(scale), True, side))
    return found


def describe(views: Sequence[View]) -> str:
    """The scales in words."""
    scales: list[str] = []
    text = ""
    for view in views:
        if f"{view.scale:g}" not in scales:
            scales.append(f"{view.scale:g}")
        if view.is_flipped:
            text = " and mirrored"
    return f"scale {', '.join(scales)}{text}"


class Views:
    """A transform: of a PIL picture its `Picture` in every view, and its height and width (2,)."""

    def __init__(self, views: Sequence[View], resample: str = "bicubic") -> None:
        self.transforms = []
        for view in views:
            transform = EvalTransform(
                view.side, scale=view.scale, flip=view.is_flipped, resample=resample
            )
            self.transforms.append(transform)

    def __call__(self, image: Image.Image) -> tuple[tuple[Picture, ...], torch.Tensor]:
        pictures = tuple(transform(image) for transform in self.transforms)
        width, height = image.size
        return pictures, torch.tensor([height, width])


def on_the_picture(
    maps: torch.Tensor, view: View, sizes: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Maps of a view at the pixels of the plain view, and which of these pixels the view saw.

    The pixel x of the plain view lies at (x + 1/2) s - 1/2 in a view of scale s, s = (width there)
    / (width), and at (width - x - 1/2) s - 1/2 where it is mirrored. Maps are read there
    bilinearly, cells at half-pixel centres, edges replicated, as `upsample_cams` does; the plain
    view is `upsample_cams`.

    Args:
        maps: (B,C,G,G) of the view's square.
        view: the view.
        sizes: (B,2) int64, height and width of the pictures.
        side: S, the pixels of the plain view's square.
    Returns:
        maps (B,C,S,S); seen (B,1,S,S) of 0 and 1, None for the plain view, which sees every pixel.
    """
    if view.is_plain and view.side == side:
        return upsample_cams(maps, side), None

    device = maps.device if has_float64(maps.device) else torch.device("cpu")
    pixels = torch.arange(side, device=device, dtype=torch.float64) + 0.5
    places = []
    for axis in (0, 1):
        length = sizes[:, axis].to(device, torch.float64)[:, None]
        scaled = (length * view.scale).round().clamp_min(1)
        from_left = pixels.expand(len(maps), -1)
        if view.is_flipped and axis == 1:
            from_left = length - from_left
        places.append(from_left * scaled / length / view.side)
    rows, columns = places

    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1)
    inside = ((grid >= 0) & (grid <= 1)).all(-1)[:, None]
    grid = (2 * grid - 1).to(maps.device, maps.dtype)
    read = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return read, inside.to(maps.device, maps.dtype)


class MeanMap:
    """The mean of maps over the views that saw a pixel; 0 where none did."""

    def __init__(self) -> None:
        self.total: torch.Tensor | float = 0.0
        self.count: torch.Tensor | float = 0.0

    def add(self, maps: torch.Tensor, seen: torch.Tensor | None) -> None:
        """Add a view's maps (B,C,S,S), and where it saw anything (B,1,S,S); None is everywhere."""
        if seen is None:
            seen = torch.ones_like(maps[:, :1])
        else:
            maps = maps * seen
        self.total = self.total + maps
        self.count = self.count + seen

    def get(self) -> torch.Tensor:
        """The mean, (B,C,S,S)."""
        return self.total / torch.as_tensor(self.count).clamp_min(1)
