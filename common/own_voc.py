"""A VOC devkit of any class names: JPEGImages, Annotations, ImageSets, SegmentationClass."""

from itertools import chain
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from common import shards
from common.errors import UserError
from common.files import image_files, visible
from common.own_data import POSITIVE, Part, Table, empty_matrix
from common.own_masks import MaskFile, Shapes, pixel
from common.own_names import close_to, in_order, read_names, tidy
from common.text import numbered_lines, read_xml

LISTS = ("Main", "Segmentation", "Layout")  # the first with a list of the training part counts
NO_CLASS = ("background", "ignored", "void")  # in labelmap.txt


class Thing(NamedTuple):
    """An object of a picture: its class's name, whether it is difficult, x0 y0 x1 y1 or None."""

    name: str
    is_difficult: bool
    box: list[float] | None


def read_voc(root: Path, names_file: str | Path | None = None) -> Table:
    """The pictures of ImageSets' train and val, or all of JPEGImages where nothing is split.

    The classes are those of `names_file`, of labelmap.txt (as labelling programs export it), or all
    that occur, sorted, which is VOC's own order. The ids in masks count in that order, from 1.
    Boxes lose VOC's first pixel, which counts from 1. Without Annotations the masks tell the
    classes. UserError names the file that does not fit.
    """
    notes: list[str] = []
    pictures = _pictures(root, notes)
    ids, where, splits = _listed(root, pictures, notes)
    has_xml = (root / "Annotations").is_dir()
    things = [_things(root, name, has_xml) for name in ids]
    classes = _classes(root, things, names_file)
    masks = _masks(root, ids, len(classes))

    matrix = empty_matrix(len(ids), len(classes), root)
    difficult = np.zeros(matrix.shape, bool)
    number = {name: k for k, name in enumerate(classes)}
    boxes = []
    box_labels = []
    for row, found in enumerate(things):
        labels = [number[thing.name] for thing in found]
        matrix[row, labels] = POSITIVE
        difficult[row, labels] = True
        difficult[row, [number[thing.name] for thing in found if not thing.is_difficult]] = False
        with_box = [thing for thing in found if thing.box is not None]
        boxes.append(np.array([thing.box for thing in with_box], np.float32).reshape(-1, 4))
        box_labels.append(np.array([number[thing.name] for thing in with_box], np.int64))
    if not has_xml:
        _from_masks(matrix, masks)
        difficult[:] = False
    part = Part(
        name="all",
        ids=ids,
        where=where,
        paths=[pictures.get(name, root / "JPEGImages" / f"{name}.jpg") for name in ids],
        labels=np.full(len(ids), -1, np.int64),
        matrix=matrix,
        difficult=difficult if has_xml else None,
        boxes=boxes if has_xml else None,
        box_labels=box_labels if has_xml else None,
        masks=masks if any(masks) else None,
    )
    return Table(classes, part, splits, is_single=False, notes=notes)


def _pictures(root: Path, notes: list[str]) -> dict[str, Path]:
    """The pictures of JPEGImages by name without suffix."""
    folder = root / "JPEGImages"
    found: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in found:
            raise UserError(f"{path}: {found[path.stem].name} has the same name; rename one")
        found[path.stem] = path
    others = len(visible(folder)) - len(found)
    if others:
        notes.append(f"{others} files in JPEGImages are no pictures and are left alone")
    return found


def _listed(
    root: Path, pictures: dict[str, Path], notes: list[str]
) -> tuple[list[str], list[str], np.ndarray | None]:
    """Names, places for messages, and the part of each picture (None where nothing is split)."""
    lists = [root / "ImageSets" / name for name in LISTS]
    folder = next((path for path in lists if (path / "train.txt").is_file()), None)
    if folder is None:
        annotated = [name for name in pictures if _is_labelled(root, name)]
        left = len(pictures) - len(annotated)
        if left:
            notes.append(f"{left} pictures without annotation are left alone")
        return annotated, [str(pictures[name]) for name in annotated], None

    ids: list[str] = []
    where: list[str] = []
    parts: list[str] = []
    for part in ("train", "val"):
        path = folder / f"{part}.txt"
        if not path.is_file():
            continue
        for line, name in numbered_lines(path):
            ids.append(name)
            where.append(f"{path}: line {line}")
            parts.append(part)
    left = len(set(pictures) - set(ids))
    if left:
        notes.append(f"{left} pictures are in neither list of {folder.name} and are left alone")
    return ids, where, np.array(parts) if "val" in parts else None


def _is_labelled(root: Path, name: str) -> bool:
    places = (root / "Annotations" / f"{name}.xml", root / "SegmentationClass" / f"{name}.png")
    return any(map(shards.is_there, places))


def _things(root: Path, name: str, has_xml: bool) -> list[Thing]:
    if not has_xml:
        return []
    path = root / "Annotations" / f"{name}.xml"
    found = []
    for item in read_xml(path).findall("object"):
        label = tidy(item.findtext("name") or "")
        if not label:
            raise UserError(f"{path}: an object without a name")
        is_difficult = (item.findtext("difficult") or "0").strip() == "1"
        found.append(Thing(label, is_difficult, _box(item, path)))
    return found


def _box(item: Element, path: Path) -> list[float] | None:
    """x0 y0 x1 y1 from 0, the end outside; None without a box, or where it has no area."""
    box = item.find("bndbox")
    if box is None:
        return None
    x0, y0, x1, y1 = (
        pixel((box.findtext(tag) or "").strip(), f"{path}: {tag}")
        for tag in ("xmin", "ymin", "xmax", "ymax")
    )
    if x1 <= x0 or y1 <= y0:
        return None
    return [x0 - 1, y0 - 1, x1, y1]


def _classes(root: Path, things: list[list[Thing]], names_file: str | Path | None) -> list[str]:
    occurring = {thing.name for thing in chain.from_iterable(things)}
    label_map = root / "labelmap.txt"
    if names_file is None and not label_map.is_file():
        if not occurring:
            problem = f"{root}: no object tells a class"
            raise UserError(f"{problem}; give the classes of the masks with --classes FILE")
        return in_order(occurring)

    source: str | Path = label_map
    if names_file is not None:
        source = names_file
        classes = read_names(names_file)
    else:
        rows = [line for _, line in numbered_lines(label_map) if not line.startswith("#")]
        classes = [tidy(line.split(":")[0]) for line in rows]
        classes = [name for name in classes if name.lower() not in NO_CLASS]
    for name in sorted(occurring):
        if name not in classes:
            problem = f"{root}: the class {name!r} is not in {source}"
            raise UserError(f"{problem}{close_to(name, classes)}")
    return classes


def _masks(root: Path, ids: list[str], classes: int) -> list[MaskFile | Shapes | None]:
    folder = root / "SegmentationClass"
    found: list[MaskFile | Shapes | None] = []
    for name in ids:
        path = folder / f"{name}.png"
        found.append(MaskFile(path, None, classes) if shards.is_there(path) else None)
    return found


def _from_masks(matrix: np.ndarray, masks: list[MaskFile | Shapes | None]) -> None:
    """Enter the classes that the masks show."""
    for row, mask in enumerate(masks):
        if mask is not None:
            ids = np.unique(mask.read())
            matrix[row, ids[ids > 0] - 1] = POSITIVE
