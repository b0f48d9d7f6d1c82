"""What is told about own data in the first lines of a run: what it is, and how unequal it is."""

import numpy as np

from common.own_checks import count_positives
from common.own_data import POSITIVE, UNKNOWN, OwnData, Part
from common.own_names import counted, printable, shown

UNEQUAL = 10  # times as many pictures; from there on the line begins with a warning


def describe(data: OwnData) -> str:
    """One line: what was recognised, how many pictures, classes, which labels, which split."""
    thing = "picture" if data.train.features is None else "row"
    total = counted(len(data.train) + len(data.val), thing)
    split = f"{len(data.train)} train, {len(data.val)} val: {data.how_split}"
    labels = _labels_of(data)
    place = printable(data.kind.describe())
    return f"own data: {place}: {total} ({split}), {data.num_classes} classes, {labels}"


def _labels_of(data: OwnData) -> str:
    train = data.train
    if train.candidates is not None:
        said = "candidates"
    elif data.is_single:
        said = "one label each"
    elif (train.matrix == UNKNOWN).any():
        said = "positives, negatives and unknown"
    else:
        said = "several labels each"
    if train.boxes is not None:
        said += ", boxes"
    if train.masks is not None:
        said += ", masks"
    return said


def class_counts(data: OwnData) -> list[str]:
    """Lines about the training part, and about val what is not known there.

    How many pictures the rarest and the most frequent class have and their ratio, the shares of
    positive, negative and unknown labels, the number of candidates.
    """
    lines = [_imbalance(data)]
    for part in (data.train, data.val):
        lines += _unknown(part)
    return lines


def _imbalance(data: OwnData) -> str:
    counts = count_positives(data.train)
    if data.train.candidates is not None:
        counts = data.train.candidates.sum(axis=0)
    rarest = int(counts.argmin())
    commonest = int(counts.argmax())
    smallest = int(counts[rarest])
    largest = int(counts[commonest])
    thing = "picture" if data.train.features is None else "row"
    least = counted(smallest, thing)
    if data.train.candidates is not None:
        least += " as a candidate"
    if smallest == largest:
        return f"train: every class has {least}"
    ratio = f"{largest / smallest:.1f} times as many" if smallest else "one has none"
    line = (
        f"train: the rarest class {data.classes[rarest]!r} has {least}, "
        f"the commonest {data.classes[commonest]!r} {largest} ({ratio})"
    )
    none = [data.classes[column] for column in np.flatnonzero(counts == 0)]
    if none:
        line += f"; without any: {shown(none)}"
    if largest >= UNEQUAL * max(smallest, 1):
        line = f"warning: classes are unequal; {line}"
    return line


def _unknown(part: Part) -> list[str]:
    lines = []
    if part.candidates is not None:
        mean = part.candidates.sum(axis=1).mean()
        classes = part.candidates.shape[1]
        without = int((part.labels < 0).sum())
        line = f"{part.name}: {mean:.2f} of {classes} classes are candidates of a picture"
        lines.append(f"{line}, {without} of {len(part)} have no true label")
    elif (part.matrix == UNKNOWN).any():
        total = part.matrix.size
        positive = (part.matrix == POSITIVE).sum() / total
        unknown = (part.matrix == UNKNOWN).sum() / total
        negative = 1 - positive - unknown
        shares = f"{positive:.1%} positive, {negative:.1%} negative, {unknown:.1%} unknown"
        lines.append(f"{part.name}: of {total} labels {shares}")
    return lines
