"""The data set over Open Images' lists, and the names of its classes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common import checkpoint
from common.aliases import one_module
from common.cli import DomainError
from common.images import read_image
from common.text import csv_rows, inside, numbered_lines, once
from csl.data_classes import Columns, lacking, listed, places_of, tell
from csl.data_errors import MissingFileError, as_domain_errors, naming_image
from csl.data_listing import places_of_names
from csl.data_locate import Found
from csl.data_openimages_csv import OpenImagesIndex, read_openimages_csv
from csl.data_pixels import stack_pictures

one_module(__name__, "csl.data_openimages")

LONG_FOLDERS = ("", "train", "validation", "test")
COMPLETE = "val_complete.csv"  # beside data.csv: the test images with every label
DESCRIPTIONS = ("oidv6-class-descriptions", "class-descriptions")


def read_class_names(root: Path, path: Path | None = None) -> dict[str, str]:
    """Return the display name of each MID.

    They come from mid_to_classes.pth in `root`, and before it from `path` or a class-descriptions
    csv there. Empty where there is none; DomainError for a file of another kind.
    """
    names: dict[str, str] = {}
    pickled = root / "mid_to_classes.pth"
    with as_domain_errors():
        if pickled.is_file():
            content = checkpoint.load(pickled)
            if not isinstance(content, Mapping):
                raise DomainError(f"{pickled}: holds a {type(content).__name__}, not names by MID")
            names = {str(mid): str(name) for mid, name in content.items()}

        file = path or _descriptions_in(root)
        if file is None or not file.is_file():
            return names
        for _, row in csv_rows(file):
            if len(row) >= 2 and row[0] != "LabelName":
                names[row[0]] = row[1]
    return names


def _descriptions_in(root: Path) -> Path | None:
    for name in DESCRIPTIONS:
        file = root / f"{name}.csv"
        if file.is_file():
            return file
    return None


def _unique_names(mids: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The display name of every class; where several share one, each with its MID."""
    shown = [names.get(mid, mid) for mid in mids]
    count = Counter(shown)
    for place, mid in enumerate(mids):
        if count[shown[place]] > 1:
            shown[place] += f" ({mid})"
    return shown


class OpenImagesDataset:
    """Items (RGB image, transformed.

    Row index): `collate` makes the labels of a batch from the index, as int8.
    """

    def __init__(
        self,
        root: str | Path,
        index: OpenImagesIndex,
        transform: Callable | None = None,
        names: dict | None = None,
    ) -> None:
        """`names`: MID -> display name, for `classes`.

        A name of several classes gets its MID behind it.

        DomainError: a path that leads out of `root`.
        """
        self.root = Path(root)
        self.index = index
        self.transform = transform
        self.read: Callable[[Path], Image.Image] = partial(read_image, upright=False)
        self.complete: np.ndarray | None = (
            None  # all labels (N,C) int8, where a second csv has them
        )
        self.unreadable = 0  # images that were left out because they cannot be read
        shown = _unique_names(index.classes, names or {})
        self.columns = Columns(shown, list(index.classes), str(index.source))
        self.classes = dict(enumerate(shown))
        self._require_inside()
        places = places_of_names(self.root, index.paths, LONG_FOLDERS)
        self.is_there = places >= 0
        self.folder_of = places.clip(min=0)  # where it is nowhere, the first
        if index.dropped:
            told = f"{index.dropped} labels of classes outside the class list are dropped"
            tell(f"{index.source}: {told}")
        if index.conflicts:
            told = f"{index.conflicts} labels are positive and negative of one image"
            tell(f"{index.source}: {told}; they are positive")

    def _require_inside(self) -> None:
        """DomainError where a path of the csv leads out of the folder."""
        for name in self.index.paths:
            if name[:1] in ("", "/") or ".." in name or "//" in name or "\0" in name:
                with as_domain_errors():
                    inside(self.root, name, f"{self.index.source}: image")

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only the items at `rows`."""
        self.index = self.index.take(rows)
        self.folder_of = self.folder_of[rows]
        self.is_there = self.is_there[rows]
        if self.complete is not None:
            self.complete = self.complete[rows]

    def paths(self) -> list[Path]:
        """Return the paths of the image files.

        In the long form the folder is looked up among DIR, train, validation, test.
        """
        return list(map(self.path, range(len(self))))

    def path(self, i: int) -> Path:
        """The file of image i."""
        return self.root / LONG_FOLDERS[self.folder_of[i]] / self.index.paths[i]

    def __getitem__(self, i: int) -> tuple[Any, int]:
        with naming_image(i, self.index.source):
            image = self.read(self.path(i))
        if self.transform is not None:
            image = self.transform(image)
        return image, i

    def labels_of(self, i: int) -> np.ndarray:
        """The labels (C,) int8 of image i."""
        return self.index.rows([i])[0]

    def collate(self, items: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B,3,S,S) and targets (B,C) int8."""
        images, rows = zip(*items, strict=True)
        return stack_pictures(images), torch.from_numpy(self.index.rows(rows))

    def target_matrix(self) -> np.ndarray:
        """All targets (N,C) int8: only for sets whose matrix fits into memory."""
        return self.index.rows(range(len(self)))


def open_openimages(
    found: Found,
    split: str,
    class_list: Path | None,
    transform: Callable,
    columns: Columns | None,
) -> OpenImagesDataset:
    """The set of a split ("train" or "val") of the lists that were found.

    Its classes are those of `columns`, of the file `class_list`, or the training file's.
    """
    files = found.files
    annotations = found.annotations(split)
    is_wide = files.train == files.val
    names = read_class_names(found.root)
    classes = None
    if class_list is not None:
        classes = read_class_list(class_list)
    if columns is not None:
        classes = _in_columns(columns, classes, names, annotations)
    if classes is None and not is_wide:
        classes = read_openimages_csv(files.train).classes
    part = None
    if is_wide:
        part = split
    index = read_openimages_csv(annotations, part, classes)
    if not index.classes:
        raise DomainError(f"{annotations}: holds no label")
    data = OpenImagesDataset(found.root, index, transform, names)
    if split == "val" and (found.root / COMPLETE).is_file():
        data.complete = _complete_labels(found.root / COMPLETE, index)
    return data


def _in_columns(
    columns: Columns, chosen: list[str] | None, names: Mapping[str, str], annotations: Path
) -> list[str] | None:
    """The MIDs that stand for `columns`.

    Where they are not known, `chosen`, the classes of --class_list.

    DomainError: --class_list names other classes than `columns`.
    """
    mids = columns.keys or _mids_of(columns, names, annotations)
    if mids is None or chosen is None:
        return mids or chosen
    if set(mids) != set(chosen):
        told = listed(lacking(chosen, set(mids)) or lacking(mids, set(chosen)))
        raise DomainError(f"--class_list: other classes than {columns.source}, such as {told}")
    return mids


def _mids_of(columns: Columns, names: Mapping[str, str], annotations: Path) -> list[str] | None:
    """The names of `columns` where they are MIDs of the annotation file, or spell MIDs out.

    None where none is. names: MID -> display name. DomainError names the classes that have no MID
    where others have one.
    """
    known = set(read_openimages_csv(annotations).classes)
    of_name = dict(zip(names.values(), names, strict=True))
    mids: list[str] = []
    missing: list[str] = []
    for name in columns.names:
        mid = of_name.get(name)
        if name in known:
            mid = name
        if mid is None:
            missing.append(name)
        else:
            mids.append(mid)
    if not mids:
        return None
    if missing:
        count = f"{len(missing)} of the {len(columns.names)} classes"
        told = f"has no label of {count} of {columns.source}: {listed(missing)}"
        raise DomainError(f"{annotations}: {told}")
    return mids


def read_class_list(path: Path) -> list[str]:
    """The names in the file of --class_list: a class a line; MIDs may share one.

    DomainError: an empty file, a class twice.
    """
    if not Path(path).exists():
        raise MissingFileError(f"--class_list {path}: no such file; it holds one MID a line")
    with as_domain_errors():
        lines = numbered_lines(path)
        names: list[str] = []
        numbers: list[int] = []
        for number, line in lines:
            parts = line.replace(",", " ").split()
            if not all(part.startswith(("/m/", "/g/")) for part in parts):
                parts = [line]
            names += parts
            numbers += [number] * len(parts)
        once(names, f"--class_list {path}", lines=numbers)
    if not names:
        raise DomainError(f"--class_list {path}: is empty; it holds one MID a line")
    return names


def _complete_labels(path: Path, index: OpenImagesIndex) -> np.ndarray | None:
    """All labels (N,C) int8 of the test images, from a second csv.

    None where it lacks some of them.
    """
    whole = read_openimages_csv(path, "val", index.classes)
    row_of = places_of(whole.paths)
    if lacking(index.paths, row_of):
        return None
    return whole.rows([row_of[name] for name in index.paths])
