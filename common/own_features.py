"""Files of features: .npz, MATLAB's .mat in the layout of the partial-label sets, csv of numbers.

npz   x or features (n,d); y or labels (n,); candidates (n,C) 0/1; ids (n,); classes (C,); split
mat   data (n,d); partial_target and target (C,n) or (n,C), 0/1; or their other names
csv   columns of numbers, and label, candidates, split, id
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.own_csv import class_list, split_column
from common.own_data import Part, Table, from_candidates
from common.own_labels import COLUMNS as LABEL_COLUMNS
from common.own_labels import read_labels
from common.own_mat import read_matrices
from common.own_names import close_to, in_order, read_names, shown, tidy
from common.own_places import TRAIN_WORDS, VAL_WORDS
from common.own_records import Record, read_records, single
from common.text import decimal, require_file

# The names that a key may have, the first one first in messages.
FEATURES = ("x", "features", "data", "X")
LABELS = ("y", "labels", "label", "target", "logitlabels")
CANDIDATES = ("candidates", "partial_target", "p_labels", "partialY")
IDS = ("ids", "id")
CLASSES = ("classes", "class_names")
SPLIT = ("split",)
KNOWN = (*FEATURES, *LABELS, *CANDIDATES, *IDS, *CLASSES, *SPLIT)


def read_npz(path: Path, names_file: str | Path | None = None) -> Table:
    """Features and labels of an .npz; UserError names the key that does not fit."""
    try:
        with np.load(require_file(path), allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); write it with numpy.savez") from error
    return _table(path, content, names_file, is_transposed=False)


def read_mat(path: Path, names_file: str | Path | None = None) -> Table:
    """Features and labels of a .mat; label matrices stand there as (C,n), or as (n,C)."""
    content = {}
    for name, value in read_matrices(path).items():
        if value is not None and not name.startswith("__"):
            is_sparse = hasattr(value, "toarray")
            content[name] = value.toarray() if is_sparse else np.asarray(value)
    return _table(path, content, names_file, is_transposed=True)


def _table(
    path: Path,
    content: Mapping[str, np.ndarray],
    names_file: str | Path | None,
    *,
    is_transposed: bool,
) -> Table:
    notes = _unknown_keys(path, content)
    features = _features(path, content)
    rows = len(features)
    candidates = _found(content, CANDIDATES)
    target = _found(content, LABELS)
    if candidates is None and target is None:
        problem = f"{path}: neither labels nor candidates; the file holds {shown(sorted(content))}"
        raise UserError(f"{problem}; expected y or candidates beside x")

    is_first = is_transposed and _is_classes_first(target, candidates, rows)
    allowed = None
    if candidates is not None:
        allowed = _zero_one(path, "candidates", candidates, rows, is_first)
        if not allowed.any(axis=1).all():
            row = int(np.flatnonzero(~allowed.any(axis=1))[0])
            raise UserError(f"{path}: row {row} has no candidate")
    texts = _label_texts(path, target, rows, is_first)
    width = allowed.shape[1] if allowed is not None else _width(target, rows, is_first)
    classes = _class_names(path, content, names_file, texts, width)
    labels = _numbered(path, texts, classes)
    if allowed is None and (labels < 0).any():
        row = int(np.flatnonzero(labels < 0)[0])
        raise UserError(f"{path}: row {row} has no label, and there are no candidates")

    if allowed is not None:
        known = np.flatnonzero(labels >= 0)
        outside = int((~allowed[known, labels[known]]).sum())
        if outside:
            line = f"{outside} of {rows} rows have a label that is none of their candidates"
            notes.append(line)
        matrix = from_candidates(labels, allowed, path)
    else:
        everything = np.ones((rows, len(classes)), bool)
        matrix = from_candidates(labels, everything, path)
    part = Part(
        name="all",
        ids=_ids(path, content, rows),
        where=[f"{path}: row {row}" for row in range(rows)],
        paths=[],
        labels=labels,
        matrix=matrix,
        candidates=allowed,
        features=features,
    )
    return Table(classes, part, _splits(path, content, rows), is_single=True, notes=notes)


def _unknown_keys(path: Path, content: Mapping[str, Any]) -> list[str]:
    strange = [name for name in content if name not in KNOWN]
    absent = [name for name in KNOWN if name not in content and len(name) > 2]
    for name in strange:
        hint = close_to(name, absent)
        if hint:
            raise UserError(f"{path}: no key is called {name!r}{hint}")
    return [f"{path.name}: not read: {shown(strange)}"] if strange else []


def _found(content: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray | None:
    return next((content[name] for name in names if name in content), None)


def _features(path: Path, content: Mapping[str, np.ndarray]) -> np.ndarray:
    """(n,d) float32; UserError for what is no matrix of finite numbers."""
    found = _found(content, FEATURES)
    if found is None:
        names = shown(sorted(content)) or "nothing"
        raise UserError(f"{path}: no features; expected the key x (n,d), the file holds {names}")
    if found.ndim != 2 or found.size == 0 or found.dtype.kind not in "biuf":
        raise UserError(f"{path}: features are {found.dtype} {found.shape}, expected numbers (n,d)")
    limit = np.finfo(np.float32).max
    bad = np.argwhere(~(np.abs(found.astype(np.float64)) <= limit))  # NaN as well
    if len(bad):
        row, column = bad[0].tolist()
        problem = f"{path}: features: row {row}, column {column} holds {found[row, column]}"
        raise UserError(f"{problem}; expected finite numbers")
    return found.astype(np.float32)


def _is_classes_first(target: np.ndarray | None, candidates: np.ndarray | None, rows: int) -> bool:
    """Whether label matrices are (C,n): not where their first size alone is n.

    Where both sizes are n: unless one 1 stands in each row of the true labels, and not in each
    column.
    """
    matrix = target if target is not None else candidates
    if matrix is None or matrix.ndim != 2 or matrix.shape[1] != rows:
        return False
    if matrix.shape[0] != rows or target is None:
        return True
    one_a_row = bool(((matrix != 0).sum(axis=1) == 1).all())
    one_a_column = bool(((matrix != 0).sum(axis=0) == 1).all())
    return one_a_column or not one_a_row


def _zero_one(path: Path, name: str, matrix: np.ndarray, rows: int, is_first: bool) -> np.ndarray:
    """(n,C) bool of a matrix of 0 and 1, stored as (C,n) or (n,C)."""
    stored = matrix.T if is_first else matrix
    if stored.ndim != 2 or len(stored) != rows or stored.shape[1] == 0:
        raise UserError(f"{path}: {name} are {matrix.shape}, expected a row for each of {rows}")
    if stored.dtype.kind not in "biuf" or not np.isin(stored, (0, 1)).all():
        raise UserError(f"{path}: {name} hold other values than 0 and 1")
    return stored.astype(bool)


def _label_texts(path: Path, target: np.ndarray | None, rows: int, is_first: bool) -> list[str]:
    """The label of each row as a text, "" where it is not known; of numbers their digits."""
    if target is None:
        return [""] * rows
    is_column = target.ndim == 2 and 1 in target.shape and target.size == rows
    if is_column and not (target.dtype.kind in "biuf" and rows == 1):
        target = target.reshape(-1)
    if target.ndim == 2:
        one_hot = _zero_one(path, "labels", target, rows, is_first)
        counts = one_hot.sum(axis=1)
        if (counts > 1).any():
            row = int(np.flatnonzero(counts > 1)[0])
            raise UserError(f"{path}: row {row} has {counts[row]} true labels, expected one")
        numbers = np.where(counts == 1, one_hot.argmax(axis=1), -1)
        return [str(number) if number >= 0 else "" for number in numbers.tolist()]

    if target.shape != (rows,):
        raise UserError(f"{path}: labels are {target.shape}, expected one for each of {rows} rows")
    if target.dtype.kind == "U":
        return [tidy(name) for name in target.tolist()]
    if target.dtype.kind not in "biuf" or (target != np.floor(target)).any():
        raise UserError(f"{path}: labels are {target.dtype}, expected whole numbers or names")
    numbers = target.astype(np.int64)
    if (numbers < -1).any():
        row = int(np.flatnonzero(numbers < -1)[0])
        raise UserError(f"{path}: row {row} has the label {numbers[row]}; -1 means unknown")
    return [str(number) if number >= 0 else "" for number in numbers.tolist()]


def _width(target: np.ndarray | None, rows: int, is_first: bool) -> int | None:
    """How many classes a matrix of labels has; None for a list of labels."""
    if target is None or target.ndim != 2 or target.size == rows:
        return None
    return target.shape[0] if is_first else target.shape[1]


def _class_names(
    path: Path,
    content: Mapping[str, np.ndarray],
    names_file: str | Path | None,
    texts: list[str],
    width: int | None,
) -> list[str]:
    """The names of --classes or of the file; else the labels' own, or numbers from 0."""
    stored = _found(content, CLASSES)
    occurring = {text for text in texts if text}
    are_numbers = all(text.isdigit() for text in occurring)
    if names_file is not None:
        classes = read_names(names_file)
    elif stored is not None:
        classes = [tidy(str(name)) for name in stored.reshape(-1).tolist()]
    elif are_numbers:
        highest = max(map(int, occurring), default=-1)
        classes = [str(number) for number in range(width or highest + 1)]
    else:
        classes = in_order(occurring)
    if width is not None and len(classes) != width:
        found = f"{len(classes)} class names for {width} columns of labels"
        raise UserError(f"{path}: {found}; give as many, one a line, with --classes")
    if len(set(classes)) < len(classes):
        raise UserError(f"{path}: a class name stands there twice")
    return classes


def _numbered(path: Path, texts: list[str], classes: list[str]) -> np.ndarray:
    """Labels (n,) int64 by name; by number where they are no names, -1 for ""."""
    number = {name: k for k, name in enumerate(classes)}
    labels = np.full(len(texts), -1, np.int64)
    by_name = all(text in number for text in texts if text)
    for row, text in enumerate(texts):
        if not text:
            continue
        if by_name:
            labels[row] = number[text]
        elif text.isdigit() and int(text) < len(classes):
            labels[row] = int(text)
        else:
            problem = f"{path}: row {row}: the label {text!r} is none of {len(classes)} classes"
            raise UserError(f"{problem}{close_to(text, classes)}")
    return labels


def _ids(path: Path, content: Mapping[str, np.ndarray], rows: int) -> list[str]:
    found = _found(content, IDS)
    if found is None:
        return [f"row {row}" for row in range(rows)]
    ids = [str(name) for name in found.reshape(-1).tolist()]
    if len(ids) != rows:
        raise UserError(f"{path}: {len(ids)} ids for {rows} rows of features")
    _require_unique(path, ids)
    return ids


def _require_unique(path: Path, ids: list[str]) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if name in first:
            rows = f"rows {first[name]} and {row}"
            raise UserError(f"{path}: the id {name!r} stands there twice ({rows})")
        first[name] = row


def _splits(path: Path, content: Mapping[str, np.ndarray], rows: int) -> np.ndarray | None:
    found = _found(content, SPLIT)
    if found is None:
        return None
    words = [str(word).strip().lower() for word in found.reshape(-1).tolist()]
    if len(words) != rows:
        raise UserError(f"{path}: {len(words)} entries of split for {rows} rows of features")
    for row, word in enumerate(words):
        if word not in TRAIN_WORDS + VAL_WORDS:
            raise UserError(f"{path}: row {row}: split is {word!r}; expected train or val")
    parts = np.where(np.isin(words, TRAIN_WORDS), "train", "val")
    return parts if "val" in parts else None


# --- csv ---


def read_feature_csv(path: Path, names_file: str | Path | None = None) -> Table:
    """Features and labels of a csv: every column that is no label, split or id holds numbers.

    UserError names line and column of what is no number.
    """
    columns, records = read_records(path)
    meta = ("split", "id", "ids", *LABEL_COLUMNS)
    numeric = [name for name in columns if name not in meta]
    if not numeric or not records:
        raise UserError(f"{path}: no columns of numbers, or no rows, beside {shown(columns)}")
    if "" in numeric:
        raise UserError(f"{path}: line 1: a column without a name; give it one, or remove it")
    splits = None
    notes: list[str] = []
    if "split" in columns:
        splits, records, notes = split_column(records)

    features = np.empty((len(records), len(numeric)), np.float32)
    for row, record in enumerate(records):
        features[row] = _numbers(path, record, numeric, columns)
    classes = class_list(path, columns, records, names_file)
    found = read_labels(records, columns, classes, path)
    ids = [record.where.rpartition(": ")[2] for record in records]
    if "id" in columns:
        ids = [single(record, "id") for record in records]
        _require_unique(path, ids)
    part = Part(
        name="all",
        ids=ids,
        where=[record.where for record in records],
        paths=[],
        labels=found.labels,
        matrix=found.matrix,
        candidates=found.candidates,
        features=features,
    )
    is_single = "label" in columns or "candidates" in columns
    return Table(classes, part, splits, is_single, [*notes, *found.notes])


def _numbers(
    path: Path, record: Record, numeric: Sequence[str], columns: Sequence[str]
) -> list[float]:
    values = []
    for name in numeric:
        try:
            values.append(decimal(record.cells[name], f"{record.where}: {name}"))
        except UserError as error:
            absent = [known for known in ("path", *LABEL_COLUMNS) if known not in columns]
            hint = close_to(name, absent)
            advice = hint or "; a csv of pictures has a column path, one of features numbers alone"
            raise UserError(f"{error}{advice}") from error
    return values
