"""Where the data of a run lie: given, at the default place, downloaded, or the offline sample; and the device."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision

from common import samples
from common.aliases import one_module
from common.cli import UserError
from common.data import locate
from mile.grids import idx_folder
from mile.real_labels import BUNDLED
from mile.settings import SETTINGS, apply_sample_defaults
from mile.utils import is_there

one_module(__name__, "mile.locate")


def locate_data(conf: Any) -> None:
    """Find the data set, else its offline sample; sets conf._is_sample and conf._paths, and the sample's defaults.

    UserError where a given path does not hold it.
    """
    if "model" in conf._given:
        _require_fitting_model(conf)
    find = {"mnist": _locate_mnist, "imagenet": _locate_imagenet, "webvision": _locate_webvision}
    conf._is_sample, conf._paths = find.get(conf.dataset, _locate_folders)(conf)
    if conf._is_sample and conf.dataset in ("mnist", "imagenet"):
        apply_sample_defaults(conf)
    _require_fitting_model(conf)
    _require_acting_settings(conf)


def _locate_mnist(conf: Any) -> tuple[bool, dict[str, Path]]:
    def download(root: Path) -> None:
        torchvision.datasets.MNIST(str(root), download=True)

    location = locate(
        "MNIST",
        given=conf.mnist_path if "mnist_path" in conf._given else None,
        default=conf.mnist_path,
        holds=lambda root: idx_folder(root) is not None,
        how_to_get="the four idx files, plain or .gz, belong in MNIST/raw there",
        sample="MNIST_clean",
        want_sample=conf.sample,
        download=download,
    )
    return location.is_sample, {"root": location.path}


def _locate_imagenet(conf: Any) -> tuple[bool, dict[str, Path]]:
    if conf.sample or not {"data_path", "val_path"} & conf._given:
        root = Path(conf.data_path).parent
        location = locate(
            "ImageNet",
            given=None,
            default=root,
            holds=lambda path: (path / "train").is_dir() and (path / "val").is_dir(),
            how_to_get="train/WNID/*.JPEG and val/WNID/*.JPEG, from image-net.org",
            sample="ImageNet",
            want_sample=conf.sample,
        )
        train, val, is_sample = location.path / "train", location.path / "val", location.is_sample
    else:
        train, val = _given_folder(conf, "data_path"), _given_folder(conf, "val_path")
        is_sample = samples.is_sample(train)
    return is_sample, {"train": train, "val": val, "real": _real_path(conf, val, Path(conf.real_path), BUNDLED)}


def _given_folder(conf: Any, name: str) -> Path:
    path = Path(getattr(conf, name)).expanduser()
    if not path.is_dir():
        what = "training" if name == "data_path" else "validation"
        hint = "; or --sample" if conf.dataset == "imagenet" else ""
        raise UserError(f"{name} {path} does not exist; {what} images belong there, one folder a class{hint}")
    return path


def _real_path(conf: Any, val: Path, *otherwise: Path) -> Path | None:
    """The given label file, else real.json beside val, else the first of `otherwise` that is a file."""
    if "real_path" in conf._given:
        return Path(conf.real_path).expanduser()
    return next((path for path in (val.parent / "real.json", *otherwise) if path.is_file()), None)


def _locate_folders(conf: Any) -> tuple[bool, dict[str, Path]]:
    if conf.sample:
        raise UserError(f"--dataset {conf.dataset} has no offline sample; imagenet and mnist have one")
    train, val = _given_folder(conf, "data_path"), _given_folder(conf, "val_path")
    return False, {"train": train, "val": val, "real": _real_path(conf, val)}


def _locate_webvision(conf: Any) -> tuple[bool, dict[str, Path]]:
    if conf.sample or not (Path(conf.data_path) / "info").is_dir():
        where = f"{conf.data_path} holds no info/ folder; data_path is WebVision's root"
        raise UserError(f"{where}; webvision has no offline sample, imagenet and mnist have one")
    has_val = "val_path" in conf._given or Path(conf.val_path).is_dir()
    return False, {"root": Path(conf.data_path), "imagenet": _given_folder(conf, "val_path") if has_val else None}


def _require_fitting_model(conf: Any) -> None:
    is_ten, known = conf.model.endswith("-10"), conf.model in ("resnet18", "resnet50", "small")
    if conf.dataset == "mnist" and known:
        raise UserError(f"--dataset mnist has 10 classes, --model {conf.model} 1000: use resnet18-10 (or small-10)")
    if conf.dataset != "mnist" and is_ten:
        raise UserError(f"--model {conf.model} has 10 classes for mnist: use {conf.model[:-3]} with {conf.dataset}")


def _require_acting_settings(conf: Any) -> None:
    """A setting that would silently do nothing is an error."""
    for name in ("train_frac", "subset_file", "reweight"):
        if conf.dataset == "mnist" and getattr(conf, name) != SETTINGS[name].default:
            raise UserError(f"{name} is for image folders; --mnist_grids N sets the number of MNIST's training grids")


def choose_device(conf: Any, say: Callable[[str], None] = print) -> None:
    """Make accelerate follow conf.device; without a GPU one warning, then the CPU."""
    if conf.device == "cpu":
        conf.cpu = True
    elif not conf.cpu and not is_there(conf.device):
        say(f"warning: device {conf.device}, but there is no GPU here: this run uses the CPU")
        conf.cpu = True
    elif conf.device.startswith("cuda:") and "LOCAL_RANK" not in os.environ and not conf.cpu:
        os.environ["ACCELERATE_TORCH_DEVICE"] = conf.device
