"""Which pictures and labels: the data sets of whatever layout was found, and their loaders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torchvision.transforms as T
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader

from common.aliases import one_module
from common.cli import DomainError
from common.images import read_image
from common.loading import EpochSampler, eval_loader, train_loader
from csl.data_augment import CutoutPIL, RandAugment, RandomShift
from csl.data_checks import leave_out_unusable
from csl.data_classes import Columns, listed
from csl.data_coco import AnnotatedImages, CocoDetection, LabelledImages, LVISDetection
from csl.data_labels import LabelTable, label_matrix
from csl.data_locate import Found, Layout, locate_data
from csl.data_openimages import OpenImagesDataset, open_openimages, read_class_names
from csl.data_openimages_csv import OpenImagesIndex, read_openimages_csv
from csl.data_own import OwnPictures, read_own_data, tell_own
from csl.data_partial import load_partial_labels, save_partial_labels, simulate
from csl.data_pixels import Pixels, Statistics, stack_pictures
from csl.data_prior import ComputePrior, match_prior, read_prior, write_prior
from csl.options_checks import refuse_class_list

one_module(__name__, "csl.data")

__all__ = [
    "AnnotatedImages",
    "CocoDetection",
    "Columns",
    "ComputePrior",
    "CutoutPIL",
    "DataSet",
    "Found",
    "LVISDetection",
    "LabelTable",
    "LabelledImages",
    "Layout",
    "OpenImagesDataset",
    "OpenImagesIndex",
    "OwnPictures",
    "Pixels",
    "RandAugment",
    "RandomShift",
    "Statistics",
    "locate_data",
    "match_prior",
    "labels_at",
    "open_dataset",
    "open_splits",
    "read_class_names",
    "read_openimages_csv",
    "read_prior",
    "save_partial_labels",
    "scoring_loader",
    "targets_of",
    "training_loader",
    "write_prior",
]

DataSet = LabelledImages | OpenImagesDataset
KEPT_BYTES = 2**28  # a set of no more is kept decoded after its first reading


def train_transform(augment: str = "paper", to_tensor: Callable | None = None) -> Callable:
    """PIL -> (3,S,S): CutoutPIL and RandAugment, or a shift, or nothing; then a tensor.

    No flip.

    Without `to_tensor` values are float32 in 0..1, not normalised.
    """
    steps: dict[str, list[Callable]] = {
        "paper": [CutoutPIL(0.5), RandAugment()],
        "shift": [RandomShift(6).rows],
        "none": [],
    }
    return T.Compose([*steps[augment], to_tensor or T.ToTensor()])


class SquareReader:
    """Reads an image as RGB and squashes it to S x S.

    A small set is kept after its first reading.
    """

    def __init__(self, pixels: Pixels, count: int, *, upright: bool = False) -> None:
        """count: of the images of the set; upright: turned as their EXIF data say."""
        self.pixels = pixels
        self.upright = upright
        fits = count * pixels.size * pixels.size * 3 <= KEPT_BYTES
        self.kept: dict[Path, Image.Image] | None = {} if fits else None

    def __call__(self, path: Path) -> Image.Image:
        """(S,S) RGB, as stored, without turning it as EXIF data say unless `upright`.

        CorruptImage names the path.
        """
        if self.kept is None:
            return self._read(path)
        if path not in self.kept:
            self.kept[path] = self._read(path)
        return self.kept[path]

    def _read(self, path: Path) -> Image.Image:
        return self.pixels.resize(read_image(path, upright=self.upright))


def open_splits(
    found: Found,
    pixels: Pixels,
    *,
    augment: str = "paper",
    to_tensor: Callable | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
    **choice: Any,
) -> tuple[DataSet, DataSet]:
    """Return the training set and the test set, with the same columns of labels.

    The labels of the test set have the columns of the training set, matched by name.

    to_tensor: makes tensors of pictures; None: pixels.whole.
    seed, skip_corrupt: of own data, as in `read_own`.
    choice: keep_empty and class_list of `open_dataset`.
    """
    to_tensor = to_tensor or pixels.whole
    transform = train_transform(augment, to_tensor)
    if found.own is not None:
        own = read_own_data(found, seed=seed, skip_corrupt=skip_corrupt)
        train_part = OwnPictures(own, own.train, transform)
        val_part = OwnPictures(own, own.val, to_tensor)
        return _with_reader(train_part, pixels), _with_reader(val_part, pixels)
    train = open_dataset(found, "train", pixels, transform=transform, **choice)
    columns = train.columns
    val = open_dataset(found, "val", pixels, transform=to_tensor, columns=columns, **choice)
    return train, val


def open_dataset(
    found: Found,
    split: str,
    pixels: Pixels,
    *,
    transform: Callable | None = None,
    columns: Columns | None = None,
    keep_empty: bool = False,
    class_list: Path | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
) -> DataSet:
    """The data set of a split ("train" or "val").

    Its items are (image, target) or, for Open Images, (image, row).

    Whether the image files are there and readable is for `leave_out_unusable` to say.

    Args:
        pixels: images are squashed to its size.
        transform: makes tensors of them; None: pixels.whole.
        columns: the classes that the labels' columns stand for, those of the training set or of a
            network; None: the file's own.
        keep_empty: COCO: with the images without any annotation.
        class_list: Open Images: a file of the classes.
        seed, skip_corrupt: of own data, as in `read_own`.
    Raises:
        DomainError: a split without images or labels, classes that are not among `columns`.
    """
    transform = transform or pixels.whole
    annotations = found.annotations(split)
    refuse_class_list(class_list, found)
    if found.own is not None:
        own = read_own_data(found, seed=seed, skip_corrupt=skip_corrupt)
        part = own.train if split == "train" else own.val
        return _with_reader(OwnPictures(own, part, transform, columns), pixels)
    if found.layout == "openimages":
        data: DataSet = open_openimages(found, split, class_list, transform, columns)
    else:
        kind: type[CocoDetection | LVISDetection] = CocoDetection
        if found.layout == "lvis":
            kind = LVISDetection
        images = found.images(split)
        data = kind(images, annotations, transform, keep_empty=keep_empty, columns=columns)
    if not len(data):
        raise DomainError(f"{annotations}: holds no labelled image of the split {split}")
    return _with_reader(data, pixels)


def _with_reader(data: DataSet, pixels: Pixels) -> DataSet:
    """The data set, which reads its pictures at the size of the network."""
    upright = isinstance(data, OwnPictures) and data.upright
    data.read = SquareReader(pixels, len(data), upright=upright)
    return data


def require_images(
    data: DataSet,
    split: str,
    found: Found,
    accelerator: Accelerator,
    *,
    skip_missing: bool = False,
    skip_corrupt: bool = False,
) -> None:
    """`leave_out_unusable` of a split; all processes call it. Own data were looked at as read."""
    if isinstance(data, OwnPictures):
        return
    leave_out_unusable(
        data,
        split,
        found.annotations(split),
        accelerator,
        skip_missing=skip_missing,
        skip_corrupt=skip_corrupt,
    )


def describe_splits(train: DataSet, val: DataSet, found: Found, pixels: Pixels) -> None:
    """Print the numbers of images and classes, what counts 0, and how pictures become the input."""
    splits: Sequence[tuple[str, DataSet]] = (("train", train), ("val", val))
    if isinstance(train, OwnPictures):
        tell_own(train.data)
        splits = ()
    for split, data in splits:
        kept = str(len(data))
        if isinstance(data, AnnotatedImages):
            kept = f"{kept} of {data.num_all}"
        layout = f"({found.layout}, {found.root})"
        print(f"{split}: {kept} images, {len(data.classes)} classes {layout}", flush=True)
    absent = names_without_positives(val)
    if absent:
        count = f"{len(absent)} of {len(val.classes)} classes"
        print(f"val: {count} have no positive: {listed(absent)}", flush=True)
    print(f"input: {pixels}", flush=True)
    if "2017" in found.files.train.name and found.layout == "coco":
        told = "these are COCO 2017's lists; the paper's numbers are on COCO 2014"
        print(f"note: {told}", flush=True)


def make_partial(
    train: DataSet,
    *,
    scheme: str | None = None,
    param: float = 1000.0,
    file: Path | None = None,
    seed: int = 0,
    verbose: bool = True,
) -> None:
    """Give the training set partial labels, where they are asked for.

    They are simulated, or read from a file.

    `train.complete` keeps the labels before.
    """
    if not scheme and not file:
        return
    if isinstance(train, OwnPictures) and not train.has_all_labels():
        told = "want complete labels; those of --data are partial already and are used as they are"
        raise DomainError(f"--simulate_partial_type and --partial_labels {told}")
    if not isinstance(train, CocoDetection | OwnPictures):
        told = "want complete labels (COCO's layout)"
        raise DomainError(f"--simulate_partial_type and --partial_labels {told}")
    train.complete = label_matrix(train.targets_all)
    if file:
        load_partial_labels(file, train)
    elif scheme:
        simulate(train, scheme, param, seed=seed, verbose=verbose)


def training_loader(
    train: DataSet,
    found: Found,
    accelerator: Accelerator,
    *,
    batch_size: int,
    workers: int,
    seed: int = 0,
    skip_corrupt: bool = False,
    parts: int = 1,
) -> tuple[DataLoader, EpochSampler]:
    """The loader of the training set, and its sampler; `parts` as of `EpochSampler`.

    The batches hold images (B,3,S,S), uint8 or float32, and targets (B,C) int8.
    """
    loader = train_loader(
        train,
        batch_size,
        seed=seed,
        accelerator=accelerator,
        workers=workers,
        skip_corrupt=skip_corrupt,
        collate=collate_of(train),
        parts=parts,
    )
    sampler = cast(EpochSampler, loader.batch_sampler)
    if not sampler.batches:
        count = f"{len(train)} images for {accelerator.num_processes} processes"
        told = "every process needs one in a step"
        raise DomainError(f"{found.files.train}: {count}; {told}")
    setattr(loader.dataset, "classes", train.classes)  # noqa: B010 - torch's Dataset declares none
    return loader, sampler


def scoring_loader(
    data: DataSet,
    accelerator: Accelerator,
    *,
    batch_size: int,
    workers: int,
    skip_corrupt: bool = False,
) -> DataLoader:
    """The loader of a test set: every image once, in order, without those that are left out."""
    loader = eval_loader(
        data,
        batch_size,
        accelerator=accelerator,
        workers=workers,
        skip_corrupt=skip_corrupt,
        collate=collate_of(data),
    )
    setattr(loader.dataset, "classes", data.classes)  # noqa: B010 - as above
    return loader


def require_trainable(train: DataSet, found: Found) -> None:
    """DomainError where nothing is annotated to train on."""
    if not classes_with(train, 0) and not classes_with(train, 1):
        raise DomainError(
            f"{found.files.train}: no annotated label is left in {len(train)} training images"
        )


def require_scorable(val: DataSet, found: Found) -> None:
    """DomainError where the test set has no positive.

    Of partial labels also where no class has both kinds of label.
    """
    positive = classes_with(val, 1)
    if not positive:
        raise DomainError(
            f"{found.files.val}: no positive label in {len(val)} test images: nothing can be scored"
        )
    if not positive & classes_with(val, 0) and is_partial(val):
        told = f"no class has a positive and a negative label in {len(val)} test images"
        raise DomainError(f"{found.files.val}: {told}: nothing can be scored")


def names_without_positives(data: DataSet) -> list[str]:
    """The classes that no image of a data set shows."""
    there = classes_with(data, 1)
    return [name for column, name in data.classes.items() if column not in there]


def classes_with(data: DataSet, label: int) -> set[int]:
    """The columns in which some image has the label 1, or 0."""
    if isinstance(data, OpenImagesDataset):
        return data.index.classes_with(label)
    return set(np.flatnonzero((label_matrix(data.targets_all) == label).any(0)).tolist())


def is_partial(data: DataSet) -> bool:
    """Whether some label is un-annotated."""
    if isinstance(data, OpenImagesDataset):
        return data.index.is_partial()
    return bool((label_matrix(data.targets_all) == -1).any())


def collate_of(data: DataSet) -> Callable[[list], Any]:
    """How the items of a data set become (images, targets)."""
    if isinstance(data, OpenImagesDataset):
        return data.collate
    return _collate


def _collate(items: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """Images (B,3,S,S) and targets (B,C)."""
    images, targets = zip(*items, strict=True)
    return [stack_pictures(images), torch.stack(targets)]


def labels_at(data: DataSet, rows: np.ndarray) -> torch.Tensor:
    """The labels (B,C) int8 of the items at `rows` (B,)."""
    if isinstance(data, OpenImagesDataset):
        return torch.from_numpy(data.index.rows(rows.tolist()))
    return torch.from_numpy(label_matrix(data.targets_all)[rows])


def targets_of(data: DataSet) -> np.ndarray:
    """All labels (N,C) int8 of a data set, in the order of its items."""
    if isinstance(data, OpenImagesDataset):
        return data.target_matrix()
    return label_matrix(data.targets_all)
