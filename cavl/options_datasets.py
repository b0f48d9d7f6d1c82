"""The data sets of -ds: kind, places, offline sample. Light: without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common import samples
from common.aliases import one_module
from common.locate import Location, holds_idx, locate

one_module(__name__, "cavl.options_datasets")


class Entry(NamedTuple):
    """One value of -ds.

    kind: which reader reads it. places: folders or files under the data root that it is accepted
    in. how: how to get it. sample: its offline sample, or None. download: the class of
    torchvision.datasets that fetches it.
    """

    kind: str
    places: tuple[str, ...]
    how: str
    sample: str | None = None
    download: str | None = None


def _torchvision(kind: str, download: str, *places: str, sample: str | None = None) -> Entry:
    how = f"expected there: {' or '.join(places)}"
    return Entry(kind, places, how, sample, download)


def _mat(*files: str, sample: str | None = None) -> Entry:
    how = f"put {files[0]} of M.-L. Zhang's collection there (cavl/README.md)"
    return Entry("mat", files, how, sample)


_PLCIFAR = Entry("plcifar", ("cifar-10-batches-py",), "see PLCIFAR10 in cavl/README.md")
_FASHION = ("FashionMnist/FashionMNIST/raw", "FashionMNIST/raw")
DATA_SETS = {
    "mnist": _torchvision("idx", "MNIST", "mnist/MNIST/raw", "MNIST/raw", sample="MNIST"),
    "kmnist": _torchvision("idx", "KMNIST", "KMNIST/KMNIST/raw", "KMNIST/raw", sample="MNIST"),
    "fashion": _torchvision("idx", "FashionMNIST", *_FASHION, sample="MNIST"),
    "cifar10": _torchvision("cifar", "CIFAR10", "cifar-10-batches-py", sample="CIFAR10"),
    "cifar100": _torchvision("cifar", "CIFAR100", "cifar-100-python"),
    "lost": _mat("lost.mat", "Lost.mat", sample="PLL"),
    "msrcv2": _mat("MSRCv2.mat", "msrc-v2.mat"),
    "birdsong": _mat("BirdSong.mat", "Birdsong.mat", "bird-song.mat", "birdac.mat"),
    "soccer": _mat("Soccer Player.mat", "SoccerPlayer.mat", "soccer.mat", "spd.mat"),
    "yahoonews": _mat("Yahoo! News.mat", "YahooNews.mat", "yahoo-news.mat", "LYN.mat"),
    "mirflickr": _mat("Mirflickr.mat", "mir-flickr.mat"),
    "plcifar10_aggregate": _PLCIFAR,
    "plcifar10_vaguest": _PLCIFAR,
}

OWN_DATA = ("pictures", "features")  # what --data can hold: values of ds that -ds does not offer


def kind_of(ds: str) -> str:
    """The kind of a data set of -ds; of own data itself, "pictures" or "features"."""
    return ds if ds in OWN_DATA else DATA_SETS[ds].kind


def locate_dataset(
    ds: str,
    given: str | Path | None,
    *,
    want_sample: bool = False,
    may_fall_back: bool = True,
) -> Location:
    """Return the folder (idx, CIFAR) or file (.mat) of -ds, or its offline sample.

    Prints a line where it is not the real set.

    Args:
        given: the user's -data_dir, or None.
        may_fall_back: whether the sample stands in where no place holds the set; without it that is
            a UserError.
    """
    entry = DATA_SETS[ds]
    root = locate(
        ds,
        given=given,
        default="./data",
        holds=lambda path: _place_in(path, entry) is not None,
        how_to_get=entry.how,
        sample=entry.sample,
        want_sample=want_sample,
        download=_downloader(entry),
        with_sample=[name for name, other in DATA_SETS.items() if other.sample],
        flag="--data_dir" if may_fall_back else None,
        may_fall_back=may_fall_back,
    )
    place = _place_in(root.path, entry)
    assert place is not None  # locate has asked
    is_sample = root.is_sample or samples.is_sample(place)
    if is_sample and not root.is_sample:
        print(f"{place} is an offline sample", flush=True)
    return Location(place, is_sample)


def _place_in(root: Path, entry: Entry) -> Path | None:
    """The folder or file of a data set under a root, or None."""
    if entry.kind == "mat" and root.suffix.lower() == ".mat" and root.is_file():
        return root

    places = [root / place for place in entry.places]
    for place in entry.places:
        if Path(place).parts[0] == root.name:  # the user gave DATA/MNIST
            places.append(root.parent / place)
    if entry.kind != "idx":
        return next((place for place in places if place.exists()), None)

    # A common root is taken for KMNIST or Fashion too, and so is the sample's, which holds MNIST.
    places.append(root)
    if (root / "SAMPLE.json").is_file():
        places.append(root / "MNIST/raw")
    return next((place for place in places if holds_idx(place)), None)


def _downloader(entry: Entry) -> Callable[[Path], None] | None:
    """What fetches a data set into a root, for those that torchvision fetches."""
    if entry.download is None:
        return None
    name = entry.download
    folder = entry.places[0].split("/")[0] if entry.kind == "idx" else ""

    def download(root: Path) -> None:
        import torchvision  # seconds: only where there is something to fetch

        getattr(torchvision.datasets, name)(str(root / folder), download=True)

    return download
