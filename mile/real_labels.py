"""The multi-label file of an evaluation set: ImageNet's real.json, or a dict by file name."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm.data

from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "mile.real_labels")

FILE_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.")
BUNDLED = Path(timm.data.__file__).parent / "_info" / "imagenet_real_labels.json"  # equal to the released file


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError where it is absent or none."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); real_path is the file of ReaL labels") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); fetch real.json again") from error


def read_real_labels(path: Path, num_classes: int = 1000) -> list[list[int]]:
    """real.json: a list of lists of class indices, entry j for ILSVRC2012_val_(j+1).

    UserError names the first entry that is not a list of integers in 0..num_classes-1.
    """
    lists = read_json(path)
    if not isinstance(lists, list):
        raise UserError(f"{path}: expected a list of lists of class indices, found {type(lists).__name__}")
    for j, labels in enumerate(lists):
        if not isinstance(labels, list) or not all(type(c) is int and 0 <= c < num_classes for c in labels):
            raise UserError(
                f"{path}: entry {j} is {str(labels)[:60]}; expected a list of integers in 0..{num_classes - 1}"
            )
    return lists


def labels_of_val_files(files: Sequence[Path], path: Path) -> list[list[int]]:
    """The ReaL set of each validation file, by the number in its name."""
    lists, found = read_real_labels(path), []
    for file in files:
        match = FILE_NUMBER.search(Path(file).name)
        if match is None:
            raise UserError(f"{file}: expected a name ILSVRC2012_val_ and eight digits; its ReaL labels go by that")
        number = int(match[1])
        if not 1 <= number <= len(lists):
            raise UserError(f"{file}: number {number}, but {path} has {len(lists)} entries")
        found.append(sorted(set(lists[number - 1])))
    return found


def labels_by_name(files: Sequence[Path], path: Path, classes: Sequence[str]) -> list[list[int]]:
    """The sets of a dict file {"name.jpg": ["class", ...]}, or keys "folder/name.jpg" as label_sets.json has them.

    Classes by name or index. UserError names a file without an entry, and what is no list of known classes.
    """
    table, index, numbers = read_json(path), {name: c for c, name in enumerate(classes)}, range(len(classes))
    if not isinstance(table, Mapping):
        raise UserError(f"{path}: expected a dict from file names to lists of classes, found {type(table).__name__}")
    found = []
    for file in files:
        name = Path(file).name
        labels = table.get(f"{Path(file).parent.name}/{name}", table.get(name))
        if labels is None:
            raise UserError(f"{path}: has no entry {name!r}; an image without labels has an empty list")
        if not isinstance(labels, list):
            raise UserError(f"{path}: {name} has {str(labels)[:60]!r}; expected a list of classes")
        unknown = [c for c in labels if not (c in index if type(c) is str else c in numbers and type(c) is int)]
        if unknown:
            raise UserError(f"{path}: {name} names the class {unknown[0]!r}, which has no train folder")
        found.append(sorted({index.get(c, c) for c in labels}))
    return found
