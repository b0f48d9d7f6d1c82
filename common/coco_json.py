"""COCO's json as arrays: images and categories as they stand, annotations as columns.

A large file is read once a machine, element by element, while other processes wait for the arrays.
"""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.json_stream import NotStreamed, read_lists
from common.kept import Arrays, is_settled, kept, key_of

VERSION = 1
LARGE = 1 << 22  # bytes of a file from which on its arrays are kept
NO_BOX, NULL_BOX, BOX = range(3)
LARGEST_ID = 2**63 - 1


class Packed(NamedTuple):
    """A segmentation as its json; `value()` is what it stands for."""

    text: np.ndarray  # of all segmentations of a file
    start: int
    end: int

    def value(self) -> Any:
        """Polygons or run lengths, as COCO's json holds them."""
        return json.loads(self.text[self.start : self.end].tobytes())


@dataclass(frozen=True)
class Coco:
    """An annotation file. n annotations; the last four are None where shapes were not asked for.

    images, categories: the records. image_ids, category_ids: (n,) int64. boxes: (n,4) float64, as
    they stand, where box_kinds (n,) is BOX. is_crowd: (n,) bool. ends: (n+1,), where the json of
    each segmentation ends in `shapes`.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray | None = None
    box_kinds: np.ndarray | None = None
    is_crowd: np.ndarray | None = None
    ends: np.ndarray | None = None
    shapes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def annotations(self) -> Iterator[dict[str, Any]]:
        """Each as a record of COCO's json, with a `Packed` segmentation; needs the shapes."""
        assert self.boxes is not None and self.box_kinds is not None
        assert self.is_crowd is not None and self.ends is not None and self.shapes is not None
        for row in range(len(self)):
            item: dict[str, Any] = {
                "image_id": int(self.image_ids[row]),
                "category_id": int(self.category_ids[row]),
                "iscrowd": bool(self.is_crowd[row]),
            }
            kind = self.box_kinds[row]
            if kind == BOX:
                item["bbox"] = self.boxes[row].tolist()
            elif kind == NULL_BOX:
                item["bbox"] = None
            start, end = self.ends[row : row + 2].tolist()
            if start < end:
                item["segmentation"] = Packed(self.shapes, start, end)
            yield item


def read_coco_arrays(path: Path, *, shapes: bool) -> Coco | None:
    """An annotation file; None where it must be read as a whole, to learn what is wrong with it.

    shapes: with boxes and segmentations.
    """
    try:
        stat = path.stat()
        if stat.st_size < LARGE:
            return _coco(_columns(path, shapes))
        key = key_of(
            *(VERSION, shapes, path.absolute(), stat.st_dev, stat.st_ino),
            *(stat.st_size, stat.st_mtime_ns),
        )
        lasts = is_settled(stat.st_mtime_ns)  # before the file is read
        arrays = kept("coco", key, lambda: _columns(path, shapes), lasts=lambda made: lasts)
        return _coco(arrays)
    except (NotStreamed, OSError, ValueError):
        return None


def _coco(arrays: Arrays) -> Coco:
    columns: dict[str, Any] = dict(arrays)
    for name in ("images", "categories"):
        columns[name] = json.loads(columns[name].tobytes())
    return Coco(**columns)


def _columns(path: Path, shapes: bool) -> Arrays:
    """The fields of `Coco`; NotStreamed where a record is not quite as COCO has it."""
    images: list[str] = []
    columns = _Columns(shapes)

    def add_image(item: Any) -> None:
        _require(isinstance(item, dict))
        images.append(json.dumps(item, separators=(",", ":")))

    content = read_lists(path, {"images": add_image, "annotations": columns.add})
    categories = content.get("categories")
    _require(isinstance(categories, list))
    _require(all(isinstance(item, dict) for item in categories or ()))
    text = json.dumps(categories)
    return {
        "images": _bytes("[" + ",".join(images) + "]"),
        "categories": _bytes(text),
        **columns.arrays(),
    }


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _require(is_so: bool) -> None:
    if not is_so:
        raise NotStreamed("not a record of COCO's json")


class _Columns:
    """Annotations, one after the other."""

    def __init__(self, shapes: bool) -> None:
        self.has_shapes = shapes
        self.image_ids = array("q")
        self.category_ids = array("q")
        self.boxes = array("d")
        self.box_kinds = array("b")
        self.is_crowd = array("b")
        self.ends = array("q", [0])
        self.shapes = bytearray()

    def add(self, item: Any) -> None:
        """A record; NotStreamed where its ids are no whole numbers, or its box has not four."""
        _require(isinstance(item, dict))
        for name, column in (("image_id", self.image_ids), ("category_id", self.category_ids)):
            number = item.get(name)
            _require(type(number) is int and abs(number) <= LARGEST_ID)
            column.append(number)
        if not self.has_shapes:
            return
        box = item.get("bbox")
        kind = BOX
        if box is None:
            kind = NULL_BOX if "bbox" in item else NO_BOX
            box = (0.0, 0.0, 0.0, 0.0)
        _require(isinstance(box, list | tuple) and len(box) == 4)
        _require(all(type(value) in (int, float) and abs(value) < 2**52 for value in box))
        self.boxes.extend(map(float, box))
        self.box_kinds.append(kind)
        self.is_crowd.append(bool(item.get("iscrowd")))
        if item.get("segmentation"):
            self.shapes += json.dumps(item["segmentation"], separators=(",", ":")).encode()
        self.ends.append(len(self.shapes))

    def arrays(self) -> Arrays:
        """The fields of `Coco`."""
        found: Arrays = {
            "image_ids": np.frombuffer(self.image_ids, np.int64),
            "category_ids": np.frombuffer(self.category_ids, np.int64),
        }
        if self.has_shapes:
            found |= {
                "boxes": np.frombuffer(self.boxes, np.float64).reshape(-1, 4),
                "box_kinds": np.frombuffer(self.box_kinds, np.int8),
                "is_crowd": np.frombuffer(self.is_crowd, np.int8).astype(bool),
                "ends": np.frombuffer(self.ends, np.int64),
                "shapes": np.frombuffer(self.shapes, np.uint8),
            }
        return found
