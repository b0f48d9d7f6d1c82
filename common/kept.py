"""Arrays that take long to make: made once a machine, by one process while the others wait.

They lie in the cache folder, .kept/KIND-KEY.npz. A file appears whole or not at all; a damaged one
is made again. Where the cache cannot be written, every process makes its own.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common import samples
from common.errors import UserError
from common.files import atomic_save, keep_newest
from common.locks import locked

Arrays = dict[str, np.ndarray]

LISTS_KEPT = 50  # of a kind
SETTLED = 2_000_000_000  # nanoseconds
MADE = "made at"  # nanoseconds since 1970; 0 for what lasts


def key_of(*parts: object) -> str:
    """The key of what depends on these parts alone: paths, sizes, times, numbers of versions."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


def kept(
    kind: str,
    key: str,
    make: Callable[[], Arrays],
    *,
    fits: Callable[[Arrays], bool] = lambda found: True,
    lasts: Callable[[Arrays], bool] = lambda made: True,
) -> Arrays:
    """The arrays of a key: from the cache, or of `make()`, which are then kept.

    Args:
        fits: whether arrays of the cache still hold; where not, they are made again.
        lasts: whether arrays are for later starts too; where not, they serve only the processes
            that asked for them while they were made.
    """
    asked = time.time_ns()
    with one_at_a_time(kind, key):
        path = _path(kind, key)
        found = None if path is None else _read(path)
        if found is not None:
            made_at = int(found.pop(MADE))
            if (made_at == 0 or made_at >= asked) and fits(found):
                return found
        made = make()
        if path is not None:
            mark = np.array(0 if lasts(made) else time.time_ns())
            _write(path, {**made, MADE: mark})
        return made


def is_settled(changed_at: int) -> bool:
    """Whether a file's or folder's time (ns since 1970) tells of every later change.

    One of this moment may change once more without another time.
    """
    return changed_at < time.time_ns() - SETTLED


@contextlib.contextmanager
def one_at_a_time(kind: str, key: str) -> Iterator[None]:
    """Inside is one process at a time of those with this key; all of them without a cache."""
    path = _path(kind, key)
    with contextlib.ExitStack() as held:
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(path.with_suffix(".lock")))
        yield


def _path(kind: str, key: str) -> Path | None:
    try:
        return samples.cache_root() / ".kept" / f"{kind}-{key}.npz"
    except UserError:  # the home of nobody
        return None


def _read(path: Path) -> Arrays | None:
    # Damage has a dozen classes of errors; whatever it is, the arrays are made again.
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
        if MADE in found:
            return found
    return None


def _write(path: Path, arrays: Arrays) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # a keyword of its own

    with contextlib.suppress(OSError, UserError):  # no room: made again next time
        atomic_save(path, write)
        kind = path.name.rpartition("-")[0]
        for old in keep_newest(path.parent, f"{kind}-*.npz", LISTS_KEPT):
            old.with_suffix(".lock").unlink(missing_ok=True)
