"""Transforms: those of the released code, and ours that normalise on the device.

Pictures go to the device as bytes and are normalised there: a quarter of the traffic, no float
arithmetic on the host.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import ColorJitter

from common.aliases import one_module
from oass.data_checks import require_count
from oass.data_randaugment import RandAugmentMC
from oass.options_flags import AUGMENTATIONS

one_module(__name__, "oass.data_transforms")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IGNORED = 255  # in masks


def resampling(name: str) -> Image.Resampling:
    """PIL's interpolation of that name; bicubic, as released, for names that PIL does not have."""
    return getattr(Image.Resampling, name.upper(), Image.Resampling.BICUBIC)


class RandomResize:
    """Resize so that the *longer* side gets a random length in [min_image_size, max_image_size].

    The shorter side keeps a pixel at least. ValueError for lengths below 1 or in the other order.
    """

    def __init__(self, min_image_size: int, max_image_size: int, resample: str = "bicubic") -> None:
        require_count(min_image_size, "min_image_size", 1)
        require_count(max_image_size, "max_image_size", min_image_size)
        self.resample = resampling(resample)
        self.min_image_size, self.max_image_size = min_image_size, max_image_size

    def __call__(self, image: Image.Image) -> Image.Image:
        target = random.randint(self.min_image_size, self.max_image_size)
        w, h = image.size
        scale = target / max(w, h)
        size = max(1, int(round(w * scale))), max(1, int(round(h * scale)))
        if size == image.size:
            return image
        return image.resize(size, self.resample)


class RandomHorizontalFlip:
    """Mirror every other image."""

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.getrandbits(1):
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


class Normalize:
    """(v/255 - mean)/std of an RGB image, computed in float64, stored as float32 (H,W,3)."""

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, image: Image.Image | np.ndarray) -> np.ndarray:
        pixels = np.asarray(image, np.float64) / 255
        return ((pixels - self.mean) / self.std).astype(np.float32)


class Normalize_For_Segmentation:
    """`Normalize` of data["image"]; data["mask"] becomes int64."""

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        self.normalize = Normalize(mean, std)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **data,
            "image": self.normalize(data["image"]),
            "mask": np.asarray(data["mask"], np.int64),
        }


def draw_offsets(space: int) -> tuple[int, int]:
    """Offsets (destination, source) of one axis, drawn from `random`; space = image - crop."""
    if space > 0:
        return 0, random.randrange(space + 1)
    return random.randrange(-space + 1), 0


def paste_crop(
    image: np.ndarray, canvas: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """Copy what fits of `image` (H,W,...) into `canvas`, from source to destination offsets;
    returns the canvas.
    """
    h = min(image.shape[0] - rows[1], canvas.shape[0] - rows[0])
    w = min(image.shape[1] - columns[1], canvas.shape[1] - columns[0])
    canvas[rows[0] : rows[0] + h, columns[0] : columns[0] + w] = image[
        rows[1] : rows[1] + h, columns[1] : columns[1] + w
    ]
    return canvas


class RandomCrop:
    """A square at a random place, on zeros (the mean colour) where the image is smaller.

    Draws for the width first, then for the height. image (H,W,channels) of any dtype, without an
    axis of channels where there is one; (crop,crop,channels) out.
    """

    def __init__(self, crop_size: int, channels: int = 3) -> None:
        require_count(crop_size, "crop_size", 1)
        require_count(channels, "channels", 1)
        self.crop_size = crop_size
        self.channels = channels

    def __call__(self, image: np.ndarray) -> np.ndarray:
        _require_channels(image, self.channels)
        columns = draw_offsets(image.shape[1] - self.crop_size)
        rows = draw_offsets(image.shape[0] - self.crop_size)
        canvas = np.zeros((self.crop_size, self.crop_size, *image.shape[2:]), image.dtype)
        return paste_crop(image, canvas, rows, columns)


class Top_Left_Crop:
    """The image (H,W,channels) at the top left of a zero square; larger ones are cut."""

    def __init__(self, crop_size: int, channels: int = 3) -> None:
        require_count(crop_size, "crop_size", 1)
        require_count(channels, "channels", 1)
        self.crop_size = crop_size
        self.channels = channels

    def __call__(self, image: np.ndarray) -> np.ndarray:
        _require_channels(image, self.channels)
        shape = (self.crop_size, self.crop_size, *image.shape[2:])
        return paste_crop(image, np.zeros(shape, image.dtype), (0, 0), (0, 0))


def _require_channels(image: np.ndarray, channels: int) -> None:
    """ValueError for an image (H,W,C) of another C; one channel may have no axis."""
    found = image.shape[2] if image.ndim == 3 else 1
    if found != channels:
        raise ValueError(f"image {image.shape}: expected {channels} channels")


class Top_Left_Crop_For_Segmentation:
    """The image at the top left of a zero square, its mask on 255; larger ones are cut."""

    def __init__(self, crop_size: int) -> None:
        require_count(crop_size, "crop_size", 1)
        self.crop_size = crop_size

    def __call__(self, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        side = (self.crop_size, self.crop_size)
        image, mask = data["image"], data["mask"]
        image = paste_crop(image, np.zeros((*side, *image.shape[2:]), image.dtype), (0, 0), (0, 0))
        return {
            **data,
            "image": image,
            "mask": paste_crop(mask, np.full(side, IGNORED, mask.dtype), (0, 0), (0, 0)),
        }


class Transpose:
    """(H,W,C) to (C,H,W)."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(image.transpose(2, 0, 1))


class Transpose_For_Segmentation:
    """data["image"] from (H,W,C) to (C,H,W)."""

    def __call__(self, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**data, "image": np.ascontiguousarray(data["image"].transpose(2, 0, 1))}


# --- bytes to the device ---


class Picture(NamedTuple):
    """pixels (3,S,S) uint8; inside (4,) int64: top, left, bottom, right of the picture in it."""

    pixels: torch.Tensor
    inside: torch.Tensor


def crop_bytes(image: Image.Image, size: int, *, at_random: bool) -> Picture:
    """A square of `size` pixels: RandomCrop's, or the top left one."""
    array = np.asarray(image)
    if at_random:
        columns, rows = draw_offsets(array.shape[1] - size), draw_offsets(array.shape[0] - size)
    else:
        columns = rows = (0, 0)
    canvas = paste_crop(array, np.zeros((size, size, 3), np.uint8), rows, columns)
    bottom = min(size, rows[0] + array.shape[0] - rows[1])
    right = min(size, columns[0] + array.shape[1] - columns[1])
    inside = np.array([rows[0], columns[0], bottom, right])
    return Picture(torch.from_numpy(canvas.transpose(2, 0, 1)), torch.from_numpy(inside))


class TrainTransform:
    """RandomResize, flip, optional ColorJitter and RandAugment, RandomCrop."""

    def __init__(
        self, image_size: int, min_image_size: int, max_image_size: int, augment: str = ""
    ) -> None:
        self.image_size = image_size
        extra: dict[str, Any] = {
            "colorjitter": ColorJitter(0.3, 0.3, 0.3, 0.1),
            "randaugment": RandAugmentMC(2, 10),
        }
        self.resize = RandomResize(min_image_size, max_image_size)
        self.steps: list[Callable[[Image.Image], Image.Image]] = [
            self.resize,
            RandomHorizontalFlip(),
        ]
        self.steps += [extra[name] for name in AUGMENTATIONS if name in augment]

    def resample_as(self, name: str) -> None:
        """Resize by this interpolation, the network's."""
        self.resize.resample = resampling(name)

    def __call__(self, image: Image.Image) -> Picture:
        for step in self.steps:
            image = step(image)
        return crop_bytes(image, self.image_size, at_random=True)


class EvalTransform:
    """The picture at the top left of a square, optionally resized before (`scale`) and mirrored."""

    def __init__(
        self,
        image_size: int,
        *,
        scale: float = 1.0,
        flip: bool = False,
        resample: str = "bicubic",
    ) -> None:
        self.resample = resampling(resample)
        self.image_size = image_size
        self.scale = scale
        self.flip = flip

    def __call__(self, image: Image.Image) -> Picture:
        if self.scale != 1:
            size = [max(1, round(side * self.scale)) for side in image.size]
            image = image.resize(size, self.resample)
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return crop_bytes(image, self.image_size, at_random=False)


def normalise(
    picture: Picture,
    device: torch.device,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> torch.Tensor:
    """A batch of pictures as the network's input (B,3,S,S) float32; 0 (the mean) outside them.

    mean, std: of the pixels in [0,1] that the network was trained with
    (`Classifier.normalisation`). The memory format is channels_last, the networks'.
    """
    pixels = picture.pixels.to(device, non_blocking=True)
    inside = picture.inside.to(device, non_blocking=True)
    centre, spread, place = _constants(device, tuple(mean), tuple(std), pixels.shape[-1])
    starts = inside[:, :2, None]
    ends = inside[:, 2:, None]
    is_inside = (place >= starts) & (place < ends)
    rows, columns = is_inside.unsqueeze(2).unbind(1)
    numbers = pixels.to(torch.float32).div_(255).sub_(centre).div_(spread)
    numbers.mul_((rows.mT & columns)[:, None])
    return numbers.contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=32)
def _constants(
    device: torch.device, mean: tuple[float, ...], std: tuple[float, ...], size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and deviation (3,1,1) and 0 .. size-1 on the device, made once."""
    centre = torch.tensor(mean, device=device)[:, None, None]
    spread = torch.tensor(std, device=device)[:, None, None]
    return centre, spread, torch.arange(size, device=device)
