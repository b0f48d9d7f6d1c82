"""Metadata lists, and the images they name as tensors.

A split's folder holds image_ids.txt (one id per line), class_labels.txt (id,label from 0), image_sizes.txt
(id,W,H), localization.txt (id,x0,y0,x1,y1 or, OpenImages, id,mask,ignore), perhaps image_ids_proxy.txt.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from calm.rows import ById, check_name, integral, read_lines, read_rows
from common.aliases import one_module
from common.cli import UserError
from common.data import Batch, CorruptImage, eval_loader, read_image, train_loader
from common.images import check_images, left_out

one_module(__name__, "calm.data_loaders")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLITS = ("train", "val", "test")


class Attributes(dict):
    """A dict whose entries are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def configure_metadata(root: str | Path) -> Attributes:
    """The paths of the lists in the folder `root`, as attributes and as items."""
    names = ("image_ids", "image_ids_proxy", "class_labels", "image_sizes", "localization")
    return Attributes({name: str(Path(root) / f"{name}.txt") for name in names})


_rows = partial(read_rows, comma=True, remedy="build it with calm/prepare_metadata.py")


def get_image_ids(metadata: Mapping[str, str], proxy: bool = False) -> list[str]:
    """The ids of a split in file order; UserError for an id that stands there twice, or leads out of a folder."""
    path = metadata["image_ids_proxy" if proxy else "image_ids"]
    seen: dict[str, int] = {}
    for number, (image_id,) in _rows(path, (str,), "an id"):
        if image_id in seen:
            raise UserError(
                f"{path}:{number}: {image_id!r} stands already in line {seen[image_id]}"
            )
        seen[check_name(image_id, f"{path}: line {number}")] = number
    return list(seen)


def get_class_labels(metadata: Mapping[str, str]) -> dict[str, int]:
    """id -> label, from 0."""
    path = metadata["class_labels"]
    labels = ById(path)
    for number, (image_id, label) in _rows(path, (str, int), "id,label"):
        if image_id in labels:
            raise UserError(f"{path}:{number}: {image_id!r} has a label already")
        labels[image_id] = label
    return labels


def get_image_sizes(metadata: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """id -> (W, H); UserError for an id that stands there twice, or a side of no pixel."""
    sizes = ById(metadata["image_sizes"])
    for number, (image_id, *size) in _rows(sizes.path, (str, integral, integral), "id,W,H"):
        if image_id in sizes:
            raise UserError(f"{sizes.path}:{number}: {image_id!r} has a size already")
        if min(size) < 1:
            raise UserError(f"{sizes.path}:{number}: {image_id!r} is {size[0]} x {size[1]} pixels")
        sizes[image_id] = tuple(size)
    return sizes


def get_bounding_boxes(metadata: Mapping[str, str]) -> dict[str, list[tuple[int, int, int, int]]]:
    """id -> list of (x0, y0, x1, y1); UserError for a box that ends before it begins, or outside."""
    boxes = ById(metadata["localization"])
    for number, (image_id, *box) in _rows(boxes.path, (str, *(integral,) * 4), "id,x0,y0,x1,y1"):
        x0, y0, x1, y1 = box
        if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
            raise UserError(
                f"{boxes.path}:{number}: {x0},{y0},{x1},{y1} is no box; expected 0 <= x0 <= x1, y likewise"
            )
        boxes.setdefault(image_id, []).append((x0, y0, x1, y1))
    return boxes


def get_mask_paths(metadata: Mapping[str, str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """id -> mask paths, and id -> ignore path (empty: none; only the first line of an id carries one)."""
    masks, ignore = ById(metadata["localization"]), ById(metadata["localization"])
    for number, (image_id, mask, ignore_path) in _rows(
        masks.path, (str, str, str), "id,mask,ignore"
    ):
        where = f"{masks.path}: line {number}"
        for name in (mask, ignore_path):
            if name:
                check_name(name, where)
        masks.setdefault(image_id, []).append(mask)
        ignore.setdefault(image_id, ignore_path)
    return masks, ignore


def _line_of(path: str, image_id: str) -> str:
    """FILE:LINE: 'CONTENT' of the first line of an id; without the line where it has none."""
    lines = ((n, line.strip()) for n, line in enumerate(read_lines(path), 1))
    found = (
        f"{path}:{n}: {line!r}"
        for n, line in lines
        if line == image_id or line.startswith(f"{image_id},")
    )
    return next(found, f"{path}: {image_id!r}")


def make_transforms(
    resize_size: int, crop_size: int
) -> dict[str, tuple[v2.Transform, v2.Transform]]:
    """Per split the fixed part (a resize, which may be cached) and the rest (crop, flip, normalisation)."""

    def resized(side: int) -> v2.Transform:
        return v2.Resize((side, side), v2.InterpolationMode.BILINEAR, antialias=True)

    tail = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    train = v2.Compose([v2.RandomCrop(crop_size), v2.RandomHorizontalFlip(), *tail])
    evaluation = (resized(crop_size), v2.Compose(tail))
    return {"train": (resized(resize_size), train), "val": evaluation, "test": evaluation}


class ImageLabelDataset(Dataset):
    """(image, label, image_id) of a split; images as RGB.

    `transform`: one callable, or a pair (fixed, rest); `superclass_labels`: label -> coarser label.
    """

    def __init__(
        self,
        data_root: str | Path,
        metadata_root: str | Path,
        transform: Callable | tuple[Callable, Callable] | None,
        proxy: bool = False,
        superclass_labels: Mapping[int, int] | None = None,
        *,
        image_ids: Iterable[str] | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.data_root = Path(data_root)
        self.metadata, self.split = configure_metadata(metadata_root), Path(metadata_root).name
        self.fixed, self.rest = transform if isinstance(transform, tuple) else (None, transform)
        if image_ids is None:
            image_ids = get_image_ids(self.metadata, proxy)
        self.image_ids = [check_name(image_id, f"the {self.split} list") for image_id in image_ids]
        labels = get_class_labels(self.metadata)
        for image_id in self.image_ids:
            label = labels.get(image_id)
            if label is None:
                listing = self.metadata["image_ids_proxy" if proxy else "image_ids"]
                raise UserError(f"{_line_of(listing, image_id)} has no label in {labels.path}")
            if label < 0 or (num_classes is not None and label >= num_classes):
                known = "0, 1, ..." if num_classes is None else f"0..{num_classes - 1}"
                raise UserError(
                    f"{_line_of(labels.path, image_id)}: label {label} is outside {known}"
                )
        if superclass_labels is not None:
            labels.update({key: superclass_labels[value] for key, value in labels.items()})
        self.image_labels = labels
        self.unreadable = 0  # images that were left out
        self._cache: torch.Tensor | None = None
        self._is_cached: torch.Tensor | None = None

    def cache_images(self, side: int) -> None:
        """Keep every image after the fixed resize in memory that loader workers share: n side side 3 bytes."""
        n = len(self)
        self._cache = torch.zeros(n, side, side, 3, dtype=torch.uint8).share_memory_()
        self._is_cached = torch.zeros(n, dtype=torch.bool).share_memory_()

    @property
    def paths(self) -> list[Path]:
        """The files of the images, in order."""
        return [self.data_root / image_id for image_id in self.image_ids]

    def check(self, skip_corrupt: bool = False) -> np.ndarray:
        """The positions of unreadable images, found by a look at every file; an error without `skip_corrupt`.

        An image that is not there is an error in any case.
        """
        return check_images(self.paths, what=f"the {self.split} list", skip_corrupt=skip_corrupt)

    def leave_out(self, positions: np.ndarray) -> None:
        """Take images off the list, for good; `unreadable` counts them."""
        kept = np.delete(np.arange(len(self)), positions)
        self.image_ids = [self.image_ids[k] for k in kept]
        self.unreadable += len(positions)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Any, int, str]:
        image_id = self.image_ids[index]
        image = self._load(index)
        if self.rest is not None:
            image = self.rest(image)
        return image, self.image_labels[image_id], image_id

    def _load(self, index: int) -> Image.Image:
        if self._cache is not None and self._is_cached[index]:
            return Image.fromarray(self._cache[index].numpy())
        try:
            image = read_image(self.data_root / self.image_ids[index], upright=False)
        except CorruptImage as error:
            raise CorruptImage(f"{error}; it is image {index} of {self.split}") from error
        except UserError as error:
            raise UserError(f"{error}; it is image {index} of {self.split}") from error
        image = self.fixed(image) if self.fixed is not None else image
        if self._cache is not None:
            self._cache[index] = torch.from_numpy(np.array(image))
            self._is_cached[index] = True
        return image


def get_data_loader(
    data_roots: Mapping[str, str | Path],
    metadata_root: str | Path,
    batch_size: int,
    workers: int,
    resize_size: int,
    crop_size: int,
    proxy_training_set: bool = False,
    *,
    accelerator: Accelerator | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    skip_corrupt: bool = False,
    cache_images: bool = False,
    splits: Iterable[str] = SPLITS,
    test_ids: Iterable[str] | None = None,
) -> dict[str, DataLoader]:
    """A loader of `Batch((images, labels, image_ids), index, skipped)` per split.

    Training images that are also in the val list (held out where there is no other val set) are left out of
    training. `test_ids` restricts the test split. train: shuffled by (seed, epoch); val, test: in order.
    Every file is looked at before anything else happens: a missing one is a UserError, an unreadable one a
    CorruptImage, or with `skip_corrupt` left out of val and test, by name.
    """
    accelerator = accelerator or Accelerator()
    transforms, loaders = make_transforms(resize_size, crop_size), {}
    folders = {split: Path(metadata_root) / split for split in SPLITS}
    for split in splits:
        ids = test_ids if split == "test" else None
        proxy = proxy_training_set and split == "train"
        if split == "train":
            held = set()
            if Path(configure_metadata(folders["val"]).image_ids).is_file():
                held = set(get_image_ids(configure_metadata(folders["val"])))
            listed = get_image_ids(configure_metadata(folders["train"]), proxy)
            ids = [image_id for image_id in listed if image_id not in held]
            if listed and not ids:
                raise UserError(
                    f"{folders['train']}: all training images are in the val list too: none is left"
                )
        data = ImageLabelDataset(
            data_roots[split],
            folders[split],
            transforms[split],
            proxy,
            image_ids=ids,
            num_classes=num_classes,
        )
        if not len(data):
            raise UserError(
                f"{folders[split]}: the {split} list is empty; nothing can be done with it"
            )
        unreadable = data.check(skip_corrupt)
        if len(unreadable) == len(data):
            raise UserError(f"{folders[split]}: no image of the {split} list can be read")
        if split != "train" and len(unreadable):
            accelerator.print(left_out(data.image_ids, unreadable, split))
            data.leave_out(unreadable)
        if cache_images:
            data.cache_images(resize_size if split == "train" else crop_size)
        if split == "train":
            loaders[split] = train_loader(
                data,
                batch_size,
                seed=seed,
                accelerator=accelerator,
                workers=workers,
                skip_corrupt=skip_corrupt,
            )
        else:
            loaders[split] = eval_loader(
                data,
                batch_size,
                accelerator=accelerator,
                workers=workers,
                skip_corrupt=skip_corrupt,
            )
    return loaders


class ReadableBatches:
    """The batches of an evaluation loader in which something could be read; counts the images that could not.

    A look at the ends of a file does not see damage in its middle: such images come up here, with `skip_corrupt`.
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self.skipped = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            self.skipped += batch.skipped
            if batch.data is not None:
                yield batch

    def total(self, accelerator: Accelerator) -> int:
        """How many images of the split are missing in what was measured, over all processes."""
        skipped = torch.tensor(self.skipped, device=accelerator.device)
        if accelerator.num_processes > 1:
            skipped = accelerator.reduce(skipped, "sum")
        return int(skipped) + self.loader.dataset.dataset.unreadable
