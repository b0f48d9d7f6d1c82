"""Files and folders: which of them are data, and writing a file so that it is never half there."""

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

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
    """What lies in a folder, sorted, without hidden files and folders."""
    return sorted(path for path in Path(folder).iterdir() if not is_hidden(path))


def image_files(folder: str | Path, recursive: bool = False) -> list[Path]:
    """The pictures in a folder, sorted; with `recursive` also those of the folders below it."""
    found = []
    waiting = [Path(folder)]
    been = set()
    while waiting:
        here = waiting.pop()
        place = here.stat()
        if (place.st_dev, place.st_ino) in been:  # a link that leads back
            continue
        been.add((place.st_dev, place.st_ino))

        for path in visible(here):
            if path.is_dir():
                waiting += [path] if recursive else []
            elif is_image(path):
                found.append(path)
    return sorted(found)


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


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
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
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
