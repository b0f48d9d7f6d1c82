"""COCO's and LVIS's json: images, categories, annotations with boxes and shapes.

Of LVIS a class is known to be absent only where `neg_category_ids` names it; the rest is unknown.
A class of `not_exhaustive_category_ids` is positive where it has an annotation, as any other: only
its boxes are incomplete.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import shards
from common.coco_json import read_coco_arrays
from common.errors import UserError
from common.own_data import NEGATIVE, POSITIVE, UNKNOWN, Part, Table, empty_matrix
from common.own_masks import LARGEST_SIDE, Shapes, pixel
from common.own_names import close_to, read_names, shown, tidy
from common.own_places import ROBOFLOW, coco_files, split_of
from common.text import expanded, inside, read_json, whole

TRIED = 20  # pictures of which one tells the folder


def read_coco(
    place: Path,
    *,
    images: str | Path | None = None,
    names_file: str | Path | None = None,
) -> Table:
    """The pictures of one json file, or of the files of train and val in annotations/.

    Classes are in the order of their category ids. A class of which a picture has an annotation is
    positive there. Boxes and shapes of crowds (iscrowd) are left out, their labels are not.
    `names_file` names the classes that are kept, and their order.
    UserError names the file and the entry that does not fit.
    """
    files = {"": place} if place.is_file() else coco_files(place)
    contents = {}
    for split, path in files.items():
        contents[split] = _Content(path)
    ids, classes = _classes(list(contents.values()), names_file)

    tables = []
    notes: list[str] = []
    names: list[str] = []
    for split, content in contents.items():
        folder = _folder(content, images)
        prefix = f"{split}/" if "val" in files else ""
        part = content.part(ids, len(classes), folder, prefix)
        tables.append(part)
        names += [split] * len(part)
        notes += content.notes
    splits = np.array(names) if "val" in files else None
    return Table(classes, _joined(tables), splits, is_single=False, notes=notes)


class _Content:
    """One json file, looked at: every id is there once, and what refers to it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        found = read_coco_arrays(path, shapes=True)
        if found is not None:
            self.images = found.images
            self.categories = found.categories
            self.annotations = found.annotations
        else:
            content = read_json(path, dict)
            self.images = self._entries(content, "images")
            self.categories = self._entries(content, "categories")
            self.annotations = self._entries(content, "annotations").__iter__
        self.is_lvis = any("neg_category_ids" in image for image in self.images)
        self.row = self._numbered(self.images, "images")
        self.names = {}
        for category, number in self._numbered(self.categories, "categories").items():
            name = self.categories[number].get("name")
            if not isinstance(name, str) or not tidy(name):
                raise UserError(f"{path}: categories: entry {number + 1} has no name")
            self.names[category] = tidy(name)

    def _entries(self, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(item, dict) for item in entries):
            raise UserError(f"{self.path}: {key!r} is not a list of objects, as COCO's json has it")
        return entries

    def _numbered(self, entries: list[dict[str, Any]], key: str) -> dict[int, int]:
        found: dict[int, int] = {}
        for number, item in enumerate(entries):
            name = whole(item.get("id"), f"{self.path}: {key}: entry {number + 1}: id")
            if name in found:
                places = f"entries {found[name] + 1} and {number + 1}"
                raise UserError(f"{self.path}: {key}: the id {name} stands there twice ({places})")
            found[name] = number
        return found

    def file_name(self, row: int) -> str:
        """The name of a picture; of LVIS, where there is none, the end of its address."""
        image = self.images[row]
        name = image.get("file_name")
        if name is None and isinstance(image.get("coco_url"), str):
            name = "/".join(image["coco_url"].split("/")[-2:])
        where = f"{self.path}: images: entry {row + 1}: file_name"
        return str(inside("", name, where))

    def part(self, ids: dict[int, int], classes: int, folder: Path, prefix: str) -> Part:
        """All pictures; `ids`: the class of a category id, for the classes that are kept.

        `prefix`: what tells pictures of the same name in train and val apart.
        """
        count = len(self.images)
        matrix = empty_matrix(count, classes, self.path, UNKNOWN if self.is_lvis else NEGATIVE)
        if self.is_lvis:
            self._deny(matrix, ids)

        boxes: list[list[list[float]]] = [[] for _ in range(count)]
        labels: list[list[int]] = [[] for _ in range(count)]
        shapes: list[list[Any]] = [[] for _ in range(count)]
        flat = 0
        for number, item in enumerate(self.annotations(), 1):
            row, label, box = self._annotation(number, item, ids)
            if label is None:
                continue
            matrix[row, label] = POSITIVE
            if item.get("iscrowd"):
                continue
            if box is None:
                flat += "bbox" in item
                continue
            boxes[row].append(box)
            labels[row].append(label)
            shapes[row].append(item.get("segmentation") or [])
        if flat:
            self.notes.append(f"{self.path.name}: {flat} boxes without an area are left out")

        names = [self.file_name(row) for row in range(count)]
        box_arrays = None
        box_labels = None
        if any(labels):
            box_arrays = [np.array(one, np.float32).reshape(-1, 4) for one in boxes]
            box_labels = [np.array(one, np.int64) for one in labels]
        return Part(
            name="all",
            ids=[f"{prefix}{name}" for name in names],
            where=[f"{self.path}: {name!r}" for name in names],
            paths=[folder / name for name in names],
            labels=np.full(count, -1, np.int64),
            matrix=matrix,
            boxes=box_arrays,
            box_labels=box_labels,
            masks=self._masks(labels, shapes),
        )

    def _deny(self, matrix: np.ndarray, ids: dict[int, int]) -> None:
        for row, image in enumerate(self.images):
            denied = image.get("neg_category_ids") or []
            where = f"{self.path}: images: entry {row + 1}: neg_category_ids"
            for category in denied:
                number = whole(category, where)
                if number not in self.names:
                    raise UserError(f"{where}: there is no category {number}")
                if number in ids:
                    matrix[row, ids[number]] = NEGATIVE

    def _annotation(
        self, number: int, item: dict[str, Any], ids: dict[int, int]
    ) -> tuple[int, int | None, list[float] | None]:
        """Row, class (None where it is not kept) and box x0 y0 x1 y1 (None without an area)."""
        where = f"{self.path}: annotations: entry {number}"
        image = whole(item.get("image_id"), f"{where}: image_id")
        category = whole(item.get("category_id"), f"{where}: category_id")
        if image not in self.row:
            raise UserError(f"{where}: there is no image {image}")
        if category not in self.names:
            raise UserError(f"{where}: there is no category {category}")
        box = item.get("bbox")
        if box is None:
            return self.row[image], ids.get(category), None
        if not isinstance(box, list) or len(box) != 4:
            raise UserError(f"{where}: bbox is not x, y, width, height")
        x, y, width, height = (pixel(value, f"{where}: bbox") for value in box)
        if width <= 0 or height <= 0:
            return self.row[image], ids.get(category), None
        return self.row[image], ids.get(category), [x, y, x + width, y + height]

    def _masks(self, labels: list[list[int]], shapes: list[list[Any]]) -> list[Any] | None:
        """Shapes for the pictures all of whose boxes have one; None where no picture has."""
        found: list[Shapes | None] = []
        for row, image in enumerate(self.images):
            if not shapes[row] or not all(shapes[row]) or "height" not in image:
                found.append(None)
                continue
            where = f"{self.path}: images: entry {row + 1}"
            height = whole(image.get("height"), f"{where}: height")
            width = whole(image.get("width"), f"{where}: width")
            if not 0 < height <= LARGEST_SIDE or not 0 < width <= LARGEST_SIDE:
                raise UserError(f"{where}: {width} x {height} is no size of a picture")
            found.append(Shapes(height, width, labels[row], shapes[row], where))
        return found if any(found) else None


def _classes(
    contents: Sequence[_Content], names_file: str | Path | None
) -> tuple[dict[int, int], list[str]]:
    """The class number of every category id, and the classes' names."""
    first = contents[0]
    for other in contents[1:]:
        if other.names != first.names:
            differing = sorted(set(first.names.items()) ^ set(other.names.items()))
            said = shown([f"{number} {name!r}" for number, name in differing])
            raise UserError(f"{other.path}: other categories than {first.path.name}: {said}")
    names = [first.names[category] for category in sorted(first.names)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{first.path}: categories: the name {name!r} stands there twice")
    if not names:
        raise UserError(f"{first.path}: categories: there are none")

    if names_file is not None:
        wanted = read_names(names_file)
        for name in wanted:
            if name not in names:
                problem = f"{names_file}: {name!r} is no category of {first.path.name}"
                raise UserError(f"{problem}{close_to(name, names)}")
        if len(wanted) < len(names):
            first.notes.append(f"{len(names) - len(wanted)} categories are left out (--classes)")
        names = wanted
    number = {name: k for k, name in enumerate(names)}
    ids = {}
    for category, name in first.names.items():
        if name in number:
            ids[category] = number[name]
    return ids, names


def _folder(content: _Content, images: str | Path | None) -> Path:
    """The folder of a file's pictures: the given one, or where one of the first pictures lies.

    Looked at: beside the file, above annotations/, and there images/ and the folder of the file's
    part (train2014 of instances_train2014.json, train, valid).
    """
    names = [content.file_name(row) for row in range(min(TRIED, len(content.images)))]
    if not names:
        raise UserError(f"{content.path}: images: there are none")
    root = content.path.parent
    if root.name == "annotations":
        root = root.parent
    if images is not None:
        root = expanded(images)
    places = [root, *_of_part(root, content.path)]
    if images is None:
        places = [content.path.parent, *places, *_below_images(root, content.path)]
    for folder in places:
        if any(shards.is_there(folder / name) for name in names):
            return folder
    if images is not None:
        return root
    problem = f"{content.path}: its pictures ({names[0]}, ...) are not in {root}"
    raise UserError(f"{problem}; give their folder with --images")


def _of_part(root: Path, path: Path) -> list[Path]:
    """Folders of a part: the last words of the file's name, and the part's usual names."""
    if path.name == ROBOFLOW:
        return []
    words = path.stem.split("_")
    ends = ["_".join(words[k:]) for k in range(len(words))]
    usual = {"train": ["train", "training"], "val": ["val", "valid", "validation", "test"], "": []}
    return [root / name for name in [*ends, *usual[split_of(path.stem)]]]


def _below_images(root: Path, path: Path) -> list[Path]:
    found = []
    for name in ("images", "pictures", "JPEGImages"):
        found += [root / name, *_of_part(root / name, path)]
    return found


def _joined(parts: Sequence[Part]) -> Part:
    """Several parts one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    has_boxes = any(part.boxes is not None for part in parts)
    has_masks = any(part.masks is not None for part in parts)
    no_box = np.zeros((0, 4), np.float32)
    no_label = np.zeros(0, np.int64)
    ids: list[str] = []
    where: list[str] = []
    paths: list[Path] = []
    boxes: list[np.ndarray] = []
    box_labels: list[np.ndarray] = []
    masks: list[Any] = []
    for part in parts:
        ids += part.ids
        where += part.where
        paths += part.paths
        boxes += part.boxes or [no_box] * len(part)
        box_labels += part.box_labels or [no_label] * len(part)
        masks += part.masks or [None] * len(part)
    return Part(
        name="all",
        ids=ids,
        where=where,
        paths=paths,
        labels=np.concatenate([part.labels for part in parts]),
        matrix=np.concatenate([part.matrix for part in parts]),
        boxes=boxes if has_boxes else None,
        box_labels=box_labels if has_boxes else None,
        masks=masks if has_masks else None,
    )
