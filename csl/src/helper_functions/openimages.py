"""Open Images' labels as compressed rows: read_openimages_csv, and the data set over it.

Forms: the authors' csv by position (path, positives, negatives, split; or path, positives, split) with
Python-style lists, and Google's long form (ImageID,Source,LabelName,Confidence), one row a label.
"""

import csv
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.checkpoint import atomic_save
from common.data import read_image
from csl.src.errors import MissingFileError, SettingsError

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
        return OpenImagesIndex([self.paths[i] for i in rows], self.classes, *csr, dropped=self.dropped)

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
    SettingsError names the row of an unknown split or a missing list.
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
    return OpenImagesIndex(paths[chosen].tolist(), list(classes), *csr, dropped=int((wanted & ~known).sum()))


def _compress(rows: np.ndarray, columns: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((columns, rows))
    ends = np.cumsum(np.bincount(rows, minlength=count))
    return np.concatenate([[0], ends]).astype(np.int64), columns[order].astype(np.int32)


Flat = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _parsed(path: Path, use_cache: bool) -> tuple[np.ndarray, np.ndarray, Flat]:
    """Paths (N,), splits (N,), and per label: names, index of its name, index of its image, whether positive."""
    stat = path.stat()
    key = hashlib.sha256(f"1 {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    cache = path.with_name(f".{path.name}.{key}.npz")
    if use_cache and cache.is_file():
        with suppress(OSError, ValueError, KeyError), np.load(cache, allow_pickle=False) as a:
            return a["paths"], a["splits"], (a["names"], a["name_of"], a["image_of"], a["positive"])
    paths, splits, labels = _parse(path)
    names, name_of = np.unique(np.array([label[1] for label in labels], str), return_inverse=True)
    image_of = np.fromiter((label[0] for label in labels), np.int64, len(labels))
    positive = np.fromiter((label[2] for label in labels), bool, len(labels))
    arrays = {"paths": np.array(paths, str), "splits": np.array(splits, str), "names": names}
    arrays |= {"name_of": name_of.reshape(-1), "image_of": image_of, "positive": positive}
    if use_cache and os.access(path.parent, os.W_OK):
        atomic_save(cache, lambda temporary: _save_npz(temporary, arrays))
    return arrays["paths"], arrays["splits"], (names, arrays["name_of"], image_of, positive)


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


Labels = list[tuple[int, str, bool]]


def _parse(path: Path) -> tuple[list[str], list[str], Labels]:
    with path.open(newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header[:4] == LONG_HEADER:
            return _parse_long(path, rows)
        return _parse_wide(path, header, rows)


def _parse_wide(path: Path, header: list[str], rows: Iterable[list[str]]) -> tuple[list[str], list[str], Labels]:
    if len(header) < 3:
        raise SettingsError(f"{path}: row 1 has {len(header)} columns; accepted: {FORMS}")
    paths, splits, labels = [], [], []
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        lists = [_names(cell) for cell in row[1 : min(3, len(row) - 1)]]
        if len(row) != len(header) or None in lists:
            raise SettingsError(f"{path}: row {number} {','.join(row)[:60]!r}: no list of labels; accepted: {FORMS}")
        if row[-1].strip() not in SPLITS:
            raise SettingsError(f"{path}: row {number}: unknown split {row[-1].strip()!r}; accepted: {FORMS}")
        for names, positive in zip(lists, (True, False), strict=False):
            labels += [(len(paths), name, positive) for name in names]
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


def _parse_long(path: Path, rows: Iterable[list[str]]) -> tuple[list[str], list[str], Labels]:
    """Google's form: confidence above 0.5 is positive; the split stands in the file's name."""
    images: dict[str, int] = {}
    labels: Labels = []
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        try:
            image, _, name, confidence = row[:4]
            positive = float(confidence) > 0.5
        except ValueError as error:
            raise SettingsError(
                f"{path}: row {number} {','.join(row)[:60]!r}: expected {','.join(LONG_HEADER)}"
            ) from error
        labels.append((images.setdefault(image, len(images)), name, positive))
    split = next((SPLITS[word] for word in ("train", "validation", "test") if word in path.name), "train")
    return [f"{image}.jpg" for image in images], [split] * len(images), labels


def read_class_names(root: Path, path: Path | None = None) -> dict[str, str]:
    """MID -> display name, from `path` or a class-descriptions csv in `root`; empty where there is none."""
    places = [path] if path else [root / f"{name}.csv" for name in ("oidv6-class-descriptions", "class-descriptions")]
    file = next((p for p in places if p.is_file()), None)
    if file is None:
        return {}
    with file.open(newline="") as rows:
        return {row[0]: row[1] for row in csv.reader(rows) if len(row) >= 2 and row[0] != "LabelName"}


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
        if index.dropped:
            print(f"{index.dropped} labels of classes outside the class list are dropped", file=sys.stderr, flush=True)

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only the items at `rows`."""
        self.index = self.index.take(rows)

    def paths(self) -> list[Path]:
        """The image files; in the long form the folder is looked up among DIR, train, validation, test."""
        return [self.path(i) for i in range(len(self))]

    def path(self, i: int) -> Path:
        """The file of image i."""
        places = [self.root / folder / self.index.paths[i] for folder in LONG_FOLDERS]
        return next((place for place in places if place.is_file()), places[0])

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image = self.read(self.path(i))
        return (image if self.transform is None else self.transform(image)), i

    def collate(self, items: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B,3,S,S) float32 and targets (B,C) int8."""
        images, rows = zip(*items, strict=True)
        return torch.stack(images), torch.from_numpy(self.index.rows(rows))

    def target_matrix(self) -> np.ndarray:
        """All targets (N,C) int8: only for sets whose matrix fits into memory."""
        return self.index.rows(range(len(self)))
