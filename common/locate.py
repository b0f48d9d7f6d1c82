"""Where data sets lie: found without torch, so that a wrong path is answered at once.

A data set is looked for in the flag's path, then in the environment variable WSL_DATA_DIR, then in
the original's default path. Where none holds it, the offline sample serves; the first lines say so.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from common import samples
from common.download import fetched
from common.errors import UserError
from common.text import expanded

ENVIRONMENT = "WSL_DATA_DIR"
LINE = 120  # characters of a line of a terminal


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
        raise UserError(_not_there(name, path, flag, how_to_get, sample))

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
    way = "or give its path"
    if flag:
        way = f"or give its folder with {flag}"
    if sample is not None and may_fall_back:
        return _sample(sample, f"{problem}: put it there, {way}; this run uses the offline sample")

    hint = f"a sample of it: python -m common.samples {sample} DIR"
    if sample is None:
        hint = _without_sample(name, with_sample)
    long = f"{problem}; {how_to_get}, {way}; {hint}"
    short = f"{problem}: put it there, {way}; {hint}"
    raise UserError(_first_that_fits(long, short))


def _not_there(name: str, path: Path, flag: str | None, how_to_get: str, sample: str | None) -> str:
    """What to tell about a path that was given and does not hold the data set."""
    shown = str(path)
    if flag:
        shown = f"{flag} {path}"
    problem = f"{shown} does not exist ({name})"
    if path.exists():
        problem = f"{name} is not in {shown}"
    if sample is None:
        return _first_that_fits(f"{problem}; {how_to_get}", problem)
    serves = "--sample runs on the offline sample"
    return _first_that_fits(
        f"{problem}; {how_to_get}; {serves}",
        f"{problem}; {how_to_get}; or --sample",
        f"{problem}; {serves}",
    )


def _has(
    path: Path,
    holds: Callable[[Path], bool],
    download: Callable[[Path], None] | None,
) -> bool:
    """Whether a folder has the data set, after fetching it if need be."""
    if holds(path):
        return True
    return download is not None and fetched(download, path) and holds(path)


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
    for message in messages:
        if len(f"error: {message}") <= 2 * LINE:
            return message
    return messages[-1]


# --- the files of the MNIST family ---


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
