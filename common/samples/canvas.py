"""Digits as building material: glyphs from scikit-learn's 8x8 digits, pasted on textured canvases.

    rng = np.random.default_rng(0)
    canvas = Canvas(64, rng, background="blocks")
    glyph = class_glyph(17, rng, "train")                         # digit 7, outlined
    box, mask = canvas.paste(glyph, x=5, y=20, scale=1.2, colour=class_colour(17))
    picture = canvas.picture()                                    # (64, 64, 3) uint8 RGB

Digits alone are ten classes. There are two ways to more, to be used alone or together: the *shape*,
class_glyph with ten classes per style (up to 60), and the *colour*, class_colour. A data set in
which colour must not help takes random_colour; one whose classes differ in colour takes
`class_glyph(c % 10, ...)` and `class_colour(c)`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np

# x0, y0, x1, y1 in pixels from 0; x1 and y1 lie outside: the width is x1 - x0.
Box = tuple[int, int, int, int]

NUM_TRAIN = 1300  # of 1,797
MASK_LEVEL = 0.3  # a pixel belongs to the glyph from this opacity on


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # a second and a half

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target.astype(np.int64)


@lru_cache(maxsize=2)
def split_indices(split: str) -> np.ndarray:
    """Rows of the 1,797 digits in "train" (1,300) or "val" (497), the same for every sample."""
    order = np.random.default_rng(0).permutation(len(_digits()[1]))
    return {"train": order[:NUM_TRAIN], "val": order[NUM_TRAIN:]}[split]


def digit_images(size: int, split: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Digits enlarged bilinearly, of one split or all.

    Images (n, size, size) float32 in 0..1, labels (n,) int64.
    """
    images, labels = _digits()
    rows = np.arange(len(labels)) if split is None else split_indices(split)
    return np.stack([_resize(images[row], size, size) for row in rows]), labels[rows]


# --- glyphs: (h, w) float32, the opacity of each pixel ---


def _shrunk(glyph: np.ndarray, border: int) -> np.ndarray:
    """The same size, with an empty border."""
    side = len(glyph) - 2 * border
    return np.pad(_resize(glyph, side, side), border)


def _outlined(glyph: np.ndarray) -> np.ndarray:
    # Opaque where the opacity is near 0.4: a band along the edge. Digits fill their square.
    shrunk = _shrunk(glyph, len(glyph) // 12)
    return np.clip(1.6 - 4 * np.abs(shrunk - 0.4), 0, 1)


def _framed(glyph: np.ndarray) -> np.ndarray:
    width = max(1, len(glyph) // 12)
    inside = _shrunk(glyph, 2 * width)[width:-width, width:-width]
    return np.pad(inside, width, constant_values=1)


def _underlined(glyph: np.ndarray) -> np.ndarray:
    width = max(1, len(glyph) // 8)
    shrunk = _resize(glyph, len(glyph) - 2 * width, len(glyph))
    below = ((0, width), (0, 0))
    return np.pad(np.pad(shrunk, below), below, constant_values=1)


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "filled": lambda glyph: glyph,
    "outlined": _outlined,
    "inverted": lambda glyph: 1 - glyph,
    "framed": _framed,
    "underlined": _underlined,
    "rotated": lambda glyph: np.ascontiguousarray(np.rot90(glyph)),
}


def class_glyph(class_id: int, rng: np.random.Generator, split: str, size: int = 24) -> np.ndarray:
    """A random glyph of a class: digit `class_id % 10` in style number `class_id // 10` of STYLES.

    Returns (size, size) float32 in 0..1. "train" and "val" share no digit.
    """
    if not 0 <= class_id < 10 * len(STYLES):
        raise ValueError(f"class {class_id} is not in 0..{10 * len(STYLES) - 1}")
    images, labels = _digits()
    rows = split_indices(split)
    row = rng.choice(rows[labels[rows] == class_id % 10])
    style = list(STYLES.values())[class_id // 10]
    return style(_resize(images[row], size, size)).astype(np.float32)


# --- colours: (3,) float32 RGB in 0..1 ---


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB (3,) float32 of a hue, saturation and brightness, each in 0..1."""
    offsets = (np.array([5, 3, 1]) + 6 * hue) % 6
    missing = np.clip(np.minimum(offsets, 4 - offsets), 0, 1)
    return (value * (1 - saturation * missing)).astype(np.float32)


def class_colour(class_id: int) -> np.ndarray:
    """A class's own colour: hues apart by the golden section, two saturations, two brightnesses."""
    return hsv(0.618 * class_id % 1, (1, 0.55)[class_id % 2], (0.95, 0.75)[class_id // 2 % 2])


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """A bright colour of any hue, (3,) float32."""
    return hsv(rng.random(), rng.uniform(0.3, 1), rng.uniform(0.75, 1))


# --- the canvas ---

# background -> (pixels per cell of independent colour, interpolation between the cells)
BACKGROUNDS = {
    "noise": (1, cv2.INTER_NEAREST),
    "blocks": (8, cv2.INTER_NEAREST),
    "clouds": (8, cv2.INTER_LINEAR),
}


class Canvas:
    """A picture in the making; `pixels` (H, W, 3) float32 RGB in about 0..1 may be drawn on."""

    def __init__(
        self,
        size: int | tuple[int, int],
        rng: np.random.Generator,
        *,
        background: str = "blocks",
        level: float = 0.3,
        contrast: float = 0.25,
    ) -> None:
        """Start with a texture: a random base colour, and cells that are somewhat off it.

        size: the side, or (height, width).
        level: about what the base colour is.
        contrast: how far a cell is off it at most.
        """
        self.height, self.width = (size, size) if isinstance(size, int) else size
        cell, interpolation = BACKGROUNDS[background]
        base = level * rng.uniform(0.5, 1.5, 3)
        rows = -(-self.height // cell)
        columns = -(-self.width // cell)
        cells = base + contrast * rng.uniform(-1, 1, (rows, columns, 3))
        cells = cells.astype(np.float32)
        texture = _resize(cells, rows * cell, columns * cell, interpolation)
        self.pixels = np.clip(texture[: self.height, : self.width], 0, 1)

    def paste(
        self,
        glyph: np.ndarray,
        x: int,
        y: int,
        scale: float = 1.0,
        colour: Sequence[float] | np.ndarray = (1, 1, 1),
    ) -> tuple[Box, np.ndarray]:
        """Blend a glyph (h, w), enlarged by `scale`, in a colour; its upper left is (x, y).

        What hangs over the border is cut. Returns the box, tight around the mask, and the mask
        (H, W) bool of this glyph alone: where glyphs overlap, the later hides the earlier, whose
        mask stays whole.
        """
        height = max(1, round(glyph.shape[0] * scale))
        width = max(1, round(glyph.shape[1] * scale))
        top = max(0, -y)
        left = max(0, -x)
        whole = _resize(glyph, height, width)
        visible = whole[top : max(top, self.height - y), left : max(left, self.width - x)]
        rows = slice(y + top, y + top + visible.shape[0])
        columns = slice(x + left, x + left + visible.shape[1])
        opacity = np.zeros((self.height, self.width), np.float32)
        opacity[rows, columns] = visible
        mask = opacity >= MASK_LEVEL
        if not mask.any():
            raise ValueError(f"nothing of the glyph is visible at x={x}, y={y}")
        self.pixels += opacity[:, :, None] * (np.asarray(colour, np.float32) - self.pixels)
        return box_of(mask), mask

    def picture(self) -> np.ndarray:
        """The picture, (H, W, 3) uint8 RGB."""
        return to_bytes(self.pixels)


def box_of(mask: np.ndarray) -> Box:
    """The tight box around a mask (H, W) bool that is not empty."""
    ys = np.flatnonzero(mask.any(axis=1))
    xs = np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def to_bytes(values: np.ndarray) -> np.ndarray:
    """0..1 to 0..255 uint8, rounded, clipped; any shape."""
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _resize(
    image: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=interpolation)
