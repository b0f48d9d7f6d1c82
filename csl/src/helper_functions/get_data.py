"""get_data: the training and test loaders of whatever layout was found."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.transforms as T
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from common.aliases import one_module
from common.data import eval_loader, read_image, train_loader
from common.text import numbered_lines, once
from csl.src.errors import MissingFileError, SettingsError, as_settings_errors
from csl.src.helper_functions.augment import CutoutPIL, RandAugment, RandomShift
from csl.src.helper_functions.checked import leave_out_unusable
from csl.src.helper_functions.classes import Columns, listed
from csl.src.helper_functions.coco import AnnotatedImages, CocoDetection, LVISDetection
from csl.src.helper_functions.coco_simulation import load_partial_labels, simulate_coco
from csl.src.helper_functions.label_table import label_matrix
from csl.src.helper_functions.locate import Found, locate_data
from csl.src.helper_functions.openimages import (
    OpenImagesDataset,
    OpenImagesIndex,
    read_class_names,
    read_openimages_csv,
)
from csl.src.models.utils.factory import input_statistics
from csl.src.pixels import Pixels

one_module(__name__, "csl.src.helper_functions.get_data")

DataSet = AnnotatedImages | OpenImagesDataset
COMPLETE = "val_complete.csv"  # beside data.csv: the test images with every label, to check the mAP both ways


def train_transform(augment: str = "paper", pixels: Pixels | None = None) -> Callable:
    """PIL -> (3,S,S) float32: CutoutPIL and RandAugment, or a shift, or nothing; then `pixels.tensor`. No flip.

    Without `pixels` values are in 0..1, not normalised.
    """
    steps = {"paper": [CutoutPIL(0.5), RandAugment()], "shift": [RandomShift(6)], "none": []}[
        augment
    ]
    return T.Compose([*steps, T.ToTensor() if pixels is None else pixels.tensor])


def pixels_of(args: argparse.Namespace) -> Pixels:
    """How the pictures of `args` become the input of its network: image_size, interpolation, model_name."""
    statistics = input_statistics(getattr(args, "model_name", None))
    return Pixels(args.image_size, getattr(args, "interpolation", "bilinear"), statistics)


class SquareReader:
    """Reads an image as RGB and squashes it to S x S; a set that fits into 256 MB is kept after its first reading."""

    def __init__(self, pixels: Pixels, count: int) -> None:
        self.pixels = pixels
        fits = count * pixels.size * pixels.size * 3 <= 2**28
        self.kept: dict[Path, Image.Image] | None = {} if fits else None

    def __call__(self, path: Path) -> Image.Image:
        """(S,S) RGB, as it is stored, without turning it as EXIF data say; CorruptImage names the path."""
        if self.kept is None:
            return self._read(path)
        if path not in self.kept:
            self.kept[path] = self._read(path)
        return self.kept[path]

    def _read(self, path: Path) -> Image.Image:
        return self.pixels.resize(read_image(path, upright=False))


def open_dataset(
    found: Found,
    split: str,
    args: argparse.Namespace,
    pixels: Pixels,
    *,
    transform: Callable | None = None,
    columns: Columns | None = None,
) -> DataSet:
    """The data set of a split ("train" or "val"); items (image, target) or, for Open Images, (image, row).

    Images are squashed to `pixels.size`; `transform` makes tensors of them (None: pixels.tensor). `columns`: the
    classes that the labels' columns stand for, those of the training set or of a network (None: the file's own).
    SettingsError for a split without images or labels, and for classes that are not among `columns`. Whether the image
    files are there and readable is for `require_images` to say.
    """
    transform = transform or pixels.tensor
    annotations = found.files.train if split == "train" else found.files.val
    if found.layout == "openimages":
        data: DataSet = _open_images(found, split, args, transform, columns)
    else:
        refuse_class_list(args, found)
        images = found.files.train_images if split == "train" else found.files.val_images
        kind = LVISDetection if found.layout == "lvis" else CocoDetection
        keep_empty = getattr(args, "keep_empty", False)
        data = kind(images, annotations, transform, keep_empty=keep_empty, columns=columns)
    if not len(data):
        raise SettingsError(f"{annotations}: holds no labelled image of the split {split}")
    data.read = SquareReader(pixels, len(data))
    return data


def _open_images(
    found: Found, split: str, args: argparse.Namespace, transform: Callable, columns: Columns | None
) -> OpenImagesDataset:
    """The Open Images set of a split; its classes are --class_list, those of `columns`, or the training file's."""
    files = found.files
    annotations = files.train if split == "train" else files.val
    is_wide = files.train == files.val
    names = read_class_names(found.root)
    classes = class_list(args)
    if columns is not None:
        classes = _in_columns(columns, classes, names, annotations)
    if classes is None and not is_wide:
        classes = read_openimages_csv(files.train).classes
    index = read_openimages_csv(annotations, split if is_wide else None, classes)
    if not index.classes:
        raise SettingsError(f"{annotations}: holds no label")
    data = OpenImagesDataset(found.root, index, transform, names)
    if split == "val" and (found.root / COMPLETE).is_file():
        data.complete = _complete_labels(found.root / COMPLETE, index)
    return data


def _in_columns(
    columns: Columns, chosen: list[str] | None, names: Mapping[str, str], annotations: Path
) -> list[str] | None:
    """The MIDs that stand for `columns`; where they are not known, `chosen`, the classes of --class_list.

    SettingsError: --class_list names other classes than `columns`.
    """
    mids = columns.keys or _mids_of(columns, names, annotations)
    if mids is None or chosen is None:
        return mids or chosen
    if set(mids) != set(chosen):
        other = [name for name in chosen if name not in set(mids)] or [
            name for name in mids if name not in set(chosen)
        ]
        raise SettingsError(
            f"--class_list: other classes than {columns.source}, such as {listed(other)}"
        )
    return mids


def _mids_of(columns: Columns, names: Mapping[str, str], annotations: Path) -> list[str] | None:
    """The names of `columns` where they are MIDs of the annotation file, or spell MIDs out; None where none is.

    names: MID -> display name. SettingsError names the classes that have no MID where others have one.
    """
    known = set(read_openimages_csv(annotations).classes)
    of_name = {name: mid for mid, name in names.items()}
    mids = [name if name in known else of_name.get(name) for name in columns.names]
    missing = [name for name, mid in zip(columns.names, mids, strict=True) if mid is None]
    if len(missing) == len(mids):
        return None
    if missing:
        raise SettingsError(
            f"{annotations}: has no label of {len(missing)} of the {len(mids)} classes of {columns.source}: "
            f"{listed(missing)}"
        )
    return mids


def class_list(args: argparse.Namespace) -> list[str] | None:
    """The names in --class_list, None where it was not given: a class a line; MIDs may share one.

    SettingsError: an empty file, a class twice.
    """
    path = getattr(args, "class_list", None)
    if path is None:
        return None
    if not Path(path).exists():
        raise MissingFileError(f"--class_list {path}: no such file; it holds one MID a line")
    with as_settings_errors():
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
        raise SettingsError(f"--class_list {path}: is empty; it holds one MID a line")
    return names


def refuse_class_list(args: argparse.Namespace, found: Found) -> None:
    """SettingsError where --class_list was given with another layout than Open Images'."""
    if getattr(args, "class_list", None) is not None and found.layout != "openimages":
        raise SettingsError(
            f"--class_list: only with Open Images; {found.files.train} is of another layout"
        )


def _complete_labels(path: Path, index: OpenImagesIndex) -> np.ndarray | None:
    """All labels (N,C) int8 of the test images, from a second csv; None where it lacks some of them."""
    whole = read_openimages_csv(path, "val", index.classes)
    row_of = {name: row for row, name in enumerate(whole.paths)}
    if any(name not in row_of for name in index.paths):
        return None
    return whole.rows(row_of[name] for name in index.paths)


def require_images(
    data: DataSet, split: str, found: Found, args: argparse.Namespace, accelerator: Accelerator
) -> None:
    """`leave_out_unusable` as the flags --skip_missing and --skip_corrupt ask for it; all processes call it."""
    leave_out_unusable(
        data,
        split,
        found.files.train if split == "train" else found.files.val,
        accelerator,
        skip_missing=getattr(args, "skip_missing", False),
        skip_corrupt=getattr(args, "skip_corrupt", False),
    )


def get_data(
    args: argparse.Namespace, accelerator: Accelerator | None = None
) -> tuple[DataLoader, DataLoader]:
    """The training and the test loader; `loader.dataset.classes` is the dict index -> name.

    Batches are `common.data.Batch`es whose data is (images (B,3,S,S) float32, targets (B,C) int8). With a
    simulation asked for, the training labels are partial, and `dataset.complete` keeps the matrix before it. The
    test labels have the columns of the training set, matched by name.
    """
    accelerator = accelerator or Accelerator()
    found = getattr(args, "_found", None) or locate_data(args, is_given=True)
    pixels = pixels_of(args)
    augmented = train_transform(getattr(args, "augment", "paper"), pixels)
    train = open_dataset(found, "train", args, pixels, transform=augmented)
    val = open_dataset(found, "val", args, pixels, columns=train.columns)
    for split, data in (("train", train), ("val", val)):
        require_images(data, split, found, args, accelerator)
    if accelerator.is_main_process:
        for split, data in (("train", train), ("val", val)):
            kept = (
                f"{len(data)} of {data.num_all}"
                if isinstance(data, AnnotatedImages)
                else str(len(data))
            )
            print(
                f"{split}: {kept} images, {len(data.classes)} classes ({found.layout}, {found.root})",
                flush=True,
            )
        absent = names_without_positives(val)
        if absent:
            print(
                f"val: {len(absent)} of {len(val.classes)} classes have no positive: {listed(absent)}",
                flush=True,
            )
        print(f"input: {pixels}", flush=True)
        if "2017" in found.files.train.name and found.layout == "coco":
            print(
                "note: these are COCO 2017's lists; the paper's numbers are on COCO 2014",
                flush=True,
            )
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
        scoring_loader(val, args, accelerator),
    )
    if not loaders[0].batch_sampler.batches:
        raise SettingsError(
            f"{found.files.train}: {len(train)} images for {accelerator.num_processes} processes; "
            "every process needs one in a step"
        )
    for loader, data in zip(loaders, (train, val), strict=True):
        loader.dataset.classes = data.classes
    return loaders


def scoring_loader(data: DataSet, args: argparse.Namespace, accelerator: Accelerator) -> DataLoader:
    """The loader of a test set: every image once, in order, without those that --skip_corrupt leaves out."""
    return eval_loader(
        data,
        args.batch_size,
        accelerator=accelerator,
        workers=args.workers,
        skip_corrupt=getattr(args, "skip_corrupt", False),
        collate=collate_of(data),
    )


def require_trainable(train: DataSet, found: Found) -> None:
    """SettingsError where nothing is annotated to train on."""
    if not classes_with(train, 0) and not classes_with(train, 1):
        raise SettingsError(
            f"{found.files.train}: no annotated label is left in {len(train)} training images"
        )


def require_scorable(val: DataSet, found: Found) -> None:
    """SettingsError where the test set has no positive; with partial labels, no class with both kinds of label."""
    positive = classes_with(val, 1)
    if not positive:
        raise SettingsError(
            f"{found.files.val}: no positive label in {len(val)} test images: nothing can be scored"
        )
    if not positive & classes_with(val, 0) and is_partial(val):
        raise SettingsError(
            f"{found.files.val}: no class has a positive and a negative label in {len(val)} test images: "
            "nothing can be scored"
        )


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


def make_partial(args: argparse.Namespace, train: DataSet, *, verbose: bool = True) -> None:
    """Simulate partial labels on the training set, or read them from a file, where `args` asks for it."""
    scheme, file = (
        getattr(args, "simulate_partial_type", None),
        getattr(args, "partial_labels", None),
    )
    if not scheme and not file:
        return
    if not isinstance(train, CocoDetection):
        raise SettingsError(
            "--simulate_partial_type and --partial_labels want complete labels (COCO's layout)"
        )
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
    return (
        data.target_matrix()
        if isinstance(data, OpenImagesDataset)
        else label_matrix(data.targets_all)
    )
