"""Files and folders: which are data, writing so that none is ever half there."""

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from itertools import filterfalse
from pathlib import Path
from typing import NoReturn

from common import shards
from common.errors import UserError, answer_to

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)

# What file managers, network drives and archivers leave beside the data, in lower case.
LEFT_BY_SYSTEMS = {"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini"}


def is_hidden(path: str | Path) -> bool:
    """Whether a name is not data: .DS_Store, .ipynb_checkpoints, __MACOSX, @eaDir, Thumbs.db."""
    name = Path(path).name
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def is_image(path: str | Path) -> bool:
    """Whether a file name is that of a picture: a known suffix in any case, not hidden."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)


def visible(folder: str | Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and folders.

    With the pictures that common.shards packed out of it, and without the shards themselves.
    """
    found = list(Path(folder).iterdir())
    if any(path.name == shards.MARKER for path in found):
        found = [path for path in found if path.name not in (shards.MARKER, shards.FOLDER)]
    return sorted(filterfalse(is_hidden, [*found, *shards.files_in(folder)]))


def files_below(folder: str | Path, on_error: Callable[[OSError], object]) -> Iterator[Path]:
    """The visible files in a folder and in all folders below it; links are followed.

    `on_error` is called for a folder that cannot be read.
    """
    been = set()
    for at, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        place = Path(at).stat()
        if (place.st_dev, place.st_ino) in been:  # a link that leads back
            folders.clear()
            continue
        been.add((place.st_dev, place.st_ino))
        if shards.MARKER in names:
            folders.remove(shards.FOLDER)
            names.remove(shards.MARKER)
        folders[:] = filterfalse(is_hidden, folders)
        for name in filterfalse(is_hidden, names):
            yield Path(at, name)
        yield from shards.files_in(at)


def image_files(folder: str | Path, recursive: bool = False) -> list[Path]:
    """The pictures in a folder, sorted; with `recursive` also those of the folders below it."""
    found = files_below(folder, _raise) if recursive else visible(folder)
    return sorted(path for path in found if is_image(path) and not path.is_dir())


def _raise(error: OSError) -> NoReturn:
    raise error


# --- writing ---


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path`; a reader sees the old file or the new one, never a part of it."""
    atomic_save(path, lambda temporary: temporary.write_bytes(data))


def atomic_save(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary_path)`, fsync what it wrote, rename it to `path`, fsync the folder.

    What a killed save of the same file left beside it is cleared away.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    _clear_abandoned(path)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        answer = answer_to(error) or "free space and go on with --resume"
        problem = f"{path}: cannot be written ({error.strerror or error})"
        raise UserError(f"{problem}; {answer}") from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path)


def keep_newest(folder: Path, pattern: str, count: int) -> list[Path]:
    """Delete all but the `count` files of a pattern that were written last; those deleted."""
    newest_last = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    old = newest_last[:-count]
    for path in old:
        path.unlink(missing_ok=True)
    return old


def _sync_folder(path: Path) -> None:
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders, and needs no sync of them
        return
    try:
        os.fsync(folder)
    except OSError as error:  # some network file systems sync no folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        os.close(folder)


def clear_parts(folder: Path) -> None:
    """Delete what killed saves left half written in a run directory and in every folder below it.

    Call it while nobody else writes there. A folder below with a lock of its own is another run's.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name, ".lock").exists()]
        for name in names:
            if _PART.fullmatch(name):
                Path(place, name).unlink(missing_ok=True)


_PART = re.compile(r"\.(.+)\.(\d+)\.part", re.DOTALL)  # as `atomic_save` names them
_ABANDONED_AFTER = 60  # seconds without a write; another machine's processes cannot be looked up


def _clear_abandoned(path: Path) -> None:
    """Delete unfinished saves of `path` by processes that are gone."""
    # Names alone, for the folder may hold thousands of files.
    for beside in os.listdir(path.parent):  # noqa: PTH208
        part = _PART.fullmatch(beside)
        if part is None or part[1] != path.name or _is_alive(int(part[2])):
            continue
        with contextlib.suppress(OSError):
            abandoned = path.with_name(beside)
            if time.time() - abandoned.stat().st_mtime > _ABANDONED_AFTER:
                abandoned.unlink()


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # os.kill would end it there
        import psutil  # type: ignore[import-untyped]  # comes with accelerate

        return psutil.pid_exists(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
