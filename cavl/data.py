"""Which pictures and labels: the data sets of -ds read into tensors, folds of the .mat sets."""

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cavl.data_pickle import read_pickle
from cavl.data_pll import read_pll_mat, standardize_features
from cavl.options_datasets import DATA_SETS
from common.aliases import one_module
from common.cli import UserError
from common.locate import Location
from common.readers import read_mnist

if TYPE_CHECKING:
    from cavl.data_pictures import PictureFiles

one_module(__name__, "cavl.data")

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.247, 0.243, 0.261)


@dataclass
class PartialData:
    """A data set in memory, before a device sees it.

    train_x: (n, ...) uint8 or float32; train_y: (n,) int64, the hidden labels, -1 where not even
    the data know it; test_x and test_y likewise. own_sets: (n, K) uint8, the candidate sets that
    come with the data, or None; test_sets: those of the test part. mean, std: the normalisation of
    colour images, or None. has_folds: the test part is empty until `fold_of`.

    Of a user's own data also: interpolation, of their pictures; classes, K names; names, n of the
    training samples; split_seed, where it drew the test part; lines, that a run begins with.
    """

    name: str
    train_x: "torch.Tensor | PictureFiles"
    train_y: torch.Tensor
    test_x: "torch.Tensor | PictureFiles"
    test_y: torch.Tensor
    num_classes: int
    is_sample: bool
    own_sets: torch.Tensor | None = None
    test_sets: torch.Tensor | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    has_folds: bool = False
    interpolation: str | None = None
    classes: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    split_seed: int | None = None
    lines: tuple[str, ...] = ()


def load_dataset(ds: str, location: Location) -> PartialData:
    """Read the data set whole; UserError where it cannot be trained or tested on.

    `fold_of` splits .mat data.
    """
    readers = {"idx": _load_idx, "cifar": _load_cifar, "mat": _load_mat, "plcifar": _load_plcifar}
    data = readers[DATA_SETS[ds].kind](ds, location)
    _check(data, location.path)
    return data


def _check(data: PartialData, place: Path) -> None:
    parts = {"training": (data.train_x, data.train_y)}
    if not data.has_folds:
        parts["test"] = (data.test_x, data.test_y)
    for part, (x, y) in parts.items():
        if len(y) == 0:
            raise UserError(f"{place}: holds no {part} images; fetch the data set again")
        if x.shape[1:] != data.train_x.shape[1:]:
            sizes = f"{tuple(x.shape[1:])}, the training images {tuple(data.train_x.shape[1:])}"
            raise UserError(f"{place}: the {part} images are {sizes}; fetch the data set again")
        low = int(y.min())
        high = int(y.max())
        if low < 0 or high >= data.num_classes:
            raise UserError(
                f"{place}: {part} labels from {low} to {high}, expected 0 to {data.num_classes - 1}"
            )


def _load_idx(ds: str, location: Location) -> PartialData:
    x, y, test_x, test_y = (torch.from_numpy(array.copy()) for array in read_mnist(location.path))
    return PartialData(
        name=ds,
        train_x=x[:, None],
        train_y=y.long(),
        test_x=test_x[:, None],
        test_y=test_y.long(),
        num_classes=10,
        is_sample=location.is_sample,
    )


def _load_cifar(ds: str, location: Location) -> PartialData:
    if ds == "cifar100":
        names, test_name, key, num_classes = ["train"], "test", "fine_labels", 100
    else:
        names = [f"data_batch_{number}" for number in range(1, 6)]
        test_name, key, num_classes = "test_batch", "labels", 10
    batches = [_cifar_batch(location.path / name, key) for name in names]
    test_x, test_y = _cifar_batch(location.path / test_name, key)
    return PartialData(
        name=ds,
        train_x=torch.cat([x for x, _ in batches]),
        train_y=torch.cat([y for _, y in batches]),
        test_x=test_x,
        test_y=test_y,
        num_classes=num_classes,
        is_sample=location.is_sample,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
    )


def _cifar_batch(path: Path, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    content = read_pickle(path)
    if not isinstance(content, dict) or "data" not in content or key not in content:
        raise UserError(f"{path}: expected a CIFAR batch with 'data' and '{key}'")
    pixels = _whole_numbers(path, "data", content["data"], 255).astype(np.uint8)
    labels = _whole_numbers(path, key, content[key], None).astype(np.int64)
    if pixels.shape != (len(labels), 3072):
        raise UserError(f"{path}: data is {pixels.shape}, expected ({len(labels)}, 3072)")
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()), torch.from_numpy(labels)


def _whole_numbers(path: Path, key: str, content: object, high: int | None) -> np.ndarray:
    """Whole numbers, with `high` from 0 to there; UserError where a cast would hide others."""
    try:
        values = np.asarray(content)
    except (ValueError, TypeError, OverflowError) as error:
        problem = f"{path}: '{key}' is not made of numbers ({error})"
        raise UserError(f"{problem}; fetch it again") from error
    if values.dtype.kind not in "iu" and values.size:
        problem = f"{path}: '{key}' is not made of whole numbers but of {values.dtype}"
        raise UserError(f"{problem}; fetch it again")
    if high is not None and values.size and not (values.min() >= 0 and values.max() <= high):
        found = f"{values.min()} to {values.max()}"
        problem = f"{path}: '{key}' holds values from {found}, expected 0 to {high}"
        raise UserError(f"{problem}; fetch it again")
    return values


def _load_plcifar(ds: str, location: Location) -> PartialData:
    """CIFAR-10 with PLCIFAR10's candidate sets, which annotators gave."""
    data = _load_cifar("cifar10", location)
    path = location.path.parent / "plcifar10" / "plcifar10.pkl"
    answers = read_pickle(path)
    n = len(data.train_y)
    if not isinstance(answers, dict) or len(answers) != n:
        raise UserError(f"{path}: expected a dict of {n} images, image index -> lists of labels")

    sets = torch.zeros(n, data.num_classes, dtype=torch.uint8)
    takes_union = ds.endswith("aggregate")
    for index, lists in answers.items():
        try:
            row = range(n).index(_whole(index))
            sets[row, _answer(lists, data.num_classes, takes_union)] = 1
        except (ValueError, TypeError, OverflowError) as error:
            found = f"image {reprlib.repr(index):.40}: {reprlib.repr(lists):.80}"
            expected = f"an index below {n} -> lists of labels 0 to 9"
            raise UserError(f"{path}: {found}; expected {expected}") from error
    return replace(data, name=ds, own_sets=sets)


def _answer(lists: Iterable[Iterable[int]], num_classes: int, union: bool) -> list[int]:
    """One image's candidates: the union of the annotators' lists, or the longest of them."""
    plain = [list(map(_whole, labels)) for labels in lists]
    chosen = max(plain, key=len)
    if union:
        chosen = sum(plain, [])
    if not chosen or min(chosen) < 0 or max(chosen) >= num_classes:
        raise ValueError("no label, or one of no class")
    return chosen


def _whole(value: Any) -> int:
    """A whole number, of text too; ValueError, TypeError or OverflowError for what is none."""
    number = int(value)
    if not isinstance(value, str) and number != value:
        raise ValueError(f"{value} is no whole number")
    return number


def _load_mat(ds: str, location: Location) -> PartialData:
    x, sets, y = read_pll_mat(location.path)
    return PartialData(
        name=ds,
        train_x=x.float(),
        train_y=y,
        test_x=x[:0].float(),
        test_y=y[:0],
        num_classes=sets.shape[1],
        is_sample=location.is_sample,
        own_sets=sets.to(torch.uint8),
        has_folds=True,
    )


def fold_of(data: PartialData, fold: int, folds: int, seed: int, standardize: str) -> PartialData:
    """Fold number `fold` of a K-fold split, KFold(shuffle, random_state = seed mod 2^32).

    standardize: "train" takes the features' mean and deviation from the training part, "all" from
    all rows, "none" leaves them. UserError for more folds than samples.
    """
    from sklearn.model_selection import KFold  # a second and a half

    n = len(data.train_y)
    if folds > n:
        raise UserError(f"-folds {folds}: more than the {n} samples of {data.name}")
    splits = list(KFold(folds, shuffle=True, random_state=seed % 2**32).split(data.train_y))
    train, test = (torch.from_numpy(part) for part in splits[fold])

    x = data.train_x
    assert isinstance(x, torch.Tensor)
    if standardize == "train":
        x = standardize_features(x, x[train])
    elif standardize == "all":
        x = standardize_features(x)
    assert data.own_sets is not None  # .mat sets come with them
    return replace(
        data,
        train_x=x[train].float(),
        train_y=data.train_y[train],
        test_x=x[test].float(),
        test_y=data.train_y[test],
        own_sets=data.own_sets[train],
        test_sets=data.own_sets[test],
        has_folds=False,
    )
