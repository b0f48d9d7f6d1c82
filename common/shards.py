"""Many small pictures in a few tar files: packed once, read at random by offset.

    python -m common.shards pack FOLDER OUT       # a folder: pictures into shards, the rest copied
    python -m common.shards pack TABLE.csv OUT    # the pictures of a csv's `path` column, and it

OUT has the folders and the other files of FOLDER, so every reader takes it in FOLDER's place: a
picture that is not there as a file is looked up in the index of the nearest folder above that has
one. Order, augmentation and resume are those of the files. The shards are tars in WebDataset's
naming (shard-000000.tar; a member is the picture's path), so other tools read them too.

The index lies in OUT/shards: hash.npy (N,) uint64, sorted, of the names; place.npy (N,3) int64, the
shard, the offset and the size in bytes of each; names.npy and starts.npy, the names themselves. All
are mapped from the files, so that a hundred workers share one copy.
"""

import common.interrupt  # noqa: F401

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a command line that is wrong is answered without it
    import numpy as np

from common.errors import UserError

MARKER = "SHARDS.json"
FOLDER = "shards"
ARRAYS = ("hash", "place", "names", "starts")
VERSION = 1


class Entry(NamedTuple):
    """Where a picture's bytes are."""

    shard: Path
    offset: int
    size: int


def name_hash(name: str) -> int:
    """64 bits of a name, the same on every machine."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


@dataclass(frozen=True)
class Index:
    """The pictures of a packed folder; names are paths relative to it, with slashes."""

    shards: Sequence[Path]
    hashes: "np.ndarray"
    places: "np.ndarray"
    names: "np.ndarray"
    starts: "np.ndarray"

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, name: str) -> Entry | None:
        """Where a picture is; None where it is not packed here."""
        encoded = name.encode("utf-8", "surrogateescape")
        wanted = self.hashes.dtype.type(name_hash(name))
        at = int(self.hashes.searchsorted(wanted))
        while at < len(self.hashes) and self.hashes[at] == wanted:
            if self.encoded_name(at) == encoded:
                shard, offset, size = self.places[at].tolist()
                return Entry(self.shards[shard], offset, size)
            at += 1
        return None

    def encoded_name(self, at: int) -> bytes:
        """The name at a position of the index, in UTF-8."""
        start, end = self.starts[at : at + 2].tolist()
        return self.names[start:end].tobytes()

    def name(self, at: int) -> str:
        """The name at a position of the index."""
        return self.encoded_name(at).decode("utf-8", "surrogateescape")

    @cached_property
    def by_folder(self) -> dict[str, list[str]]:
        """Folder -> the sorted names of the pictures right in it; "" is the root."""
        found: dict[str, list[str]] = {}
        for at in range(len(self)):
            folder, _, file = self.name(at).rpartition("/")
            found.setdefault(folder, []).append(file)
        for files in found.values():
            files.sort()
        return found


@lru_cache(maxsize=64)
def load_index(root: Path) -> Index:
    """The index of a packed folder; UserError where it is damaged."""
    import numpy as np

    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
        mapped = [np.load(root / FOLDER / f"{name}.npy", mmap_mode="r") for name in ARRAYS]
        arrays = [array.view(np.ndarray) for array in mapped]  # a memmap's own indexing is slow
        shards = [root / FOLDER / name for name in marker["shards"]]
        is_known = marker["version"] == VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"the index is damaged ({error})"
        raise UserError(f"{root / MARKER}: {problem}; pack again") from error
    if not is_known:
        raise UserError(f"{root / MARKER}: packed by another version; pack again")
    return Index(shards, *arrays)


@lru_cache(maxsize=4096)
def _root_above(folder: str) -> Path | None:
    """The nearest packed folder: `folder`, an absolute one, or one above it."""
    path = Path(folder)
    if (path / MARKER).is_file():
        return path
    if path == path.parent:
        return None
    return _root_above(str(path.parent))


def _absolute(path: str | Path) -> str:
    """The path from the root on, as text, without `//` and `/./` but with `..` left as it is.

    A `Path` has lost these already: making another costs as much as half a read.
    """
    is_plain = isinstance(path, Path) and path.is_absolute()
    return str(path if is_plain else Path(path).absolute())


def marker_of(folder: str | Path) -> Path | None:
    """The marker of the nearest packed folder, `folder` or one above it; None where none is."""
    root = _root_above(_absolute(folder))
    return None if root is None else root / MARKER


def find(path: str | Path) -> Entry | None:
    """Where the bytes of a picture are that is no file of its own; None where nothing has them."""
    text = _absolute(path)
    root = _root_above(os.path.dirname(text))  # noqa: PTH120
    if root is None:
        return None
    name = text[len(str(root)) :].lstrip(os.sep)
    return load_index(root).find(name.replace(os.sep, "/"))


def files_in(folder: str | Path) -> list[Path]:
    """The packed pictures right in a folder, sorted; [] where nothing is packed there."""
    folder = Path(folder)
    absolute = folder.absolute()
    root = _root_above(str(absolute))
    if root is None:
        return []
    relative = absolute.relative_to(root).as_posix()
    names = load_index(root).by_folder.get("" if relative == "." else relative, [])
    return [folder / name for name in names]


def is_there(path: str | Path) -> bool:
    """Whether a picture is there, as a file or packed; False for what no file can be named."""
    return os.path.isfile(path) or find(path) is not None  # noqa: PTH113


def opened(path: str | Path) -> Path | io.BytesIO:
    """What a decoder opens: the file itself, or the bytes of a packed picture.

    FileNotFoundError where there is neither, OSError where the shard is cut short.
    """
    bytes_of_it = None if os.path.exists(path) else packed(path)  # noqa: PTH110
    return Path(path) if bytes_of_it is None else bytes_of_it


def packed(path: str | Path) -> io.BytesIO | None:
    """The bytes of a packed picture; None where it is nowhere, OSError where the shard is short."""
    entry = find(path)
    return None if entry is None else io.BytesIO(read(entry))


def content(path: str | Path) -> bytes:
    """The bytes of a picture, a file's or packed; OSError where they cannot be read."""
    source = opened(path)
    return source.read_bytes() if isinstance(source, Path) else source.getvalue()


def size(path: str | Path) -> int:
    """How many bytes a picture has; FileNotFoundError where there is none."""
    entry = None if os.path.isfile(path) else find(path)  # noqa: PTH113
    return Path(path).stat().st_size if entry is None else entry.size


def stamp(path: str | Path) -> tuple[int, int] | None:
    """Size in bytes, and the time of the last change in nanoseconds of the shard; None: no such."""
    entry = find(path)
    if entry is None:
        return None
    return entry.size, entry.shard.stat().st_mtime_ns


def read(entry: Entry) -> bytes:
    """The bytes of a packed picture; OSError where the shard is cut short."""
    with open(entry.shard, "rb") as file:  # noqa: PTH123
        file.seek(entry.offset)
        content = file.read(entry.size)
    if len(content) < entry.size:
        raise OSError(f"{entry.shard} is cut short")
    return content


if __name__ == "__main__":
    from common.cli import run_main
    from common.shards_pack import main

    run_main(main)
