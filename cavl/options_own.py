"""What --data names: a user's own pictures or features, or an offline sample. Light: no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cavl.options_datasets import DATA_SETS, locate_dataset
from common.aliases import one_module
from common.cli import UserError
from common.locate import Location
from common.own import Kind, recognise
from common.own_places import lists_pictures

one_module(__name__, "cavl.options_own")


def locate_own(given: Mapping[str, Any]) -> tuple[str, Location]:
    """The value of ds, and the place.

    It is "pictures" or "features"; for a sample of one of the data sets of -ds that set, as if its
    folder were given with --data_dir. given: the flags that the user set, --data among them.
    """
    place = given["data"]
    kind = recognise(place)
    ds = given.get("ds")
    with_sample = [name for name, entry in DATA_SETS.items() if entry.sample == kind.sample]
    if kind.sample and with_sample:
        if ds is not None and ds not in with_sample:
            known = ", ".join(with_sample)
            raise UserError(f"--data {place} is the offline sample of {known}, not of -ds {ds}")
        ds = ds or with_sample[0]
        return ds, locate_dataset(ds, Path(place), may_fall_back=False)

    if ds is not None:
        raise UserError(f"--data {place} and -ds {ds} name different data; give one of them")
    if not kind.layout:
        problem = f"--data {place}: the offline sample {kind.sample} has a layout of its own"
        raise UserError(f"{problem}; give pictures or features with labels or candidates")
    holds = "features" if _holds_features(kind, given.get("images")) else "pictures"
    return holds, Location(kind.path, bool(kind.sample))


def _holds_features(kind: Kind, images: object) -> bool:
    """Whether rows of numbers are there and not pictures."""
    if kind.layout == "csv":
        return images is None and not lists_pictures(kind.path)
    return kind.layout in ("mat", "npz")
