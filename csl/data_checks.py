"""Which images of a data set are there and can be read, found before the first step."""

from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator

from common.aliases import one_module
from common.cli import DomainError
from common.images import check_images, left_out
from common.processes import of_main_process
from csl.data_errors import as_domain_errors, say
from csl.data_listing import FolderListing

one_module(__name__, "csl.data_checks")

LARGE = 2_000_000  # images above which a look at each takes too long


class Looked(NamedTuple):
    """Positions among the images of a data set."""

    missing: np.ndarray
    unreadable: np.ndarray


def leave_out_unusable(
    data: Any,
    split: str,
    annotations: Path,
    accelerator: Accelerator,
    *,
    skip_missing: bool = False,
    skip_corrupt: bool = False,
) -> None:
    """Take the images out of a data set that are missing or, of the split "val", unreadable.

    The main process looks, the others get its answer. Unreadable training images stay listed, so
    that a step has the same images after they are mended: the loader leaves them out.
    `data.unreadable` counts those of "val".

    Args:
        data: has `paths()`, `keep(rows)`, and `is_there` (N,) where it looked already.
        skip_missing, skip_corrupt: leave them out, told by number and name, instead of an error.
    Raises:
        DomainError: files are missing, or none can be used.
        CorruptImage: some cannot be read.
    """

    def look() -> Looked:
        what = f"{split} ({annotations.name})"
        return _look(data, what, annotations, skip_missing, skip_corrupt)

    missing, unreadable = of_main_process(look, accelerator)
    data.unreadable = 0
    if split == "val":
        data.unreadable = len(unreadable)
        missing = np.union1d(missing, unreadable)
    if len(missing):
        data.keep(np.delete(np.arange(len(data)), missing))


def _look(
    data: Any, what: str, annotations: Path, skip_missing: bool, skip_corrupt: bool
) -> Looked:
    there = getattr(data, "is_there", None)
    if there is None:
        listing = FolderListing()
        there = np.array([path in listing for path in data.paths()], bool)
    missing = np.flatnonzero(~there)
    if len(missing) and not (skip_missing and there.any()):
        count = f"{len(missing)} of {len(there)} images of {annotations}"
        told = f"are not there, the first: {data.paths()[missing[0]]}"
        raise DomainError(f"{count} {told}; unpack the images, or --skip_missing")
    if len(missing):
        say(f"{len(missing)} images of {annotations} are missing and left out")

    present = np.flatnonzero(there)
    if len(present) > LARGE:
        told = "so many are not looked into before they are needed"
        say(f"{what}: {len(present)} images are there; {told}")
        return Looked(missing, missing[:0])
    names = list(compress(data.paths(), there))
    with as_domain_errors():
        positions = check_images(names, what=what, skip_corrupt=skip_corrupt)
    if len(positions):
        say(left_out(names, positions, what))
    if len(positions) == len(names):
        raise DomainError(f"{what}: none of the {len(names)} images can be read")
    return Looked(missing, present[positions])
