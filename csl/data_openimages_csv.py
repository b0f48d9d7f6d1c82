"""Open Images' labels as compressed rows: `read_openimages_csv`.

Forms: the authors' csv by position (path, positives, negatives, split; or path, positives, split)
with Python-style lists, and Google's long form (ImageID,Source,LabelName,Confidence), one row a
label.

An image that stands twice in a split is refused: two items of one picture would have different
labels. Labels that are both positive and negative of one image count as positive, and are told.
"""

import ast
import glob
import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from common import checkpoint
from common.aliases import one_module
from common.cli import DomainError, UserError
from common.kept import key_of, one_at_a_time
from common.text import csv_rows
from csl.data_classes import places_of
from csl.data_errors import MissingFileError, as_domain_errors

one_module(__name__, "csl.data_openimages_csv")

LONG_HEADER = ["ImageID", "Source", "LabelName", "Confidence"]
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
FORMS = "path,[positives],[negatives],split or path,[labels],split with split train, val or test"
LONG_FOLDERS = ("", "train", "validation", "test")
DESCRIPTIONS = ("oidv6-class-descriptions", "class-descriptions")
KEY = 16  # characters in the name of the cache
WAITED_FOR = 2**20  # bytes of a csv from which on one process parses it for all
FORMAT = 3  # of the cache; another number where a file is read in another way


@dataclass
class OpenImagesIndex:
    """Labels of N images over C classes.

    Row i holds the classes indices[indptr[i]:indptr[i + 1]], int32.
    """

    paths: list[str]
    classes: list[str]
    positive_indptr: np.ndarray
    positive_indices: np.ndarray
    negative_indptr: np.ndarray
    negative_indices: np.ndarray
    dropped: int = 0  # labels outside `classes`
    conflicts: int = 0  # labels that are positive and negative of one image
    source: Path | None = None  # the file that the labels are of

    def __len__(self) -> int:
        return len(self.paths)

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The positive and the negative classes of image i."""
        return (
            self.positive_indices[self.positive_indptr[i] : self.positive_indptr[i + 1]],
            self.negative_indices[self.negative_indptr[i] : self.negative_indptr[i + 1]],
        )

    def classes_with(self, label: int) -> set[int]:
        """The classes for which some image has the label 1, or 0."""
        indices = self.negative_indices
        if label == 1:
            indices = self.positive_indices
        return set(np.unique(indices).tolist())

    def is_partial(self) -> bool:
        """Whether some label is un-annotated."""
        labels = len(self.positive_indices) + len(self.negative_indices)
        if labels < len(self) * len(self.classes):
            return True
        return any((self.rows([image]) == -1).any() for image in range(len(self)))

    def take(self, rows: np.ndarray) -> "OpenImagesIndex":
        """The index of some images."""
        positive = _take(self.positive_indptr, self.positive_indices, rows)
        negative = _take(self.negative_indptr, self.negative_indices, rows)
        return OpenImagesIndex(
            [self.paths[i] for i in rows],
            self.classes,
            positive_indptr=positive[0],
            positive_indices=positive[1],
            negative_indptr=negative[0],
            negative_indices=negative[1],
            dropped=self.dropped,
            conflicts=self.conflicts,
            source=self.source,
        )

    def target(self, i: int) -> torch.Tensor:
        """(C,) int64: -1, negatives 0, positives 1 (positive wins)."""
        return torch.from_numpy(self.rows([i])[0]).long()

    def rows(self, indices: Iterable[int]) -> np.ndarray:
        """Targets of several images, (B,C) int8."""
        indices = list(indices)
        out = np.full((len(indices), len(self.classes)), -1, np.int8)
        for k, i in enumerate(indices):
            positive, negative = self.row(i)
            out[k, negative] = 0
            out[k, positive] = 1
        return out


def read_openimages_csv(
    path: str | Path,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    *,
    cache: bool = True,
) -> OpenImagesIndex:
    """The labels of one split (None: all).

    Default classes: sorted names that occur anywhere in the file.

    Labels outside `classes` are dropped and counted. The parsed file is kept beside it (key: size,
    mtime). DomainError: not a csv file; an unknown split, a missing list or an image for the second
    time, with its line.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: no such file; Open Images' labels are looked for there")
    with as_domain_errors():
        paths, splits, flat = _parsed(path, cache)
    names, name_of, image_of, is_positive = flat
    if classes is None:
        classes = names.tolist()
        to_class = np.arange(len(classes))
    else:
        position = places_of(classes)
        to_class = np.array([position.get(name, -1) for name in names.tolist()], np.int64)
    chosen = np.ones(len(paths), bool)
    if split is not None:
        chosen = splits == SPLITS.get(split, split)
    row_of = np.where(chosen, np.cumsum(chosen) - 1, -1)
    known = to_class[name_of] >= 0
    wanted = row_of[image_of] >= 0
    matrices = []
    for value in (True, False):
        mask = known & wanted & (is_positive == value)
        rows = row_of[image_of[mask]]
        matrices.append(_compress(rows, to_class[name_of[mask]], int(chosen.sum())))
    positive, negative = matrices
    return OpenImagesIndex(
        paths[chosen].tolist(),
        list(classes),
        positive_indptr=positive[0],
        positive_indices=positive[1],
        negative_indptr=negative[0],
        negative_indices=negative[1],
        dropped=int((wanted & ~known).sum()),
        conflicts=len(np.intersect1d(_cells(*positive), _cells(*negative))),
        source=path,
    )


def _cells(indptr: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """A number for each entry of a compressed matrix, the same for one place in all of them."""
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    return rows * 2**31 + indices


def _take(
    indptr: np.ndarray, indices: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Some rows of a compressed matrix."""
    parts = [indices[indptr[i] : indptr[i + 1]] for i in rows]
    ends = np.cumsum([0, *map(len, parts)])
    return ends, np.concatenate([indices[:0], *parts])


def _compress(rows: np.ndarray, columns: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Index pointers and columns of a matrix of `count` rows, from its entries."""
    order = np.lexsort((columns, rows))
    ends = np.cumsum(np.bincount(rows, minlength=count))
    return np.concatenate([[0], ends]).astype(np.int64), columns[order].astype(np.int32)


Flat = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class _Labels:
    """The labels in the order of the file, nine bytes each: Open Images has a hundred million."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # of the names, in the order of their first label
        self.image_of = array("i")
        self.name_of = array("i")
        self.positive = array("b")

    def add(self, image: int, name: str, positive: bool) -> None:
        self.image_of.append(image)
        self.name_of.append(self.numbers.setdefault(name, len(self.numbers)))
        self.positive.append(positive)

    def flat(self) -> Flat:
        """Return the sorted names, and three values for each label.

        These are the index of its name, the index of its image, and whether it is positive.
        """
        names, place = np.unique(np.array(list(self.numbers), str), return_inverse=True)
        name_of = np.frombuffer(self.name_of, np.int32)
        image_of = np.frombuffer(self.image_of, np.int32)
        return names, place.astype(np.int32)[name_of], image_of, np.frombuffer(self.positive, bool)


Parsed = tuple[list[str], list[str], _Labels]


def _parsed(path: Path, use_cache: bool) -> tuple[np.ndarray, np.ndarray, Flat]:
    """Return paths (N,), splits (N,), the names, and three values for each label.

    These are the index of its name, the index of its image, and whether it is positive. One process
    parses while the others wait.
    """
    stat = path.stat()
    key = hashlib.sha256(f"{FORMAT} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:KEY]
    cache = path.with_name(f".{path.name}.{key}.npz")
    if not use_cache:
        return _parsed_anew(path)
    found = _recalled(cache)
    can_be_kept = os.access(path.parent, os.W_OK)
    if found is None and (stat.st_size < WAITED_FOR or not can_be_kept):
        return _parsed_anew(path, cache)
    if found is None:
        with one_at_a_time("csv", key_of(cache.absolute())):
            found = _recalled(cache) or _parsed_anew(path, cache)
    return found


def _recalled(cache: Path) -> tuple[np.ndarray, np.ndarray, Flat] | None:
    if not cache.is_file():
        return None
    # Damage has a dozen classes of errors; whatever it is, the file is parsed again.
    with suppress(Exception), np.load(cache, allow_pickle=False) as a:
        return a["paths"], a["splits"], (a["names"], a["name_of"], a["image_of"], a["positive"])
    return None


def _parsed_anew(path: Path, cache: Path | None = None) -> tuple[np.ndarray, np.ndarray, Flat]:
    """The same from the file; `cache`: where it is kept, if there is room and leave to write."""
    paths, splits, labels = _parse(path)
    flat = labels.flat()
    arrays = {"paths": np.array(paths, str), "splits": np.array(splits, str)}
    arrays |= dict(zip(("names", "name_of", "image_of", "positive"), flat, strict=True))
    if cache is not None and os.access(path.parent, os.W_OK):
        key = "?" * KEY
        with suppress(OSError, UserError):  # a full disk: the file is parsed again next time
            for stale in path.parent.glob(f".{glob.escape(path.name)}.{key}.npz"):
                stale.unlink(missing_ok=True)
            checkpoint.atomic_save(cache, lambda temporary: _save_npz(temporary, arrays))
    return arrays["paths"], arrays["splits"], flat


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # a keyword of its own


def _parse(path: Path) -> Parsed:
    rows = csv_rows(path)
    number, first = next(rows, (1, []))
    if [cell.strip() for cell in first[:4]] == LONG_HEADER:
        return _parse_long(path, rows)
    if not _is_header(first):
        rows = chain([(number, first)], rows)
    return _parse_wide(path, len(first), rows)


def _is_header(row: list[str]) -> bool:
    """Whether a first row names columns: it holds no list and ends in no split."""
    return (
        bool(row)
        and row[-1].strip() not in SPLITS
        and not any(cell.strip()[:1] == "[" for cell in row)
    )


def _parse_wide(path: Path, columns: int, rows: Iterable[tuple[int, list[str]]]) -> Parsed:
    if columns < 3:
        raise DomainError(f"{path}: row 1 has {columns} columns; accepted: {FORMS}")
    paths: list[str] = []
    splits: list[str] = []
    labels = _Labels()
    line_of: dict[tuple[str, str], int] = {}
    for number, row in rows:
        lists = list(map(_names, row[1 : min(3, len(row) - 1)]))
        if len(row) != columns or None in lists:
            raise DomainError(
                f"{path}: row {number} {','.join(row)[:60]!r}: no list of labels; accepted: {FORMS}"
            )
        if row[-1].strip() not in SPLITS:
            raise DomainError(
                f"{path}: row {number}: unknown split {row[-1].strip()!r}; accepted: {FORMS}"
            )
        image = row[0].strip()
        split = SPLITS[row[-1].strip()]
        before = line_of.setdefault((image, split), number)
        if before != number:
            told = f"the image {image!r} of {split} stands in row {before} already"
            raise DomainError(f"{path}: row {number}: {told}")

        for names, positive in zip(lists, (True, False), strict=False):
            for name in names or ():
                labels.add(len(paths), name, positive)
        paths.append(image)
        splits.append(split)
    return paths, splits, labels


# An item of a list: in quotes, between which anything but the same quote may stand, or plain up to
# the next comma.
_ITEM = re.compile(
    r"""\s*(?:('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|([^'",][^,]*)?)\s*(?:,|$)""", re.DOTALL
)


def _names(cell: str) -> list[str] | None:
    """The names of a list, quoted or not; None where the cell is none.

    An empty cell is an empty list.

    >>> _names("['/m/01', 'Bowl, large', \\"Jack-o'-lantern\\"]")
    ['/m/01', 'Bowl, large', "Jack-o'-lantern"]
    >>> _names("[/m/01, /m/02]")
    ['/m/01', '/m/02']
    """
    cell = cell.strip()
    if not cell:
        return []
    if cell[0] != "[" or cell[-1] != "]":
        return None
    inner = cell[1:-1]
    if "'" not in inner and '"' not in inner:
        return [name for part in inner.split(",") if (name := part.strip())]

    names: list[str] = []
    place = 0
    while place < len(inner):
        item = _ITEM.match(inner, place)
        if item is None:
            return None
        place = item.end()
        quoted, plain = item.groups()
        name = (plain or "").strip()
        if quoted is not None:
            name = _spelled_out(quoted)
        if name:
            names.append(name)
    return names


def _spelled_out(quoted: str) -> str:
    """The text of a Python literal in quotes.

    One with an escape that stands for no character stays as it stands.
    """
    if "\\" not in quoted:
        return quoted[1:-1]
    try:
        name = ast.literal_eval(quoted)
        name.encode()  # half of a pair of surrogates cannot be written into any file
    except (ValueError, SyntaxError):
        return quoted[1:-1]
    return name


def _parse_long(path: Path, rows: Iterable[tuple[int, list[str]]]) -> Parsed:
    """Google's form: confidence above 0.5 is positive; the split stands in the file's name."""
    images: dict[str, int] = {}
    labels = _Labels()
    for number, row in rows:
        try:
            image, _, name, confidence = row[:4]
            value = float(confidence)
        except ValueError as error:
            raise DomainError(
                f"{path}: row {number} {','.join(row)[:60]!r}: expected {','.join(LONG_HEADER)}"
            ) from error
        if not 0 <= value <= 1:
            raise DomainError(f"{path}: row {number}: Confidence {confidence} is not in 0..1")
        labels.add(images.setdefault(image, len(images)), name, value > 0.5)
    split = next(
        (SPLITS[word] for word in ("train", "validation", "test") if word in path.name), "train"
    )
    return [f"{image}.jpg" for image in images], [split] * len(images), labels
