"""The multi-label file of an evaluation set: ImageNet's real.json, or a dict by file name."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from common.aliases import one_module
from common.cli import UserError
from common.own_records import read_records, several, single
from common.text import kind_name, read_json
from mile.data_location import bundled_real_labels

one_module(__name__, "mile.data_labels")

FILE_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.")
BUNDLED = bundled_real_labels()


def read_real_labels(path: Path, num_classes: int = 1000) -> list[list[int]]:
    """real.json: a list of lists of class indices, entry j for ILSVRC2012_val_(j+1).

    UserError names the first entry that is not a list of integers in 0..num_classes-1.
    """
    lists = read_json(path)
    if not isinstance(lists, list):
        raise UserError(
            f"{path}: expected a list of lists of class indices, found {kind_name(type(lists))}"
        )
    for j, labels in enumerate(lists):
        if not isinstance(labels, list) or not all(
            type(c) is int and 0 <= c < num_classes for c in labels
        ):
            raise UserError(
                f"{path}: entry {j} is {str(labels)[:60]}; "
                f"expected a list of integers in 0..{num_classes - 1}"
            )
    _warn_of_repetitions(lists, path)
    return lists


def _warn_of_repetitions(lists: Iterable[Sequence[int]], path: Path) -> None:
    """Say how many label sets list a class twice; it counts once."""
    count = sum(len(set(labels)) < len(labels) for labels in lists)
    if count:
        warnings.warn(
            f"{path}: {count} label sets list a class twice; it counts once", stacklevel=3
        )


def labels_of_val_files(files: Sequence[Path], path: Path) -> list[list[int]]:
    """The ReaL set of each validation file, by the number in its name.

    UserError names two files of one number.
    """
    lists = read_real_labels(path)
    found = []
    seen: dict[int, Path] = {}
    for file in files:
        match = FILE_NUMBER.search(Path(file).name)
        if match is None:
            raise UserError(
                f"{file}: expected a name ILSVRC2012_val_ and eight digits; "
                "its ReaL labels go by that"
            )
        number = int(match[1])
        if not 1 <= number <= len(lists):
            raise UserError(f"{file}: number {number}, but {path} has {len(lists)} entries")
        if number in seen:
            raise UserError(
                f"{file}: number {number} is that of {seen[number]} too; keep one of the two"
            )
        seen[number] = file
        found.append(sorted(set(lists[number - 1])))
    return found


def labels_by_name(files: Sequence[Path], path: Path, classes: Sequence[str]) -> list[list[int]]:
    """The sets of a dict file {"name.jpg".

    ["class", ...]}, or keys "folder/name.jpg" as label_sets.json has them.

    A key is the end of a file's path, of the keys that fit the longest. Classes by name or index.
    UserError names a file without an entry, one whose entry may be another file's, and what is no
    list of known classes.
    """
    table = read_json(path)
    if not isinstance(table, Mapping):
        found = kind_name(type(table))
        raise UserError(
            f"{path}: expected an object from file names to lists of classes, found {found}"
        )
    return _by_name(files, table, path, classes)


def _by_name(
    files: Sequence[Path], table: Mapping, path: Path, classes: Sequence[str]
) -> list[list[int]]:
    index = dict(zip(classes, range(len(classes)), strict=True))
    counts = Counter(chain.from_iterable(_endings(file) for file in files))
    return [_labels_of(file, table, index, counts, path) for file in files]


def _endings(file: Path) -> list[str]:
    """a/b/c.jpg, b/c.jpg, c.jpg"""
    parts = Path(file).parts
    return ["/".join(parts[k:]) for k in range(len(parts))]


def _labels_of(
    file: Path, table: Mapping, index: Mapping[str, int], counts: Counter, path: Path
) -> list[int]:
    """The label set of a file: the entry CLASS/FILE, or FILE where that is one file's name."""
    file = Path(file)
    key = next((ending for ending in _endings(file) if ending in table), None)
    if key is None:
        raise UserError(
            f"{path}: has no entry {file.name!r}; an image without labels has an empty list"
        )
    if counts[key] > 1:
        raise UserError(f"{path}: {key!r} may be any of {counts[key]} files; write CLASS/FILE")

    labels = table[key]
    if not isinstance(labels, list):
        raise UserError(f"{path}: {file.name} has {str(labels)[:60]!r}; expected a list of classes")

    numbers = range(len(index))
    for label in labels:
        is_known = label in index if type(label) is str else type(label) is int and label in numbers
        if not is_known:
            raise UserError(
                f"{path}: {file.name} names the class {label!r}, which has no train folder"
            )
    return sorted({index.get(label, label) for label in labels})


def training_sets(files: Sequence[Path], path: Path, classes: Sequence[str]) -> list[list[int]]:
    """The sets that training images are taught, of a json or a csv.

    A json as `labels_by_name` reads it, which is also what --export_labels writes; a csv with the
    columns path and labels (`;` between them; or label). UserError as there.
    """
    if path.suffix.lower() == ".json":
        return labels_by_name(files, path, classes)
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise UserError(f"{path}: expected a .json or .csv of label sets, by the images' names")
    return _by_name(files, _table_of_csv(path, classes), path, classes)


def _table_of_csv(path: Path, classes: Sequence[str]) -> dict[str, list[str | int]]:
    columns, records = read_records(path)
    column = "labels" if "labels" in columns else "label"
    if "path" not in columns or column not in columns:
        raise UserError(f"{path}: line 1: expected the columns path and labels")
    known = set(classes)
    table: dict[str, list[str | int]] = {}
    for record in records:
        name = single(record, "path")
        if name in table:
            raise UserError(f"{record.where}: {name} stands there twice")
        labels: list[str | int] = []
        for text in several(record, column) or []:
            is_number = text not in known and text.isdecimal()
            labels.append(int(text) if is_number else text)
        table[name] = labels
    return table
