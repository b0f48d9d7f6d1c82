"""Readers of a VOC devkit: image-level labels from the XML files, masks where they are asked for.

The room of the data: what a devkit is (data_voc), transforms (data_transforms), views at other
scales (data_views).
"""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from common import images, shards
from common.aliases import one_module
from common.cli import UserError
from common.images import read_image, source_of
from oass.data_transforms import (  # noqa: F401  (part of this room)
    EvalTransform,
    Picture,
    TrainTransform,
    normalise,
)
from oass.data_views import View, Views, views_of  # noqa: F401  (part of this room)
from oass.data_voc import (
    CLASS_DIC,
    CLASS_NAMES,
    VOCObject,
    find_split,
    locate_voc,  # noqa: F401  (part of this room)
    read_id_list,
    read_mask,
    read_objects,
    require_devkit,
)

one_module(__name__, "oass.data")

VOID = 255  # of a mask: not counted


class Iterator:
    """Batches without end: `get()` starts the loader again when it is through."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.iterator = iter(loader)

    def get(self) -> Any:
        """The next batch."""
        try:
            return next(self.iterator)
        except StopIteration:
            self.iterator = iter(self.loader)
            return next(self.iterator)


class Split(NamedTuple):
    """The annotations of an id list; only_difficult: present, but never plainly."""

    ids: list[str]
    objects: list[list[VOCObject]]  # of each image
    labels: np.ndarray  # (n,C) float32
    only_difficult: np.ndarray  # (n,C) bool
    classes: tuple[str, ...] = tuple(CLASS_NAMES)
    unknown: np.ndarray | None = None  # (n,C) bool; their label is 0, and no mAP counts them

    @property
    def without_area(self) -> tuple[str, ...]:
        """Every object whose box has no width or height, as "ID (class)"; its label counts."""
        named = []
        for image, found in zip(self.ids, self.objects, strict=True):
            for o in found:
                if not o.has_area:
                    named.append(f"{image} ({o.name})")
        return tuple(named)

    def without(self, ids: Collection[str]) -> "Split":
        """The split without these images, in its order."""
        left = set(ids)
        keep = np.array([name not in left for name in self.ids], bool)
        return Split(
            ids=list(compress(self.ids, keep)),
            objects=list(compress(self.objects, keep)),
            labels=self.labels[keep],
            only_difficult=self.only_difficult[keep],
            classes=self.classes,
            unknown=None if self.unknown is None else self.unknown[keep],
        )


@lru_cache(maxsize=8)
def read_split(root: Path, list_path: Path, with_labels: bool = True) -> Split:
    """All annotations of an id list, read once.

    UserError counts and names images or annotations that are missing, and names an unknown class.
    """
    ids = read_id_list(list_path)
    if not ids:
        raise UserError(f"{list_path}: an empty list; expected an image id a line")
    annotations = [root / "Annotations" / f"{name}.xml" for name in ids]
    wanted = [root / "JPEGImages" / f"{name}.jpg" for name in ids]
    if with_labels:
        wanted += annotations
    missing = [path for path in wanted if not (path.exists() or shards.is_there(path))]
    if missing:
        count = f"{len(missing)} files of its {len(ids)} images"
        raise UserError(f"{list_path}: {count} are missing, first {missing[0]}")

    labels = np.zeros((len(ids), len(CLASS_NAMES)), np.float32)
    plain = np.zeros(labels.shape, bool)  # present, and not difficult
    objects: list[list[VOCObject]] = [[] for _ in ids]
    if not with_labels:
        return Split(ids, objects, labels, plain)
    for number, path in enumerate(annotations):
        objects[number] = read_objects(path)
        for found in objects[number]:
            if found.name not in CLASS_DIC:
                known = ", ".join(CLASS_NAMES)
                raise UserError(f"{path}: unknown class {found.name!r}; known are {known}")
            c = CLASS_DIC[found.name]
            labels[number, c] = 1
            plain[number, c] |= not found.difficult
    return Split(ids, objects, labels, (labels > 0) & ~plain)


class VOC_Dataset_For_Classification(Dataset):
    """(image, label) of a devkit: transform(PIL RGB image), multi-hot float32 (20,).

    root_dir: the folder with JPEGImages, or up to two above it. domain: a split's name, or the path
    of an id list. The difficult flag is not looked at, as released; `split.only_difficult` has it.
    With labels="if present" a list without annotations (the test list) is read too; `has_labels`
    tells. `skipped` counts the images that `leave_out` took out of it.
    """

    first_lines: tuple[str, ...] = ()  # what else a run tells of the data
    resample = "bicubic"  # the interpolation of readers that resize
    computed: Dataset | None = None  # what an evaluation walks instead, of a frozen backbone

    def __init__(
        self,
        root_dir: str | Path,
        domain: str | Path,
        transform: Callable[[Any], Any] | None = None,
        *,
        labels: str = "required",
    ) -> None:
        self.root = require_devkit(root_dir)
        self.list_path, self.domain = find_split(self.root, str(domain))
        folder = self.root / "Annotations"
        ids = read_id_list(self.list_path)
        self.has_labels = labels == "required" or any((folder / f"{i}.xml").exists() for i in ids)
        self.split = read_split(self.root, self.list_path, self.has_labels)
        self.transform = transform
        self.skipped = 0

    def __len__(self) -> int:
        return len(self.split.ids)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.split.classes

    def image_path(self, index: int) -> Path:
        """Where the picture lies."""
        return self.root / "JPEGImages" / f"{self.split.ids[index]}.jpg"

    def image(self, index: int) -> Any:
        """The picture as PIL RGB, as its pixels are stored: boxes and masks are in that frame."""
        return read_image(self.image_path(index), upright=False)

    def unreadable(self, skip_corrupt: bool, say: Callable[[str], None] = print) -> list[str]:
        """The ids of the pictures that cannot be read, seen from a few bytes of each.

        Without `skip_corrupt` the first such picture is a CorruptImage; with it `say` gets a line
        that names them.
        """
        paths = list(map(self.image_path, range(len(self))))
        positions = images.check_images(paths, what=self.domain, skip_corrupt=skip_corrupt)
        if len(positions):
            say(images.left_out(paths, positions, self.domain))
        return [self.split.ids[k] for k in positions.tolist()]

    def leave_out(self, ids: Collection[str]) -> None:
        """Take images out of the set and count them. UserError where none is left."""
        before = len(self)
        self.split = self.split.without(ids)
        self.skipped += before - len(self)
        if not len(self):
            raise UserError(
                f"{self.list_path}: none of its {before} images can be read; replace them"
            )

    def label(self, index: int) -> torch.Tensor:
        """The label, (C,) float32; the caller's own, not the array that all readers share."""
        return torch.from_numpy(self.split.labels[index].copy())

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        image = self.image(index)
        if self.transform is not None:
            image = self.transform(image)
        return image, self.label(index)


class VOC_Dataset_For_Testing_CAM(VOC_Dataset_For_Classification):
    """(image, label, mask); the transform gets and returns {"image", "mask"}."""

    def mask_path(self, index: int) -> Path:
        """Where the image's segmentation lies, if it has one."""
        return self.root / "SegmentationClass" / f"{self.split.ids[index]}.png"

    def has_mask(self, index: int) -> bool:
        """Whether there is one."""
        path = self.mask_path(index)
        return path.exists() or shards.is_there(path)

    def mask(self, index: int) -> np.ndarray:
        """The segmentation (H,W) int64: class + 1, 0 background, 255 void or no file."""
        size = self._size(index)
        if self.has_mask(index):
            return read_mask(self.mask_path(index), size)
        return np.full(size[::-1], VOID, np.int64)

    def _size(self, index: int) -> tuple[int, int]:
        """The picture's (width, height), from its header alone where that can be read."""
        source = source_of(self.image_path(index))
        try:
            with Image.open(source) as image:
                return image.size
        except images.DAMAGE:
            return self.image(index).size

    def check_masks(self) -> None:
        """Read every mask once; UserError for one of another size than its picture, or value."""
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(self.mask, filter(self.has_mask, range(len(self)))):
                pass

    def __getitem__(  # type: ignore[override]  # with a mask, as the original
        self, index: int
    ) -> tuple[Any, torch.Tensor, Any]:
        data = {"image": self.image(index), "mask": self.mask(index)}
        if self.transform is not None:
            data = self.transform(data)
        return data["image"], self.label(index), data["mask"]
