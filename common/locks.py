"""Locks between processes that are gone with their process, however that ends.

Where the system has POSIX locks they are used, elsewhere those of the library filelock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of the file `path` inside; the file is made where it is missing.

    Where another process holds it: wait for it, or without `wait` BlockingIOError.
    """
    if fcntl is None:
        lock = _taken(path, wait=wait)
        try:
            yield
        finally:
            lock.release()
        return
    kind = fcntl.LOCK_EX
    if not wait:
        kind |= fcntl.LOCK_NB
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


def hold(file: IO[str]) -> Any:
    """Hold an open file's lock until the process ends; OSError where another process has it.

    Returns what must be kept for as long. A POSIX record lock is not inherited by forked workers;
    closing any handle of the file in this process gives it up.
    """
    if fcntl is None:
        return _taken(Path(file.name), wait=False)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _taken(path: Path, *, wait: bool) -> Any:
    """A lock of the library filelock, on a file beside `path`, which others may have open."""
    import filelock  # comes with torch

    lock = filelock.FileLock(f"{path}ed")
    try:
        lock.acquire(blocking=wait)
    except filelock.Timeout as error:
        raise BlockingIOError(f"{path} is locked") from error
    return lock
