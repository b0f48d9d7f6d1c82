"""A csv of pictures and labels, or a json of such records.

    path,split,label                         one label
    path,split,labels                        several, `;` between them, the rest negative
    path,split,positives,negatives           the rest unknown
    path,split,candidates,label              the label is one of them; known or empty

A json holds the same as a list of objects, with lists in the place of `;`, or as one object of
names and labels: {"a.jpg": ["cat", "dog"]}. Further columns: `boxes` ("x0 y0 x1 y1", several with
`;`) and `mask` (a picture file), of the object that `label` names.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import shards
from common.errors import UserError
from common.own_data import Part, Table
from common.own_labels import COLUMNS as LABEL_COLUMNS
from common.own_labels import names_in, read_labels
from common.own_masks import MaskFile, Shapes, pixel
from common.own_names import close_to, counted, in_order, read_names, shown, tidy
from common.own_places import TRAIN_WORDS, VAL_WORDS
from common.own_records import Record, read_json_records, read_records, several, single
from common.text import expanded

COLUMNS = ("path", "split", *LABEL_COLUMNS, "boxes", "mask")
TEST_WORDS = ("test", "testing")  # val where nothing else is


def read_table(
    path: Path,
    *,
    is_json: bool = False,
    images: str | Path | None = None,
    names_file: str | Path | None = None,
) -> Table:
    """The pictures and labels of a csv or json; see the head of this file.

    Args:
        images: the folder of the pictures, default: that of the file. Absolute paths and `..` are
            taken as they are: it is the user's own list, and nothing is written there.
        names_file: the classes and their order; default: those of the file, sorted.
    Raises:
        UserError: names the line of a row that does not fit.
    """
    columns, records = read_json_records(path) if is_json else read_records(path)
    if "path" not in columns:
        names = shown([name for name in columns if name])
        problem = f"{path}: line 1: no column is called 'path', there are: {names}"
        raise UserError(f"{problem}; write path,label (or labels, positives, candidates)")
    notes = require_columns(path, columns, COLUMNS)
    if not records:
        raise UserError(f"{path}: holds no rows below its header")

    splits = None
    if "split" in columns:
        splits, records, left = split_column(records)
        notes += left
    classes = class_list(path, columns, records, names_file)
    found = read_labels(records, columns, classes, path)
    notes += found.notes

    folder = expanded(images) if images is not None else path.parent
    boxes = _boxes(records, found.labels) if "boxes" in columns else None
    box_labels = None
    if boxes is not None:
        pairs = zip(found.labels.tolist(), boxes, strict=True)
        box_labels = [np.full(len(box), label, np.int64) for label, box in pairs]
    masks = None
    if "mask" in columns:
        masks = _masks(records, found.labels, folder, len(classes))
    part = Part(
        name="all",
        ids=[_id(folder, _required_path(record)) for record in records],
        where=[record.where for record in records],
        paths=[_placed(folder, _required_path(record)) for record in records],
        labels=found.labels,
        matrix=found.matrix,
        candidates=found.candidates,
        boxes=boxes,
        box_labels=box_labels,
        masks=masks,
    )
    is_single = "label" in columns or "candidates" in columns
    return Table(classes, part, splits, is_single, notes)


def require_columns(path: Path, columns: Sequence[str], known: Sequence[str]) -> list[str]:
    """A line about columns that are not read; UserError for one that looks misspelt."""
    strange = [name for name in columns if name not in known]
    absent = [name for name in known if name not in columns]
    for name in strange:
        hint = close_to(name, absent) if name else ""
        if hint:
            raise UserError(f"{path}: line 1: no column is called {name!r}{hint}")
    if not strange:
        return []
    names = shown([name or "(no name)" for name in strange])
    return [f"{path.name}: {counted(len(strange), 'column')} not read: {names}"]


def class_list(
    path: Path,
    columns: Sequence[str],
    records: Sequence[Record],
    names_file: str | Path | None,
) -> list[str]:
    """The classes of --classes, or all that the rows name; UserError for a row's unknown class."""
    if not any(name in LABEL_COLUMNS for name in columns):
        expected = "label, labels, positives, negatives or candidates"
        raise UserError(f"{path}: line 1: no column of labels; expected {expected}")
    if names_file is None:
        names: set[str] = set()
        for record in records:
            names.update(names_in(record))
        if not names:
            raise UserError(f"{path}: no row names a class")
        return in_order(names)

    classes = read_names(names_file)
    known = set(classes)
    for record in records:
        for name in names_in(record):
            if name not in known:
                problem = f"{record.where}: the class {name!r} is not in {names_file}"
                raise UserError(f"{problem}{close_to(name, classes)}")
    return classes


def split_column(
    records: Sequence[Record],
) -> tuple[np.ndarray | None, list[Record], list[str]]:
    """The parts (N,) "train" or "val" of the rows that are kept, these rows, and lines.

    Rows of a test part are left alone where there is a val part as well. None in the place of the
    parts where no row names one, or all are for training. UserError names the line of another word.
    """
    words = [tidy(single(record, "split")).lower() for record in records]
    notes: list[str] = []
    if not any(words):
        return None, list(records), ["the column split is empty"]
    for record, word in zip(records, words, strict=True):
        if word not in TRAIN_WORDS + VAL_WORDS:
            raise UserError(f"{record.where}: split is {word!r}; expected train, val or test")

    has_val = any(word in VAL_WORDS and word not in TEST_WORDS for word in words)
    parts = []
    kept = []
    for record, word in zip(records, words, strict=True):
        if has_val and word in TEST_WORDS:
            continue
        parts.append("train" if word in TRAIN_WORDS else "val")
        kept.append(record)
    left = len(records) - len(kept)
    if left:
        notes.append(f"{counted(left, 'row')} of the test part, left alone")
    if "val" not in parts:
        return None, kept, [*notes, "the column split names no val part"]
    return np.array(parts), kept, notes


# --- pictures, boxes, masks ---


def _required_path(record: Record) -> str:
    text = single(record, "path")
    if not text:
        raise UserError(f"{record.where}: the path is empty")
    return text


def _placed(folder: Path, text: str) -> Path:
    """A file below the folder, or where an absolute path points; `\\` of Windows as `/`."""
    path = folder / text
    if "\\" in text and not shards.is_there(path):
        return folder / text.replace("\\", "/")
    return path


def _id(folder: Path, text: str) -> str:
    """The path as it stands there, below the folder from the folder on: the same elsewhere."""
    path = Path(text)
    if path.is_absolute() and path.is_relative_to(folder.absolute()):
        path = path.relative_to(folder.absolute())
    return path.as_posix()


def _boxes(records: Sequence[Record], labels: np.ndarray) -> list[np.ndarray]:
    """N arrays (n,4) float32; UserError names the row of a box that is none or has no label."""
    found = []
    for record, label in zip(records, labels.tolist(), strict=True):
        boxes = [_box(record, item) for item in several(record, "boxes", nested=True) or []]
        if boxes and label < 0:
            raise UserError(f"{record.where}: boxes without a label; name the class in label")
        found.append(np.array(boxes, np.float32).reshape(-1, 4))
    return found


def _box(record: Record, item: object) -> list[float]:
    numbers = item if isinstance(item, list) else str(item).split()
    box = [pixel(number, f"{record.where}: boxes") for number in numbers]
    if len(box) != 4 or box[2] <= box[0] or box[3] <= box[1]:
        raise UserError(f"{record.where}: boxes: {item!r} is not x0 y0 x1 y1 with an area")
    return box


def _masks(
    records: Sequence[Record], labels: np.ndarray, folder: Path, classes: int
) -> list[MaskFile | Shapes | None]:
    """A mask for each row that names one; UserError for one that is not there or has no label."""
    found: list[MaskFile | Shapes | None] = []
    for record, label in zip(records, labels.tolist(), strict=True):
        text = single(record, "mask")
        if not text:
            found.append(None)
            continue
        path = _placed(folder, text)
        if label < 0:
            raise UserError(f"{record.where}: a mask without a label; name the class in label")
        if not shards.is_there(path):
            raise UserError(f"{record.where}: the mask {str(path)!r} is not there")
        found.append(MaskFile(path, label, classes))
    return found
