"""The data sets of `-ds`: where they lie, how they are read, as resident tensors."""

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from sklearn.model_selection import KFold

from cavl.utils.plain_pickle import read_pickle
from cavl.utils.pll_mat import read_pll_mat, standardize_features
from common import samples
from common.aliases import one_module
from common.cli import UserError
from common.data import Location, holds_idx, locate, read_mnist

one_module(__name__, "cavl.utils.datasets")

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)


class Entry(NamedTuple):
    """One value of -ds: the reader, the folders or files it is accepted in, its offline sample, its source."""

    kind: str
    places: tuple[str, ...]
    sample: str | None
    download: type | None
    how: str


def _torchvision(kind: str, places: tuple[str, ...], sample: str | None, source: type) -> Entry:
    how = f"expected there: {' or '.join(places)}"
    return Entry(kind, places, sample, source, how)


def _mat(*files: str, sample: str | None = None) -> Entry:
    return Entry(
        "mat",
        files,
        sample,
        None,
        f"put {files[0]} of M.-L. Zhang's collection there (cavl/README.md)",
    )


_tv = torchvision.datasets
_PLCIFAR = Entry("plcifar", ("cifar-10-batches-py",), None, None, "see PLCIFAR10 in cavl/README.md")
DATA_SETS = {
    "mnist": _torchvision("idx", ("mnist/MNIST/raw", "MNIST/raw"), "MNIST", _tv.MNIST),
    "kmnist": _torchvision("idx", ("KMNIST/KMNIST/raw", "KMNIST/raw"), "MNIST", _tv.KMNIST),
    "fashion": _torchvision(
        "idx", ("FashionMnist/FashionMNIST/raw", "FashionMNIST/raw"), "MNIST", _tv.FashionMNIST
    ),
    "cifar10": _torchvision("cifar", ("cifar-10-batches-py",), "CIFAR10", _tv.CIFAR10),
    "cifar100": _torchvision("cifar", ("cifar-100-python",), None, _tv.CIFAR100),
    "lost": _mat("lost.mat", "Lost.mat", sample="PLL"),
    "msrcv2": _mat("MSRCv2.mat", "msrc-v2.mat"),
    "birdsong": _mat("BirdSong.mat", "Birdsong.mat", "bird-song.mat", "birdac.mat"),
    "soccer": _mat("Soccer Player.mat", "SoccerPlayer.mat", "soccer.mat", "spd.mat"),
    "yahoonews": _mat("Yahoo! News.mat", "YahooNews.mat", "yahoo-news.mat", "LYN.mat"),
    "mirflickr": _mat("Mirflickr.mat", "mir-flickr.mat"),
    "plcifar10_aggregate": _PLCIFAR,
    "plcifar10_vaguest": _PLCIFAR,
}


@dataclass
class PartialData:
    """A data set in memory, before a device sees it.

    train_x (n,...) uint8 or float32, train_y (n,) int64 (the hidden labels), test_x, test_y; K classes;
    own_sets (n,K) uint8 candidates that come with the data, or None, and test_sets those of the test part;
    mean, std: the normalisation of colour images, or None; has_folds: the test part is empty until `fold_of`.
    """

    name: str
    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    num_classes: int
    is_sample: bool
    own_sets: torch.Tensor | None = None
    test_sets: torch.Tensor | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    has_folds: bool = False


def locate_dataset(
    ds: str,
    given: str | Path | None,
    *,
    want_sample: bool = False,
    may_fall_back: bool = True,
) -> Location:
    """The folder (idx, CIFAR) or file (.mat) of `-ds`, or its offline sample; prints where it is not the real set.

    given: the user's -data_dir. may_fall_back: whether the sample stands in where no place holds the set; without it
    that is a UserError.
    """
    entry = DATA_SETS[ds]

    def place_in(root: Path) -> Path | None:
        folders = [root / place for place in entry.places]
        folders += [
            root.parent / place for place in entry.places if Path(place).parts[0] == root.name
        ]  # DATA/MNIST
        if entry.kind == "idx":
            # A common root is taken for KMNIST or Fashion too, and so is the sample's, which holds MNIST.
            folders.append(root)
            folders += [root / "MNIST/raw"] if (root / "SAMPLE.json").is_file() else []
            return next((f for f in folders if holds_idx(f)), None)
        if entry.kind == "mat" and root.suffix.lower() == ".mat" and root.is_file():
            return root
        return next((f for f in folders if f.exists()), None)

    def download(root: Path) -> None:
        folder = entry.places[0].split("/")[0] if entry.kind == "idx" else ""
        entry.download(str(root / folder), download=True)

    root = locate(
        ds,
        given=given,
        default="./data",
        holds=lambda path: place_in(path) is not None,
        how_to_get=entry.how,
        sample=entry.sample,
        want_sample=want_sample,
        download=download if entry.download else None,
        with_sample=[name for name, other in DATA_SETS.items() if other.sample],
        flag="--data_dir" if may_fall_back else None,
        may_fall_back=may_fall_back,
    )
    place = place_in(root.path)
    is_sample = root.is_sample or samples.is_sample(place)
    if is_sample and not root.is_sample:
        print(f"{place} is an offline sample", flush=True)
    return Location(place, is_sample)


def load_dataset(ds: str, location: Location) -> PartialData:
    """Read the data set whole; UserError where it cannot be trained or tested on. `fold_of` splits .mat data."""
    kind = DATA_SETS[ds].kind
    reader = {"idx": _load_idx, "cifar": _load_cifar, "mat": _load_mat, "plcifar": _load_plcifar}[
        kind
    ]
    data = reader(ds, location)
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
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= data.num_classes:
            raise UserError(
                f"{place}: {part} labels from {low} to {high}, expected 0 to {data.num_classes - 1}"
            )


def _load_idx(ds: str, location: Location) -> PartialData:
    x, y, test_x, test_y = (torch.from_numpy(a.copy()) for a in read_mnist(location.path))
    return PartialData(
        ds, x[:, None], y.long(), test_x[:, None], test_y.long(), 10, location.is_sample
    )


def _load_cifar(ds: str, location: Location) -> PartialData:
    coarse = ds == "cifar100"
    names = ["train"] if coarse else [f"data_batch_{i}" for i in range(1, 6)]
    key, classes = ("fine_labels", 100) if coarse else ("labels", 10)
    parts = [_cifar_batch(location.path / name, key) for name in names]
    x, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    test_x, test_y = _cifar_batch(location.path / ("test" if coarse else "test_batch"), key)
    data = PartialData(ds, x, y, test_x, test_y, classes, location.is_sample)
    data.mean, data.std = CIFAR_MEAN, CIFAR_STD
    return data


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
    """An array of whole numbers, with `high` from 0 to there; UserError where a cast would hide that it is not."""
    try:
        values = np.asarray(content)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path}: '{key}' is not made of numbers ({error}); fetch it again"
        ) from error
    if values.dtype.kind not in "iu" and values.size:
        raise UserError(
            f"{path}: '{key}' is not made of whole numbers but of {values.dtype}; fetch it again"
        )
    if high is not None and values.size and not (values.min() >= 0 and values.max() <= high):
        found = f"{values.min()} to {values.max()}"
        raise UserError(
            f"{path}: '{key}' holds values from {found}, expected 0 to {high}; fetch it again"
        )
    return values


def _load_plcifar(ds: str, location: Location) -> PartialData:
    data = _load_cifar("cifar10", location)
    path = location.path.parent / "plcifar10" / "plcifar10.pkl"
    answers = read_pickle(path)
    n = len(data.train_y)
    if not isinstance(answers, dict) or len(answers) != n:
        raise UserError(f"{path}: expected a dict of {n} images, image index -> lists of labels")
    sets = torch.zeros(n, data.num_classes, dtype=torch.uint8)
    for index, lists in answers.items():
        try:
            row = range(n).index(_whole(index))
            sets[row, _answer(lists, data.num_classes, ds.endswith("aggregate"))] = 1
        except (ValueError, TypeError, OverflowError) as error:
            told = f"image {reprlib.repr(index):.40}: {reprlib.repr(lists):.80}"
            raise UserError(
                f"{path}: {told}; expected an index below {n} -> lists of labels 0 to 9"
            ) from error
    data.name, data.own_sets = ds, sets
    return data


def _answer(lists: Iterable[Iterable[int]], num_classes: int, union: bool) -> list[int]:
    """One image's candidates: the union of all annotators' lists (Aggregate), or the longest (Vaguest)."""
    plain = [list(map(_whole, labels)) for labels in lists]
    chosen = sum(plain, []) if union else max(plain, key=len)
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
    none, is_sample = (x[:0], y[:0]), location.is_sample
    sets = sets.to(torch.uint8)
    return PartialData(
        ds, x.float(), y, *none, sets.shape[1], is_sample, own_sets=sets, has_folds=True
    )


def fold_of(data: PartialData, fold: int, folds: int, seed: int, standardize: str) -> PartialData:
    """Fold number `fold` of a K-fold split, KFold(shuffle, random_state=seed mod 2^32); features standardised."""
    if folds > len(data.train_y):
        raise UserError(f"-folds {folds}: more than the {len(data.train_y)} samples of {data.name}")
    split = list(KFold(folds, shuffle=True, random_state=seed % 2**32).split(data.train_y))[fold]
    train, test = (torch.from_numpy(part) for part in split)
    x = data.train_x
    if standardize != "none":
        x = standardize_features(x, x[train] if standardize == "train" else x)
    parts = x[train].float(), data.train_y[train], x[test].float(), data.train_y[test]
    sets = {"own_sets": data.own_sets[train], "test_sets": data.own_sets[test]}
    return PartialData(data.name, *parts, data.num_classes, data.is_sample, **sets)
