"""Image labels from annotation files in COCO's form: complete ones, and LVIS's partial ones."""

import contextlib
import io
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.aliases import one_module
from common.cli import DomainError, UserError
from common.coco_json import read_coco_arrays
from common.data import read_image
from common.text import inside, once, read_json, whole
from csl.data_classes import Columns, lacking, match_categories, places_of
from csl.data_errors import MissingFileError, as_domain_errors, naming_image
from csl.data_labels import LabelTable

one_module(__name__, "csl.data_coco")

# What pycocotools' COCO has beside `cats`, `imgs` and `loadImgs`.
OF_PYCOCOTOOLS = (
    *("anns", "catToImgs", "dataset", "imgToAnns"),
    *("getAnnIds", "getCatIds", "getImgIds", "loadAnns", "loadCats", "annToMask", "annToRLE"),
)
NO_ANNOTATIONS = "not an annotation file in COCO's form"


class Annotations:
    """An annotation file, read once a machine, without its segmentations.

    It has `cats`, `imgs` (id -> record) and `loadImgs`. The rest of what pycocotools' COCO offers
    (`getAnnIds`, `loadAnns`, `imgToAnns` and others) is read from the file at its first use.
    """

    def __init__(self, path: str | Path) -> None:
        """MissingFileError, or DomainError naming what the file lacks, or what it has twice.

        A record that stands twice would lose its labels to the other one, or count for both.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise MissingFileError(f"{path}: no such annotation file")
        found = read_coco_arrays(self.path, shapes=False)
        if found is not None:
            images, categories = found.images, found.categories
        else:
            content = self._content()
            images = self._records(content, "images")
            annotations = self._records(content, "annotations")
            categories = self._records(content, "categories")

        category_ids = self._whole_numbers(categories, "categories", "id")
        image_ids = self._whole_numbers(images, "images", "id")
        names = self._column(categories, "categories", "name")
        self.names = [self._name(name, place) for place, name in enumerate(names, 1)]
        with as_domain_errors():
            once(category_ids.tolist(), f"{path}: category ids")
            once(self.names, f"{path}: category names")
            once(image_ids.tolist(), f"{path}: image ids")
        if not categories:
            raise DomainError(f"{path}: holds no category")
        self.cats = dict(zip(category_ids.tolist(), categories, strict=True))
        self.imgs = dict(zip(image_ids.tolist(), images, strict=True))

        if found is not None:
            self.image_ids, self.category_ids = found.image_ids, found.category_ids
        else:
            self.image_ids = self._whole_numbers(annotations, "annotations", "image_id")
            self.category_ids = self._whole_numbers(annotations, "annotations", "category_id")
        self.require_known(self.category_ids, self.cats, "annotations of unknown categories")
        self.require_known(self.image_ids, self.imgs, "annotations of unknown images")

    def _content(self) -> dict:
        try:
            return read_json(self.path, dict)
        except UserError as error:
            raise DomainError(f"{error}; this is {NO_ANNOTATIONS}") from error

    def _records(self, content: dict, kind: str) -> list:
        records = content.get(kind)
        if not isinstance(records, list):
            raise DomainError(f"{self.path}: {NO_ANNOTATIONS} (no list {kind!r}); fetch it again")
        return records

    def _column(self, records: list, kind: str, key: str) -> list:
        """record[key] of every record; DomainError names the first record without it."""
        try:
            return [record[key] for record in records]
        except (KeyError, TypeError, IndexError) as error:
            whole_ones = (isinstance(record, dict) and key in record for record in records)
            position = list(whole_ones).index(False) + 1
            told = f"entry {position} of {kind!r} has no {key!r}"
            raise DomainError(f"{self.path}: {NO_ANNOTATIONS} ({told}); fetch it again") from error

    def _name(self, name: object, place: int) -> str:
        """A category's name; DomainError where it is none, or cannot be written into a file."""
        if isinstance(name, int) and not isinstance(name, bool):
            return str(name)
        if not isinstance(name, str) or not name.strip():
            raise DomainError(
                f"{self.path}: categories, entry {place}: expected a name, found {ascii(name)[:60]}"
            )
        if not name.isascii() and any(
            "\ud800" <= mark <= "\udfff" for mark in name
        ):  # half of a pair of surrogates
            raise DomainError(
                f"{self.path}: categories, entry {place}: the name {ascii(name)[:60]} is no text"
            )
        return name

    def _whole_numbers(self, records: list, kind: str, key: str) -> np.ndarray:
        """record[key] of every record as int64; DomainError where one is no whole number."""
        values = self._column(records, kind, key)
        if set(map(type, values)) - {
            int
        }:  # 3.0 and "3" are numbers; 3.5 would be cut off to another id
            where = f"{self.path}: {kind}"
            with as_domain_errors():
                values = [
                    whole(value, f"{where}, entry {place}, {key}")
                    for place, value in enumerate(values, 1)
                ]
        try:
            return np.array(values, np.int64)
        except OverflowError as error:
            raise DomainError(f"{self.path}: {kind}: {key} has more than 63 bits") from error

    def require_known(self, ids: np.ndarray, known: Iterable[int], what: str) -> None:
        """DomainError with the number of ids (n,) that are not known, and the first of them."""
        unknown = ids[~np.isin(ids, list(known))]
        if len(unknown):
            raise DomainError(f"{self.path}: {len(unknown)} {what}, the first of {unknown[0]}")

    def loadImgs(self, ids: int | Iterable[int]) -> list[dict]:
        """The records of one or several images."""
        several = ids if isinstance(ids, Iterable) else [ids]
        return [self.imgs[image_id] for image_id in several]

    def __getattr__(self, name: str) -> Any:
        """What pycocotools has under this name."""
        if name not in OF_PYCOCOTOOLS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._api, name)

    @cached_property
    def _api(self) -> Any:
        """The whole file as pycocotools reads it."""
        from pycocotools.coco import COCO  # type: ignore[import-untyped]

        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(str(self.path))


class LabelledImages:
    """What all readers of label matrices share. Items: (RGB image, transformed; target (C,) int8).

    A subclass sets `ids`, `classes`, `columns`, `targets_all` and `source`, and says where the
    picture of an id lies.
    """

    ids: list
    classes: dict[int, str]
    columns: Columns
    source: Path
    targets_all: LabelTable

    def __init__(
        self, transform: Callable | None = None, target_transform: Callable | None = None
    ) -> None:
        self.transform = transform
        self.target_transform = target_transform
        self.read: Callable[[Path], Image.Image] = partial(
            read_image, upright=False
        )  # as the annotators saw it
        self.complete: np.ndarray | None = None  # the labels (N,C) int8 before a simulation
        self.unreadable = 0  # images that were left out because they cannot be read

    def __len__(self) -> int:
        return len(self.ids)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only the items at `rows`."""
        matrix = self.targets_all.matrix[rows]
        if self.complete is not None:
            self.complete = self.complete[rows]
        self.ids = [self.ids[row] for row in rows]
        self.targets_all = LabelTable(self.ids, matrix)

    def path(self, image_id: Any) -> Path:
        """The file of an image."""
        raise NotImplementedError

    def labels_of(self, index: int) -> np.ndarray:
        """The labels (C,) int8 of the item at `index`."""
        return self.targets_all[self.ids[index]].numpy()

    def paths(self) -> list[Path]:
        """The image files, in the order of the items."""
        return list(map(self.path, self.ids))

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        image_id = self.ids[index]
        with naming_image(image_id, self.source):
            image = self.read(self.path(image_id))
        target = self.targets_all[image_id]
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


class AnnotatedImages(LabelledImages):
    """What the readers of COCO's form share."""

    unlabelled = 0

    def __init__(
        self,
        root: str | Path,
        annFile: str | Path,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        spread_targets: bool = True,
        keep_empty: bool = False,
        *,
        columns: Columns | None = None,
    ) -> None:
        """`spread_targets=False` leaves the label matrix to its first use.

        `keep_empty` as in the subclass.

        `columns`: the classes of another set, whose columns these labels shall have; a category is
        the class of its name. DomainError names the categories that are none. Without it: the
        file's own, in its order.
        """
        super().__init__(transform, target_transform)
        self.root = Path(root)
        self._path_of: dict[int, Path] = {}  # the files that were asked for
        self.coco = Annotations(annFile)
        self.source = self.coco.path
        own = dict(zip(self.coco.cats, self.coco.names, strict=True))
        if columns is None:
            columns = Columns(self.coco.names, list(map(str, own)), str(self.coco.path))
        self.columns = columns
        self.cat2cat = match_categories(own, columns, self.coco.path)
        self.classes = dict(enumerate(columns.names))
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
            ids += lacking(self.coco.imgs, annotated)
        return ids

    @cached_property
    def targets_all(self) -> LabelTable:  # type: ignore[override]  # made at its first use
        """Mapping id -> (C,) int8, a view of one matrix."""
        matrix = np.full((len(self.ids), len(self.classes)), self.unlabelled, np.int8)
        self._fill(matrix, places_of(self.ids))
        return LabelTable(self.ids, matrix)

    def _fill(self, matrix: np.ndarray, row_of: dict[int, int]) -> None:
        kept = np.isin(self.coco.image_ids, self.ids)
        rows = _lookup(self.coco.image_ids[kept], row_of)
        matrix[rows, _lookup(self.coco.category_ids[kept], self.cat2cat)] = 1

    def relative_path(self, image_id: int) -> str:
        """Where an image lies below root."""
        return self.coco.imgs[image_id].get("file_name")

    def path(self, image_id: int) -> Path:
        """The file of an image; DomainError for a name that leads out of root."""
        if image_id not in self._path_of:
            name = self.relative_path(image_id)
            with as_domain_errors():
                path = inside(self.root, name, f"{self.coco.path}: image {image_id}")
            self._path_of[image_id] = path
        return self._path_of[image_id]


class CocoDetection(AnnotatedImages):
    """A data set in the layout of COCO, with complete labels.

    A class is 1 where the image has an annotation of it, crowds and small ones included.
    """


class LVISDetection(AnnotatedImages):
    """A data set in the layout of LVIS, with partial labels.

    Annotated categories are 1, neg_category_ids are 0 (positive wins), everything else is -1.

    not_exhaustive_category_ids change nothing at the level of images. Images with neither are left
    out, `keep_empty` or not: they hold no label.
    """

    unlabelled = -1

    def _choose_ids(self, keep_empty: bool) -> list[int]:
        annotated = set(self.coco.image_ids.tolist())
        return [
            i
            for i, image in self.coco.imgs.items()
            if i in annotated or image.get("neg_category_ids")
        ]

    def _fill(self, matrix: np.ndarray, row_of: dict[int, int]) -> None:
        images = self.coco.imgs
        rows: list[int] = []
        categories: list[int] = []
        for image_id, row in row_of.items():
            negatives = self._negatives(images[image_id])
            rows += [row] * len(negatives)
            categories += negatives
        negative_ids = np.array(categories, np.int64)
        self.coco.require_known(
            negative_ids, self.cat2cat, "neg_category_ids of unknown categories"
        )
        matrix[np.array(rows, np.int64), _lookup(negative_ids, self.cat2cat)] = 0
        super()._fill(matrix, row_of)

    def _negatives(self, image: dict) -> list[int]:
        """neg_category_ids of an image; DomainError where they are no list of whole numbers."""
        negatives = image.get("neg_category_ids") or []
        where = f"{self.coco.path}: image {image['id']}: neg_category_ids"
        if not isinstance(negatives, list):
            raise DomainError(f"{where}: expected a list")
        with as_domain_errors():
            return [whole(number, where) for number in negatives]

    def relative_path(self, image_id: int) -> str:
        """The last two parts of coco_url (SPLIT2017/ID.jpg), or file_name."""
        image = self.coco.imgs[image_id]
        if image.get("coco_url"):
            return str(PurePosixPath(*PurePosixPath(str(image["coco_url"])).parts[-2:]))
        return image.get("file_name")


def _lookup(keys: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """table[key] for an array of keys, at once."""
    known = np.fromiter(table, np.int64, len(table))
    order = np.argsort(known)
    return np.fromiter(table.values(), np.int64, len(table))[
        order[np.searchsorted(known, keys, sorter=order)]
    ]
