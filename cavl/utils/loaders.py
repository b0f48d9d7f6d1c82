"""The released code's data functions, for drop-in use. main.py itself keeps the images on the device (resident)."""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from cavl.utils.candidates import Law, generate_uniform_cv_candidate_labels
from cavl.utils.datasets import DATA_SETS, load_dataset, locate_dataset
from cavl.utils.errors import DataError
from cavl.utils.gen_index_dataset import gen_index_dataset
from cavl.utils.resident import Images
from common.aliases import one_module

one_module(__name__, "cavl.utils.loaders")


def prepare_cv_datasets(
    dataname: str, batch_size: int, *, data_root: str | Path | None = None, sample: bool = False
) -> tuple[DataLoader, DataLoader, DataLoader, TensorDataset, TensorDataset, int]:
    """Return (full_train_loader, train_loader, test_loader, ordinary_train_dataset, test_dataset, num_classes).

    dataname: an image set of -ds (mnist, kmnist, fashion, cifar10, cifar100). data_root: as -data_dir. Items are
    (image (C, H, W) float32, label int64); the full loader yields the whole training set as one shuffled
    batch. The images are transformed once, into memory, instead of one by one.
    """
    names = [name for name, entry in DATA_SETS.items() if entry.kind in ("idx", "cifar")]
    if dataname not in names:
        raise DataError(f"{dataname!r} is not an image set; use one of {', '.join(names)}")
    where = argparse.Namespace(ds=dataname, data_dir=data_root, sample=sample)
    data = load_dataset(dataname, locate_dataset(where))

    def as_dataset(pixels: torch.Tensor, labels: torch.Tensor) -> TensorDataset:
        images = Images(pixels, torch.device("cpu"), mean=data.mean, std=data.std, limit_gb=math.inf)
        return TensorDataset(images.pixels, labels)

    train, test = as_dataset(data.train_x, data.train_y), as_dataset(data.test_x, data.test_y)
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
    """Return (partial_matrix_train_loader, data (n, ...), partialY (n, K), dim) with freshly drawn candidate sets.

    The loader yields (images, Y rows, true labels as floats, index), shuffled; dim is the number of values of
    an image. The row order of data is that of the full loader's one batch; keywords as in
    generate_uniform_cv_candidate_labels.
    """
    data, labels = next(iter(full_train_loader))
    partialY = generate_uniform_cv_candidate_labels(
        dataname, labels, law=law, num_classes=num_classes, generator=generator
    )
    dataset = gen_index_dataset(data, partialY, labels.float())
    return DataLoader(dataset, batch_size=batch_size, shuffle=True), data, partialY, data[0].numel()
