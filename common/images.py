"""Pictures and masks: how they are read, and whether a whole list can be.

`read_image` serves data sets, `read_own_picture` what a user hands to explain and infer scripts,
`read_mask` the class ids of a segmentation; `check_images`, in common.images_check, looks at a
whole list before the first step.
"""

import errno
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import shards
from common.errors import UserError
from common.files import (  # noqa: F401
    IMAGE_SUFFIXES,
    image_files,
    is_hidden,
    is_image,
    visible,
)
from common.text import require_file

# What Pillow's decoders raise for damaged files: another class for every kind of damage.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(IndexError, KeyError, TypeError, AttributeError, AssertionError),
    *(OverflowError, ZeroDivisionError, Image.DecompressionBombError),
)
# These lie with the machine and not with the file.
OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

ORIENTATION = 0x0112  # of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class CorruptImage(UserError):
    """An image file that cannot be decoded; the message names its path."""


# --- pictures ---


def source_of(path: str | Path, what: str = "image") -> Path | io.BytesIO:
    """What a decoder opens: an ordinary file, or the bytes of a picture packed by common.shards.

    UserError where there is neither, or a folder or a pipe in its place.
    """
    if not os.path.isfile(path):  # noqa: PTH113
        try:
            packed = shards.packed(path)
        except OSError as error:
            raise CorruptImage(f"{path}: cannot be read ({error}); pack again") from error
        if packed is not None:
            return packed
    return require_file(path, what)


def read_image(path: str | Path, *, upright: bool = True) -> Image.Image:
    """A picture in RGB, 8 bits; more bits are scaled to 8, transparency is left out.

    `upright` turns it as its EXIF data say, as every viewer does. Data sets with boxes or masks say
    False: theirs are in the frame of the pixels as they are stored. CorruptImage names a file that
    cannot be decoded; UserError one that is missing, a folder or a pipe.
    """
    source = source_of(path)
    try:
        return _in_rgb(_decoded(source, upright))
    except DAMAGE as error:
        problem = f"{path}: unreadable image ({_reason(error)})"
        advice = "replace it, or leave it out with --skip_corrupt"
        hint = "(python -m common.data check FOLDER lists all)"
        raise CorruptImage(f"{problem}; {advice} {hint}") from error


def read_own_picture(path: str | Path) -> Image.Image:
    """A user's own picture in RGB: turned upright, and on white where it is transparent.

    CorruptImage names a file that cannot be decoded; UserError one that is missing or no file.
    """
    source = source_of(path, "picture")
    try:
        image = _decoded(source, upright=True)
        has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
        if not has_alpha and "transparency" not in image.info:
            return _in_rgb(image)
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    except DAMAGE as error:
        problem = f"{path}: unreadable picture ({_reason(error)})"
        raise CorruptImage(f"{problem}; give another file") from error


def why_unreadable(path: Path) -> str:
    """Why a file cannot be decoded, in a few words; empty where it can be."""
    try:
        _in_rgb(_decoded(source_of(path), upright=False))
    except DAMAGE as error:
        return _reason(error)
    return ""


def _decoded(source: Path | io.BytesIO, upright: bool) -> Image.Image:
    """The picture in a mode of 8 bits; one of DAMAGE for a file that cannot be decoded."""
    with Image.open(source) as image:
        stored = str(image.tile)  # gone after loading
        turned_by_pillow = _orientation(image) if image.format == "TIFF" else 1
        image.load()

        orientation = _orientation(image) if upright else 1
        if image.mode.startswith(("I", "F")):
            image = Image.fromarray(_eight_bits(np.asarray(image)))
        elif ";16" in stored and _is_dark(image):
            image = _from_sixteen_bits(source)
            if turned_by_pillow in UPRIGHT:
                image = image.transpose(UPRIGHT[turned_by_pillow])

    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    return image


def _in_rgb(image: Image.Image) -> Image.Image:
    """Itself where it is in RGB: `convert` would copy it, up to a seventh of the decoding."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except DAMAGE:  # damaged EXIF data; the pixels may be whole
        return 1


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Values of up to 16 bits, or floating point, as uint8.

    Cameras and scanners put 12 bits into files of 16, which only the brightest pixel tells: white
    is the first of the limits below that none exceeds.
    """
    limits = [255, 4095, 65535]
    if values.dtype.kind == "f":
        limits.insert(0, 1)
    values = np.nan_to_num(values.astype(np.float64)).clip(0, 65535)
    highest = values.max(initial=0)
    white = next(limit for limit in limits if highest <= limit)
    return (values / (white / 255)).round().astype(np.uint8)


def _is_dark(image: Image.Image) -> bool:
    """Whether 12 bits hold every colour of a picture of 16 bits, of which Pillow kept 8."""
    bands: Any = image.getextrema()
    colours = 1 if image.mode == "LA" else 3
    return all(highest < 4096 >> 8 for _, highest in bands[:colours])


def _from_sixteen_bits(source: Path | io.BytesIO) -> Image.Image:
    """A colour picture with all its 16 bits, which Pillow cannot hold, scaled to 8."""
    import cv2

    content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3:
        raise ValueError("16 bits a colour, which cannot be decoded")

    colours = _eight_bits(values[..., 2::-1])  # from BGR
    if values.shape[2] == 3:
        return Image.fromarray(colours)
    alpha = (values[..., 3:] / 257).round().astype(np.uint8)
    return Image.fromarray(np.concatenate([colours, alpha], axis=2))


def _reason(error: BaseException) -> str:
    """Why a file cannot be decoded, in a few words; what lies with the machine is raised again."""
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        raise error
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture of a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


# --- masks ---


def _voc_colours() -> np.ndarray:
    """Pascal VOC's colours (256,3): the bits of an id, dealt to red, green and blue in turn."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for place in range(8):
        for channel in range(3):
            bit = (ids >> (3 * place + channel)) & 1
            colours[:, channel] |= bit << (7 - place)
    return colours.astype(np.uint8)


VOC = _voc_colours()


def read_mask(
    path: str | Path,
    size: tuple[int, int] | None = None,
    palette: np.ndarray | None = VOC,
    *,
    highest: int | None = None,
) -> np.ndarray:
    """Class ids (H,W) uint8 of a mask: its palette indices, its grey values, or by its colours.

    Args:
        size: (width, height) of its picture.
        palette: (up to 256, 3) colour of every id; None where colours are not accepted.
        highest: the largest class id; 255, void, is accepted beside it. None: no limit.
    Raises:
        CorruptImage: the file cannot be decoded.
        UserError: missing, of another size, a colour outside the palette, an id above `highest`.
    """
    path = Path(path)
    try:
        with Image.open(source_of(path, "mask")) as image:
            image.load()
    except DAMAGE as error:
        raise CorruptImage(f"{path}: unreadable mask ({_reason(error)}); replace it") from error

    if size is not None and image.size != tuple(size):
        found = f"{image.width} x {image.height}"
        raise UserError(f"{path}: the mask is {found}, its picture {size[0]} x {size[1]} pixels")

    ids = _ids_of(image, path, palette)
    if highest is not None:
        is_strange = (ids > highest) & (ids != 255)
        if is_strange.any():
            value, where = _first(ids, is_strange)
            expected = f"0 to {highest}, or 255 for void"
            raise UserError(f"{path}: the mask holds {value} at {where}; expected {expected}")
    return ids.astype(np.uint8)


def _ids_of(image: Image.Image, path: Path, palette: np.ndarray | None) -> np.ndarray:
    if image.mode in ("1", "L", "P"):
        return np.asarray(image).astype(np.uint8)
    if image.mode in ("LA", "PA"):
        return np.asarray(image)[..., 0]
    if image.mode.startswith(("I", "F")):
        ids = np.asarray(image)
        is_strange = ~((ids >= 0) & (ids <= 255) & (ids == np.floor(ids)))
        if is_strange.any():
            value, where = _first(ids, is_strange)
            raise UserError(f"{path}: the mask holds {value} at {where}; expected 0 to 255")
        return ids

    if palette is None:
        raise UserError(f"{path}: a mask in colours; expected class ids, as palette or grey values")
    colours = np.asarray(image.convert("RGB"))
    codes = _codes(colours)
    known = _codes(np.asarray(palette))
    order = known.argsort(kind="stable")
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    ids = order[places]
    is_strange = known[ids] != codes
    if is_strange.any():
        value, where = _first(colours, is_strange)
        problem = f"{path}: the colour {value} at {where} is no class of the palette"
        raise UserError(f"{problem}; save the class ids")
    return ids


def _codes(colours: np.ndarray) -> np.ndarray:
    return colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _first(values: np.ndarray, is_strange: np.ndarray) -> tuple[Any, str]:
    """The first strange pixel, in plain numbers, and where it is."""
    row, column = np.argwhere(is_strange)[0].tolist()
    value = values[row, column].tolist()
    if isinstance(value, list):
        value = tuple(value)
    return value, f"row {row}, column {column}"


from common.images_check import check_images, left_out  # noqa: E402, F401
