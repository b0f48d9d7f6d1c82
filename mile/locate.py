"""Where the data of a run lie: given, at the default place, downloaded, or the offline sample; and the device."""

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision

from common import samples
from common.aliases import one_module
from common.cli import UserError
from common.data import LINE, locate
from mile.grids import idx_folder
from mile.real_labels import BUNDLED
from mile.settings import MILE_SETTINGS, SAMPLE_DEFAULTS, apply, sample_layer
from mile.utils import is_there

one_module(__name__, "mile.locate")


WITH_SAMPLE = ("imagenet", "mnist")
# Of the sample's own settings those that the first lines of a run name; config.json has all.
SHOWN = ("model", "mnist_size", "image_size", "total_steps", "batch_size", "lr", "rho")


def locate_data(conf: Any, say: Callable[[str], None] = print) -> None:
    """Find the data set, else its offline sample; sets conf._is_sample and conf._paths, and what the user did not set.

    That are the sample's own values, and with --eval_only what the weight file says of itself (`conf._trained`).
    UserError where a given path does not hold the data set, and for a setting that could not act.
    """
    if "model" in conf._given:
        _require_fitting_model(conf)
    _require_one_source(conf)
    find = {"mnist": _locate_mnist, "imagenet": _locate_imagenet, "webvision": _locate_webvision}
    conf._is_sample, conf._paths = find.get(conf.dataset, _locate_folders)(conf)

    trained = conf._trained
    if conf._is_sample and conf.dataset in SAMPLE_DEFAULTS:
        layer = sample_layer(conf)
        apply(conf, layer, trained)
        shown = [
            name
            for name in SHOWN
            if name in layer and name not in conf._given and name not in trained
        ]
        values = ", ".join(f"{name} {layer[name]}" for name in shown)
        if values:
            say(textwrap.fill(f"the sample's own settings, where none are set: {values}", LINE))
    else:
        apply(conf, trained)
    _require_fitting_model(conf)
    _require_acting_settings(conf, say)


def _locate_mnist(conf: Any) -> tuple[bool, dict[str, Path]]:
    def download(root: Path) -> None:
        torchvision.datasets.MNIST(str(root), download=True)

    location = locate(
        "MNIST",
        given=conf.mnist_path if "mnist_path" in conf._given else None,
        default=conf.mnist_path,
        holds=lambda root: idx_folder(root) is not None,
        how_to_get="the four idx files, plain or .gz, belong in MNIST/raw there",
        flag="--mnist_path",
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
            flag="--data_path .../train, --val_path .../val",
            sample="ImageNet",
            want_sample=conf.sample,
        )
        train, val, is_sample = location.path / "train", location.path / "val", location.is_sample
    else:
        train, val = _given_folder(conf, "data_path"), _given_folder(conf, "val_path")
        is_sample = samples.is_sample(train)
    return is_sample, {
        "train": train,
        "val": val,
        "real": _real_path(conf, val, Path(conf.real_path), BUNDLED),
    }


def _given_folder(conf: Any, name: str) -> Path:
    """The folder of the training or the validation images; the offline sample never stands in for one of the two."""
    what = "training" if name == "data_path" else "validation"
    return locate(
        f"the {what} set",
        given=getattr(conf, name) if name in conf._given else None,
        default=getattr(conf, name),
        holds=Path.is_dir,
        how_to_get=f"{what} images belong there, one folder a class",
        flag=f"--{name}",
        sample="ImageNet" if conf.dataset == "imagenet" else None,
        with_sample=WITH_SAMPLE,
        may_fall_back=False,
    ).path


def _real_path(conf: Any, val: Path, *otherwise: Path) -> Path | None:
    """The given label file, else real.json beside val, else the first of `otherwise` that is a file."""
    if "real_path" in conf._given:
        return Path(conf.real_path)
    return next((path for path in (val.parent / "real.json", *otherwise) if path.is_file()), None)


def _locate_folders(conf: Any) -> tuple[bool, dict[str, Path]]:
    if conf.sample:
        raise UserError(
            "--sample: --dataset folder has no offline sample, these have one: imagenet, mnist"
        )
    train, val = _given_folder(conf, "data_path"), _given_folder(conf, "val_path")
    return False, {"train": train, "val": val, "real": _real_path(conf, val)}


def _locate_webvision(conf: Any) -> tuple[bool, dict[str, Path]]:
    location = locate(
        "WebVision",
        given=conf.data_path if "data_path" in conf._given else None,
        default=conf.data_path,
        holds=lambda root: (root / "info").is_dir(),
        how_to_get="its root, with info/*_filelist*.txt, belongs there",
        flag="--data_path",
        sample=None,
        want_sample=conf.sample,
        with_sample=WITH_SAMPLE,
    )
    has_val = "val_path" in conf._given or Path(conf.val_path).is_dir()
    return False, {
        "root": location.path,
        "imagenet": _given_folder(conf, "val_path") if has_val else None,
    }


def _require_fitting_model(conf: Any) -> None:
    is_ten, known = conf.model.endswith("-10"), conf.model in ("resnet18", "resnet50", "small")
    if conf.dataset == "mnist" and known:
        raise UserError(
            f"--dataset mnist has 10 classes, --model {conf.model} 1000: use resnet18-10 (or small-10)"
        )
    if conf.dataset != "mnist" and is_ten:
        raise UserError(
            f"--model {conf.model} has 10 classes for mnist: use {conf.model[:-3]} with {conf.dataset}"
        )


def _require_one_source(conf: Any) -> None:
    """UserError where a path is given beside --sample, which would win without a word."""
    for name in ("mnist_path", "data_path", "val_path"):
        if conf.sample and name in conf._flags:
            raise UserError(f"--sample and --{name} {getattr(conf, name)}: give one of the two")


def _require_acting_settings(conf: Any, say: Callable[[str], None]) -> None:
    """A flag that could do nothing in this run is an error; so named in a line are attributes, which serve other runs.

    k_t, k_s and epoch_num count as attributes: commands that run several schemas share them, and total_steps says of
    itself that it takes the place of epoch_num.
    """
    idle = {name: why for name, why in _idle_settings(conf).items() if name in conf._given}
    refused = [name for name in idle if name in conf._flags - {"k_t", "k_s", "epoch_num"}]
    if refused:
        raise UserError(f"--{refused[0]} {idle[refused[0]]}")
    if idle:
        say(textwrap.fill(f"set, but without effect here: {', '.join(idle)}", LINE))


def _idle_settings(conf: Any) -> dict[str, str]:
    """The settings that do nothing with this data set and these schemas, and why."""
    schemas = conf.compare or [conf.schema]
    is_mnist = conf.dataset == "mnist"
    has_label_file = conf.dataset in ("imagenet", "folder")
    draws_subset = conf.train_frac < 1 and not conf.subset_file
    is_softmax = schemas == ["softmax"]
    takes_steps = conf.lr_schedule == "step"
    has_steps = "total_steps" in conf._given and conf.total_steps > 0

    grids = "is for image folders; --mnist_grids N sets the number of MNIST's training grids"
    groups = [
        (
            ("mnist_path", "mnist_size", "mnist_redraw"),
            not is_mnist,
            f"is for mnist, not {conf.dataset}",
        ),
        (("mnist_grids", "mnist_test_grids"), not is_mnist, f"is for mnist, not {conf.dataset}"),
        (("data_path", "val_path"), is_mnist, "is for image folders; mnist has --mnist_path"),
        (("augment", "image_size"), is_mnist, "is for image folders; mnist has --mnist_size"),
        (("train_frac", "subset_file", "reweight"), is_mnist, grids),
        (("subset_seed",), not draws_subset, "is for --train_frac below 1"),
        (("real_path",), not has_label_file, f"is for imagenet and folder, not {conf.dataset}"),
        (MILE_SETTINGS, "MILe" not in schemas, f"is for schema MILe, not {', '.join(schemas)}"),
        (("reduction", "bias_init"), is_softmax, "is for sigmoid outputs, not softmax"),
        (("epoch_num",), has_steps, "is another length than --total_steps"),
        (("lr_milestones",), not takes_steps, f"is for --lr_schedule step, not {conf.lr_schedule}"),
    ]
    idle = {}
    for names, is_idle, why in groups:
        if is_idle:
            idle.update(dict.fromkeys(names, why))
    return idle


def choose_device(conf: Any, say: Callable[[str], None] = print) -> None:
    """Make accelerate follow conf.device; without a GPU one warning, then the CPU."""
    if conf.device == "cpu":
        conf.cpu = True
    elif not conf.cpu and not is_there(conf.device):
        say(f"warning: device {conf.device}, but there is no GPU here: this run uses the CPU")
        conf.cpu = True
    elif conf.device.startswith("cuda:") and "LOCAL_RANK" not in os.environ and not conf.cpu:
        os.environ["ACCELERATE_TORCH_DEVICE"] = conf.device
