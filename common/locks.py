"""A lock between processes that is gone with its process, however that ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the operating system's lock on the file `path` inside.

    Where another process holds it: wait for it, or without `wait` BlockingIOError.
    """
    if fcntl is None:
        with _locked_by_library(path, wait=wait):
            yield
        return
    kind = fcntl.LOCK_EX
    if not wait:
        kind |= fcntl.LOCK_NB
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


@contextmanager
def _locked_by_library(path: Path, *, wait: bool) -> Iterator[None]:
    """The same on systems without fcntl."""
    import filelock  # comes with torch

    try:
        with filelock.FileLock(path, blocking=wait):
            yield
    except filelock.Timeout as error:
        raise BlockingIOError(f"{path} is locked") from error
