"""Whether a whole list of pictures can be read, found before the first step."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import images, samples, shards
from common.errors import UserError
from common.files import atomic_save, keep_newest
from common.kept import key_of
from common.text import require_file

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
        raise images.CorruptImage(f"{problem}; {advice}")
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
        return shards.stamp(name)
    except (OSError, ValueError):
        require_file(name, "image")
        raise
    if not stat.S_ISREG(found.st_mode):
        require_file(name, "image")
    return found.st_size, found.st_mtime_ns


def _trouble(name: str) -> str:
    """Why a file cannot be read; empty where its bytes look right or it can be decoded."""
    with suppress(*images.DAMAGE):
        if _looks_whole(name):
            return ""
    return images.why_unreadable(Path(name))


def _looks_whole(name: str) -> bool:
    """Whether a file begins and ends as its format does. False: it has to be decoded to know."""
    source: str | io.BytesIO = name
    try:
        with open(name, "rb", buffering=0) as file:  # noqa: PTH123 - a hundred thousand of them
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
            tail = file.read(64)
    except FileNotFoundError:
        content = shards.content(name)
        source = io.BytesIO(content)
        tail = content[-64:]
    with Image.open(source) as image:
        end = ENDS.get(image.format or "")
    tail = tail.rstrip(b"\0")  # some programs fill the last block of a file with zeros
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
    key = key_of(*map(os.path.abspath, names))
    return samples.cache_root() / ".checked" / f"{key}.npy"


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
        keep_newest(path.parent, "*.npy", LISTS_KEPT)
