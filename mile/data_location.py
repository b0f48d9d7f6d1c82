"""Where the data of a run lie: given, at the default place, downloaded, or the offline sample.

Nothing here imports torch: a wrong path is answered at once.
"""

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common import samples
from common.aliases import one_module
from common.cli import UserError
from common.locate import holds_idx, locate
from common.own_places import Kind

one_module(__name__, "mile.data_location")

WITH_SAMPLE = ("imagenet", "mnist")


@dataclass(frozen=True)
class Located:
    """The places of a data set; None or absent where it has no such part."""

    is_sample: bool
    root: Path | None = None  # mnist, webvision
    train: Path | None = None
    val: Path | None = None
    real: Path | None = None  # the file of label sets
    imagenet: Path | None = None  # webvision: ImageNet's validation images
    own: Path | None = None  # --data: a user's own


class Place(NamedTuple):
    """Where a flag or attribute says that data lie."""

    flag: str
    path: str
    is_given: bool  # by the user; else the default

    @property
    def given(self) -> str | None:
        """The path that the user gave."""
        return self.path if self.is_given else None


def locate_data(
    dataset: str,
    *,
    data_path: str,
    val_path: str,
    real_path: str,
    mnist_path: str,
    given: Collection[str],
    want_sample: bool,
) -> Located:
    """Find a data set, else its offline sample; `given` names the paths that the user set.

    UserError where a given path does not hold the data set.
    """
    if dataset == "mnist":
        return _mnist(Place("mnist_path", mnist_path, "mnist_path" in given), want_sample)
    train_place = Place("data_path", data_path, "data_path" in given)
    val_place = Place("val_path", val_path, "val_path" in given)
    if dataset == "webvision":
        return _webvision(train_place, val_place, want_sample)
    if dataset == "folder" and want_sample:
        raise UserError(
            "--sample: --dataset folder has no offline sample, these have one: imagenet, mnist"
        )

    real = Path(real_path) if "real_path" in given else None
    otherwise: tuple[Path, ...] = ()
    if dataset == "imagenet":
        otherwise = (Path(real_path), bundled_real_labels())
        if want_sample or not (train_place.is_given or val_place.is_given):
            return _whole_imagenet(Path(data_path).parent, real, otherwise, want_sample)

    sample = "ImageNet" if dataset == "imagenet" else None
    train = _folder(train_place, "training", sample)
    val = _folder(val_place, "validation", sample)
    is_sample = sample is not None and samples.is_sample(train)
    return Located(is_sample, train=train, val=val, real=_real(real, val, *otherwise))


def sample_settings(kind: Kind) -> dict[str, str]:
    """The settings that stand for a sample which --data names; none where own data are read.

    ImageNet's and the digits' sample have readers of their own here.
    """
    root = samples.root_of(kind.path) or kind.path
    if kind.sample == "ImageNet":
        paths = {"data_path": str(root / "train"), "val_path": str(root / "val")}
        return {"dataset": "imagenet", **paths}
    if kind.sample in ("MNIST", "MNIST_clean"):
        return {"dataset": "mnist", "mnist_path": str(root)}
    return {}


def idx_folder(root: Path) -> Path | None:
    """The folder of the four idx files: root/MNIST/raw, root/raw or root; else None."""
    places = (root / "MNIST" / "raw", root / "raw", root)
    return next((folder for folder in places if holds_idx(folder)), None)


def bundled_real_labels() -> Path:
    """timm's copy of real.json, which equals the released file."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        raise UserError("timm is not installed; it brings the ReaL labels")
    return Path(found.origin).parent / "data" / "_info" / "imagenet_real_labels.json"


def _mnist(place: Place, want_sample: bool) -> Located:
    def download(root: Path) -> None:
        import torchvision

        torchvision.datasets.MNIST(str(root), download=True)

    location = locate(
        "MNIST",
        given=place.given,
        default=place.path,
        holds=lambda root: idx_folder(root) is not None,
        how_to_get="the four idx files, plain or .gz, belong in MNIST/raw there",
        flag="--mnist_path",
        sample="MNIST_clean",
        want_sample=want_sample,
        download=download,
    )
    return Located(location.is_sample, root=location.path)


def _whole_imagenet(
    root: Path, real: Path | None, otherwise: tuple[Path, ...], want_sample: bool
) -> Located:
    """train, val and real.json side by side in one folder, or the offline sample."""
    location = locate(
        "ImageNet",
        given=None,
        default=root,
        holds=lambda path: (path / "train").is_dir() and (path / "val").is_dir(),
        how_to_get="train/WNID/*.JPEG and val/WNID/*.JPEG, from image-net.org",
        flag="--data_path .../train, --val_path .../val",
        sample="ImageNet",
        want_sample=want_sample,
    )
    val = location.path / "val"
    return Located(
        location.is_sample,
        train=location.path / "train",
        val=val,
        real=_real(real, val, *otherwise),
    )


def _webvision(place: Place, val: Place, want_sample: bool) -> Located:
    location = locate(
        "WebVision",
        given=place.given,
        default=place.path,
        holds=lambda root: (root / "info").is_dir(),
        how_to_get="its root, with info/*_filelist*.txt, belongs there",
        flag="--data_path",
        sample=None,
        want_sample=want_sample,
        with_sample=WITH_SAMPLE,
    )
    imagenet = None
    if val.is_given or Path(val.path).is_dir():
        imagenet = _folder(val, "validation", None)
    return Located(False, root=location.path, imagenet=imagenet)


def _folder(place: Place, what: str, sample: str | None) -> Path:
    """The folder of training or of validation images; no sample stands in for one of the two."""
    return locate(
        f"the {what} set",
        given=place.given,
        default=place.path,
        holds=Path.is_dir,
        how_to_get=f"{what} images belong there, one folder a class",
        flag=f"--{place.flag}",
        sample=sample,
        with_sample=WITH_SAMPLE,
        may_fall_back=False,
    ).path


def _real(given: Path | None, val: Path, *otherwise: Path) -> Path | None:
    """The given label file, else real.json beside val, else the first file of `otherwise`."""
    if given is not None:
        return given
    places = (val.parent / "real.json", *otherwise)
    return next((path for path in places if path.is_file()), None)
