"""Pictures and masks: how they are read, and whether a whole list can be.

`read_image` serves data sets, `read_own_picture` what a user hands to explain and infer scripts,
`read_mask` the class ids of a segmentation, `check_images` a whole list before the first step.
"""

import errno
import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import samples
from common.errors import UserError
from common.files import (  # noqa: F401
    IMAGE_SUFFIXES,
    atomic_save,
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


def read_image(path: str | Path, *, upright: bool = True) -> Image.Image:
    """A picture in RGB, 8 bits; more bits are scaled to 8, transparency is left out.

    `upright` turns it as its EXIF data say, as every viewer does. Data sets with boxes or masks say
    False: theirs are in the frame of the pixels as they are stored. CorruptImage names a file that
    cannot be decoded; UserError one that is missing, a folder or a pipe.
    """
    path = require_file(path, "image")
    try:
        return _in_rgb(_decoded(path, upright))
    except DAMAGE as error:
        problem = f"{path}: unreadable image ({_reason(error)})"
        advice = "replace it, or leave it out with --skip_corrupt"
        hint = "(python -m common.data check FOLDER lists all)"
        raise CorruptImage(f"{problem}; {advice} {hint}") from error


def read_own_picture(path: str | Path) -> Image.Image:
    """A user's own picture in RGB: turned upright, and on white where it is transparent.

    CorruptImage names a file that cannot be decoded; UserError one that is missing or no file.
    """
    path = require_file(path, "picture")
    try:
        image = _decoded(path, upright=True)
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
        _in_rgb(_decoded(require_file(path, "image"), upright=False))
    except DAMAGE as error:
        return _reason(error)
    return ""


def _decoded(path: Path, upright: bool) -> Image.Image:
    """The picture in a mode of 8 bits; one of DAMAGE for a file that cannot be decoded."""
    with Image.open(path) as image:
        stored = str(image.tile)  # gone after loading
        turned_by_pillow = _orientation(image) if image.format == "TIFF" else 1
        image.load()

        orientation = _orientation(image) if upright else 1
        if image.mode.startswith(("I", "F")):
            image = Image.fromarray(_eight_bits(np.asarray(image)))
        elif ";16" in stored and _is_dark(image):
            image = _from_sixteen_bits(path)
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


def _from_sixteen_bits(path: Path) -> Image.Image:
    """A colour picture with all its 16 bits, which Pillow cannot hold, scaled to 8."""
    import cv2

    content = np.frombuffer(path.read_bytes(), np.uint8)
    values = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
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
    path = require_file(path, "mask")
    try:
        with Image.open(path) as image:
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


# --- a whole list ---

THREADS = 16
CHUNK = 256
LISTS_KEPT = 100
# Of other formats the end is not known: their files are decoded.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}


def check_images(
    paths: Iterable[str | Path],
    *,
    what: str,
    skip_corrupt: bool = False,
) -> np.ndarray:
    """The positions (int64) of the unreadable pictures of a list, found before the work begins.

    Each file must be there. A JPEG, PNG or GIF must begin and end as its format does, damage in the
    middle is not seen; what looks wrong, and other formats, are decoded to decide. Readable files
    are remembered in the cache folder: the next start asks for their sizes and times only.

    Args:
        what: the list's name in messages ("val").
        skip_corrupt: return the unreadable positions instead of an error.
    Raises:
        CorruptImage: names the first unreadable file, and how many there are.
        UserError: a file is not there, also with `skip_corrupt`; names the first, and how many.
    """
    names = [os.fspath(path) for path in paths]
    stamps = _stamps(names, what)
    known = _recall(names)
    is_known = np.zeros(len(names), bool)
    if known.shape == stamps.shape:
        is_known = (stamps == known).all(axis=1)

    fresh = np.flatnonzero(~is_known)
    reasons = _in_threads(_trouble, [names[k] for k in fresh], f"checking {what}")
    unreadable = {int(k): reason for k, reason in zip(fresh, reasons, strict=True) if reason}
    positions = np.array(sorted(unreadable), np.int64)
    if len(fresh) > len(positions):
        stamps[positions] = -1
        _remember(names, stamps)

    if unreadable and not skip_corrupt:
        first = int(positions[0])
        count = f"{len(positions)} of {len(names)} images of {what}"
        folder = os.path.commonpath([Path(names[k]).absolute().parent for k in unreadable])
        problem = f"{names[first]}: unreadable image ({unreadable[first]}), {count}"
        advice = f"replace, or --skip_corrupt (python -m common.data check {folder} lists all)"
        raise CorruptImage(f"{problem}; {advice}")
    return positions


def left_out(paths: Sequence[str | Path], positions: np.ndarray, what: str) -> str:
    """The line that says which images `check_images` found unreadable, up to five by name."""
    shown = ", ".join(str(paths[int(k)]) for k in positions[:5])
    if len(positions) > 5:
        shown += f" and {len(positions) - 5} more"
    count = f"{len(positions)} of {len(paths)} images"
    return f"{what}: {count} cannot be read and are left out: {shown}"


def _stamps(names: list[str], what: str) -> np.ndarray:
    """(n,2) int64: size in bytes and time of the last change in nanoseconds of every file."""
    stamps = _in_threads(_stamp, names, f"looking for {what}")
    missing = [name for name, stamp in zip(names, stamps, strict=True) if stamp is None]
    if missing:
        count = f"{len(missing)} of {len(names)} listed images are not there"
        advice = "complete the data set, or take them off the list"
        raise UserError(f"{what}: {count}, the first is {missing[0]}; {advice}")
    return np.array(stamps, np.int64).reshape(-1, 2)


def _stamp(name: str) -> tuple[int, int] | None:
    """Size and time; None where there is no such file; UserError for what is no ordinary file."""
    try:
        found = os.stat(name)  # noqa: PTH116 - a hundred thousand of them
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        require_file(name, "image")
        raise
    if not stat.S_ISREG(found.st_mode):
        require_file(name, "image")
    return found.st_size, found.st_mtime_ns


def _trouble(name: str) -> str:
    """Why a file cannot be read; empty where its bytes look right or it can be decoded."""
    with suppress(*DAMAGE):
        if _looks_whole(name):
            return ""
    return why_unreadable(Path(name))


def _looks_whole(name: str) -> bool:
    """Whether a file begins and ends as its format does. False: it has to be decoded to know."""
    with open(name, "rb", buffering=0) as file:  # noqa: PTH123 - a hundred thousand of them
        file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
        # Some programs fill the last block of a file with zeros.
        tail = file.read(64).rstrip(b"\0")
    with Image.open(name) as image:
        end = ENDS.get(image.format or "")
    return end is not None and tail.endswith(end)


def _in_threads(function: Callable[[str], Any], names: list[str], title: str) -> list[Any]:
    """function(name) for every name, in order; threads, because network drives answer slowly."""

    def of_chunk(start: int) -> list[Any]:
        return list(map(function, names[start : start + CHUNK]))

    starts = range(0, len(names), CHUNK)
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(of_chunk, starts)
        # disable=None: quiet where the output is no terminal
        shown = tqdm(results, title, len(starts), leave=False, delay=2, disable=None)
        return list(chain.from_iterable(shown))


def _cache_file(names: list[str]) -> Path:
    whole = "\0".join(map(os.path.abspath, names)).encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(whole).hexdigest()
    return samples.cache_root() / ".checked" / f"{digest[:32]}.npy"


def _recall(names: list[str]) -> np.ndarray:
    """The stamps (n,2) of the files when they were readable, -1 where they were not."""
    with suppress(OSError, ValueError, EOFError, UserError):
        return np.load(_cache_file(names), allow_pickle=False)
    return np.zeros((0, 0), np.int64)


def _remember(names: list[str], stamps: np.ndarray) -> None:
    """Keep the stamps for the next start; where the cache cannot be written, it looks again."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, stamps)

    with suppress(OSError, UserError):
        path = _cache_file(names)
        for left in path.parent.glob(".*.part"):  # by a killed process; one that lives looks again
            left.unlink(missing_ok=True)
        atomic_save(path, write)
        newest_last = sorted(path.parent.glob("*.npy"), key=lambda path: path.stat().st_mtime)
        for old in newest_last[:-LISTS_KEPT]:
            old.unlink(missing_ok=True)
