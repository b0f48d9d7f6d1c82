"""The data sets: ImageNet with ReaL labels here; multi-label MNIST (grids.py) and the folder readers re-exported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from common.aliases import one_module
from common.cli import UserError
from common.loading import loader_processes
from mile.config import config, setting
from mile.folders import (  # noqa: F401
    LabelledImages,
    balanced_subset,
    class_folders,
    collate_real,
    list_images,
    listed_subset,
    wnid_index,
)
from mile.grids import (  # noqa: F401
    IMAGENET_MEAN,
    IMAGENET_STD,
    LABEL_PROBABILITIES,
    MultilabelMNIST,
    compose_grids,
    mnist_preprocess,
)
from mile.real_labels import labels_of_val_files

one_module(__name__, "mile.dataset")

LONG = 16  # sides in a ratio up to here are resized whole
Transform = Callable[[Image.Image], torch.Tensor]


def train_transform(
    conf: Any = config, model: str = "resnet18", *, normalized: bool = False
) -> Transform:
    """Image -> (3,S,S): random resized crop and flip, or with `augment none` the evaluation transform.

    uint8 0..255, to be normalised on the device; `normalized`: float32.
    """
    if setting(conf, "augment") == "none":
        return eval_transform(conf, model, normalized=normalized)
    size = setting(conf, "image_size")
    return _compose(
        [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()], normalized
    )


def eval_transform(
    conf: Any = config, model: str = "resnet18", *, normalized: bool = False
) -> Transform:
    """Resize the shorter side to 256/224 of the input, bilinear antialiased, centre crop; dtype as in training.

    `protocol unofficial` with resnet50: 232 of 224. Of very long pictures the middle part is resized.
    """
    size = setting(conf, "image_size")
    short = 232 if setting(conf, "protocol") == "unofficial" and model == "resnet50" else 256
    resize = v2.Resize(round(size * short / 224), antialias=True)
    return _compose([_middle_of_long, resize, v2.CenterCrop(size)], normalized)


def _middle_of_long(image: Image.Image) -> Image.Image:
    """The middle of a picture whose long side is more than LONG times the other; others as they are.

    The centre crop keeps a square, and 9000x2 pixels would first become 1,152,000x256.
    """
    sides = image.size
    short, long = min(sides), max(sides)
    if long <= LONG * short:
        return image
    kept = LONG * short + (long - LONG * short) % 2  # the centre stays between the same pixels
    start = (long - kept) // 2
    is_wide = image.width == long
    box = (start, 0, start + kept, short) if is_wide else (0, start, short, start + kept)
    return image.crop(box)


def _compose(steps: list, normalized: bool) -> Transform:
    steps = [*steps, v2.PILToTensor()]
    if normalized:
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return v2.Compose(steps)


def train_samples(root: str | Path, conf: Any = config) -> list[tuple[str, int]]:
    """ImageNet's training images (path, index in the full ImageNet), cut to subset_file or train_frac."""
    root = Path(root)
    samples = list_images(root, wnid_index(class_folders(root, "ImageNet train"), root))
    if setting(conf, "subset_file"):
        return listed_subset(samples, Path(setting(conf, "subset_file")))
    return balanced_subset(samples, setting(conf, "train_frac"), setting(conf, "subset_seed"))


class ImageNetTrain:
    """ImageNet's training set: class folders named by WNID."""

    def __init__(self, root: str | Path, model: str = "resnet18", conf: Any = config) -> None:
        self.conf = conf
        self.dataset = LabelledImages(
            train_samples(root, conf), train_transform(conf, model, normalized=True)
        )
        size = setting(conf, "batch_size")
        if size > len(self.dataset):
            raise UserError(f"batch_size {size}: more than the {len(self.dataset)} training images")

    def __len__(self) -> int:
        return len(self.dataset)

    def getDataloader(self) -> DataLoader:
        """Shuffled batches (image (B,3,S,S) float32, label (B,) int64, the index in the full ImageNet)."""
        return DataLoader(
            self.dataset,
            setting(self.conf, "batch_size"),
            shuffle=True,
            num_workers=loader_processes(setting(self.conf, "num_workers")),
            pin_memory=torch.cuda.is_available(),
        )


class ImageNetReal(ImageFolder):
    """ImageNet's validation set with ReaL label sets: val/WNID/ILSVRC2012_val_%08d.JPEG and real.json.

    ImageFolder's attributes, with class_to_idx and targets as indices in the full ImageNet. UserError names faulty
    folders, file names and labels.
    """

    def __init__(
        self, root: str | Path, real_path: str | Path, transform: Transform | None = None
    ) -> None:
        super().__init__(str(root), transform)
        self.real = labels_of_val_files([Path(path) for path, _ in self.samples], Path(real_path))

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The class folders and their indices in the full ImageNet."""
        root = Path(directory)
        names = class_folders(root, "ImageNet val")
        return names, wnid_index(names, root)

    @staticmethod
    def make_dataset(
        directory: str, class_to_idx: dict[str, int], *_: Any, **__: Any
    ) -> list[tuple[str, int]]:
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
