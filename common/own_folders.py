"""A folder of class folders: train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg."""

from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import files_below, image_files, visible
from common.own_data import Part, Table, one_hot
from common.own_names import close_to, counted, in_order, read_names, shown, tidy
from common.own_places import class_folders


def read_folders(place: Path, names_file: str | Path | None = None) -> Table:
    """The pictures of all class folders; a class is a folder's name.

    Pictures in folders below a class folder are of that class. Class folders without pictures are
    no classes. Hidden files are left out, other files counted. `names_file` gives the classes and
    their order; folders that it does not name are an error.
    """
    found = class_folders(place)
    if found is None:
        raise UserError(f"{place}: no class folders with pictures")
    notes = _left_out(found.left)
    parts = [("train", found.train)]
    if found.val is not None:
        parts.append(("val", found.val))

    rows: list[tuple[str, Path, str]] = []  # class, picture, part
    empty: list[str] = []
    others = 0
    for name, folder in parts:
        for child in visible(folder):
            if not child.is_dir():
                others += 1
                continue
            pictures = image_files(child, recursive=True)
            others += _other_files(child, len(pictures))
            if not pictures:
                empty.append(str(child.relative_to(place)))
            label = tidy(child.name)
            rows += [(label, picture, name) for picture in pictures]
    if others:
        notes.append(f"{counted(others, 'file')} beside the pictures of the classes, left alone")
    if empty:
        notes.append(
            f"{counted(len(empty), 'folder')} without pictures, no classes: {shown(empty)}"
        )

    classes = _classes(place, rows, names_file)
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[label] for label, _, _ in rows], np.int64)
    paths = [picture for _, picture, _ in rows]
    ids = [picture.relative_to(place).as_posix() for picture in paths]
    part = Part(
        name="all",
        ids=ids,
        where=[str(picture.parent) for picture in paths],
        paths=paths,
        labels=labels,
        matrix=one_hot(labels, len(classes), place),
    )
    splits = np.array([part for _, _, part in rows]) if found.val is not None else None
    return Table(classes, part, splits, is_single=True, notes=notes)


def _left_out(folders: list[Path]) -> list[str]:
    lines = []
    for folder in folders:
        count = len(image_files(folder, recursive=True))
        lines.append(f"{folder.name}/ is left alone ({counted(count, 'picture')})")
    return lines


def _other_files(folder: Path, pictures: int) -> int:
    total = sum(1 for _ in files_below(folder, lambda error: None))
    return total - pictures


def _classes(
    place: Path, rows: list[tuple[str, Path, str]], names_file: str | Path | None
) -> list[str]:
    found = in_order(label for label, _, _ in rows)
    if names_file is None:
        return found
    classes = read_names(names_file)
    known = set(classes)
    for name in found:
        if name not in known:
            problem = f"{place}: the folder {name!r} is no class of {names_file}"
            raise UserError(f"{problem}{close_to(name, classes)}")
    return classes
