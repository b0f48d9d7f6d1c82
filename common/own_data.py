"""What a reader of own data hands out: classes, and pictures and labels of train and val."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.own_masks import MaskFile, Shapes
from common.own_places import Kind

POSITIVE, NEGATIVE, UNKNOWN = 1, 0, -1
LARGEST = 4 << 30  # bytes of a matrix of labels


@dataclass(frozen=True)
class Part:
    """N pictures, or N rows of features, and what is known of them; C classes.

    ids: N texts, each once in the whole data: the path as the data name it, or a row's number.
    where: N places for messages, "labels.csv: line 3".
    paths: N pictures; empty for features.
    labels: (N,) int64, the one label of a picture; -1 where it is not known or there is none.
    matrix: (N,C) int8: 1 positive, 0 negative, -1 unknown.
    candidates: (N,C) bool, the true label is one of them; None where the data have no candidates.
    difficult: (N,C) bool, a positive class of which VOC marks every object as difficult; or None.
    features: (N,D) float32; None for pictures.
    boxes: N arrays (n,4) float32, x0 y0 x1 y1 in pixels from 0, x1 and y1 outside; or None.
    box_labels: N arrays (n,) int64, the classes of the boxes; or None.
    masks: N masks or Nones, see `mask`; or None.
    """

    name: str
    ids: list[str]
    where: list[str]
    paths: list[Path]
    labels: np.ndarray
    matrix: np.ndarray
    candidates: np.ndarray | None = None
    difficult: np.ndarray | None = None
    features: np.ndarray | None = None
    boxes: list[np.ndarray] | None = None
    box_labels: list[np.ndarray] | None = None
    masks: list[MaskFile | Shapes | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def upright(self) -> bool:
        """What `read_image(path, upright=...)` takes: boxes and masks lie in the stored frame."""
        return self.boxes is None and self.masks is None

    def mask(self, row: int) -> np.ndarray | None:
        """(H,W) int16 of a picture: 0 background, k + 1 class k, -1 void; None without a mask."""
        found = self.masks[row] if self.masks is not None else None
        return found.read() if found is not None else None

    def take(self, rows: Sequence[int] | np.ndarray, name: str | None = None) -> "Part":
        """The rows of these numbers, in their order, or of a mask (N,) bool, as another part."""
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        taken: dict[str, object] = {"name": name or self.name}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, np.ndarray):
                taken[one.name] = value[chosen]
            elif isinstance(value, list) and value:
                taken[one.name] = [value[row] for row in chosen.tolist()]
        return replace(self, **taken)  # type: ignore[arg-type]


@dataclass(frozen=True)
class OwnData:
    """A user's data: classes, a training part, a validation part.

    is_single: at most one label a picture, as the data say it (`label`, candidates, class folders).
    how_split: how train and val came about, in a few words.
    notes: lines about what was counted or left out, for the first lines of a run.
    skipped: pictures that cannot be read and were left out, by part.
    """

    kind: Kind
    classes: list[str]
    train: Part
    val: Part
    is_single: bool
    how_split: str
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def has_labels(self) -> bool:
        """Whether the one true label of every val picture is known: accuracy can be measured."""
        return bool((self.val.labels >= 0).all())

    @property
    def is_complete(self) -> bool:
        """Whether every class of every val picture is known to be there or not."""
        return bool((self.val.matrix != UNKNOWN).all())


@dataclass
class Table:
    """What a reader found: all rows in one part, and the part that the data name for each.

    splits: (N,) texts "train", "val"; None where nothing is split.
    """

    classes: list[str]
    rows: Part
    splits: np.ndarray | None
    is_single: bool
    notes: list[str] = field(default_factory=list)


def empty_matrix(rows: int, classes: int, where: object, value: int = NEGATIVE) -> np.ndarray:
    """(rows, classes) int8 of one value; UserError for more than memory is likely to hold."""
    if rows * classes > LARGEST:
        size = f"{rows} pictures x {classes} classes"
        raise UserError(f"{where}: {size} are too many for one matrix of labels; use fewer classes")
    return np.full((rows, classes), value, np.int8)


def one_hot(labels: np.ndarray, classes: int, where: object) -> np.ndarray:
    """(N,C) int8: 1 at the label, 0 elsewhere; a row of -1 where the label is -1."""
    matrix = empty_matrix(len(labels), classes, where)
    known = np.flatnonzero(labels >= 0)
    matrix[known, labels[known]] = POSITIVE
    matrix[labels < 0] = UNKNOWN
    return matrix


def from_candidates(labels: np.ndarray, candidates: np.ndarray, where: object) -> np.ndarray:
    """(N,C) int8: as `one_hot`; without a label the candidates are unknown, the rest negative."""
    matrix = one_hot(labels, candidates.shape[1], where)
    unlabelled = labels < 0
    matrix[unlabelled] = np.where(candidates[unlabelled], UNKNOWN, NEGATIVE)
    return matrix
