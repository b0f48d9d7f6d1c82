"""Pictures to the device as bytes, normalised there: a quarter of the traffic, no float arithmetic on the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import ColorJitter

from common.aliases import one_module
from oass.core.options import AUGMENTATIONS
from oass.tools.ai.augment_utils import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RandomHorizontalFlip,
    RandomResize,
    draw_offsets,
    paste_crop,
)
from oass.tools.ai.randaugment import RandAugmentMC

one_module(__name__, "oass.core.transforms")


class Picture(NamedTuple):
    """pixels (3,S,S) uint8 (or a batch of them); inside (4,) int64: top, left, bottom, right of what is picture."""

    pixels: torch.Tensor
    inside: torch.Tensor


def crop_bytes(image: Image.Image, size: int, *, at_random: bool) -> Picture:
    """A square of `size` pixels: RandomCrop's, or the top left one. Outside the picture the network sees zeros."""
    array = np.asarray(image)
    if at_random:
        columns, rows = draw_offsets(array.shape[1] - size), draw_offsets(array.shape[0] - size)
    else:
        columns = rows = (0, 0)
    canvas = paste_crop(array, np.zeros((size, size, 3), np.uint8), rows, columns)
    bottom = min(size, rows[0] + array.shape[0] - rows[1])
    right = min(size, columns[0] + array.shape[1] - columns[1])
    return Picture(
        torch.from_numpy(canvas).permute(2, 0, 1),
        torch.tensor([rows[0], columns[0], bottom, right]),
    )


class TrainTransform:
    """RandomResize, flip, optional ColorJitter and RandAugment, RandomCrop: section d of the spec, in order."""

    def __init__(
        self, image_size: int, min_image_size: int, max_image_size: int, augment: str = ""
    ) -> None:
        self.image_size = image_size
        extra = {
            "colorjitter": ColorJitter(0.3, 0.3, 0.3, 0.1),
            "randaugment": RandAugmentMC(2, 10),
        }
        self.steps = [RandomResize(min_image_size, max_image_size), RandomHorizontalFlip()]
        self.steps += [extra[name] for name in AUGMENTATIONS if name in augment]

    def __call__(self, image: Image.Image) -> Picture:
        for step in self.steps:
            image = step(image)
        return crop_bytes(image, self.image_size, at_random=True)


class EvalTransform:
    """The picture at the top left of a square, optionally resized before (`scale`) and mirrored."""

    def __init__(self, image_size: int, *, scale: float = 1.0, flip: bool = False) -> None:
        self.image_size, self.scale, self.flip = image_size, scale, flip

    def __call__(self, image: Image.Image) -> Picture:
        if self.scale != 1:
            size = [max(1, round(side * self.scale)) for side in image.size]
            image = image.resize(size, Image.Resampling.BICUBIC)
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return crop_bytes(image, self.image_size, at_random=False)


def normalise(
    picture: Picture,
    device: torch.device,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> torch.Tensor:
    """A batch of pictures as the network's input (B,3,S,S) float32 on `device`; 0 (the mean) outside them.

    mean, std: of the pixels in [0,1] that the network was trained with (`Classifier.normalisation`).
    """
    pixels, inside = (t.to(device, non_blocking=True) for t in picture)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (mean, std))
    place = torch.arange(pixels.shape[-1], device=device)
    top, left, bottom, right = inside.unbind(1)
    rows = (place >= top[:, None]) & (place < bottom[:, None])
    columns = (place >= left[:, None]) & (place < right[:, None])
    mask = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(mask, (pixels.float() / 255 - mean) / std, 0.0)
