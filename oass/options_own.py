"""`--data PLACE`: a user's own data, told apart from VOC's. Without torch."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.aliases import one_module
from common.cli import UserError
from common.locate import Location
from common.own import Kind, recognise, require_own_flags
from common.own_names import read_names
from common.text import read_json
from oass.data_voc import CLASS_NAMES, locate_voc
from oass.options_check import refuse_flags

one_module(__name__, "oass.options_own")

SAMPLE = "VOC2012"  # the offline sample that is read as VOC
RIVALS = {"data_dir": "--data_dir", "sample": "--sample"}
NOT_OF_OWN_DATA = dict.fromkeys(
    ("train_domain", "val_domain"), "--data says itself what trains; lists belong to --data_dir"
)
CLASS_FILE = "classes.txt"  # of a run on own data
MOST_NAMES = 30  # of classes in a message


class Found(NamedTuple):
    """Where the data lie; what kind of own data they are, None: VOC's devkit."""

    location: Location
    own: Kind | None


def locate_data(given: Mapping[str, Any]) -> Found:
    """The data of the given flags; UserError in one line where they contradict each other."""
    require_own_flags(given, RIVALS)
    place = given.get("data")
    if place is None:
        return Found(locate_voc(given.get("data_dir"), given.get("sample", False)), None)

    refuse_flags(given, NOT_OF_OWN_DATA)
    kind = recognise(place)
    if kind.sample == SAMPLE:
        refuse_flags(given, dict.fromkeys(("images", "classes"), "the sample has its own"))
        return Found(Location(kind.path, True), None)
    if kind.layout in ("mat", "npz"):
        raise UserError(f"--data {place}: {kind.describe()}; the puzzle needs pictures")
    if not kind.layout:
        raise UserError(f"--data {place}: {kind.describe()}, that is not read here; --sample")
    return Found(Location(kind.path, bool(kind.sample)), kind)


def with_own_parts(args: argparse.Namespace, own: Kind | None) -> argparse.Namespace:
    """The settings of a training run; own data have the parts train and val."""
    if own is not None:
        args.train_domain = "train"
        args.val_domain = "val"
    return args


# --- of a trained network ---


def data_of_run(checkpoint: Path) -> dict[str, str]:
    """The settings --data, --images, --classes of the run whose checkpoint this is.

    Empty where the file does not lie in a run directory, and where that run used VOC's devkit.
    """
    folder = checkpoint
    if not folder.is_dir():
        folder = checkpoint.parent.parent
    file = folder / "config.json"
    if not file.is_file():
        return {}
    settings = read_json(file, dict).get("settings")
    if not isinstance(settings, dict) or not isinstance(settings.get("data"), str):
        return {}
    found = {"data": settings["data"]}
    if isinstance(settings.get("images"), str):
        found["images"] = settings["images"]
    return {**found, **class_file_of_run(folder)}


def classes_of_run(checkpoint: Path) -> list[str] | None:
    """The names of the classes of a checkpoint's run; None where it does not lie in one."""
    file = class_file_of_run(checkpoint)
    if file:
        return read_names(file["classes"])
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent.parent
    return CLASS_NAMES if (folder / "config.json").is_file() else None


def shown_classes(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    known = ", ".join(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        known += ", ..."
    return known


def class_file_of_run(checkpoint: Path) -> dict[str, str]:
    """{"classes": the file of class names of the checkpoint's run}; empty where there is none."""
    folder = checkpoint
    if not folder.is_dir():
        folder = checkpoint.parent.parent
    path = folder / CLASS_FILE
    return {"classes": str(path)} if path.is_file() else {}


def locate_data_of(given: Mapping[str, Any]) -> tuple[dict[str, Any], Found]:
    """As `locate_data`, for a trained network: without flags the data of its run; and the flags."""
    flags = dict(given)
    checkpoint = flags.get("checkpoint")
    if checkpoint is None:
        return flags, locate_data(flags)
    asked = [name for name in ("data", "data_dir", "sample") if name in flags]
    if not asked:
        flags = {**data_of_run(checkpoint), **flags}
    found = locate_data(flags)
    if found.own is not None and "classes" not in flags:
        flags |= class_file_of_run(checkpoint)
    return flags, found
