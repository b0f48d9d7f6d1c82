"""The transforms of training and evaluation, on PIL images and arrays (H,W,C), drawing from `random`."""

import random
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from common.aliases import one_module
from oass.core.domain import require_count

one_module(__name__, "oass.tools.ai.augment_utils")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IGNORED = 255  # in masks


class RandomResize:
    """Resize so that the *longer* side gets a random length in [min_image_size, max_image_size].

    The shorter side keeps a pixel at least. ValueError for lengths below 1 or in the other order.
    """

    def __init__(self, min_image_size: int, max_image_size: int) -> None:
        require_count(min_image_size, "min_image_size", 1)
        require_count(max_image_size, "max_image_size", min_image_size)
        self.min_image_size, self.max_image_size = min_image_size, max_image_size

    def __call__(self, image: Image.Image) -> Image.Image:
        target = random.randint(self.min_image_size, self.max_image_size)
        w, h = image.size
        scale = target / h if w < h else target / w
        size = max(1, int(round(w * scale))), max(1, int(round(h * scale)))
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


class RandomHorizontalFlip:
    """Mirror every other image."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return (
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if bool(random.getrandbits(1))
            else image
        )


class Normalize:
    """(v/255 - mean)/std of an RGB image, computed in float64, stored as float32 (H,W,3)."""

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        self.mean, self.std = mean, std

    def __call__(self, image: Image.Image | np.ndarray) -> np.ndarray:
        pixels = np.asarray(image, np.float64) / 255
        return ((pixels - self.mean) / self.std).astype(np.float32)


class Normalize_For_Segmentation:
    """`Normalize` of data["image"]; data["mask"] becomes int64."""

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        self.normalize = Normalize(mean, std)

    def __call__(self, data: Mapping[str, object]) -> dict[str, np.ndarray]:
        return {
            **data,
            "image": self.normalize(data["image"]),
            "mask": np.asarray(data["mask"], np.int64),
        }


def draw_offsets(space: int) -> tuple[int, int]:
    """(destination, source) offset of one axis: `space` = image - crop; both drawn from `random`."""
    return (0, random.randrange(space + 1)) if space > 0 else (random.randrange(-space + 1), 0)


def paste_crop(
    image: np.ndarray, canvas: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """Copy what fits of `image` (H,W,...) into `canvas`, from source to destination offsets; returns the canvas."""
    h = min(image.shape[0] - rows[1], canvas.shape[0] - rows[0])
    w = min(image.shape[1] - columns[1], canvas.shape[1] - columns[0])
    canvas[rows[0] : rows[0] + h, columns[0] : columns[0] + w] = image[
        rows[1] : rows[1] + h, columns[1] : columns[1] + w
    ]
    return canvas


class RandomCrop:
    """A square of `crop_size` at a random place, on zeros (the mean colour) where the image is smaller.

    Draws for the width first, then for the height. image (H,W,C) of any dtype; (crop,crop,C) out.
    """

    def __init__(self, crop_size: int) -> None:
        require_count(crop_size, "crop_size", 1)
        self.crop_size = crop_size

    def __call__(self, image: np.ndarray) -> np.ndarray:
        columns = draw_offsets(image.shape[1] - self.crop_size)
        rows = draw_offsets(image.shape[0] - self.crop_size)
        canvas = np.zeros((self.crop_size, self.crop_size, *image.shape[2:]), image.dtype)
        return paste_crop(image, canvas, rows, columns)


class Top_Left_Crop_For_Segmentation:
    """The image at the top left of a zero canvas of crop_size, its mask on one of 255; larger ones are cut."""

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
