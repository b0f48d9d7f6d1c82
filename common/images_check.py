"""Whether every picture of a list can be read: a look at a few bytes of each before the work."""

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import samples
from common.errors import UserError
from common.files import atomic_save
from common.images_read import DAMAGE, CorruptImage, why_unreadable
from common.text import require_file

THREADS = 16
CHUNK = 256
BYTES = 2048  # read of the beginning of a file
LISTS_KEPT = 100


def check_images(
    paths: Iterable[str | Path],
    *,
    what: str,
    skip_corrupt: bool = False,
) -> np.ndarray:
    """The positions (int64) of the unreadable pictures of a list, found before the work begins.

    Each file must be there, its header must open and it must end as its format ends. A few bytes of
    each are read, and what looks wrong is decoded to decide. Readable files are remembered in the
    cache folder, so that the next start asks for size and time of each file only. Damage in the
    middle of a file is not seen.

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
        head = file.read(BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64))
        # Some programs fill the last block of a file with zeros.
        tail = file.read(64).rstrip(b"\0")

        if head.startswith(b"\xff\xd8"):
            return tail.endswith(b"\xff\xd9") and _has_jpeg_frame(file, head)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            has_header = head[12:16] == b"IHDR" and b"\0\0\0\0" not in (head[16:20], head[20:24])
            return has_header and tail.endswith(b"IEND\xaeB`\x82")
        if head.startswith((b"GIF87a", b"GIF89a")) and not tail.endswith(b";"):
            return False
        if head.startswith(b"RIFF") and 8 + int.from_bytes(head[4:8], "little") > size:
            return False

    with Image.open(name) as image:
        return not any(_is_beyond(tile, image, size) for tile in image.tile)


def _has_jpeg_frame(file: BinaryIO, head: bytes) -> bool:
    """Whether the segments of a JPEG lead to a frame header (SOF) of 8 bits that has a size."""
    begins = 0  # where in the file `head` begins
    place = 2
    for _ in range(1000):
        if place + 10 > begins + len(head):
            file.seek(place)
            head = file.read(BYTES)
            begins = place
        segment = head[place - begins :][:10]
        if len(segment) < 10 or segment[0] != 0xFF:
            return False

        marker = segment[1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # no content
            place += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width, bands = struct.unpack(">BHHB", segment[4:])
            return precision == 8 and height > 0 and width > 0 and bands in (1, 3, 4)
        elif marker in (0x00, 0xD8, 0xD9, 0xDA):
            return False
        else:
            place += 2 + int.from_bytes(segment[2:4], "big")
    return False


def _is_beyond(tile: Any, image: Image.Image, size: int) -> bool:
    """Whether the pixels of a tile lie behind the end of the file."""
    codec, extents, offset, arguments = tile
    if codec != "raw":
        return offset >= size
    width = extents[2] - extents[0]
    height = extents[3] - extents[1]
    if not isinstance(arguments, tuple):
        arguments = (arguments,)
    mode, stride = (*arguments, 0)[:2]
    if not stride:
        bits = {"1": 1, "RGB": 24, "RGBA": 32, "CMYK": 32}.get(mode, 8)
        stride = (width * bits + 7) // 8
    return offset + stride * height > size


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
        newest_last = sorted(path.parent.glob("*.npy"), key=_time_of)
        for old in newest_last[:-LISTS_KEPT]:
            old.unlink(missing_ok=True)


def _time_of(path: Path) -> float:
    return path.stat().st_mtime
