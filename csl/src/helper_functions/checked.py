"""Which images of a data set are there and can be read, found before the first step."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from common.aliases import one_module
from common.images import check_images, left_out
from csl.src.errors import SettingsError, as_settings_errors
from csl.src.helper_functions.files import FolderListing

one_module(__name__, "csl.src.helper_functions.checked")

LARGE = 2_000_000  # images above which a look at each takes too long: Open Images' training set has nine


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

    The main process looks, the others get its answer. Unreadable training images stay listed, so that a step has the
    same images after they are mended: the loader leaves them out. `data.unreadable` counts those of "val".

    Args:
        data: has `paths()` and `keep(rows)`.
        skip_missing, skip_corrupt: leave them out, told by number and name, instead of an error.
    Raises:
        SettingsError: files are missing, or none can be used.
        CorruptImage: some cannot be read.
    """

    def look() -> Looked:
        return _look(
            data.paths(), f"{split} ({annotations.name})", annotations, skip_missing, skip_corrupt
        )

    missing, unreadable = of_main_process(look, accelerator)
    data.unreadable = 0
    if split == "val":
        data.unreadable = len(unreadable)
        missing = np.union1d(missing, unreadable)
    if len(missing):
        data.keep(np.delete(np.arange(len(data)), missing))


def of_main_process(function: Callable[[], Any], accelerator: Accelerator) -> Any:
    """What `function` returns or raises in the main process, in every process."""
    answer: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            answer = [function()]
        except Exception as error:  # whatever it is, the other processes wait for an answer
            answer = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def _look(
    paths: list[Path], what: str, annotations: Path, skip_missing: bool, skip_corrupt: bool
) -> Looked:
    listing = FolderListing()
    there = np.array([path in listing for path in paths], bool)
    missing = np.flatnonzero(~there)
    if len(missing) and not (skip_missing and there.any()):
        raise SettingsError(
            f"{len(missing)} of {len(paths)} images of {annotations} are not there, the first: {paths[missing[0]]}; "
            "unpack the images, or --skip_missing"
        )
    if len(missing):
        _say(f"{len(missing)} images of {annotations} are missing and left out")

    present = np.flatnonzero(there)
    names = [paths[row] for row in present]
    if len(names) > LARGE:
        _say(
            f"{what}: {len(names)} images are there; so many are not looked into before they are needed"
        )
        return Looked(missing, missing[:0])
    with as_settings_errors():
        positions = check_images(names, what=what, skip_corrupt=skip_corrupt)
    if len(positions):
        _say(left_out(names, positions, what))
    if len(positions) == len(names):
        raise SettingsError(f"{what}: none of the {len(names)} images can be read")
    return Looked(missing, present[positions])


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
