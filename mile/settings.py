"""Every setting of `class config`: type, bounds, meaning, the protocols' presets, the samples' own values."""

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from common.aliases import one_module
from common.cli import (
    OneLineParser,
    add_shared_flags,
    folder_path,
    parse_given,
    readable_file,
    seed_list,
    settle,
)
from common.domain import DomainError
from mile.learning import SCHEMAS, STUDENT_INITS

one_module(__name__, "mile.settings")

PRESETS = {  # the settings that are None as delivered
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


class Setting(NamedTuple):
    """A setting: its type, its value as delivered, what is allowed, what it means."""

    kind: type
    default: Any
    allowed: tuple[str, ...] | Callable[[Any], bool] | None
    bounds: str
    meaning: str


def _one_of(*names: str) -> tuple[tuple[str, ...], str]:
    return names, f"one of {', '.join(names)}"


def _at_least(low: int) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: low <= value <= MOST), f"at least {low}, at most {MOST:,}"


def _between(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: low <= value <= high), f"from {low} to {high}"


MOST = 10**9  # of anything that is counted
SIDE = 16384  # pixels
GRIDS = 10**7  # their table of digits is 0.7 GB
ABOVE_0 = (lambda value: 0 < value < math.inf), "above 0"
INSIDE = (lambda value: 0 < value < 1), "between 0 and 1 (0.25, not 25)"
SHARE = (lambda value: 0 < value <= 1), "above 0, at most 1"
ANY = None, ""
DEVICE = (
    (lambda value: re.fullmatch(r"cpu|mps|cuda(:\d+)?", value) is not None),
    "cuda, cpu, cuda:N or mps",
)
MILESTONES = (
    (lambda value: all(_is_positive(part) for part in str(value).split(","))),
    "numbers above 0 with commas",
)


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


GROUPS: dict[str, dict[str, Setting]] = {
    "experiment": {
        "model": Setting(str, "resnet18", *ANY, "resnet18, resnet50, resnet18-10, small, small-10, any timm name"),
        "schema": Setting(str, "MILe", *_one_of(*SCHEMAS), "training strategy"),
        "dataset": Setting(str, "imagenet", *_one_of("imagenet", "mnist", "webvision", "folder"), "benchmark"),
        "protocol": Setting(str, "authors", *_one_of("authors", "unofficial"), "preset of the settings after a slash"),
    },
    "data": {
        "data_path": Setting(str, "../data/train/", *ANY, "train: class folders (webvision: its root)"),
        "val_path": Setting(str, "../data/val", *ANY, "val: class folders"),
        "real_path": Setting(str, "../data/real.json", *ANY, "imagenet, folder: label sets (absent: timm's copy)"),
        "mnist_path": Setting(str, "../data/", *ANY, "holds MNIST/raw; downloaded when absent"),
        "num_workers": Setting(int, 4, *_at_least(0), "loader processes (image folders; grids need none)"),
        "augment": Setting(str, None, *_one_of("standard", "none"), "image folders: transform (standard / none)"),
        "image_size": Setting(int, 224, *_between(8, SIDE), "image folders: side of the network's input, pixels"),
        "mnist_size": Setting(int, None, *_between(28, SIDE), "mnist: side of the grids, pixels (84 / 224)"),
        "mnist_redraw": Setting(bool, None, *ANY, "mnist: new grids and labels in each pass (no / yes)"),
        "mnist_grids": Setting(int, 0, *_between(0, GRIDS), "mnist: training grids; 0: each digit once"),
        "mnist_test_grids": Setting(int, 0, *_between(0, GRIDS), "mnist: test grids; 0: each digit once"),
        "train_frac": Setting(float, 1.0, *SHARE, "image folders: share of each class that is kept (0.01, 0.1)"),
        "subset_seed": Setting(int, 42, *_between(0, 2**32 - 1), "train_frac below 1: seed of that choice"),
        "subset_file": Setting(str, "", *ANY, "image folders: train file names, one a line; wins over train_frac"),
        "reweight": Setting(str, "none", *_one_of("none", "uniform"), "image folders: uniform, weight 1 / class count"),
    },
    "method": {
        "k_t": Setting(int, 8000, *_at_least(1), "MILe: steps of the interactive phase"),
        "k_s": Setting(int, 2000, *_at_least(1), "MILe: steps of the imitation phase"),
        "rho": Setting(float, 0.25, *INSIDE, "threshold of the pseudo labels (MILe), and where eval_rho is not set"
                       " of the predicted set"),
        "rho_start": Setting(float, None, *INSIDE, "MILe: anneal rho from here, over half of the generations"),
        "rho_cover": Setting(float, None, *INSIDE, "MILe: choose rho: sets hold y on this share of images held out"),
        "eval_rho": Setting(float, None, *INSIDE, "threshold of the predicted set; default: rho"),
        "warmup": Setting(int, 0, *_at_least(0), "MILe: extra interactive steps before the first imitation"),
        "threshold_on": Setting(str, None, *_one_of("prob", "logit"), "MILe: what rho is compared with (prob / logit)"),
        "reduction": Setting(str, None, *_one_of("sum", "mean"), "not softmax: BCE over classes (sum / mean)"),
        "student_init": Setting(str, None, *_one_of(*STUDENT_INITS), "MILe: the student's start (teacher / own)"),
        "keep_ground_truth": Setting(bool, False, *ANY, "MILe: or onehot(y) into the pseudo labels"),
    },
    "optimisation": {
        "epoch_num": Setting(int, 100, *_between(1, 10**6), "MILe: generations; else passes over the training set"),
        "total_steps": Setting(int, 0, *_at_least(0), "length in steps instead, for every schema; 0: epoch_num"),
        "batch_size": Setting(int, 16, *_at_least(1), "global batch, split over the processes"),
        "lr": Setting(float, 0.1, *ABOVE_0, "learning rate, for a batch of 256 with scale_lr"),
        "scale_lr": Setting(bool, None, *ANY, "lr * batch_size / 256 (yes / no)"),
        "lr_schedule": Setting(str, "plateau", *_one_of("plateau", "step", "cosine", "constant"),
                               "plateau: on real_f1 of the evaluation set"),
        "lr_milestones": Setting(str, "30,60,80", *MILESTONES, "lr_schedule step: epochs; shares of the run below 1"),
        "nesterov": Setting(bool, None, *ANY, "SGD's momentum (yes / no)"),
        "bias_init": Setting(str, None, *_one_of("prior", "default"), "not softmax: last bias -ln C (prior / default)"),
        "pretrained": Setting(str, "", *ANY, "start weights: a file, or imagenet"),
        "device": Setting(str, "cuda", *DEVICE, "cuda without a GPU: the CPU, with a warning"),
    },
    "output": {
        "checkpoint_path": Setting(str, "./checkpoint", *ANY, "weights: checkpoint_path/CLASS/SCHEMA_EPOCH.pth;"
                                   " of --compare and --seeds: in each run's weights/"),
        "max_checkpoint_num": Setting(int, 2, *_at_least(1), "kept weight files of a schema"),
    },
}  # fmt: skip
SETTINGS = {name: entry for group in GROUPS.values() for name, entry in group.items()}

_SAMPLE = {"batch_size": 64, "lr": 0.03, "scale_lr": False, "lr_schedule": "step", "lr_milestones": "0.6,0.85",
           "k_t": 20, "k_s": 20, "num_workers": 0}  # fmt: skip
# What a run on an offline sample takes where nothing is given: one to two minutes on two CPU cores.
SAMPLE_DEFAULTS = {
    "mnist": {**_SAMPLE, "model": "small-10", "mnist_size": 30, "mnist_grids": 2000, "mnist_test_grids": 2000,
              "total_steps": 600, "warmup": 200, "rho": 0.1},
    "imagenet": {**_SAMPLE, "model": "small", "image_size": 32, "augment": "none",
                 "total_steps": 500, "warmup": 150, "rho": 0.15},
}  # fmt: skip

# Settings that are paths, and the argparse type of what they name.
PATHS = {
    **dict.fromkeys(("data_path", "val_path", "mnist_path", "checkpoint_path"), folder_path),
    **dict.fromkeys(("real_path", "subset_file", "pretrained"), readable_file),
}

# The settings that act in the imitation phase alone.
MILE_SETTINGS = (
    *("k_t", "k_s", "warmup", "rho_start", "rho_cover"),
    *("threshold_on", "student_init", "keep_ground_truth"),
)


def build_parser(defaults: Any = None) -> argparse.ArgumentParser:
    """Every setting as a flag, defaults from the attributes of `defaults` (default: as delivered)."""
    parser = OneLineParser(prog="MILe.py", description="MILe: multi-label iterated learning.")
    for title, entries in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, entry in entries.items():
            value = getattr(defaults, name, entry.default)
            text = f"{entry.meaning}; {entry.bounds}" if callable(entry.allowed) else entry.meaning
            if entry.kind is bool:
                group.add_argument(
                    f"--{name}", action=argparse.BooleanOptionalAction, default=value, help=text
                )
            else:
                choices = entry.allowed if isinstance(entry.allowed, tuple) else None
                group.add_argument(
                    f"--{name}", type=entry.kind, default=value, choices=choices, help=text
                )
    group = parser.add_argument_group("more than one run, or less")
    group.add_argument(
        "--compare",
        default=None,
        metavar="A,B",
        help="run these schemas with equal steps, one table",
    )
    group.add_argument(
        "--seeds",
        type=seed_list,
        default=None,
        metavar="0,1,2",
        help="run these seeds (with --compare: of each)",
    )
    group.add_argument(
        "--eval_only",
        action="store_true",
        help="evaluate --pretrained, train nothing; size, schema,"
        " thresholds are those that the weights say, unless given",
    )
    group.add_argument(
        "--export_labels",
        action="store_true",
        help="at the end write the training set's label sets",
    )
    group.add_argument(
        "--strict", action="store_true", help="MILe: collapsed pseudo labels are an error"
    )
    add_shared_flags(parser)
    return parser


def parse(source: Any, argv: list[str] | None) -> argparse.Namespace:
    """Settings: the attributes of `source`, then the flags, then the protocol's presets; checked.

    What the user set are the flags that were given and the attributes that differ from those delivered; `_given`
    holds the names of both, `_flags` those of the flags. A flag wins over an attribute.
    """
    parser = build_parser(source)
    defaults, flags = parse_given(parser, argv)
    edited = {
        name: defaults[name] for name, entry in SETTINGS.items() if defaults[name] != entry.default
    }
    if "epoch_num" in flags:  # the flag has the last word about the length too
        edited.pop("total_steps", None)
        defaults["total_steps"] = 0
    values = edited | flags

    conf = settle(defaults, values)
    conf._defaults = defaults
    conf._trained = {}
    conf._trained_classes = None
    conf._values = values
    conf._flags = set(flags)
    for name, entry in SETTINGS.items():
        problem = problem_of(entry, getattr(conf, name))
        if problem:
            parser.error(f"{name} {getattr(conf, name)!r}: {problem}")
    for name in PATHS:
        expand(conf, name, parser.error)
    if conf.compare is not None:
        conf.compare = _schemas(parser, conf.compare)
        conf._values["compare"] = conf.compare
    for problem in contradictions(conf):
        parser.error(problem)
    fill(conf)
    return conf


def expand(conf: argparse.Namespace, name: str, fail: Callable[[str], None]) -> None:
    """Spell out ~ in a path that was set; `fail` is told where it is the wrong kind, or a file is not there."""
    value = str(getattr(conf, name))
    is_word = name == "pretrained" and value == "imagenet"
    is_default = value == SETTINGS[name].default and name not in conf._flags
    if is_word or is_default:
        return
    try:
        setattr(conf, name, str(PATHS[name](value)))
    except argparse.ArgumentTypeError as error:
        fail(f"{name}: {error}")


def _schemas(parser: argparse.ArgumentParser, text: str) -> list[str]:
    """The schemas of --compare."""
    schemas = text.split(",")
    unknown = [schema for schema in schemas if schema not in SETTINGS["schema"].allowed]
    if unknown:
        parser.error(f"--compare {unknown[0]!r}: {SETTINGS['schema'].bounds}")
    if len(set(schemas)) < len(schemas):
        parser.error(f"--compare {text}: each schema once")
    return schemas


def contradictions(conf: argparse.Namespace) -> list[str]:
    """Settings that exclude each other, a message each. Of a flag and an attribute the flag has the last word."""
    flags = conf._flags
    lengths = {"epoch_num", "total_steps"}
    has_two_lengths = conf.total_steps > 0 and lengths <= conf._given
    chosen_twice = {"rho_cover", "rho_start"} <= conf._given
    wants_device = "device" in flags and conf.device != "cpu"

    one = "give one of the two"
    found = [
        (
            chosen_twice,
            "--rho_cover and --rho_start: rho is chosen from the data or annealed, give one",
        ),
        ({"compare", "schema"} <= flags, f"--schema: --compare names the schemas, {one}"),
        ({"seeds", "seed"} <= flags, f"--seed: --seeds names the seeds, {one}"),
        (
            has_two_lengths and lengths.isdisjoint(flags),
            "epoch_num and total_steps are both set: two lengths, set one",
        ),
        (wants_device and conf.cpu, f"--device {conf.device} and --cpu: {one}"),
        (
            conf.eval_only and not conf.pretrained,
            "--eval_only: give the weights, --pretrained FILE or imagenet",
        ),
    ]
    return [message for holds, message in found if holds]


def fill(conf: argparse.Namespace) -> None:
    """Give what is None the protocol's value, and eval_rho that of rho."""
    for name in PRESETS:
        if getattr(conf, name) is None:
            setattr(conf, name, PRESETS[name][conf.protocol])
    if conf.eval_rho is None:
        conf.eval_rho = conf.rho


def apply(conf: argparse.Namespace, *layers: Mapping[str, Any]) -> list[str]:
    """Set what the user did not set to the values of the layers, a later one over an earlier.

    Returns the names that the layers set.
    """
    settled = settle(conf._defaults, conf._values, *layers)
    names = {name for layer in layers for name in layer}
    for name in {*names, *PRESETS, "eval_rho"}:
        setattr(conf, name, getattr(settled, name))
    fill(conf)
    return [name for name in SETTINGS if name in names and name not in conf._given]


def sample_layer(conf: argparse.Namespace) -> dict[str, Any]:
    """The sample's own values; its fixed number of steps only where the user set no epochs."""
    layer = dict(SAMPLE_DEFAULTS[conf.dataset])
    if "epoch_num" in conf._given:
        del layer["total_steps"]
    return layer


def problem_of(entry: Setting, value: Any) -> str | None:
    """Why a setting cannot have a value, in a few words; None where it can."""
    if value is None:
        return None if entry.default is None else "must not be None"
    wider = {float: (float, int), str: (str, os.PathLike)}
    fits = isinstance(value, wider.get(entry.kind, entry.kind))
    if not fits or (entry.kind is not bool and isinstance(value, bool)):
        return f"expected {entry.kind.__name__}"
    if entry.allowed is None:
        return None
    allowed = value in entry.allowed if isinstance(entry.allowed, tuple) else entry.allowed(value)
    return None if allowed else entry.bounds


def resolve(conf: Any, name: str) -> Any:
    """A setting of a parsed object, of `config` or a subclass of it; None becomes the protocol's value.

    ValueError for a value that is not allowed, which a library call finds here and a script when it parses.
    """
    value = getattr(conf, name, SETTINGS[name].default)
    if value is not None:
        problem = problem_of(SETTINGS[name], value)
        if problem:
            raise DomainError(f"{name} {value!r}: {problem}")
        return value
    if name == "eval_rho":
        return resolve(conf, "rho")
    return PRESETS[name][resolve(conf, "protocol")] if name in PRESETS else None
