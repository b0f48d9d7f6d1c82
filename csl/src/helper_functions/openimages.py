"""Open Images' labels as compressed rows: read_openimages_csv, and the data set over it.

Forms: the authors' csv by position (path, positives, negatives, split; or path, positives, split) with
Python-style lists, and Google's long form (ImageID,Source,LabelName,Confidence), one row a label.
"""

import glob
import hashlib
import os
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common import checkpoint
from common.data import read_image
from csl.src.errors import MissingFileError, SettingsError, naming_image
from csl.src.helper_functions.files import FolderListing, csv_rows

LONG_HEADER = ["ImageID", "Source", "LabelName", "Confidence"]
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
FORMS = "path,[positives],[negatives],split or path,[labels],split with split train, val or test"
LONG_FOLDERS = ("", "train", "validation", "test")


@dataclass
class OpenImagesIndex:
    """Labels of N images over C classes. Row i holds the classes indices[indptr[i]:indptr[i + 1]], int32."""

    paths: list[str]
    classes: list[str]
    positive_indptr: np.ndarray
    positive_indices: np.ndarray
    negative_indptr: np.ndarray
    negative_indices: np.ndarray
    dropped: int = 0  # labels outside `classes`
    source: Path | None = None  # the file that the labels are of

    def __len__(self) -> int:
        return len(self.paths)

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The positive and the negative classes of image i."""
        return (
            self.positive_indices[self.positive_indptr[i] : self.positive_indptr[i + 1]],
            self.negative_indices[self.negative_indptr[i] : self.negative_indptr[i + 1]],
        )

    def take(self, rows: np.ndarray) -> "OpenImagesIndex":
        """The index of some images."""
        csr = []
        for indptr, indices in (
            (self.positive_indptr, self.positive_indices),
            (self.negative_indptr, self.negative_indices),
        ):
            parts = [indices[indptr[i] : indptr[i + 1]] for i in rows]
            csr += [np.cumsum([0, *map(len, parts)]), np.concatenate([indices[:0], *parts])]
        return OpenImagesIndex([self.paths[i] for i in rows], self.classes, *csr, self.dropped, self.source)

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
    path: str | Path, split: str | None = None, classes: Sequence[str] | None = None, *, cache: bool = True
) -> OpenImagesIndex:
    """The labels of one split (None: all). Default classes: sorted names that occur anywhere in the file.

    Labels outside `classes` are dropped and counted. The parsed file is kept beside it (key: size, mtime).
    SettingsError: not a csv file; an unknown split or a missing list, with its row.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; Open Images' labels are looked for there")
    paths, splits, flat = _parsed(path, cache)
    names, name_of, image_of, is_positive = flat
    if classes is None:
        classes = names.tolist()
        to_class = np.arange(len(classes))
    else:
        position = {name: k for k, name in enumerate(classes)}
        to_class = np.array([position.get(name, -1) for name in names.tolist()], np.int64)
    chosen = np.ones(len(paths), bool) if split is None else splits == SPLITS.get(split, split)
    row_of = np.where(chosen, np.cumsum(chosen) - 1, -1)
    known, wanted = to_class[name_of] >= 0, row_of[image_of] >= 0
    csr = []
    for value in (True, False):
        mask = known & wanted & (is_positive == value)
        csr += _compress(row_of[image_of[mask]], to_class[name_of[mask]], int(chosen.sum()))
    return OpenImagesIndex(paths[chosen].tolist(), list(classes), *csr, int((wanted & ~known).sum()), path)


def _compress(rows: np.ndarray, columns: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((columns, rows))
    ends = np.cumsum(np.bincount(rows, minlength=count))
    return np.concatenate([[0], ends]).astype(np.int64), columns[order].astype(np.int32)


Flat = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class _Labels:
    """The labels in the order of the file, nine bytes each: Open Images has a hundred million."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}  # of the names, in the order of their first label
        self.image_of, self.name_of, self.positive = array("i"), array("i"), array("b")

    def add(self, image: int, name: str, positive: bool) -> None:
        self.image_of.append(image)
        self.name_of.append(self.numbers.setdefault(name, len(self.numbers)))
        self.positive.append(positive)

    def flat(self) -> Flat:
        """The sorted names, and per label: index of its name, index of its image, whether positive."""
        names, place = np.unique(np.array(list(self.numbers), str), return_inverse=True)
        name_of, image_of = (np.frombuffer(values, np.int32) for values in (self.name_of, self.image_of))
        return names, place.astype(np.int32)[name_of], image_of, np.frombuffer(self.positive, bool)


Parsed = tuple[list[str], list[str], _Labels]


def _parsed(path: Path, use_cache: bool) -> tuple[np.ndarray, np.ndarray, Flat]:
    """Paths (N,), splits (N,), and per label: names, index of its name, index of its image, whether positive."""
    stat = path.stat()
    key = hashlib.sha256(f"2 {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    cache = path.with_name(f".{path.name}.{key}.npz")
    if use_cache and cache.is_file():
        with suppress(OSError, ValueError, KeyError), np.load(cache, allow_pickle=False) as a:
            return a["paths"], a["splits"], (a["names"], a["name_of"], a["image_of"], a["positive"])
    paths, splits, labels = _parse(path)
    flat = labels.flat()
    arrays = {"paths": np.array(paths, str), "splits": np.array(splits, str)}
    arrays |= dict(zip(("names", "name_of", "image_of", "positive"), flat, strict=True))
    if use_cache and os.access(path.parent, os.W_OK):
        for stale in path.parent.glob(f".{glob.escape(path.name)}.{'?' * len(key)}.npz"):
            stale.unlink(missing_ok=True)
        checkpoint.atomic_save(cache, lambda temporary: _save_npz(temporary, arrays))
    return arrays["paths"], arrays["splits"], flat


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _parse(path: Path) -> Parsed:
    rows = enumerate(csv_rows(path), 1)
    number, first = next(rows, (1, []))
    if first[:4] == LONG_HEADER:
        return _parse_long(path, rows)
    return _parse_wide(path, len(first), rows if _is_header(first) else chain([(number, first)], rows))


def _is_header(row: list[str]) -> bool:
    """Whether a first row names columns: it holds no list and ends in no split."""
    return bool(row) and row[-1].strip() not in SPLITS and not any(cell.strip()[:1] == "[" for cell in row)


def _parse_wide(path: Path, columns: int, rows: Iterable[tuple[int, list[str]]]) -> Parsed:
    if columns < 3:
        raise SettingsError(f"{path}: row 1 has {columns} columns; accepted: {FORMS}")
    paths, splits, labels = [], [], _Labels()
    for number, row in rows:
        if not row:
            continue
        lists = [_names(cell) for cell in row[1 : min(3, len(row) - 1)]]
        if len(row) != columns or None in lists:
            raise SettingsError(f"{path}: row {number} {','.join(row)[:60]!r}: no list of labels; accepted: {FORMS}")
        if row[-1].strip() not in SPLITS:
            raise SettingsError(f"{path}: row {number}: unknown split {row[-1].strip()!r}; accepted: {FORMS}")
        for names, positive in zip(lists, (True, False), strict=False):
            for name in names:
                labels.add(len(paths), name, positive)
        paths.append(row[0].strip())
        splits.append(SPLITS[row[-1].strip()])
    return paths, splits, labels


def _names(cell: str) -> list[str] | None:
    """The names of a list, quoted or not; None where the cell is none. An empty cell is an empty list."""
    cell = cell.strip()
    if not cell:
        return []
    if not re.fullmatch(r"\[.*\]", cell, re.DOTALL):
        return None
    return [name for part in cell[1:-1].split(",") if (name := part.strip().strip("'\""))]


def _parse_long(path: Path, rows: Iterable[tuple[int, list[str]]]) -> Parsed:
    """Google's form: confidence above 0.5 is positive; the split stands in the file's name."""
    images: dict[str, int] = {}
    labels = _Labels()
    for number, row in rows:
        if not row:
            continue
        try:
            image, _, name, confidence = row[:4]
            positive = float(confidence) > 0.5
        except ValueError as error:
            raise SettingsError(
                f"{path}: row {number} {','.join(row)[:60]!r}: expected {','.join(LONG_HEADER)}"
            ) from error
        labels.add(images.setdefault(image, len(images)), name, positive)
    split = next((SPLITS[word] for word in ("train", "validation", "test") if word in path.name), "train")
    return [f"{image}.jpg" for image in images], [split] * len(images), labels


def read_class_names(root: Path, path: Path | None = None) -> dict[str, str]:
    """MID -> display name: of mid_to_classes.pth in `root`, and before it of `path` or a class-descriptions csv there.

    Empty where there is none; SettingsError for a file of another kind.
    """
    names = {}
    if (file := root / "mid_to_classes.pth").is_file():
        names = checkpoint.load(file)
        if not isinstance(names, Mapping):
            raise SettingsError(f"{file}: holds a {type(names).__name__}, not names by MID")
    places = [path] if path else [root / f"{name}.csv" for name in ("oidv6-class-descriptions", "class-descriptions")]
    file = next((p for p in places if p.is_file()), None)
    rows = csv_rows(file) if file else ()
    return {**names, **{row[0]: row[1] for row in rows if len(row) >= 2 and row[0] != "LabelName"}}


class OpenImagesDataset:
    """Items (RGB image, transformed; row index): `collate` makes the labels of a batch from the index, as int8."""

    def __init__(
        self, root: str | Path, index: OpenImagesIndex, transform: Callable | None = None, names: dict | None = None
    ) -> None:
        """`names`: MID -> display name, for `classes`."""
        self.root, self.index, self.transform = Path(root), index, transform
        self.read: Callable[[Path], Image.Image] = read_image
        self.complete: np.ndarray | None = None  # all labels (N,C) int8, where a second csv has them
        self.classes = {k: (names or {}).get(mid, mid) for k, mid in enumerate(index.classes)}
        self.folder_of = self._folders()
        if index.dropped:
            print(f"{index.dropped} labels of classes outside the class list are dropped", file=sys.stderr, flush=True)

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only the items at `rows`."""
        self.index, self.folder_of = self.index.take(rows), self.folder_of[rows]

    def _folders(self) -> np.ndarray:
        """(N,) int8: which of LONG_FOLDERS holds each image, the first where none does; each folder is listed once."""
        there = FolderListing()

        def folder_of(name: str) -> int:
            return next((k for k, folder in enumerate(LONG_FOLDERS) if self.root / folder / name in there), 0)

        return np.fromiter(map(folder_of, self.index.paths), np.int8, len(self.index))

    def paths(self) -> list[Path]:
        """The image files; in the long form the folder is looked up among DIR, train, validation, test."""
        return [self.path(i) for i in range(len(self))]

    def path(self, i: int) -> Path:
        """The file of image i."""
        return self.root / LONG_FOLDERS[self.folder_of[i]] / self.index.paths[i]

    def __getitem__(self, i: int) -> tuple[Any, int]:
        with naming_image(i, self.index.source):
            image = self.read(self.path(i))
        return (image if self.transform is None else self.transform(image)), i

    def collate(self, items: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B,3,S,S) float32 and targets (B,C) int8."""
        images, rows = zip(*items, strict=True)
        return torch.stack(images), torch.from_numpy(self.index.rows(rows))

    def target_matrix(self) -> np.ndarray:
        """All targets (N,C) int8: only for sets whose matrix fits into memory."""
        return self.index.rows(range(len(self)))
