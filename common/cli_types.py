"""Types of flags: what a value of the command line may be, and the sentence where it is not."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path


def number(
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Callable[[str], float]:
    """An argparse type: a finite number, low <= value <= high and above < value < below.

    >>> number(above=0)("1e-3")
    0.001
    """

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from error
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"must be a finite number, not {text}")
        _check_bounds(value, low, high, above, below)
        return value

    convert.metavar = "X"  # type: ignore[attr-defined]
    return convert


def whole(low: int | None = None, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number, low <= value <= high.

    >>> whole(1, 16384)("448")
    448
    """

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            if len(text) > 30:
                text = f"{text[:30]}..."
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from error
        _check_bounds(value, low, high, None, None)
        return value

    convert.metavar = "N"  # type: ignore[attr-defined]
    return convert


def _check_bounds(
    value: float,
    low: float | None,
    high: float | None,
    above: float | None,
    below: float | None,
) -> None:
    problem = None
    if above is not None and not value > above:
        problem = f"must be above {above}"
    elif low is not None and not value >= low:
        problem = "must not be negative" if low == 0 else f"must be at least {low}"
    elif below is not None and not value < below:
        problem = f"must be below {below}"
    elif high is not None and not value <= high:
        problem = f"must be at most {high}"
    if problem:
        raise argparse.ArgumentTypeError(f"{problem}, not {value}")


positive_int = whole(1)
non_negative_int = whole(0)
seed = whole(0, 2**63 - 1)  # what torch, NumPy and the shuffling of epochs all take
image_size = whole(1, 16384)  # a side in pixels


def seed_list(text: str) -> list[int]:
    """argparse type of --seeds: whole numbers with commas between them, none negative, each once.

    >>> seed_list("0,1,2")
    [0, 1, 2]
    """
    if not all(part.strip().isdecimal() for part in text.split(",")):
        message = f"integers from 0 on with commas between them, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    seeds = [seed(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"each seed once, not {text!r}")
    return seeds


def readable_file(text: str) -> Path:
    """argparse type: a regular file that is there and can be read; `~` is the user's home.

    A folder, a FIFO or a device is refused: reading a FIFO would wait for its writer.
    """
    path = _expanded(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{path}: no such file")
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path}: {_kind_of(path)}, expected a file")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{path}: cannot be read; check the permissions")
    return path


def folder_path(text: str) -> Path:
    """argparse type: a folder that is there or can be made; `~` is the user's home."""
    path = _expanded(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: {_kind_of(path)}, expected a folder")
    return path


def checkpoint_path(text: str) -> str:
    """argparse type of --resume: a path as text, "" for the run directory's own checkpoint."""
    if not text:
        return ""
    return str(_expanded(text))


def _expanded(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        user = text.split("/")[0]
        raise argparse.ArgumentTypeError(f"{text}: there is no user {user[1:]!r}") from error


def _kind_of(path: Path) -> str:
    kinds = {
        "a folder": path.is_dir(),
        "a file": path.is_file(),
        "a FIFO": path.is_fifo(),
        "a socket": path.is_socket(),
    }
    return next((kind for kind, holds in kinds.items() if holds), "a device")


# What --help calls the value of a flag of these types.
seed_list.metavar = "N,N"  # type: ignore[attr-defined]
readable_file.metavar = "FILE"  # type: ignore[attr-defined]
folder_path.metavar = "DIR"  # type: ignore[attr-defined]
