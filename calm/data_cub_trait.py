"""CUB's attributes and parts.

They say which parts tell two classes apart, and where these parts are in an image.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from calm import fast
from calm.data_lists import ById, finite, read_lines, read_rows
from calm.data_metadata import files_in_folders, is_picture, read_table
from common import shards
from common.aliases import one_module
from common.cli import UserError
from common.domain import require_number
from common.images import check_images
from common.text import once

one_module(__name__, "calm.data_cub_trait")

PRESENT_FROM = 50.0  # percent of the images of a class
SIZE = 224
# part of the comparison: (its number, attribute substrings, part numbers of parts.txt, average
# their positions?)
PARTS = {
    "head": (
        1,
        ("bill", "crown", "eye", "forehead", "head", "nape", "throat"),
        (2, 5, 6, 7, 10, 11, 15),
        True,
    ),
    "back": (2, ("back",), (1,), False),
    "belly": (3, ("belly",), (3,), False),
    "breast": (4, ("breast",), (4,), False),
    "tail": (5, ("tail",), (14,), False),
    "leg": (6, ("leg",), (8, 12), False),
    "wing": (7, ("wing",), (9, 13), False),
}
IN_ARCHIVE = {
    "attributes": "attributes.txt lies next to CUB_200_2011 in the archive; "
    "here or in attributes/ it is found",
    "segmentations": "segmentations.tgz is a separate download of Caltech; or use --foreground box",
}


def _rows(path: Path, kinds: Sequence[Callable], what: str) -> list[list]:
    if not path.is_file():
        raise UserError(
            f"{path} is missing; it is in the CUB_200_2011 archive of Caltech "
            "(parts/ and attributes/)"
        )
    return [row for _, row in read_rows(path, kinds, what)]


def _names(path: Path) -> dict[int, str]:
    """{number: name} of a list; UserError for a number that stands there twice."""
    rows = _rows(path, (int, str), "number name")
    once((number for number, _ in rows), str(path))
    return dict(rows)


class CUBTrait:
    """Attributes per class, part positions per image, class pairs by the number of differing parts.

    data_dir: the CUB folder (images/, parts/, attributes/, segmentations/). Classes count from 1.
        `rule`: match
    part names in the whole attribute name (released), or in what stands before `::` ("name").
    `foreground`: multiply masks by the segmentation, or by the bounding box ("box").
    """

    def __init__(
        self, data_dir: str | Path, rule: str = "released", foreground: str = "segmentation"
    ) -> None:
        if rule not in ("released", "name"):
            raise ValueError(f"attribute_rule {rule!r}: choose from released, name")
        if foreground not in ("segmentation", "box"):
            raise ValueError(f"foreground {foreground!r}: choose from segmentation, box")
        self.data_dir = Path(data_dir)
        self.rule = rule
        self.foreground = foreground
        self.part_id2name = _names(self.data_dir / "parts" / "parts.txt")
        self.attribute_id2name = _names(self._attribute_names())
        self.class2attribute = self._read_classes()
        self.image_file2image_id = ById(self.data_dir / "images.txt")
        for number, (file,) in read_table(self.data_dir / "images.txt").items():
            self.image_file2image_id[file] = number
        self.image_id2part_locs = self._read_parts()
        self.points_and_parts = lru_cache(maxsize=256)(self._visible_points)
        self._parts_of_bird = lru_cache(maxsize=256)(self._nearest_parts)

    def _attribute_names(self) -> Path:
        places = [
            self.data_dir / "attributes" / "attributes.txt",
            self.data_dir / "attributes.txt",
            self.data_dir.parent / "attributes.txt",
        ]
        for place in places:
            if place.is_file():
                return place
        tried = ", ".join(map(str, places))
        raise UserError(f"no attributes.txt; tried {tried}; {IN_ARCHIVE['attributes']}")

    def _read_classes(self) -> dict[int, np.ndarray]:
        path = self.data_dir / "attributes" / "class_attribute_labels_continuous.txt"
        if not path.is_file():
            raise UserError(f"{path} is missing; it is in the CUB_200_2011 archive, attributes/")
        expected = len(self.attribute_id2name)
        for number, line in enumerate(read_lines(path), 1):
            count = len(line.split())
            if count not in (0, expected):
                raise UserError(f"{path}:{number}: {count} attributes, expected {expected}")
        lines = _rows(path, (finite,) * expected, f"{expected} percentages")
        classes = len(_names(self.data_dir / "classes.txt"))
        if len(lines) != classes:
            raise UserError(f"{path}: {len(lines)} classes, expected {classes} (classes.txt)")
        return {c: (np.array(line) >= PRESENT_FROM).astype(int) for c, line in enumerate(lines, 1)}

    def _read_parts(self) -> dict[int, dict[int, tuple[float, float]]]:
        """image id -> {part number: (x, y)}, visible parts only."""
        found: dict[int, dict[int, tuple[float, float]]] = {
            i: {} for i in self.image_file2image_id.values()
        }
        kinds = (int, int, finite, finite, int)
        path = self.data_dir / "parts/part_locs.txt"
        seen: set[tuple[int, int]] = set()
        for image, part, x, y, visible in _rows(path, kinds, "image part x y visible"):
            if (image, part) in seen:
                raise UserError(f"{path}: part {part} of image {image} stands there twice")
            seen.add((image, part))
            if visible:
                found.setdefault(image, {})[part] = (x, y)
        return found

    # ---- which parts differ ----------------------------------------------------------

    def parts_of_attribute(self, attribute: int) -> set[int]:
        """The parts (1 head .. 7 wing) that an attribute's name speaks of; perhaps none."""
        name = self.attribute_id2name[attribute]
        if self.rule == "name":
            name = name.split("::")[0]
        parts = set()
        for number, words, _, _ in PARTS.values():
            if any(word in name for word in words):
                parts.add(number)
        return parts

    def differing_parts(self, first: int, second: int) -> set[int]:
        """Return the parts in which two classes (from 1) differ.

        ValueError for a class that there is not.
        """
        for number in (first, second):
            if number not in self.class2attribute:
                raise ValueError(f"class {number}: classes are 1..{len(self.class2attribute)}")
        differing = np.flatnonzero(self.class2attribute[first] != self.class2attribute[second]) + 1
        parts: set[int] = set()
        for attribute in differing.tolist():
            parts |= self._parts_of[attribute]
        return parts

    @cached_property
    def _parts_of(self) -> dict[int, set[int]]:
        return {a: self.parts_of_attribute(a) for a in self.attribute_id2name}

    @cached_property
    def diff2class_pair_dict(self) -> dict[int, list[tuple[int, int]]]:
        """Return the pairs of classes for each number of differing parts.

        They are pairs (i, j), i < j, of classes from 1; pairs without a differing part are left
        out.
        """
        pairs: dict[int, list[tuple[int, int]]] = {}
        classes = sorted(self.class2attribute)
        for i in classes:
            for j in classes[i:]:
                count = len(self.differing_parts(i, j))
                if count:
                    pairs.setdefault(count, []).append((i, j))
        return pairs

    def check_segmentations(self, image_files: Iterable[str]) -> None:
        """Check, before the long work, that the segmentations of the images can be read.

        UserError where one is not there or cannot be read.
        """
        if self.foreground == "box":
            return
        paths = list(map(self._segmentation, image_files))
        missing = [path for path in paths if not shards.is_there(path)]
        if missing:
            count = f"{len(missing)} of {len(paths)} segmentations"
            raise UserError(f"{missing[0]} is missing, {count}; {IN_ARCHIVE['segmentations']}")
        unreadable = check_images(paths, what="the segmentations", skip_corrupt=True)
        if len(unreadable):
            count = f"{len(unreadable)} of {len(paths)} segmentations"
            raise UserError(
                f"{paths[unreadable[0]]}: unreadable, {count}; {IN_ARCHIVE['segmentations']}"
            )

    def _segmentation(self, image_file: str) -> Path:
        return (self.data_dir / "segmentations" / image_file).with_suffix(".png")

    # ---- where they are --------------------------------------------------------------

    def _get_parts_union(
        self, image_id: int, size: tuple[int, int], side: int = SIZE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return points (n,2) int64 x, y at side x side, and their parts (n,).

        They are those of an image of `size` (W,H), ordered by part.

        The head is the mean of its visible keypoints; both legs and both wings stay separate
        points.
        """
        seen = self.image_id2part_locs[image_id]
        scale = side / np.asarray(size, float)
        points: list[np.ndarray] = []
        parts: list[int] = []
        for number, _, keypoints, average in PARTS.values():
            here = [np.asarray(seen[k]) for k in keypoints if k in seen]
            if average and here:
                here = [np.mean(here, axis=0)]
            points += [point * scale for point in here]
            parts += [number] * len(here)
        places = np.asarray(points, float).reshape(-1, 2).astype(np.int64)
        return places, np.asarray(parts, np.int64)

    def _visible_points(self, image_file: str, side: int) -> tuple[np.ndarray, np.ndarray]:
        with Image.open(shards.opened(self.data_dir / "images" / image_file)) as image:
            size = image.size
        return self._get_parts_union(self.image_file2image_id[image_file], size, side)

    def cue_points(
        self, image_file: str, class_pair: Iterable[int], size: int = SIZE
    ) -> np.ndarray:
        """Return the points of the visible parts in which the classes differ.

        They are (n,2) int64 x, y at size x size.
        """
        points, parts = self.points_and_parts(image_file, size)
        return points[np.isin(parts, list(self.differing_parts(*map(int, class_pair))))]

    def _nearest_parts(self, image_file: str, side: int) -> np.ndarray | None:
        """Return (side,side) uint8: where the bird is, the part of the nearest point; 0 elsewhere.

        The first of equals is taken; None without a point.
        """
        points, parts = self.points_and_parts(image_file, side)
        if not len(parts):
            return None
        is_bird = self._foreground_mask(image_file, side)
        rows = _extent(is_bird, 1)
        columns = _extent(is_bird, 0)

        found = np.zeros((side, side), np.uint8)
        nearest = fast.nearest_value(points, parts.astype(np.uint8), rows, columns)
        found[rows, columns] = nearest * is_bird[rows, columns]
        return found

    def _foreground_mask(self, image_file: str, side: int) -> np.ndarray:
        """(side,side) bool: where the bird is."""
        if self.foreground == "box":
            return self._box_mask(image_file, side)
        path = self._segmentation(image_file)
        if not shards.is_there(path):
            raise UserError(f"{path} is missing; {IN_ARCHIVE['segmentations']}")
        with Image.open(shards.opened(path)) as image:
            soft = image.convert("L")
            return np.asarray(soft.resize((side, side), Image.Resampling.BICUBIC)) > 0

    def _box_mask(self, image_file: str, side: int) -> np.ndarray:
        x, y, w, h = self._boxes[self.image_file2image_id[image_file]]
        with Image.open(shards.opened(self.data_dir / "images" / image_file)) as image:
            width, height = image.size
        along = np.arange(side) + 0.5
        inside_x = (along >= x * side / width) & (along <= (x + w) * side / width)
        inside_y = (along >= y * side / height) & (along <= (y + h) * side / height)
        return inside_y[:, None] & inside_x[None]

    @cached_property
    def _boxes(self) -> dict[int, list[float]]:
        return read_table(self.data_dir / "bounding_boxes.txt")

    def get_pseudo_segment_mask(
        self, image_file: str, class_pair: Iterable[int], size: int = SIZE
    ) -> np.ndarray | None:
        """(size,size) uint8: 1 where the nearest part differs between the classes and the bird is.

        None where none of the differing parts is visible, or no part at all.
        """
        require_number(size, "size", 1)
        nearest = self._parts_of_bird(image_file, size)
        if nearest is None:
            return None
        first, second = class_pair
        differing = self.differing_parts(int(first), int(second))
        visible = self.visible_parts(image_file)
        if not differing & visible:
            return None
        lookup = np.zeros(8, np.uint8)
        lookup[list(differing)] = 1
        return lookup.take(nearest)

    def visible_parts(self, image_file: str) -> set[int]:
        """The parts (1 head .. 7 wing) with a visible keypoint."""
        seen = self.image_id2part_locs[self.image_file2image_id[image_file]]
        parts = set()
        for number, _, keypoints, _ in PARTS.values():
            if not seen.keys().isdisjoint(keypoints):
                parts.add(number)
        return parts


def _extent(mask: np.ndarray, over: int) -> slice:
    """From the first to the last row, or column with `over` 0, that a mask (h,w) bool touches.

    Empty where the mask is.
    """
    places = np.flatnonzero(mask.any(over))
    if not len(places):
        return slice(0, 0)
    return slice(int(places[0]), int(places[-1]) + 1)


def has_segmentations(data_dir: str | Path) -> bool:
    """Whether a CUB folder has any segmentation."""
    files = files_in_folders(Path(data_dir) / "segmentations")
    return any(is_picture(file) and file.suffix == ".png" for file in files)
