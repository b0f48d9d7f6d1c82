"""A user's own data, the same in all five: `--data PLACE`.

    kind = recognise(place)                       # light: while the command line is read
    data = read_own(place, seed=0)                # pictures, labels, train and val
    for line in data_lines(data): print(line)     # what was found, and what is rare

A place is a sample (a marker SAMPLE.json), a VOC devkit, COCO or LVIS json or a folder with
annotations/, a csv, json, .mat or .npz, or class folders; `recognise` looks in this order. What
the labels mean for training is each paper's own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.own_names import class_names_of, with_class_names  # noqa: F401
from common.own_places import Kind, recognise
from common.text import expanded

if TYPE_CHECKING:  # numpy is not needed to read a command line
    import argparse

    import numpy as np

    from common.own_data import OwnData, Table

VAL_SHARE = 0.2


FLAGS = {
    "data": (
        "PLACE",
        "own data: class folders, csv, json, .mat, .npz, COCO json or VOC devkit",
    ),
    "images": ("DIR", "folder of the pictures that a csv or json of --data names"),
    "classes": (
        "FILE",
        "classes of --data in order, one a line (default: all, sorted)",
    ),
}


def add_own_flags(
    parser: "argparse.ArgumentParser | argparse._ArgumentGroup", *, leave_out: Sequence[str] = ()
) -> None:
    """Add --data, --images and --classes, which stand for the same in all five.

    `leave_out` names those that the original has already ("data").
    """
    for name, (metavar, what) in FLAGS.items():
        if name not in leave_out:
            parser.add_argument(f"--{name}", metavar=metavar, help=what)


def require_own_flags(given: Mapping[str, Any], rivals: Mapping[str, str] | None = None) -> None:
    """UserError for flags of own data that contradict each other or the original's own.

    Args:
        given: names and values of the flags that were given, as `parse_given` returns them.
        rivals: the original's settings that choose data, with their flags: {"data_dir":
            "--data_dir"}. One that points at the same place is no contradiction.
    """
    place = given.get("data")
    if place is None:
        for name in ("images", "classes"):
            if given.get(name) is not None:
                raise UserError(f"--{name} belongs to --data, which is not given")
        return
    for name, flag in (rivals or {}).items():
        value = given.get(name)
        if value is None or value is False:
            continue
        if value is True or expanded(str(value)).absolute() != expanded(place).absolute():
            said = flag if value is True else f"{flag} {value}"
            raise UserError(f"--data {place} and {said} name different data; give one of them")


def read_own(
    place: str | Path,
    *,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    seed: int = 0,
    val_share: float = VAL_SHARE,
    skip_corrupt: bool = False,
) -> "OwnData":
    """The classes, and the training and validation part of a place.

    Args:
        images: the folder of the pictures that a csv or json names.
        classes: a file of class names, one a line; default: those of the data, sorted.
        seed, val_share: how the validation part is drawn where the data name none.
        skip_corrupt: leave unreadable pictures out and count them.
    Raises:
        UserError: one line with file and line: missing or repeated pictures, labels that contradict
            each other, a class of val that train lacks, a layout that is not known.
    """
    from common import own_checks

    kind = recognise(place)
    if images is not None:
        images = expanded(images)
        if not images.is_dir():
            raise UserError(f"--images {images}: no such folder")
        if kind.layout not in ("csv", "json", "coco"):
            raise UserError(f"--images belongs to a csv or json, not to {kind.describe()}")
    table = _read(kind, images, classes)
    if not len(table.rows):
        raise UserError(f"{kind.path}: holds no pictures")
    if table.rows.features is not None:
        return _shared_out(kind, table, seed, val_share, skip_corrupt)

    own_checks.require_files(table)
    data = _shared_out(kind, _with_single_labels(table), seed, val_share, skip_corrupt)
    leak = own_checks.leaks(data)
    if leak is not None:
        data.notes.append(leak)
    return data


def data_lines(data: "OwnData") -> list[str]:
    """The first lines of a run on own data: what was recognised, what was counted, how unequal."""
    from common.own_report import class_counts, describe

    return [describe(data), *data.notes, *class_counts(data)]


def require_one_label(data: "OwnData", what: str = "this program") -> None:
    """UserError where a picture's one label is not known: it has several, none, or candidates."""
    for part in (data.train, data.val):
        for row in (part.labels < 0).nonzero()[0].tolist():
            known = int((part.matrix[row] == 1).sum())
            problem = f"{part.where[row]}: {known} known labels; {what} needs exactly one a picture"
            raise UserError(f"{problem}, in class folders or a column label")


def require_pictures(data: "OwnData", what: str = "this program") -> None:
    """UserError for features, where pictures are needed."""
    if data.train.features is not None:
        raise UserError(f"{data.kind.path}: features; {what} needs pictures")


def _read(kind: Kind, images: Path | None, classes: str | Path | None) -> "Table":
    """What the layout's reader finds; each is imported when it is needed."""
    if kind.layout == "folders":
        from common.own_folders import read_folders

        return read_folders(kind.path, classes)
    if kind.layout == "coco":
        from common.own_coco import read_coco

        return read_coco(kind.path, images=images, names_file=classes)
    if kind.layout == "voc":
        from common.own_voc import read_voc

        return read_voc(kind.path, classes)
    if kind.layout in ("csv", "json"):
        return _read_rows(kind, images, classes)
    if kind.layout in ("mat", "npz"):
        from common.own_features import read_mat, read_npz

        read = {"mat": read_mat, "npz": read_npz}[kind.layout]
        return read(kind.path, classes)
    problem = f"{kind.path}: the offline sample {kind.sample} has a layout of its own"
    raise UserError(f"{problem}; give it with the flag of its data set, or --sample")


def _read_rows(kind: Kind, images: Path | None, classes: str | Path | None) -> "Table":
    from common.own_csv import read_table
    from common.own_features import read_feature_csv
    from common.own_places import lists_pictures

    is_json = kind.layout == "json"
    if is_json or lists_pictures(kind.path) or images is not None:
        return read_table(kind.path, is_json=is_json, images=images, names_file=classes)
    return read_feature_csv(kind.path, classes)


def _with_single_labels(table: "Table") -> "Table":
    """The label of a picture of which one class is known to be there and all others not."""
    from dataclasses import replace

    part = table.rows
    if part.candidates is not None:
        return table
    is_one = (part.labels < 0) & (part.matrix != -1).all(axis=1) & (part.matrix.sum(axis=1) == 1)
    labels = part.labels.copy()
    labels[is_one] = part.matrix[is_one].argmax(axis=1)
    return replace(table, rows=replace(part, labels=labels))


def _shared_out(
    kind: Kind, table: "Table", seed: int, val_share: float, skip_corrupt: bool
) -> "OwnData":
    """Train and val of a table, without what cannot be read, after the checks of classes."""
    from common.own_checks import readable, require_classes
    from common.own_data import OwnData

    if table.splits is not None:
        is_val: np.ndarray = table.splits == "val"
        how = "as the data say"
    else:
        is_val = _drawn(table, seed, val_share)
        how = f"val drawn with seed {seed}"
    parts = []
    skipped = {}
    notes = list(table.notes)
    for name, chosen in (("train", ~is_val), ("val", is_val)):
        part, line = readable(table.rows.take(chosen.nonzero()[0], name), skip_corrupt)
        if line is not None:
            notes.append(line)
        skipped[name] = int(chosen.sum()) - len(part)
        parts.append(part)
    train, val = parts
    notes += require_classes(kind.path, table.classes, train, val, is_single=table.is_single)
    return OwnData(kind, table.classes, train, val, table.is_single, how, notes, skipped)


def _drawn(table: "Table", seed: int, val_share: float) -> "np.ndarray":
    from common.own_split import draw_val

    rows = table.rows
    return draw_val(
        rows.ids,
        rows.labels,
        rows.matrix,
        seed=seed,
        share=val_share,
        is_single=table.is_single or bool((rows.labels >= 0).all()),
    )
