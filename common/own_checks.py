"""What is looked at before own data are used: twice, missing, unreadable, in both parts, too few.

What would make numbers wrong is refused in one line; what may be meant so is counted in one.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import shards
from common.errors import UserError
from common.images import check_images
from common.own_data import OwnData, Part, Table
from common.own_names import require_names, shown

LEAKS_UP_TO = 20_000  # files of equal size are read; more take longer than a start should


def require_files(table: Table) -> None:
    """UserError for a picture that is listed twice, and for missing ones: the first, how many."""
    first: dict[str, str] = {}
    missing = []
    for path, where in zip(table.rows.paths, table.rows.where, strict=True):
        place = os.path.abspath(path)  # noqa: PTH100 - links are pictures of their own
        if place in first:
            problem = f"{where}: {path} is listed twice, before at {first[place]}"
            raise UserError(f"{problem}; keep one of them")
        first[place] = where
        if not shards.is_there(path):
            missing.append((where, path))
    if missing:
        where, path = missing[0]
        count = f"{len(missing)} of {len(first)} pictures"
        problem = f"{where}: {str(path)!r} is not there ({count} are missing)"
        raise UserError(f"{problem}; complete them, or give their folder with --images")


def readable(part: Part, skip_corrupt: bool) -> tuple[Part, str | None]:
    """The part without pictures that cannot be read, and a line about them.

    CorruptImage names the first where they are not to be skipped.
    """
    if not part.paths:
        return part, None
    bad = check_images(part.paths, what=part.name, skip_corrupt=skip_corrupt)
    if len(bad) == 0:
        return part, None
    kept = np.delete(np.arange(len(part)), bad)
    names = shown([part.ids[row] for row in bad.tolist()])
    line = f"{part.name}: {len(bad)} of {len(part)} pictures cannot be read and are left out"
    return part.take(kept), f"{line}: {names}"


def require_classes(
    source: Path, classes: Sequence[str], train: Part, val: Part, *, is_single: bool
) -> list[str]:
    """Lines about classes that are rare or absent; UserError for what cannot be trained.

    That is: a part without pictures, one class alone where each picture has one, and a class of val
    that no training picture shows.
    """
    require_names(classes, source)
    for part in (train, val):
        if len(part) == 0:
            raise UserError(f"{source}: the {part.name} part is empty")
    if is_single and len(classes) < 2:
        problem = f"{source}: only one class, {shown(classes)}"
        raise UserError(f"{problem}; there is nothing to tell apart")

    in_train = count_positives(train)
    in_val = count_positives(val)
    may_be_in_train = in_train > 0
    if train.candidates is not None:
        may_be_in_train |= train.candidates.any(axis=0)
    is_lacking = (in_val > 0) & ~may_be_in_train
    if is_lacking.any():
        names = shown(_named(classes, is_lacking))
        first = int(np.flatnonzero(val.matrix[:, is_lacking.argmax()] == 1)[0])
        problem = f"{val.where[first]}: in val but not in train: {names}"
        raise UserError(f"{problem}; add training pictures of it, or leave it out of val")

    lines = []
    total = in_train + in_val
    singles = _named(classes, total == 1)
    if singles:
        line = f"{len(singles)} of {len(classes)} classes have one picture, which trains"
        lines.append(f"{line} and is never measured: {shown(singles)}")
    absent = _named(classes, (total == 0) & ~may_be_in_train)
    if absent:
        names = shown(absent)
        lines.append(f"{len(absent)} of {len(classes)} classes have no picture: {names}")
    return lines


def _named(classes: Sequence[str], chosen: np.ndarray) -> list[str]:
    """The names of the classes that a mask (C,) bool chooses."""
    return [classes[column] for column in np.flatnonzero(chosen).tolist()]


def count_positives(part: Part) -> np.ndarray:
    """(C,) int64: how many pictures show each class, as far as it is known."""
    return (part.matrix == 1).sum(axis=0)


def leaks(data: OwnData) -> str | None:
    """A line about pictures that lie in train and in val under two names; None without any.

    Files of equal size are compared by a hash of their bytes.
    """
    total = len(data.train.paths) + len(data.val.paths)
    if total > LEAKS_UP_TO:
        return f"{total} pictures: not looked for files that are in train and in val"
    by_size = defaultdict(list)
    for path, name in zip(data.train.paths, data.train.ids, strict=True):
        by_size[shards.size(path)].append((path, name))

    digests: dict[int, dict[str, str]] = {}
    pairs = []
    for path, name in zip(data.val.paths, data.val.ids, strict=True):
        size = shards.size(path)
        if size not in by_size:
            continue
        if size not in digests:
            digests[size] = {_digest(other): known for other, known in by_size[size]}
        twin = digests[size].get(_digest(path))
        if twin is not None:
            pairs.append(f"{name} = {twin}")
    if not pairs:
        return None
    line = f"warning: {len(pairs)} of {len(data.val)} val pictures are in train as well"
    return f"{line}, what is measured is too good: {shown(pairs)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(shards.content(path)).hexdigest()
