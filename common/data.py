"""Where data sets live, the idx format, and `python -m common.data check FOLDER`.

A data set is looked for in the flag's path, then in the environment variable WSL_DATA_DIR, then in
the original's default path. Where none holds it, the offline sample serves; the first lines say so.
"""

import common.interrupt  # noqa: F401

import contextlib
import gzip
import math
import os
import socket
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from common import samples
from common.cli import OneLineParser, UserError, run_main
from common.images import (  # noqa: F401
    DAMAGE,
    IMAGE_SUFFIXES,
    CorruptImage,
    is_hidden,
    is_image,
    read_image,
    why_unreadable,
)
from common.loading import Batch, EpochSampler, Seeded, eval_loader, gather_in_order, train_loader  # noqa: F401
from common.text import expanded, read_bytes, require_file

ENVIRONMENT = "WSL_DATA_DIR"
OFFLINE = "WSL_OFFLINE"  # set: nothing is downloaded
CONNECTION_LIMIT = 15  # seconds
LINE = 120  # characters of a line of a terminal
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class Location(NamedTuple):
    """Where a data set was found, and whether it is an offline sample."""

    path: Path
    is_sample: bool


def locate(
    name: str,
    *,
    given: str | Path | None,
    default: str | Path,
    holds: Callable[[Path], bool],
    how_to_get: str,
    sample: str | None,
    want_sample: bool = False,
    download: Callable[[Path], None] | None = None,
    with_sample: Iterable[str] | None = None,
    flag: str | None = None,
    may_fall_back: bool = True,
) -> Location:
    """Find a data set: the flag's path, WSL_DATA_DIR, the original's default, then its sample.

    Args:
        given: the path that the user gave, or None.
        holds: says whether a folder has the data set.
        how_to_get: what belongs into the folder, in a few words; left out where it is too long.
        sample: one of `common.samples`, or None where there is none.
        download: fetches the data set into a folder; OSError or RuntimeError where that fails.
        with_sample: the caller's data sets that have a sample, where this one has none.
        flag: the flag that takes the path ("--data_dir"), for the messages.
        may_fall_back: False for a library, which gives the sample only where it was asked for.
    Raises:
        UserError: what is missing, the folder to put it in, the flag, and whether a sample serves.
    """
    if want_sample:
        if sample is None:
            raise UserError(f"--sample: {_without_sample(name, with_sample)}")
        return _sample(sample, "--sample: this run uses the offline sample")

    if given is not None:
        path = expanded(given)
        if _has(path, holds, download):
            return Location(path, samples.is_sample(path))
        shown = f"{flag} {path}" if flag else str(path)
        problem = f"{shown} does not exist ({name})"
        if path.exists():
            problem = f"{name} is not in {shown}"
        serves = "; --sample runs on the offline sample" if sample else ""
        short = "; or --sample" if sample else ""
        raise UserError(
            _first_that_fits(
                f"{problem}; {how_to_get}{serves}",
                f"{problem}; {how_to_get}{short}",
                f"{problem}{serves}",
            )
        )

    places = [expanded(default)]
    if os.environ.get(ENVIRONMENT):
        root = expanded(os.environ[ENVIRONMENT])
        places = [root / Path(default).name, root, *places]
    for path in places:
        if holds(path):
            return Location(path, samples.is_sample(path))
    if download is not None and _has(places[-1], holds, download):
        return Location(places[-1], False)

    problem = f"{name} is not in {places[0]}"
    way = f"or give its folder with {flag}" if flag else "or give its path"
    if sample is not None and may_fall_back:
        return _sample(sample, f"{problem}: put it there, {way}; this run uses the offline sample")

    hint = f"a sample of it: python -m common.samples {sample} DIR"
    if sample is None:
        hint = _without_sample(name, with_sample)
    raise UserError(
        _first_that_fits(
            f"{problem}; {how_to_get}, {way}; {hint}",
            f"{problem}: put it there, {way}; {hint}",
        )
    )


def _has(
    path: Path,
    holds: Callable[[Path], bool],
    download: Callable[[Path], None] | None,
) -> bool:
    """Whether a folder has the data set, after fetching it if need be."""
    if holds(path):
        return True
    return download is not None and _try(download, path) and holds(path)


def _sample(sample: str, why: str) -> Location:
    """The sample's folder, said in one line, or in two where one would be long."""
    path = samples.ensure(sample)
    said = f"{why} {path}"
    if len(said) > LINE:
        said = f"{why}\n{path}"
    print(said, flush=True)
    return Location(path, True)


def _without_sample(name: str, with_sample: Iterable[str] | None) -> str:
    others = ", ".join(with_sample or samples.names())
    return f"{name} has no offline sample, these have one: {others}"


def _first_that_fits(*messages: str) -> str:
    """The first message that two lines of a terminal hold, or the last one."""
    fitting = [message for message in messages if len(f"error: {message}") <= 2 * LINE]
    return fitting[0] if fitting else messages[-1]


def _try(download: Callable[[Path], None], path: Path) -> bool:
    if os.environ.get(OFFLINE):
        return False
    existed, before = path.exists(), _entries(path)
    try:
        with connection_limits():
            path.mkdir(parents=True, exist_ok=True)
            download(path)
        return True
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(getattr(error, "reason", error)).split("\n")[0]
        print(f"download into {path} failed ({reason})", file=sys.stderr, flush=True)
        for made in _entries(path) - before if existed else [path]:
            _remove_empty(made)
        return False


@contextlib.contextmanager
def connection_limits() -> Iterator[None]:
    """Around a download: a server that does not answer in 15 s is given up.

    Under WSL_OFFLINE none is asked (OSError). What the downloader has in its own cache it finds.
    """
    timeout, resolve = socket.getdefaulttimeout(), socket.getaddrinfo
    socket.setdefaulttimeout(CONNECTION_LIMIT)
    if os.environ.get(OFFLINE):
        socket.getaddrinfo = _refuse
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)
        socket.getaddrinfo = resolve


def _refuse(*address: object, **kwargs: object) -> NoReturn:
    raise OSError(f"{OFFLINE} is set")


def _entries(path: Path) -> set[Path]:
    try:
        return set(path.iterdir())
    except OSError:  # absent, no folder, or closed to us
        return set()


def _remove_empty(path: Path) -> None:
    for folder in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find_idx(folder: str | Path, name: str) -> Path | None:
    """The idx file of a name in a folder: with a dot in the place of "-idx", packed, or neither."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            path = Path(folder) / f"{spelling}{suffix}"
            if path.is_file():
                return path
    return None


def holds_idx(folder: Path) -> bool:
    """Whether a folder has the four idx files of the MNIST family, packed or not."""
    return all(find_idx(folder, name) for name in IDX_FILES)


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an idx file, plain or packed, or of PATH.gz beside it, in its own dtype.

    UserError names the file and what was expected where the magic number or the length is wrong.
    """
    path = Path(path)
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and packed.exists():
        path = packed
    if not path.exists():
        raise UserError(f"{path}: cannot be read (no such file); fetch the file again")

    data = read_bytes(path)
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            problem = f"{path}: cannot be unpacked ({error})"
            raise UserError(f"{problem}; fetch the file again") from error

    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        found = f"magic {data[:4].hex()}, expected 0000 and a type"
        raise UserError(f"{path}: not an idx file ({found}); fetch it again")
    rank = data[3]
    dtype = np.dtype(_IDX_TYPES[data[2]])
    header = 4 + 4 * rank
    if len(data) < header:
        raise UserError(f"{path}: truncated in its header ({len(data)} bytes); fetch it again")

    shape = struct.unpack(f">{rank}I", data[4:header])
    expected = header + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        found = f"{len(data)} bytes, expected {expected} for shape {shape}"
        raise UserError(f"{path}: {found}; fetch it again")
    return np.frombuffer(data, dtype, offset=header).reshape(shape)


def read_mnist(folder: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images (n,28,28) uint8, train labels (n,) uint8, test images and labels of a folder.

    UserError names what is missing, empty, of another type, or does not belong together.
    """
    paths = [find_idx(folder, name) or Path(folder) / name for name in IDX_FILES]
    train_images, train_labels, test_images, test_labels = arrays = tuple(map(read_idx, paths))

    for part, path, images, labels in (
        ("training", paths[0], train_images, train_labels),
        ("test", paths[2], test_images, test_labels),
    ):
        if images.size == 0 or labels.size == 0:
            found = f"{path.name}: shape {images.shape}, labels {labels.shape}"
            raise UserError(f"{folder}: holds no {part} images ({found})")
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            found = f"images {images.shape} and labels {labels.shape}"
            raise UserError(f"{path}: {found} do not belong together")
        if images.dtype != np.uint8 or labels.dtype != np.uint8:
            found = f"images of {images.dtype.name}, labels of {labels.dtype.name}"
            raise UserError(f"{path}: {found}, expected uint8")
    return arrays


def unreadable(folder: str | Path) -> Iterator[tuple[Path, str]]:
    """What cannot be read below `folder`, with the reason: folders, images, idx, .npy, .npz files.

    Hidden files and folders are left out; links are followed.
    """
    closed: list[OSError] = []
    files: list[Path] = []
    been = set()
    for at, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        place = Path(at).stat()
        if (place.st_dev, place.st_ino) in been:  # a link that leads back
            folders.clear()
            continue
        been.add((place.st_dev, place.st_ino))
        folders[:] = [name for name in folders if not is_hidden(name)]
        files += [Path(at) / name for name in names if not is_hidden(name)]

    for error in closed:
        yield Path(error.filename), f"{error.filename}: {error.strerror}"
    ordered = sorted(files)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, reason in zip(ordered, pool.map(_trouble, ordered), strict=True):
            if reason:
                yield path, reason


def _trouble(path: Path) -> str:
    """Why a file cannot be read, with its path; empty where it can be or is of no known kind."""
    try:
        if is_image(path):
            why = why_unreadable(path)
            return f"{path}: unreadable image ({why})" if why else ""
        if path.name.endswith(("-ubyte", "-ubyte.gz")):
            read_idx(path)
        elif path.suffix.lower() in (".npy", ".npz"):
            with require_file(path).open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                for name in getattr(arrays, "files", ()):  # of an .npz: read only when asked for
                    arrays[name]
    except UserError as error:
        return str(error)
    except (*DAMAGE, zipfile.BadZipFile) as error:
        lines = str(error).splitlines()
        return f"{path}: {lines[0] if lines else type(error).__name__}"
    return ""


def main(argv: list[str] | None = None) -> int:
    """`python -m common.data check FOLDER [...]`: list unreadable files; status 1 if any are."""
    what = "List the unreadable files of a data set."
    parser = OneLineParser(prog="python -m common.data", description=what)
    parser.add_argument("action", choices=("check",))
    parser.add_argument("folders", nargs="+", type=Path)
    args = parser.parse_args(argv)
    count = 0
    for folder in args.folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        for _, reason in unreadable(folder):
            count += 1
            print(reason)
    print(f"{count} unreadable file{'s' * (count != 1)}")
    return int(count > 0)


if __name__ == "__main__":
    run_main(main)
