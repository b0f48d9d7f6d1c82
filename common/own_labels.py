"""What the columns of labels mean: one label, several, positives and negatives, candidates."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.own_data import NEGATIVE, POSITIVE, UNKNOWN, empty_matrix, from_candidates, one_hot
from common.own_names import tidy
from common.own_records import Record, several, single

SETS = ("labels", "positives", "negatives", "candidates")
COLUMNS = ("label", *SETS)


class Found(NamedTuple):
    """labels (N,) int64, matrix (N,C) int8, candidates (N,C) bool or None, lines to print."""

    labels: np.ndarray
    matrix: np.ndarray
    candidates: np.ndarray | None
    notes: list[str]


def names_in(record: Record) -> Iterator[str]:
    """The names of classes in all columns of a row."""
    name = tidy(single(record, "label"))
    if ";" in name:
        raise UserError(f"{record.where}: label holds several classes; call the column labels")
    if name:
        yield name
    for column in SETS:
        yield from map(tidy, several(record, column) or [])


def read_labels(
    records: Sequence[Record],
    columns: Sequence[str],
    classes: Sequence[str],
    source: Path,
) -> Found:
    """The labels of all rows, whose classes are all known.

    An empty `label` is an error where nothing else is known of the picture. An empty `labels` means
    none of the classes, beside a column `label`: not known. Empty `positives` and `negatives`:
    nothing is known. Empty `candidates` beside a label: that label alone.
    UserError names the row of what contradicts itself, and columns that do not go together.
    """
    has = set(columns)
    if "candidates" in has and has & {"labels", "positives", "negatives"}:
        raise UserError(f"{source}: candidates go with label only, not with labels or positives")
    if "labels" in has and has & {"positives", "negatives"}:
        raise UserError(f"{source}: either labels, or positives and negatives")

    number = {name: k for k, name in enumerate(classes)}
    labels = _one_each(records, number)
    if "candidates" in has:
        return _with_candidates(records, labels, number, source)
    if "labels" in has:
        return _with_sets(records, labels, number, source, "label" in has)
    if has & {"positives", "negatives"}:
        return _with_known(records, labels, number, source)

    for record, label in zip(records, labels.tolist(), strict=True):
        if label < 0:
            raise UserError(f"{record.where}: the label is empty; name a class, or drop the row")
    return Found(labels, one_hot(labels, len(classes), source), None, [])


def _one_each(records: Sequence[Record], number: dict[str, int]) -> np.ndarray:
    labels = np.full(len(records), -1, np.int64)
    for row, record in enumerate(records):
        name = tidy(single(record, "label"))
        if name:
            labels[row] = number[name]
    return labels


def _classes_of(record: Record, column: str, number: dict[str, int]) -> list[int] | None:
    """The numbers of the classes in a cell; None where a json has null or nothing there."""
    names = several(record, column)
    if names is None:
        return None
    return [number[tidy(name)] for name in names]


def _with_candidates(
    records: Sequence[Record], labels: np.ndarray, number: dict[str, int], source: Path
) -> Found:
    candidates = empty_matrix(len(records), len(number), source).astype(bool)
    for row, record in enumerate(records):
        chosen = _classes_of(record, "candidates", number)
        if not chosen and labels[row] < 0:
            raise UserError(f"{record.where}: neither candidates nor a label")
        candidates[row, chosen or [labels[row]]] = True

    notes = []
    known = np.flatnonzero(labels >= 0)
    outside = int((~candidates[known, labels[known]]).sum())
    if outside:
        count = f"{outside} of {len(records)} pictures"
        notes.append(f"{count} have a label that is none of their candidates")
    return Found(labels, from_candidates(labels, candidates, source), candidates, notes)


def _with_sets(
    records: Sequence[Record],
    labels: np.ndarray,
    number: dict[str, int],
    source: Path,
    has_label: bool,
) -> Found:
    matrix = empty_matrix(len(records), len(number), source)
    outside = 0
    empty = 0
    for row, record in enumerate(records):
        label = int(labels[row])
        chosen = _classes_of(record, "labels", number)
        if has_label and record.cells.get("labels") == "":
            chosen = None
        if chosen is None:
            if label < 0:
                raise UserError(f"{record.where}: neither label nor labels")
            matrix[row] = UNKNOWN
            matrix[row, label] = POSITIVE
            continue
        matrix[row, chosen] = POSITIVE
        empty += not chosen
        outside += label >= 0 and label not in chosen

    notes = []
    if empty:
        notes.append(f"{empty} of {len(records)} pictures show none of the classes")
    if outside:
        notes.append(f"{outside} of {len(records)} pictures have a label that is not in labels")
    return Found(labels, matrix, None, notes)


def _with_known(
    records: Sequence[Record], labels: np.ndarray, number: dict[str, int], source: Path
) -> Found:
    matrix = empty_matrix(len(records), len(number), source, UNKNOWN)
    for row, record in enumerate(records):
        positives = _classes_of(record, "positives", number) or []
        negatives = _classes_of(record, "negatives", number) or []
        if labels[row] >= 0:
            positives = [*positives, int(labels[row])]
        both = set(positives) & set(negatives)
        if both:
            name = list(number)[min(both)]
            raise UserError(f"{record.where}: the class {name!r} is both positive and negative")
        matrix[row, positives] = POSITIVE
        matrix[row, negatives] = NEGATIVE

    notes = []
    nothing = int((matrix == UNKNOWN).all(axis=1).sum())
    if nothing:
        notes.append(f"{nothing} of {len(records)} pictures have no known label")
    return Found(labels, matrix, None, notes)
