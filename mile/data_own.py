"""A user's own data, `--data PLACE`: which label a picture teaches, which sets it is scored on.

One label a picture is what MILe trains on: an annotator wrote down one of several. Where the data
name several, one of them is drawn, as in multi-label MNIST. A validation picture is scored on all
labels that are true of it, where these are known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import own
from common.aliases import one_module
from common.cli import UserError
from common.own_data import POSITIVE, UNKNOWN, OwnData, Part
from mile.data_folders import FolderSet, Samples, files_of
from mile.data_labels import labels_by_name

one_module(__name__, "mile.data_own")

DRAWN = 5  # marks the stream of random numbers that draws one of several labels


@dataclass(frozen=True)
class OwnPlace:
    """What the flags say of own data: --data, --images, --classes."""

    data: str
    images: str | None = None
    classes: str | None = None


def own_pictures(
    place: OwnPlace,
    *,
    real: Path | None,
    known: Sequence[str] | None,
    seed: int,
    skip_corrupt: bool,
    say: Callable[[str], object],
) -> FolderSet:
    """The pictures of a place, one label each, and the label set of each validation picture.

    Args:
        real: a file of the sets of validation pictures (see `labels_by_name`), or None.
        known: the classes of a trained network; data with some of them take its order.
        seed: of the val part, where none is named, and of the label drawn from several.
        say: is told what was found, what was drawn, what was left out.
    Raises:
        UserError: features in the place of pictures, candidates without a label, wrong files.
    """
    data = own.read_own(
        place.data,
        images=place.images,
        classes=place.classes,
        seed=seed,
        skip_corrupt=skip_corrupt,
    )
    own.require_pictures(data, "MILe")
    for line in own.data_lines(data):
        say(line)

    names, number = _in_order(data.classes, known)
    train_rows, train_labels = _one_label(data.train, seed, say)
    val_rows, val_labels = _one_label(data.val, seed, say)
    train = _samples(data.train, train_rows, train_labels, number)
    val = _samples(data.val, val_rows, val_labels, number)

    real = real or _beside(data)
    if real is None:
        sets = _sets(data.val, val_rows, val_labels, number, say)
    else:
        say(f"sets of the val part: {real}")
        sets = labels_by_name(files_of(val), real, names)
    return FolderSet(
        train,
        val,
        sets,
        names,
        _root(data),
        [],
        upright=data.train.upright,
        val_left_out=data.skipped["val"],
    )


def _in_order(classes: list[str], known: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    """The classes in a trained network's order where it knows all of them; and the new numbers."""
    names = classes
    if known is not None and set(classes) <= set(known):
        names = list(known)
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[name] for name in classes])


def _one_label(part: Part, seed: int, say: Callable[[str], object]) -> tuple[np.ndarray, list[int]]:
    """The rows that have a label, and it: the known one, else one drawn from the positives.

    A picture of which no class is known to be there is left out and counted.
    """
    if part.candidates is not None:
        unknown = np.flatnonzero(part.labels < 0)
        if len(unknown):
            where = part.where[int(unknown[0])]
            problem = f"{where}: candidates and no label ({len(unknown)} of {len(part)} pictures)"
            raise UserError(f"{problem}; MILe needs one label a picture, fill in the column label")

    generator = np.random.default_rng([seed, DRAWN])
    positives = [np.flatnonzero(row == POSITIVE) for row in part.matrix]
    rows = []
    labels = []
    drawn = 0
    for row, label in enumerate(part.labels.tolist()):
        if label < 0:
            there = positives[row]
            if not len(there):
                continue
            drawn += len(there) > 1
            label = int(generator.choice(there))
        rows.append(row)
        labels.append(label)

    if drawn:
        count = f"{part.name}: {drawn} of {len(part)} pictures have several labels and none is"
        rule = f"the main one; one of them is drawn for each (seed {seed}), as y"
        say(f"{count} {rule}")
    if len(rows) < len(part):
        count = f"{part.name}: {len(part) - len(rows)} of {len(part)} pictures"
        say(f"{count} show no class for sure and are left out")
    if not rows:
        raise UserError(f"the {part.name} part: no picture has a label that is known")
    return np.array(rows), labels


def _samples(part: Part, rows: np.ndarray, labels: list[int], number: np.ndarray) -> Samples:
    found = []
    for row, label in zip(rows.tolist(), labels, strict=True):
        found.append((str(part.paths[row]), int(number[label])))
    return found


def _sets(
    part: Part,
    rows: np.ndarray,
    labels: list[int],
    number: np.ndarray,
    say: Callable[[str], object],
) -> list[list[int]]:
    """What is true of each validation picture: its complete set.

    Where no picture's set is complete, the one label; where some are not, theirs are empty, which
    keeps them out of F1 and coverage.
    """
    matrix = part.matrix[rows]
    is_complete = (matrix != UNKNOWN).all(axis=1)
    if not is_complete.any():
        say("val: no picture's set is complete; the one label stands for it in F1 and coverage")
        return [[int(number[label])] for label in labels]
    if not is_complete.all():
        count = f"{int((~is_complete).sum())} of {len(rows)} pictures"
        say(f"val: the sets of {count} are not complete; they count in the accuracy only")
    sets = []
    for row, whole in zip(matrix, is_complete.tolist(), strict=True):
        chosen = number[row == POSITIVE] if whole else number[:0]
        sets.append(sorted(chosen.tolist()))
    return sets


def _beside(data: OwnData) -> Path | None:
    """The real.json beside train/ and val/ of class folders."""
    path = data.kind.path / "real.json"
    if data.kind.layout == "folders" and path.is_file():
        return path
    return None


def _root(data: OwnData) -> Path:
    """The folder below which exported label sets name the training pictures."""
    path = data.kind.path
    if path.is_file():
        return path.parent
    train = path / "train"
    return train if data.kind.layout == "folders" and train.is_dir() else path
