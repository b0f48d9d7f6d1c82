"""Image labels from annotation files in COCO's form: CocoDetection (complete) and LVISDetection (partial)."""

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.data import read_image
from csl.src.errors import MissingFileError, SettingsError, naming_image
from csl.src.helper_functions.label_table import LabelTable


class Annotations:
    """An annotation file, read once, without its segmentations: `cats`, `imgs` (id -> record), `loadImgs`."""

    def __init__(self, path: str | Path) -> None:
        """MissingFileError, or SettingsError naming what the file lacks."""
        path = Path(path)
        if not path.is_file():
            raise MissingFileError(f"{path}: no such annotation file")
        try:
            content = json.loads(path.read_bytes())
            images, annotations, categories = (content[k] for k in ("images", "annotations", "categories"))
            self.cats = {int(c["id"]): c for c in categories}
            self.names = [str(c["name"]) for c in self.cats.values()]
            self.imgs = {int(image["id"]): image for image in images}
            self.image_ids = np.fromiter((a["image_id"] for a in annotations), np.int64, len(annotations))
            self.category_ids = np.fromiter((a["category_id"] for a in annotations), np.int64, len(annotations))
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path}: not an annotation file in COCO's form ({error!r}); fetch it again") from error
        self.path = path
        self.require_known(self.category_ids, self.cats, "annotations of unknown categories")
        self.require_known(self.image_ids, self.imgs, "annotations of unknown images")

    def require_known(self, ids: np.ndarray, known: Iterable[int], what: str) -> None:
        """SettingsError with the number of ids (n,) that are not known, and the first of them."""
        unknown = ids[~np.isin(ids, list(known))]
        if len(unknown):
            raise SettingsError(f"{self.path}: {len(unknown)} {what}, the first of {unknown[0]}")

    def loadImgs(self, ids: int | Iterable[int]) -> list[dict]:
        """The records of one or several images."""
        return [self.imgs[i] for i in ([ids] if isinstance(ids, Integral) else ids)]


class AnnotatedImages:
    """What both readers share. Items: (RGB image, transformed; target (C,) int8)."""

    unlabelled = 0

    def __init__(
        self,
        root: str | Path,
        annFile: str | Path,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        spread_targets: bool = True,
        keep_empty: bool = False,
    ) -> None:
        """`spread_targets=False` leaves the label matrix to its first use; `keep_empty` as in the subclass."""
        self.root, self.transform, self.target_transform = Path(root), transform, target_transform
        self.read: Callable[[Path], Image.Image] = read_image
        self.complete: np.ndarray | None = None  # the labels (N,C) int8 before a simulation
        self.coco = Annotations(annFile)
        self.cat2cat = {category: index for index, category in enumerate(self.coco.cats)}
        self.classes = dict(enumerate(self.coco.names))
        self.ids = self._choose_ids(keep_empty)
        self.num_all = len(self.coco.imgs)
        if spread_targets:
            self.targets_all  # noqa: B018 - made now

    def _choose_ids(self, keep_empty: bool) -> list[int]:
        """Image ids with an annotation, in order of their first; `keep_empty` adds the rest."""
        found, first = np.unique(self.coco.image_ids, return_index=True)
        ids = found[np.argsort(first)].tolist()
        if keep_empty:
            annotated = set(ids)
            ids += [i for i in self.coco.imgs if i not in annotated]
        return ids

    @cached_property
    def targets_all(self) -> LabelTable:
        """Mapping id -> (C,) int8, a view of one matrix."""
        matrix = np.full((len(self.ids), len(self.classes)), self.unlabelled, np.int8)
        self._fill(matrix, {image_id: row for row, image_id in enumerate(self.ids)})
        return LabelTable(self.ids, matrix)

    def _fill(self, matrix: np.ndarray, row_of: dict[int, int]) -> None:
        kept = np.isin(self.coco.image_ids, self.ids)
        rows = _lookup(self.coco.image_ids[kept], row_of)
        matrix[rows, _lookup(self.coco.category_ids[kept], self.cat2cat)] = 1

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only the items at `rows`."""
        matrix = self.targets_all.matrix[rows]
        self.ids = [self.ids[row] for row in rows]
        self.targets_all = LabelTable(self.ids, matrix)

    def relative_path(self, image_id: int) -> str:
        """Where an image lies below root."""
        return self.coco.imgs[image_id]["file_name"]

    def paths(self) -> list[Path]:
        """The image files, in the order of the items."""
        return [self.root / self.relative_path(image_id) for image_id in self.ids]

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        image_id = self.ids[index]
        with naming_image(image_id, self.coco.path):
            image, target = self.read(self.root / self.relative_path(image_id)), self.targets_all[image_id]
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


class CocoDetection(AnnotatedImages):
    """Complete labels: a class is 1 where the image has an annotation of it, crowds and small ones included."""


class LVISDetection(AnnotatedImages):
    """Partial labels: annotated categories 1, neg_category_ids 0 (positive wins), everything else -1.

    not_exhaustive_category_ids change nothing at the level of images. Images with neither are left out,
    `keep_empty` or not: they hold no label.
    """

    unlabelled = -1

    def _choose_ids(self, keep_empty: bool) -> list[int]:
        annotated = set(self.coco.image_ids.tolist())
        return [i for i, image in self.coco.imgs.items() if i in annotated or image.get("neg_category_ids")]

    def _fill(self, matrix: np.ndarray, row_of: dict[int, int]) -> None:
        images = self.coco.imgs
        pairs = [(row, c) for image_id, row in row_of.items() for c in images[image_id].get("neg_category_ids", ())]
        rows, categories = np.array(pairs, np.int64).reshape(-1, 2).T
        self.coco.require_known(categories, self.cat2cat, "neg_category_ids of unknown categories")
        matrix[rows, _lookup(categories, self.cat2cat)] = 0
        super()._fill(matrix, row_of)

    def relative_path(self, image_id: int) -> str:
        """The last two parts of coco_url (SPLIT2017/ID.jpg), or file_name."""
        image = self.coco.imgs[image_id]
        if image.get("coco_url"):
            return str(PurePosixPath(*PurePosixPath(image["coco_url"]).parts[-2:]))
        return image["file_name"]


def _lookup(keys: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """table[key] for an array of keys, at once."""
    known = np.fromiter(table, np.int64, len(table))
    order = np.argsort(known)
    return np.fromiter(table.values(), np.int64, len(table))[order[np.searchsorted(known, keys, sorter=order)]]
