"""Own data in the settings: --data, or the data that a run was trained on. Light to import."""

import argparse
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.aliases import one_module
from common.cli import UserError
from common.own import FLAGS, recognise, require_own_flags
from common.text import expanded, read_json

one_module(__name__, "calm.options_data")

OWN = "own"  # the name of a data set that --data names
# What a training run keeps of its data, for its evaluations.
KEPT = ("data", "images", "classes", "data_seed")
RIVALS = {
    "data_root": "--data_root",
    "sample": "--sample",
    "dataset_name": "--dataset",
    "metadata_root": "--metadata_root",
    "num_classes": "--num_classes",
    "proxy_training_set": "--proxy_training_set",
}


def with_sample_as_root(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given flags; --data at the drawn birds becomes --data_root, so that it is a sample run.

    UserError where --data contradicts another flag or names no data.
    """
    values = dict(given)
    of_classes = values.get("classes")
    checked = {**values, "classes": of_classes if isinstance(of_classes, str) else None}
    require_own_flags(checked, RIVALS)
    if "data" not in values:
        return values
    if recognise(values["data"]).sample == "CUB":
        for name in FLAGS:
            place = values.pop(name, None)
            if name == "data":
                values["data_root"] = place
    return values


def settle_own_data(args: argparse.Namespace) -> None:
    """The places of own data as absolute paths, the seed of its split, the name of the set."""
    args.data_seed = None
    args.class_names = None
    args.network_input = None
    for name in FLAGS:
        place = getattr(args, name, None)
        setattr(args, name, None if place is None else str(expanded(place).absolute()))
    if args.data is not None:
        args.dataset_name = OWN
        args.data_seed = 0 if args.seed is None else args.seed


def with_data_of_run(
    args: argparse.Namespace, given: frozenset[str], experiment: Path
) -> argparse.Namespace:
    """The same settings with the own data of the run that is evaluated, where it has some.

    Not where the user named data: the run's config.json says it.
    """
    if {"data", *RIVALS} & given:
        return args
    for folder in _folders_of(args, experiment):
        settings = read_json(folder / "config.json", dict).get("settings")
        if isinstance(settings, dict) and settings.get("data") is not None:
            args = copy.copy(args)
            args.dataset_name = OWN
            for name in KEPT:
                setattr(args, name, settings.get(name))
            return args
    return args


def _folders_of(args: argparse.Namespace, experiment: Path) -> Iterator[Path]:
    """The run directories that may be the one of the checkpoint, the first that there is first."""
    bases = [experiment]
    if args.load_checkpoint is not None:
        named = Path(args.load_checkpoint).expanduser()
        bases = [named, Path(args.save_root) / named, experiment]
    for base in bases:
        if not base.exists():
            continue
        places = [base] if base.is_dir() else [base.parent, base.parent.parent]
        for folder in places:
            if (folder / "config.json").is_file():
                yield folder
        return


def require_same_classes(file: Path | None, trained: Mapping[str, Any], names: list[str]) -> None:
    """UserError where a checkpoint was trained with other class names than the data have."""
    known = trained.get("class_names")
    if known is None or list(known) == names:
        return
    for label, (own, other) in enumerate(zip(known, names, strict=False)):
        if own != other:
            told = f"its class {label} is {own!r}, that of the data {other!r}"
            break
    else:
        told = f"it has {len(known)} classes, the data {len(names)}"
    raise UserError(f"{file}: {told}; give the order of its classes with --classes FILE")
