"""get_data: the training and test loaders of whatever layout was found."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.transforms as T
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms.functional import InterpolationMode

from common.data import eval_loader, read_image, train_loader
from csl.src.errors import MissingFileError, SettingsError
from csl.src.helper_functions.augment import CutoutPIL, RandAugment, RandomShift
from csl.src.helper_functions.coco import AnnotatedImages, CocoDetection, LVISDetection
from csl.src.helper_functions.coco_simulation import load_partial_labels, simulate_coco
from csl.src.helper_functions.files import FolderListing, csv_rows
from csl.src.helper_functions.label_table import label_matrix
from csl.src.helper_functions.locate import Found, locate_data
from csl.src.helper_functions.openimages import (
    OpenImagesDataset,
    OpenImagesIndex,
    read_class_names,
    read_openimages_csv,
)

DataSet = AnnotatedImages | OpenImagesDataset
COMPLETE = "val_complete.csv"  # beside data.csv: the test images with every label, to check the mAP both ways


def train_transform(augment: str = "paper") -> Callable:
    """PIL -> (3,S,S) float32 in 0..1: CutoutPIL and RandAugment, or a shift, or nothing. No normalisation, no flip."""
    steps = {"paper": [CutoutPIL(0.5), RandAugment()], "shift": [RandomShift(6)], "none": []}[augment]
    return T.Compose([*steps, T.ToTensor()])


class SquareReader:
    """Reads an image as RGB and squashes it to S x S; a set that fits into 256 MB is kept after its first reading."""

    def __init__(self, size: int, count: int, interpolation: str = "bilinear") -> None:
        self.resize = T.Resize((size, size), InterpolationMode(interpolation))
        self.kept: dict[Path, Image.Image] | None = {} if count * size * size * 3 <= 2**28 else None

    def __call__(self, path: Path) -> Image.Image:
        """(S,S) RGB; CorruptImage names the path."""
        if self.kept is None:
            return self.resize(read_image(path))
        if path not in self.kept:
            self.kept[path] = self.resize(read_image(path))
        return self.kept[path]


def open_dataset(found: Found, split: str, transform: Callable | None, args: argparse.Namespace) -> DataSet:
    """The data set of a split ("train" or "val"); items (image, target) or, for Open Images, (image, row).

    Images are squashed to args.image_size; `transform` makes tensors of them (None: ToTensor). SettingsError for a
    split without images, and where image files are missing.
    """
    transform = transform or T.ToTensor()
    files = found.files
    annotations, images = (files.train, files.train_images) if split == "train" else (files.val, files.val_images)
    keep_empty = getattr(args, "keep_empty", False)
    if found.layout == "openimages":
        wide = files.train == files.val
        # else the class list is the training file's, so that both splits have the same columns
        classes = _class_list(args) or (None if wide else read_openimages_csv(files.train).classes)
        index = read_openimages_csv(annotations, split if wide else None, classes)
        data: DataSet = OpenImagesDataset(found.root, index, transform, read_class_names(found.root))
        if split == "val" and (found.root / COMPLETE).is_file():
            data.complete = _complete_labels(found.root / COMPLETE, index)
    elif _class_list(args):
        raise SettingsError(f"--class_list: only with Open Images; {annotations} is of another layout")
    else:
        kind = LVISDetection if found.layout == "lvis" else CocoDetection
        data = kind(images, annotations, transform, keep_empty=keep_empty)
    if not len(data):
        raise SettingsError(f"{annotations}: holds no labelled image of the split {split}")
    _require_images(data, annotations, getattr(args, "skip_missing", False))
    data.read = SquareReader(args.image_size, len(data), getattr(args, "interpolation", "bilinear"))
    return data


def _class_list(args: argparse.Namespace) -> list[str] | None:
    """The lines of --class_list, None where it was not given."""
    path = getattr(args, "class_list", None)
    if path is None:
        return None
    if not path.is_file():
        raise MissingFileError(f"--class_list {path}: no such file; it holds one MID a line")
    names = list(dict.fromkeys(name for row in csv_rows(path) for cell in row for name in cell.split()))
    if not names:
        raise SettingsError(f"--class_list {path}: is empty; it holds one MID a line")
    return names


def _complete_labels(path: Path, index: OpenImagesIndex) -> np.ndarray | None:
    """All labels (N,C) int8 of the test images, from a second csv; None where it lacks some of them."""
    whole = read_openimages_csv(path, "val", index.classes)
    row_of = {name: row for row, name in enumerate(whole.paths)}
    if any(name not in row_of for name in index.paths):
        return None
    return whole.rows(row_of[name] for name in index.paths)


def _require_images(data: DataSet, annotations: Path, skip: bool) -> None:
    """SettingsError where image files are missing, with the first path and the count; or leave them out."""
    paths, listing = data.paths(), FolderListing()
    there = [path in listing for path in paths]
    missing = [path for path, is_present in zip(paths, there, strict=True) if not is_present]
    if missing and not (skip and any(there)):
        raise SettingsError(
            f"{len(missing)} of {len(paths)} images of {annotations} are not there, the first: {missing[0]}; "
            "unpack the images, or --skip_missing"
        )
    if missing:
        print(f"{len(missing)} images of {annotations} are missing and left out", file=sys.stderr, flush=True)
        data.keep(np.flatnonzero(there))


def get_data(args: argparse.Namespace, accelerator: Accelerator | None = None) -> tuple[DataLoader, DataLoader]:
    """The training and the test loader; `loader.dataset.classes` is the dict index -> name.

    Batches are `common.data.Batch`es whose data is (images (B,3,S,S) float32, targets (B,C) int8). With a
    simulation asked for, the training labels are partial, and `dataset.complete` keeps the matrix before it.
    """
    accelerator = accelerator or Accelerator()
    found = getattr(args, "_found", None) or locate_data(args, is_given=True)
    train = open_dataset(found, "train", train_transform(getattr(args, "augment", "paper")), args)
    val = open_dataset(found, "val", None, args)
    if list(train.classes.values()) != list(val.classes.values()):
        raise SettingsError(f"{found.files.train} and {found.files.val} have different classes")
    if accelerator.is_main_process:
        for split, data in (("train", train), ("val", val)):
            kept = f"{len(data)} of {data.num_all}" if isinstance(data, AnnotatedImages) else str(len(data))
            print(f"{split}: {kept} images, {len(data.classes)} classes ({found.layout}, {found.root})", flush=True)
        if "2017" in found.files.train.name and found.layout == "coco":
            print("note: these are COCO 2017's lists; the paper's numbers are on COCO 2014", flush=True)
    make_partial(args, train, verbose=accelerator.is_main_process)
    loaders = (
        train_loader(
            train,
            args.batch_size,
            seed=getattr(args, "seed", 0) or 0,
            accelerator=accelerator,
            workers=args.workers,
            skip_corrupt=getattr(args, "skip_corrupt", False),
            collate=collate_of(train),
        ),
        eval_loader(val, args.batch_size, accelerator=accelerator, workers=args.workers, collate=collate_of(val)),
    )
    for loader, data in zip(loaders, (train, val), strict=True):
        loader.dataset.classes = data.classes
    return loaders


def make_partial(args: argparse.Namespace, train: DataSet, *, verbose: bool = True) -> None:
    """Simulate partial labels on the training set, or read them from a file, where `args` asks for it."""
    scheme, file = getattr(args, "simulate_partial_type", None), getattr(args, "partial_labels", None)
    if not scheme and not file:
        return
    if not isinstance(train, CocoDetection):
        raise SettingsError("--simulate_partial_type and --partial_labels want complete labels (COCO's layout)")
    train.complete = label_matrix(train.targets_all)
    if file:
        load_partial_labels(file, train)
    else:
        simulate_coco(args, train, verbose=verbose)


def collate_of(data: DataSet) -> Callable[[list], Any]:
    """How the items of a data set become (images, targets)."""
    return data.collate if isinstance(data, OpenImagesDataset) else default_collate


def targets_of(data: DataSet) -> np.ndarray:
    """All labels (N,C) int8 of a data set, in the order of its items."""
    return data.target_matrix() if isinstance(data, OpenImagesDataset) else label_matrix(data.targets_all)
