"""Downloads: a server that does not answer is given up, and under WSL_OFFLINE none is asked."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import NoReturn

OFFLINE = "WSL_OFFLINE"  # set: nothing is downloaded
CONNECTION_LIMIT = 15  # seconds


def fetched(download: Callable[[Path], None], path: Path) -> bool:
    """Whether `download(path)` put its files into the folder; where it failed, stderr says why.

    Empty folders that a failed download made are removed. Under WSL_OFFLINE nothing is tried.
    """
    if os.environ.get(OFFLINE):
        return False
    existed = path.exists()
    before = _entries(path)
    try:
        with connection_limits():
            path.mkdir(parents=True, exist_ok=True)
            download(path)
        return True
    except (OSError, RuntimeError, HTTPException) as error:
        print(f"download into {path} failed ({_reason(error)})", file=sys.stderr, flush=True)
        for made in _entries(path) - before if existed else [path]:
            _remove_empty(made)
        return False


def _reason(error: Exception) -> str:
    """What `error` says in one line: its first, and where that ends in a colon its last as well."""
    lines = str(getattr(error, "reason", error)).strip().split("\n")
    if lines[0].endswith(":"):
        return f"{lines[0]} {lines[-1]}"
    return lines[0]


@contextlib.contextmanager
def connection_limits() -> Iterator[None]:
    """Around a download: a server that does not answer in 15 s is given up.

    Under WSL_OFFLINE none is asked (OSError). What the downloader has in its own cache it finds.
    """
    timeout = socket.getdefaulttimeout()
    resolve = socket.getaddrinfo
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
    """Remove the empty folders below `path`, the innermost first, and `path` where it is one."""
    for folder in [*sorted(path.rglob("*"), reverse=True), path]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
