"""The data sets by the original's names and calls: ImageNet with ReaL labels, multi-label MNIST.

Each takes its settings from a class like `config`; how the data are read stands in the data rooms.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from common.aliases import one_module
from common.cli import UserError
from common.loading import loader_processes
from mile import data_images
from mile.build import device_named
from mile.config import config, setting
from mile.data_folders import (  # noqa: F401
    LabelledImages,
    Samples,
    balanced_subset,
    class_folders,
    collate_real,
    files_of,
    list_images,
    listed_subset,
    subset_of,
    wnid_index,
)
from mile.data_grids import (  # noqa: F401
    LABEL_PROBABILITIES,
    TEST_SEED,
    GridLoader,
    compose_grids,
    mnist_preprocess,
    read_digits,
)
from mile.data_images import IMAGENET_MEAN, IMAGENET_STD, Transform, short_side  # noqa: F401
from mile.data_labels import labels_of_val_files

one_module(__name__, "mile.dataset")


def train_transform(
    conf: Any = config, model: str = "resnet18", *, normalized: bool = False
) -> Transform:
    """data_images.train_transform, or with `augment none` the evaluation transform."""
    if setting(conf, "augment") == "none":
        return eval_transform(conf, model, normalized=normalized)
    return data_images.train_transform(setting(conf, "image_size"), normalized=normalized)


def eval_transform(
    conf: Any = config, model: str = "resnet18", *, normalized: bool = False
) -> Transform:
    """data_images.eval_transform at the settings' size, by their protocol."""
    short = short_side(setting(conf, "protocol"), model)
    return data_images.eval_transform(setting(conf, "image_size"), short, normalized=normalized)


def train_samples(root: str | Path, conf: Any = config) -> Samples:
    """ImageNet's training images (path, index in the full ImageNet), cut as the settings say."""
    root = Path(root)
    index = wnid_index(class_folders(root, "ImageNet train"), root)
    return subset_of(
        list_images(root, index),
        file=setting(conf, "subset_file"),
        share=setting(conf, "train_frac"),
        seed=setting(conf, "subset_seed"),
    )


class ImageNetTrain:
    """ImageNet's training set: class folders named by WNID."""

    def __init__(self, root: str | Path, model: str = "resnet18", conf: Any = config) -> None:
        self.conf = conf
        look = train_transform(conf, model, normalized=True)
        self.dataset = LabelledImages(train_samples(root, conf), look)
        size = setting(conf, "batch_size")
        if size > len(self.dataset):
            raise UserError(f"batch_size {size}: more than the {len(self.dataset)} training images")

    def __len__(self) -> int:
        return len(self.dataset)

    def getDataloader(self) -> DataLoader:
        """Shuffled batches: image (B,3,S,S) float32, label (B,) int64 among ImageNet's 1,000."""
        return DataLoader(
            self.dataset,
            setting(self.conf, "batch_size"),
            shuffle=True,
            num_workers=loader_processes(setting(self.conf, "num_workers")),
            pin_memory=torch.cuda.is_available(),
        )


class ImageNetReal(ImageFolder):
    """ImageNet's validation set with ReaL label sets.

    Val/WNID/ILSVRC2012_val_%08d.JPEG and real.json.

    ImageFolder's attributes, with class_to_idx and targets as indices in the full ImageNet.
    UserError names faulty folders, file names and labels.
    """

    def __init__(
        self, root: str | Path, real_path: str | Path, transform: Transform | None = None
    ) -> None:
        super().__init__(str(root), transform)
        self.real = labels_of_val_files(files_of(self.samples), Path(real_path))

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """The class folders and their indices in the full ImageNet."""
        root = Path(directory)
        names = class_folders(root, "ImageNet val")
        return names, wnid_index(names, root)

    @staticmethod
    def make_dataset(
        directory: str | Path, class_to_idx: dict[str, int], *_: Any, **__: Any
    ) -> Samples:
        """All images (path, index in the full ImageNet)."""
        return list_images(Path(directory), class_to_idx)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """image (transformed), original_label (index in the full ImageNet), real_label (list)."""
        transform = self.transform or eval_transform(normalized=True)
        image, label, real = LabelledImages(self.samples, transform, self.real)[index]
        return {"image": image, "original_label": label, "real_label": real}

    def getDataloader(self, model: str = "resnet18", conf: Any = config) -> DataLoader:
        """Batches (image (B,3,S,S) float32, label (B,), B lists), in order, each image once."""
        transform = self.transform or eval_transform(conf, model, normalized=True)
        return DataLoader(
            LabelledImages(self.samples, transform, self.real),
            setting(conf, "batch_size"),
            num_workers=loader_processes(setting(conf, "num_workers")),
            collate_fn=collate_real,
            pin_memory=torch.cuda.is_available(),
        )


class CollateFn:
    """What a DataLoader of the original's data sets takes as its collate_fn.

    Items of ImageNetReal (dicts) become (image (B,3,S,S), label (B,), B lists). Digits (picture,
    label), nine of them a grid, become (grids (K,3,S,S) float32, single (K,) int64) and, with
    train=False, the true sets (K,10) bool as well; which cell the annotator names is drawn from
    torch's random numbers. UserError for fewer than nine digits; what is over is left out.

        DataLoader(MNIST(root), 9 * 16, shuffle=True, collate_fn=CollateFn(train=True))
    """

    def __init__(self, train: bool = True, model: str = "resnet18-10", conf: Any = config) -> None:
        self.train = train
        self.model = model
        self.size = setting(conf, "mnist_size")

    def __call__(self, items: Sequence[Any]) -> tuple[Any, ...]:
        """A batch of the items of a data set."""
        if isinstance(items[0], Mapping):
            keys = ("image", "original_label", "real_label")
            return collate_real([tuple(item[key] for key in keys) for item in items])

        count = len(items) // 9
        if count == 0:
            raise UserError(f"a grid is made of nine digits, this batch has {len(items)}")
        pictures, labels = zip(*items, strict=True)
        digits = torch.stack([_digit(picture) for picture in pictures])
        u = torch.rand(count, dtype=torch.float64)
        grids, single, real = compose_grids(digits, torch.as_tensor(labels), u)
        images = mnist_preprocess(grids, self.size)
        if self.train:
            return images, single
        return images, single, real


def _digit(picture: Any) -> torch.Tensor:
    """A digit as uint8 (28,28): of a PIL picture, an array, or a tensor (1,28,28) in 0..1."""
    digit = torch.as_tensor(np.array(picture) if not isinstance(picture, torch.Tensor) else picture)
    if digit.is_floating_point():
        digit = (digit * 255).round().to(torch.uint8)
    return digit.reshape(digit.shape[-2:])


class MultilabelMNIST:
    """The benchmark from the digits in root/MNIST/raw (idx files, plain or .gz)."""

    def __init__(self, root: str | Path, model: str = "resnet18-10", conf: Any = config) -> None:
        self.digits = read_digits(root)
        self.model = model
        self.conf = conf

    def getDataloader(self, train: bool) -> GridLoader:
        """A loader of the training or the test grids on conf.device."""
        part = self.digits.train if train else self.digits.test
        return GridLoader(
            *part.on(device_named(setting(self.conf, "device"))),
            train=train,
            batch_size=setting(self.conf, "batch_size"),
            size=setting(self.conf, "mnist_size"),
            grids=setting(self.conf, "mnist_grids" if train else "mnist_test_grids"),
            seed=(getattr(self.conf, "seed", 0) or 0) if train else TEST_SEED,
            redraw=setting(self.conf, "mnist_redraw"),
        )
