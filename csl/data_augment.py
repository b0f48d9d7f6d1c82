"""CutoutPIL and RandAugment on PIL images; every draw comes from Python's global generator."""

import random
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from common.aliases import one_module
from common.domain import require_number
from csl.data_errors import require_count

one_module(__name__, "csl.data_augment")

GREY = (128, 128, 128)
CUTOUT_COLOUR = (125, 122, 113)


class CutoutPIL:
    """Covers a rectangle around a uniform centre with one random colour.

    It has int(f*W + 0.5) x int(f*H + 0.5) pixels. Half sizes by integer division, clipped at the
    border; returns a copy.
    """

    def __init__(self, cutout_factor: float = 0.5) -> None:
        """DomainError (a ValueError): a negative factor."""
        require_number(cutout_factor, "cutout_factor", 0)
        self.cutout_factor = cutout_factor

    def __call__(self, x: Image.Image) -> Image.Image:
        """The covered copy of an RGB image."""
        width, height = x.size
        half_w = int(self.cutout_factor * width + 0.5) // 2
        half_h = int(self.cutout_factor * height + 0.5) // 2
        centre_y = random.randrange(height)
        centre_x = random.randrange(width)
        box = (max(0, centre_x - half_w), max(0, centre_y - half_h))
        end = (min(width, centre_x + half_w), min(height, centre_y + half_h))
        colour = (random.randint(0, 255), random.randint(0, 255), random.randint(0, 255))
        out = x.copy()
        if end[0] > box[0] and end[1] > box[1]:
            out.paste(colour, (*box, *end))
        return out


def _affine(
    image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling
) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=GREY)


def _shear(image: Image.Image, v: float, *, axis: int) -> Image.Image:
    matrix: tuple[float, ...] = (1, v, 0, 0, 1, 0)
    if axis == 1:
        matrix = (1, 0, 0, v, 1, 0)
    return _affine(image, matrix, Image.Resampling.BICUBIC)


def _translate(image: Image.Image, v: float, *, axis: int) -> Image.Image:
    shift = v * image.size[axis]
    matrix: tuple[float, ...] = (1, 0, shift, 0, 1, 0)
    if axis == 1:
        matrix = (1, 0, 0, 0, 1, shift)
    return _affine(image, matrix, Image.Resampling.NEAREST)


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, fillcolor=GREY)


def _cutout(image: Image.Image, side: float) -> Image.Image:
    width, height = image.size
    left = max(0, random.uniform(0, width) - side / 2)
    top = max(0, random.uniform(0, height) - side / 2)
    right = min(width, left + side)
    bottom = min(height, top + side)
    out = image.copy()
    ImageDraw.Draw(out).rectangle((left, top, right, bottom), fill=CUTOUT_COLOUR)
    return out


def _enhance(image: Image.Image, v: float, *, kind: type) -> Image.Image:
    return kind(image).enhance(1 + random.choice((-1, 1)) * v)


def _signed(image: Image.Image, v: float, *, move: Callable) -> Image.Image:
    return move(image, random.choice((-1, 1)) * v)


def _solarize(image: Image.Image, limit: float) -> Image.Image:
    return ImageOps.solarize(image, limit)  # type: ignore[arg-type]  # it compares alone


# name -> (operation(image, value), value at magnitude level 0, value at level 9)
OPERATIONS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], float, float]] = {
    "Invert": (lambda image, _: ImageOps.invert(image), 0, 0),
    "Cutout": (_cutout, 0, 20),
    "Sharpness": (partial(_enhance, kind=ImageEnhance.Sharpness), 0, 0.9),
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), 0, 0),
    "Posterize": (lambda image, bits: ImageOps.posterize(image, int(bits)), 8, 4),
    "ShearX": (partial(_signed, move=partial(_shear, axis=0)), 0, 0.3),
    "ShearY": (partial(_signed, move=partial(_shear, axis=1)), 0, 0.3),
    "TranslateX": (partial(_signed, move=partial(_translate, axis=0)), 0, 150 / 331),
    "TranslateY": (partial(_signed, move=partial(_translate, axis=1)), 0, 150 / 331),
    "Rotate": (_rotate, 0, 30),
    "Equalize": (lambda image, _: ImageOps.equalize(image), 0, 0),
    "Contrast": (partial(_enhance, kind=ImageEnhance.Contrast), 0, 0.9),
    "Color": (partial(_enhance, kind=ImageEnhance.Color), 0, 0.9),
    "Solarize": (_solarize, 256, 0),
    "Brightness": (partial(_enhance, kind=ImageEnhance.Brightness), 0, 0.9),
}


class RandAugment:
    """Two operations, each applied with probability 0.5, both drawn uniformly with a level of 1..9.

    The table of the package randaugment 1.0.2 that the released code calls. torchvision's
    RandAugment has other operations and always applies them.
    """

    def __init__(self, operations: int = 2, probability: float = 0.5) -> None:
        """DomainError (a ValueError): a negative count, a probability outside 0..1."""
        require_count(operations, "operations")
        require_number(probability, "probability", 0, 1)
        self.operations = operations
        self.probability = probability
        self.names = list(OPERATIONS)
        self.levels = {
            name: np.linspace(low, high, 10).tolist() for name, (_, low, high) in OPERATIONS.items()
        }

    def __call__(self, image: Image.Image) -> Image.Image:
        """The augmented RGB image, of the same size."""
        for _ in range(self.operations):
            name = random.choice(self.names)
            level = random.randint(1, 9)
            if random.random() < self.probability:
                image = OPERATIONS[name][0](image, self.levels[name][level])
        return image


class RandomShift:
    """Moves an image by up to `pixels` in both directions; what is uncovered repeats the border."""

    def __init__(self, pixels: int) -> None:
        """DomainError (a ValueError): a negative number of pixels."""
        require_count(pixels, "pixels")
        self.pixels = pixels

    def __call__(self, image: Image.Image) -> Image.Image:
        """The shifted image, of the same size."""
        return Image.fromarray(self.rows(image))

    def rows(self, image: Image.Image) -> np.ndarray:
        """Its pixels (H,W,3) uint8."""
        dx = random.randint(-self.pixels, self.pixels)
        dy = random.randint(-self.pixels, self.pixels)
        rows = np.arange(dy, dy + image.height)
        columns = np.arange(dx, dx + image.width)
        shifted = np.asarray(image).take(rows, axis=0, mode="clip")
        return shifted.take(columns, axis=1, mode="clip")
