"""Read lists with a record a line.

Each field has a type, and errors name file, line and content.

The metadata of a split is a folder of lists: image_ids.txt (one id per line), class_labels.txt
(id,label from 0), image_sizes.txt (id,W,H), localization.txt (id,x0,y0,x1,y1 or, OpenImages,
id,mask,ignore), perhaps image_ids_proxy.txt.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from common.aliases import one_module
from common.cli import UserError
from common.text import inside, read_text

one_module(__name__, "calm.data_lists")

SPLITS = ("train", "val", "test")


class ById(dict):
    """What a list says of each image id.

    UserError names the list where it has no line of an id.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = str(path)

    def __missing__(self, image_id: object) -> NoReturn:
        raise UserError(f"{self.path}: no line of {image_id!r}")


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN; ValueError otherwise."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def integral(text: str) -> int:
    """A whole number, also one that is written as 12.0 or 1.2e+01; ValueError otherwise."""
    value = finite(text)
    if value != int(value):
        raise ValueError(f"{text} is not whole")
    return int(value)


def read_lines(path: str | Path, remedy: str = "") -> list[str]:
    """Return the lines of a UTF-8 file.

    UserError where it cannot be read, with the line that is no text.
    """
    try:
        return read_text(path).removesuffix("\n").split("\n")
    except UserError as error:
        raise UserError(f"{error}; {remedy}" if remedy else str(error)) from error


def check_name(name: str, where: str) -> str:
    """Return the same name of a file below a data set's folder.

    UserError where it may lead out of that (`inside`).

    Lists have a million names: the full check is for those that hold something unusual.
    """
    parts = name.split("/")
    if (
        ".." in parts
        or "" in parts
        or "." in parts
        or "\\" in name
        or "\0" in name
        or not name.isprintable()
    ):
        inside("", name, where)
    return name


def read_rows(
    path: str | Path,
    kinds: Sequence[Callable[[str], Any]],
    what: str,
    *,
    comma: bool = False,
    remedy: str = "",
) -> Iterator[tuple[int, list[Any]]]:
    """Line number and fields, one of each of `kinds`, of every line with text.

    Fields end at white space, and the last one may hold more of it; with `comma` at commas, and the
    first may hold more of them. UserError says FILE:LINE: CONTENT is not `what` where their number
    or a field is wrong.
    """
    for number, line in enumerate(read_lines(path, remedy), 1):
        text = line.strip()
        if not text:
            continue
        if comma:
            parts = text.rsplit(",", len(kinds) - 1)
        else:
            parts = text.split(None, len(kinds) - 1)
        try:
            row = [kind(part) for kind, part in zip(kinds, parts, strict=True)]
        except ValueError as error:
            shown = text if len(text) < 80 else f"{text[:77]}..."
            raise UserError(f"{path}:{number}: {shown!r} is not {what}") from error
        yield number, row


# ---- the metadata of a split ---------------------------------------------------------


class Attributes(dict):
    """A dict whose entries are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def configure_metadata(root: str | Path) -> Attributes:
    """The paths of the lists in the folder `root`, as attributes and as items."""
    names = ("image_ids", "image_ids_proxy", "class_labels", "image_sizes", "localization")
    return Attributes({name: str(Path(root) / f"{name}.txt") for name in names})


_rows = partial(read_rows, comma=True, remedy="build it with calm/prepare_metadata.py")


def get_image_ids(metadata: Mapping[str, str], proxy: bool = False) -> list[str]:
    """Return the ids of a split in file order.

    UserError for an id that stands there twice, or leads out of a folder.
    """
    path = metadata["image_ids_proxy" if proxy else "image_ids"]
    seen: dict[str, int] = {}
    for number, (image_id,) in _rows(path, (str,), "an id"):
        if image_id in seen:
            raise UserError(
                f"{path}:{number}: {image_id!r} stands already in line {seen[image_id]}"
            )
        seen[check_name(image_id, f"{path}: line {number}")] = number
    return list(seen)


def get_class_labels(metadata: Mapping[str, str]) -> dict[str, int]:
    """id -> label, from 0."""
    path = metadata["class_labels"]
    labels = ById(path)
    for number, (image_id, label) in _rows(path, (str, int), "id,label"):
        if image_id in labels:
            raise UserError(f"{path}:{number}: {image_id!r} has a label already")
        labels[image_id] = label
    return labels


def get_image_sizes(metadata: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """id -> (W, H); UserError for an id that stands there twice, or a side of no pixel."""
    sizes = ById(metadata["image_sizes"])
    for number, (image_id, *size) in _rows(sizes.path, (str, integral, integral), "id,W,H"):
        if image_id in sizes:
            raise UserError(f"{sizes.path}:{number}: {image_id!r} has a size already")
        if min(size) < 1:
            raise UserError(f"{sizes.path}:{number}: {image_id!r} is {size[0]} x {size[1]} pixels")
        sizes[image_id] = tuple(size)
    return sizes


def get_bounding_boxes(metadata: Mapping[str, str]) -> dict[str, list[tuple[int, int, int, int]]]:
    """Return the boxes of each image: id -> list of (x0, y0, x1, y1).

    UserError for a box that ends before it begins, or outside.
    """
    boxes = ById(metadata["localization"])
    for number, (image_id, *box) in _rows(boxes.path, (str, *(integral,) * 4), "id,x0,y0,x1,y1"):
        x0, y0, x1, y1 = box
        if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
            raise UserError(
                f"{boxes.path}:{number}: {x0},{y0},{x1},{y1} is no box; "
                "expected 0 <= x0 <= x1, y likewise"
            )
        boxes.setdefault(image_id, []).append((x0, y0, x1, y1))
    return boxes


def get_mask_paths(metadata: Mapping[str, str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the mask paths of each image id, and the ignore path of each.

    An ignore path may be empty: there is none; only the first line of an id carries one.
    """
    masks = ById(metadata["localization"])
    ignore = ById(metadata["localization"])
    for number, (image_id, mask, ignore_path) in _rows(
        masks.path, (str, str, str), "id,mask,ignore"
    ):
        where = f"{masks.path}: line {number}"
        for name in (mask, ignore_path):
            if name:
                check_name(name, where)
        masks.setdefault(image_id, []).append(mask)
        ignore.setdefault(image_id, ignore_path)
    return masks, ignore


def line_of(path: str, image_id: str) -> str:
    """FILE:LINE: 'CONTENT' of the first line of an id; without the line where it has none."""
    for number, text in enumerate(read_lines(path), 1):
        line = text.strip()
        if line == image_id or line.startswith(f"{image_id},"):
            return f"{path}:{number}: {line!r}"
    return f"{path}: {image_id!r}"
