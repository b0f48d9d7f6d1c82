"""Every setting of `class config`: type, value as delivered, what is allowed, what it means.

Also the two protocols' presets and what a run on an offline sample takes where nothing is set.
"""

import math
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from common.aliases import one_module
from common.cli import UserError, folder_path, readable_file

one_module(__name__, "mile.options_table")

MOST = 10**9  # of anything that is counted
SIDE = 16384  # pixels
GRIDS = 10**7  # their table of digits is 0.7 GB

PRESETS: dict[str, dict[str, Any]] = {  # the settings that are None as delivered
    "threshold_on": {"authors": "prob", "unofficial": "logit"},
    "reduction": {"authors": "sum", "unofficial": "mean"},
    "student_init": {"authors": "teacher", "unofficial": "own"},
    "nesterov": {"authors": True, "unofficial": False},
    "bias_init": {"authors": "prior", "unofficial": "default"},
    "scale_lr": {"authors": True, "unofficial": False},
    "augment": {"authors": "standard", "unofficial": "none"},
    "mnist_size": {"authors": 84, "unofficial": 224},
    "mnist_redraw": {"authors": False, "unofficial": True},
}


class SettingError(UserError, ValueError):
    """A setting has a value that is not allowed."""


class Allowed(NamedTuple):
    """Which values a setting takes: a test, in words, and as a list where they are few."""

    holds: Callable[[Any], bool]
    bounds: str
    choices: tuple[str, ...] | None = None


def one_of(*names: str) -> Allowed:
    """One of a few words."""
    return Allowed(lambda value: value in names, f"one of {', '.join(names)}", names)


def at_least(low: int) -> Allowed:
    """A count."""
    return Allowed(lambda value: low <= value <= MOST, f"at least {low}, at most {MOST:,}")


def between(low: int, high: int) -> Allowed:
    """A number from low to high."""
    return Allowed(lambda value: low <= value <= high, f"from {low} to {high}")


def _are_milestones(text: object) -> bool:
    return all(_is_positive(part) for part in str(text).split(","))


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _is_device(text: str) -> bool:
    return re.fullmatch(r"cpu|mps|cuda(:\d+)?", text) is not None


ANY = Allowed(lambda value: True, "")
ABOVE_0 = Allowed(lambda value: 0 < value < math.inf, "above 0")
INSIDE = Allowed(lambda value: 0 < value < 1, "between 0 and 1 (0.25, not 25)")
SHARE = Allowed(lambda value: 0 < value <= 1, "above 0, at most 1")
DEVICE = Allowed(_is_device, "cuda, cpu, cuda:N or mps")
MILESTONES = Allowed(_are_milestones, "numbers above 0 with commas")

SCHEMA = one_of("softmax", "sigmoid", "MILe")
DATASET = one_of("imagenet", "mnist", "webvision", "folder")
PROTOCOL = one_of("authors", "unofficial")
AUGMENT = one_of("standard", "none")
REWEIGHT = one_of("none", "uniform")
THRESHOLD_ON = one_of("prob", "logit")
REDUCTION = one_of("sum", "mean")
STUDENT_INIT = one_of("teacher", "own", "fresh")
LR_SCHEDULE = one_of("plateau", "step", "cosine", "constant")
BIAS_INIT = one_of("prior", "default")

OWN_MODELS = ("resnet18", "resnet50", "resnet18-10", "small", "small-10")
MODELS = "resnet18, resnet50, resnet18-10, small, small-10, or timm's, torchvision's"
REAL = "imagenet, folder: label sets (absent: timm's copy)"
REDRAW = "mnist: new grids in each pass (no / yes)"
SUBSET = "train files, one name a line, in place of train_frac"
UNIFORM = "image folders: weight 1 / class count"
RHO = "threshold of the pseudo labels (MILe)"
COVER = "MILe: choose rho so that this share of sets holds y"
WARMUP = "MILe: steps before the first imitation"
LENGTH = "length in steps; 0: by epoch_num"
STEPS = "lr_schedule step: epochs; shares of the run below 1"
WEIGHTS = "folder of the weights, CLASS/SCHEMA_EPOCH.pth"


class Setting(NamedTuple):
    """A setting; where its meaning ends in (A / B), the authors' and the unofficial preset."""

    kind: type
    default: Any
    allowed: Allowed
    meaning: str


GROUPS: dict[str, dict[str, Setting]] = {
    "experiment": {
        "model": Setting(str, "resnet18", ANY, MODELS),
        "schema": Setting(str, "MILe", SCHEMA, "training strategy"),
        "dataset": Setting(str, "imagenet", DATASET, "benchmark"),
        "protocol": Setting(str, "authors", PROTOCOL, "unofficial: what the flags below call so"),
    },
    "data": {
        "data_path": Setting(
            str, "../data/train/", ANY, "train: class folders (webvision: its root)"
        ),
        "val_path": Setting(str, "../data/val", ANY, "val: class folders"),
        "real_path": Setting(str, "../data/real.json", ANY, REAL),
        "mnist_path": Setting(str, "../data/", ANY, "holds MNIST/raw; downloaded when absent"),
        "num_workers": Setting(int, 4, at_least(0), "loader processes, of image folders"),
        "augment": Setting(str, None, AUGMENT, "image folders: transform (standard / none)"),
        "image_size": Setting(int, 224, between(8, SIDE), "image folders: input's side, pixels"),
        "mnist_size": Setting(
            int, None, between(28, SIDE), "mnist: side of the grids, pixels (84 / 224)"
        ),
        "mnist_redraw": Setting(bool, None, ANY, REDRAW),
        "mnist_grids": Setting(
            int, 0, between(0, GRIDS), "mnist: training grids; 0: each digit once"
        ),
        "mnist_test_grids": Setting(
            int, 0, between(0, GRIDS), "mnist: test grids; 0: each digit once"
        ),
        "train_frac": Setting(float, 1.0, SHARE, "image folders: share of each class"),
        "subset_seed": Setting(
            int, 42, between(0, 2**32 - 1), "train_frac below 1: seed of that choice"
        ),
        "subset_file": Setting(str, "", ANY, SUBSET),
        "reweight": Setting(str, "none", REWEIGHT, UNIFORM),
    },
    "method": {
        "k_t": Setting(int, 8000, at_least(1), "MILe: steps of the interactive phase"),
        "k_s": Setting(int, 2000, at_least(1), "MILe: steps of the imitation phase"),
        "rho": Setting(float, 0.25, INSIDE, RHO),
        "rho_start": Setting(
            float, None, INSIDE, "MILe: anneal rho from here over half of the run"
        ),
        "rho_cover": Setting(float, None, INSIDE, COVER),
        "eval_rho": Setting(float, None, INSIDE, "threshold of the predicted set (default: rho)"),
        "warmup": Setting(int, 0, at_least(0), WARMUP),
        "threshold_on": Setting(
            str, None, THRESHOLD_ON, "MILe: what rho is compared with (prob / logit)"
        ),
        "reduction": Setting(str, None, REDUCTION, "not softmax: BCE over classes (sum / mean)"),
        "student_init": Setting(
            str, None, STUDENT_INIT, "MILe: the student's start (teacher / own)"
        ),
        "keep_ground_truth": Setting(bool, False, ANY, "MILe: y joins the pseudo labels"),
    },
    "optimisation": {
        "epoch_num": Setting(int, 100, between(1, 10**6), "MILe: generations; else epochs"),
        "total_steps": Setting(int, 0, at_least(0), LENGTH),
        "batch_size": Setting(int, 16, at_least(1), "global batch, split over the processes"),
        "lr": Setting(float, 0.1, ABOVE_0, "learning rate, for a batch of 256 with scale_lr"),
        "scale_lr": Setting(bool, None, ANY, "lr * batch_size / 256 (yes / no)"),
        "lr_schedule": Setting(
            str, "plateau", LR_SCHEDULE, "plateau: on real_f1 of the evaluation set"
        ),
        "lr_milestones": Setting(str, "30,60,80", MILESTONES, STEPS),
        "nesterov": Setting(bool, None, ANY, "SGD's momentum (yes / no)"),
        "bias_init": Setting(
            str, None, BIAS_INIT, "not softmax: last bias -ln C (prior / default)"
        ),
        "pretrained": Setting(str, "", ANY, "start weights: a file, or imagenet"),
        "device": Setting(str, "cuda", DEVICE, "without a GPU: the CPU"),
    },
    "output": {
        "checkpoint_path": Setting(str, "./checkpoint", ANY, WEIGHTS),
        "max_checkpoint_num": Setting(int, 2, at_least(1), "kept weight files of a schema"),
    },
}
SETTINGS: dict[str, Setting] = {}
for _group in GROUPS.values():
    SETTINGS |= _group

# Settings that are paths, and the argparse type of what they name.
PATHS: dict[str, Callable[[str], Any]] = {
    "data_path": folder_path,
    "val_path": folder_path,
    "mnist_path": folder_path,
    "checkpoint_path": folder_path,
    "real_path": readable_file,
    "subset_file": readable_file,
    "pretrained": readable_file,
}

# What a run on an offline sample takes where nothing is given: one to two minutes on two CPU cores.
_SAMPLE = {
    "batch_size": 64,
    "lr": 0.03,
    "scale_lr": False,
    "lr_schedule": "step",
    "lr_milestones": "0.6,0.85",
    "k_t": 20,
    "k_s": 20,
    "num_workers": 0,
}
SAMPLE_DEFAULTS: dict[str, dict[str, Any]] = {
    "mnist": {
        **_SAMPLE,
        "model": "small-10",
        "mnist_size": 30,
        "mnist_grids": 2000,
        "mnist_test_grids": 2000,
        "total_steps": 600,
        "warmup": 200,
        "rho": 0.1,
    },
    "imagenet": {
        **_SAMPLE,
        "model": "small",
        "image_size": 32,
        "augment": "none",
        "total_steps": 500,
        "warmup": 150,
        "rho": 0.15,
    },
}
# Of these the first lines of a run name some; config.json has all.
SHOWN = ("model", "mnist_size", "image_size", "total_steps", "batch_size", "lr", "rho")

# What makes the numbers of two evaluations comparable: kept in weight files (report_weights.py).
COMPARABLE = (
    "dataset",
    "model",
    "schema",
    "protocol",
    "image_size",
    "mnist_size",
    "mnist_test_grids",
    "rho",
    "eval_rho",
    "threshold_on",
)


def problem_of(name: str, value: Any) -> str | None:
    """Why a setting cannot have a value, in a few words; None where it can."""
    entry = SETTINGS[name]
    if value is None:
        return None if entry.default is None else "must not be None"
    wider = {float: (float, int), str: (str, os.PathLike)}
    fits = isinstance(value, wider.get(entry.kind, entry.kind))
    if not fits or (entry.kind is not bool and isinstance(value, bool)):
        return f"expected {entry.kind.__name__}"
    return None if entry.allowed.holds(value) else entry.allowed.bounds


def resolve(conf: Any, name: str) -> Any:
    """A setting of a parsed object, of `config` or a subclass of it.

    None becomes the protocol's value.

    ValueError for a value that is not allowed, which a library call finds here and a script when it
    parses.
    """
    value = getattr(conf, name, SETTINGS[name].default)
    if value is not None:
        problem = problem_of(name, value)
        if problem:
            raise SettingError(f"{name} {value!r}: {problem}")
        return value
    if name == "eval_rho":
        return resolve(conf, "rho")
    return PRESETS[name][resolve(conf, "protocol")] if name in PRESETS else None
