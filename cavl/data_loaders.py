"""The released data loaders, for use in other programs.

Main.py keeps the images on the device (data_resident).
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from cavl.data import PartialData, load_dataset
from cavl.data_candidates import generate_uniform_cv_candidate_labels
from cavl.data_resident import Images
from cavl.method import Law
from cavl.options_datasets import DATA_SETS, locate_dataset
from cavl.utils.gen_index_dataset import gen_index_dataset
from common.aliases import one_module
from common.cli import UserError
from common.domain import DomainError, require_number

one_module(__name__, "cavl.data_loaders")


class ImagesInMemory(TensorDataset):
    """Items (image (C, H, W) float32, label int64) of a set that lies in memory, transformed once.

    `data` and `targets` are those of torchvision's class for the set: images (n, 28, 28) uint8 with
    labels (n,) int64 tensors for the MNIST family, an array (n, 32, 32, 3) uint8 with a list of
    labels for CIFAR.
    """

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, data: PartialData) -> None:
        images = Images(
            pixels, torch.device("cpu"), mean=data.mean, std=data.std, limit_gb=math.inf
        )
        assert isinstance(images.pixels, torch.Tensor)  # not a user's own picture files
        super().__init__(images.pixels, labels)

        is_grey = DATA_SETS[data.name].kind == "idx"
        self.data = pixels[:, 0] if is_grey else pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = labels if is_grey else labels.tolist()


def prepare_cv_datasets(
    dataname: str, batch_size: int, *, data_root: str | Path | None = None, sample: bool = False
) -> tuple[DataLoader, DataLoader, DataLoader, ImagesInMemory, ImagesInMemory, int]:
    """Return the loaders and data sets of an image set, and its number of classes.

    They come as (full_train_loader, train_loader, test_loader, ordinary_train_dataset,
    test_dataset, num_classes).

    dataname: an image set of -ds (mnist, kmnist, fashion, cifar10, cifar100). data_root: as
    -data_dir; a set that is not there is downloaded. sample: the offline sample instead. The full
    loader yields the whole training set as one shuffled batch.

    Raises DomainError (a ValueError) where the set is not there and cannot be downloaded: the
    offline sample stands in for a script's data only, never for a caller's.
    """
    names = [name for name, entry in DATA_SETS.items() if entry.kind in ("idx", "cifar")]
    if dataname not in names:
        raise DomainError(f"{dataname!r} is not an image set; use one of {', '.join(names)}")
    require_number(batch_size, "batch_size", 1)

    try:
        location = locate_dataset(dataname, data_root, want_sample=sample, may_fall_back=False)
    except UserError as error:
        raise DomainError(str(error)) from error
    data = load_dataset(dataname, location)
    assert isinstance(data.train_x, torch.Tensor) and isinstance(data.test_x, torch.Tensor)
    train = ImagesInMemory(data.train_x, data.train_y, data)
    test = ImagesInMemory(data.test_x, data.test_y, data)
    return (
        DataLoader(train, batch_size=len(train), shuffle=True),
        DataLoader(train, batch_size=batch_size, shuffle=True),
        DataLoader(test, batch_size=batch_size),
        train,
        test,
        data.num_classes,
    )


def prepare_train_loaders_for_uniform_cv_candidate_labels(
    dataname: str,
    full_train_loader: DataLoader,
    batch_size: int,
    *,
    law: Law = "released",
    num_classes: int | None = None,
    generator: np.random.Generator | None = None,
) -> tuple[DataLoader, torch.Tensor, torch.Tensor, int]:
    """Return a training loader with freshly drawn candidate sets, and what it was made from.

    The result is (partial_matrix_train_loader, data (n, ...), partialY (n, K), dim).

    The loader yields (images, Y rows, true labels as floats, index), shuffled; dim is the number of
    values of an image. The row order of data is that of the full loader's one batch; keywords as in
    generate_uniform_cv_candidate_labels.
    """
    data, labels = next(iter(full_train_loader))
    partialY = generate_uniform_cv_candidate_labels(
        dataname, labels, law=law, num_classes=num_classes, generator=generator
    )
    dataset = gen_index_dataset(data, partialY, labels.float())
    return DataLoader(dataset, batch_size=batch_size, shuffle=True), data, partialY, data[0].numel()
