"""The data sets of `-ds`: where they lie, how they are read, as resident tensors."""

import argparse
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from sklearn.model_selection import KFold

from cavl.utils.pll_mat import load_pll_mat, standardize_features
from common.cli import UserError
from common.data import Location, holds_idx, locate, read_mnist

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)


class Entry(NamedTuple):
    """One value of -ds: the reader, the folders or files it is accepted in, its offline sample, its source."""

    kind: str
    places: tuple[str, ...]
    sample: str | None
    download: type | None
    how: str


def _torchvision(kind: str, places: tuple[str, ...], sample: str | None, source: type) -> Entry:
    return Entry(kind, places, sample, source, f"torchvision downloads {source.__name__} where it reaches the network")


def _mat(*files: str, sample: str | None = None) -> Entry:
    return Entry("mat", files, sample, None, f"put {files[0]} of M.-L. Zhang's collection there (cavl/README.md)")


_tv = torchvision.datasets
_PLCIFAR = Entry("plcifar", ("cifar-10-batches-py",), None, None, "see PLCIFAR10 in cavl/README.md")
DATA_SETS = {
    "mnist": _torchvision("idx", ("mnist/MNIST/raw", "MNIST/raw"), "MNIST", _tv.MNIST),
    "kmnist": _torchvision("idx", ("KMNIST/KMNIST/raw", "KMNIST/raw"), "MNIST", _tv.KMNIST),
    "fashion": _torchvision("idx", ("FashionMnist/FashionMNIST/raw", "FashionMNIST/raw"), "MNIST", _tv.FashionMNIST),
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
    mean, std: the normalisation of colour images, or None.
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


def locate_dataset(args: argparse.Namespace) -> Location:
    """The folder (idx, CIFAR) or file (.mat) of `-ds`, or its offline sample; prints where it is not the real set."""
    entry, name = DATA_SETS[args.ds], args.ds

    def place_in(root: Path) -> Path | None:
        folders = [root / place for place in entry.places]
        if entry.kind == "idx":
            # A common root is taken for KMNIST or Fashion too, and so is the sample's, which holds MNIST.
            folders += [root] if holds_idx(root) else []
            folders += [root / "MNIST/raw"] if (root / "SAMPLE.json").is_file() else []
            return next((f for f in folders if holds_idx(f)), None)
        if entry.kind == "mat" and root.name in entry.places and root.is_file():
            return root
        return next((f for f in folders if f.exists()), None)

    def download(root: Path) -> None:
        folder = entry.places[0].split("/")[0] if entry.kind == "idx" else ""
        entry.download(str(root / folder), download=True)

    root = locate(
        name,
        given=args.data_dir,
        default="./data",
        holds=lambda path: place_in(path) is not None,
        how_to_get=entry.how,
        sample=entry.sample,
        want_sample=args.sample,
        download=download if entry.download else None,
    )
    return Location(place_in(root.path), root.is_sample)


def load_dataset(ds: str, location: Location) -> PartialData:
    """Read the data set whole. For .mat data the test part is empty: `fold_of` splits it."""
    kind = DATA_SETS[ds].kind
    reader = {"idx": _load_idx, "cifar": _load_cifar, "mat": _load_mat, "plcifar": _load_plcifar}[kind]
    return reader(ds, location)


def _load_idx(ds: str, location: Location) -> PartialData:
    x, y, test_x, test_y = (torch.from_numpy(a.copy()) for a in read_mnist(location.path))
    return PartialData(ds, x[:, None], y.long(), test_x[:, None], test_y.long(), 10, location.is_sample)


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


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, numbers and numpy arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> object:
        """Allow what numpy arrays need; refuse the rest."""
        allowed = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
        if module.split(".")[0] == "numpy" and name in allowed or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


def read_pickle(path: Path) -> object:
    """Plain data from a pickle file; UserError where it is absent, damaged, or would execute code."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; fetch the data set again") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a pickle of plain data ({error}); fetch it again") from error


def _cifar_batch(path: Path, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    content = read_pickle(path)
    if not isinstance(content, dict) or "data" not in content or key not in content:
        raise UserError(f"{path}: expected a CIFAR batch with 'data' and '{key}'")
    pixels, labels = np.asarray(content["data"], np.uint8), np.asarray(content[key], np.int64)
    if pixels.shape != (len(labels), 3072):
        raise UserError(f"{path}: data is {pixels.shape}, expected ({len(labels)}, 3072)")
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()), torch.from_numpy(labels)


def _load_plcifar(ds: str, location: Location) -> PartialData:
    data = _load_cifar("cifar10", location)
    answers = read_pickle(location.path.parent / "plcifar10" / "plcifar10.pkl")
    if not isinstance(answers, dict) or len(answers) != len(data.train_y):
        raise UserError(f"plcifar10.pkl: expected a dict of {len(data.train_y)} images, image index -> lists of labels")
    sets = torch.zeros(len(data.train_y), 10, dtype=torch.uint8)
    for index, lists in answers.items():
        # Aggregate: the union of all annotators' lists; Vaguest: the longest one.
        chosen = sum(lists, []) if ds.endswith("aggregate") else max(lists, key=len)
        sets[int(index), [int(k) for k in chosen]] = 1
    data.name, data.own_sets = ds, sets
    return data


def _load_mat(ds: str, location: Location) -> PartialData:
    x, sets, y = load_pll_mat(location.path, standardize=False)
    return PartialData(ds, x, y, x[:0], y[:0], sets.shape[1], location.is_sample, own_sets=sets.to(torch.uint8))


def fold_of(data: PartialData, fold: int, folds: int, seed: int, standardize: str) -> PartialData:
    """Fold number `fold` of a K-fold split, KFold(shuffle, random_state=seed); features standardised."""
    if folds > len(data.train_y):
        raise UserError(f"-folds {folds}: more than the {len(data.train_y)} samples of {data.name}")
    split = list(KFold(folds, shuffle=True, random_state=seed).split(data.train_y))[fold]
    train, test = (torch.from_numpy(part) for part in split)
    x = data.train_x
    if standardize != "none":
        x = standardize_features(x, x[train] if standardize == "train" else x)
    parts = x[train].float(), data.train_y[train], x[test].float(), data.train_y[test]
    sets = {"own_sets": data.own_sets[train], "test_sets": data.own_sets[test]}
    return PartialData(data.name, *parts, data.num_classes, data.is_sample, **sets)
