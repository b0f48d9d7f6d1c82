"""RandAugment as FixMatch defines it (two of 14 operations, then a black square), on PIL images."""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from common.aliases import one_module
from common.domain import require_number
from oass.data_checks import require_count

one_module(__name__, "oass.data_randaugment")

GREY, CUTOUT = (127, 127, 127), 16
Operation = Callable[[Image.Image, float], Image.Image]


def _enhance(kind: type) -> Operation:
    return lambda image, v: kind(image).enhance(v)


def _affine(coefficients: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
    def apply(image: Image.Image, v: float) -> Image.Image:
        v = -v if random.random() < 0.5 else v
        return image.transform(
            image.size, Image.Transform.AFFINE, coefficients(image, v), fillcolor=GREY
        )

    return apply


def _rotate(image: Image.Image, v: float) -> Image.Image:
    return image.rotate(-v if random.random() < 0.5 else v, fillcolor=GREY)


# name -> (operation, value at strength 0, value at strength 10)
OPERATIONS: dict[str, tuple[Operation, float, float]] = {
    "autocontrast": (lambda image, v: ImageOps.autocontrast(image), 0, 0),
    "brightness": (_enhance(ImageEnhance.Brightness), 0.05, 0.95),
    "color": (_enhance(ImageEnhance.Color), 0.05, 0.95),
    "contrast": (_enhance(ImageEnhance.Contrast), 0.05, 0.95),
    "equalize": (lambda image, v: ImageOps.equalize(image), 0, 0),
    "identity": (lambda image, v: image, 0, 0),
    "posterize": (lambda image, v: ImageOps.posterize(image, int(v)), 8, 4),
    "rotate": (_rotate, 0, 30),
    "sharpness": (_enhance(ImageEnhance.Sharpness), 0.05, 0.95),
    "shear_x": (_affine(lambda image, v: (1, v, 0, 0, 1, 0)), 0, 0.3),
    "shear_y": (_affine(lambda image, v: (1, 0, 0, v, 1, 0)), 0, 0.3),
    "solarize": (lambda image, v: ImageOps.solarize(image, 256 - int(v)), 0, 256),
    "translate_x": (_affine(lambda image, v: (1, 0, v * image.width, 0, 1, 0)), 0, 0.3),
    "translate_y": (_affine(lambda image, v: (1, 0, 0, 0, 1, v * image.height)), 0, 0.3),
}


class RandAugmentMC:
    """n operations, each with probability 1/2 at strength 1 to m of 10; a 16-pixel square."""

    def __init__(self, n: int, m: int) -> None:
        require_count(n, "n", 0)
        require_count(m, "m", 1)
        require_number(m, "m", high=10)
        self.n, self.m = n, m

    def __call__(self, image: Image.Image) -> Image.Image:
        for operation, low, high in random.choices(list(OPERATIONS.values()), k=self.n):
            strength = random.randint(1, self.m) / 10
            if random.random() < 0.5:
                image = operation(image, low + (high - low) * strength)
        return cutout(image, CUTOUT)


def cutout(image: Image.Image, side: int) -> Image.Image:
    """A black square around a random pixel (NumPy's global stream), cut at the border."""
    x, y = np.random.uniform(0, image.width), np.random.uniform(0, image.height)  # noqa: NPY002
    x, y = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    image = image.copy()
    corner = min(image.width, x + side) - 1, min(image.height, y + side) - 1
    ImageDraw.Draw(image).rectangle((x, y, *corner), (0, 0, 0))
    return image
