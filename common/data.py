"""Where data sets live, their readers' errors, the idx format, and `python -m common.data check FOLDER`.

A data set is looked for in the flag's path, then in the environment variable WSL_DATA_DIR, then in the
original's default path. Where none holds it, the offline sample serves and the first lines say so.
"""

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
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from common import samples
from common.cli import OneLineParser, UserError, run_main
from common.images import IMAGE_SUFFIXES, CorruptImage, read_image  # noqa: F401
from common.loading import Batch, EpochSampler, Seeded, eval_loader, gather_in_order, train_loader  # noqa: F401

ENVIRONMENT = "WSL_DATA_DIR"
OFFLINE = "WSL_OFFLINE"  # set: nothing is downloaded
CONNECTION_LIMIT = 15  # seconds
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
) -> Location:
    """Find a data set: flag, then WSL_DATA_DIR, then the original's default, then its offline sample.

    `holds(path)` says whether a folder has the data set; `sample` names one of `common.samples`, or None;
    `download(path)` fetches it and raises OSError or RuntimeError where that fails; `with_sample` lists the caller's
    data sets that have a sample (default: all samples), for the error where this one has none.
    UserError says where it was looked for, how to get it and how to run on the sample.
    """
    if want_sample:
        return Location(_sample(name, sample, "--sample", with_sample), True)
    if given is not None:
        path = _expanded(given)
        if holds(path) or (download is not None and _try(download, path) and holds(path)):
            return Location(path, samples.is_sample(path))
        problem = f"{name} is not in {path}" if path.exists() else f"{path} does not exist ({name})"
        hint = f", or run on the offline sample with --sample (layout: python -m common.samples {sample} DIR)"
        raise UserError(f"{problem}; {how_to_get}{hint if sample else ''}")
    places = [_expanded(default)]
    if os.environ.get(ENVIRONMENT):
        root = _expanded(os.environ[ENVIRONMENT])
        places = [root / Path(default).name, root, *places]
    for path in places:
        if holds(path):
            return Location(path, samples.is_sample(path))
    looked = ", ".join(dict.fromkeys(str(p) for p in places))
    if download is not None and _try(download, places[-1]) and holds(places[-1]):
        return Location(places[-1], False)
    return Location(_sample(name, sample, f"{name} is not in {looked} ({how_to_get})", with_sample), True)


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~NAME of no user: a path that does not exist
        return Path(path)


def _sample(name: str, sample: str | None, why: str, with_sample: Iterable[str] | None) -> Path:
    if sample is None:
        others = ", ".join(with_sample or samples.names())
        raise UserError(f"{why}; {name} has no offline sample, these have one: {others}")
    path = samples.ensure(sample)
    print(f"{why}: this run uses the offline sample {path}", flush=True)
    return path


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
    """Around a download: a server that does not answer in 15 s is given up; under WSL_OFFLINE none is asked (OSError).

    What the downloader has in its own cache it still finds.
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


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file (plain, or PATH.gz beside it) as an array of its own dtype and shape.

    UserError names the file and what was expected where the magic number or the length is wrong.
    """
    path = Path(path)
    packed = path if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    try:
        data = path.read_bytes() if path.is_file() and path != packed else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise UserError(f"{path}: not an idx file (magic {data[:4].hex()}, expected 0000 and a type); fetch it again")
    rank, dtype = data[3], np.dtype(_IDX_TYPES[data[2]])
    if len(data) < 4 + 4 * rank:
        raise UserError(f"{path}: truncated in its header ({len(data)} bytes); fetch it again")
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    expected = 4 + 4 * rank + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise UserError(f"{path}: {len(data)} bytes, expected {expected} for shape {shape}; fetch it again")
    return np.frombuffer(data, dtype, offset=4 + 4 * rank).reshape(shape)


def holds_idx(folder: Path) -> bool:
    """Whether a folder has the four idx files of the MNIST family, packed or not."""
    return all(any((folder / (n + s)).is_file() for s in ("", ".gz")) for n in IDX_FILES)


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images (n,28,28) uint8, train labels (n,) uint8, test images, test labels of an idx folder."""
    arrays = tuple(read_idx(Path(folder) / name) for name in IDX_FILES)
    for images, labels, name in ((*arrays[:2], IDX_FILES[0]), (*arrays[2:], IDX_FILES[2])):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UserError(f"{folder}/{name}: images {images.shape} and labels {labels.shape} do not belong together")
    return arrays


def unreadable(folder: Path) -> Iterable[tuple[Path, str]]:
    """Every folder, image, idx, .npy and .npz file below `folder` that cannot be read, with the reason."""
    closed: list[OSError] = []
    files = [Path(at) / name for at, _, names in os.walk(folder, onerror=closed.append) for name in names]
    yield from ((Path(error.filename), f"{error.filename}: {error.strerror}") for error in closed)
    for path in sorted(files):
        try:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                read_image(path)
            elif path.name.endswith(("-ubyte", "-ubyte.gz")):
                read_idx(path)
            elif path.suffix in (".npy", ".npz"):
                with path.open("rb") as file:
                    arrays = np.load(file, allow_pickle=False)
                    for name in getattr(arrays, "files", ()):  # of an .npz: read only when asked for
                        arrays[name]
        except UserError as error:
            yield path, str(error).splitlines()[0]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            yield path, f"{path}: {str(error).splitlines()[0]}"


def main(argv: list[str] | None = None) -> int:
    """`python -m common.data check FOLDER [FOLDER ...]`: list unreadable files; status 1 if there are any."""
    parser = OneLineParser(prog="python -m common.data", description="List the unreadable files of a data set.")
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
