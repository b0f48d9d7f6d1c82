"""The flags of main.py, and what the user set.

The reference's names and defaults stand with ours beside them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cavl.options_datasets import DATA_SETS, kind_of, locate_dataset
from cavl.options_own import locate_own
from cavl.options_rules import (
    DEEPEST,
    MODELS,
    OWN_KINDS,
    OWN_SETS,
    RELEASED,
    require_sense,
)
from common.aliases import one_module
from common.backbones_names import require_spelling
from common.cli import (
    OneLineParser,
    UserError,
    add_jobs_flag,
    add_shared_flags,
    add_sync_bn_flag,
    add_training_flags,
    number,
    parse_given,
    readable_file,
    seed_list,
    settle,
    whole,
)
from common.locate import Location
from common.own import add_own_flags, require_own_flags

one_module(__name__, "cavl.options")

_BASELINES = sorted(file.stem for file in Path(__file__).parent.glob("baselines/[a-z]*.py"))
METHODS = ("cavl", *_BASELINES)
PARTIAL_TYPES = ("uss", "uss_exact", "fps", "case", "instance", "file")
LARGEST = 1_000_000_000  # epochs, and images of a batch

# Defaults on the drawn samples: a run of seconds on two CPU cores.
SAMPLE_DEFAULTS: dict[str, dict[str, Any]] = {
    "idx": {"ep": 60},
    "cifar": {"ep": 12, "mo": "resnet", "depth": 8, "lr": 3e-3, "bs": 32},
    "plcifar": {"ep": 12, "mo": "resnet", "depth": 8},
    "mat": {"ep": 60, "folds": 3},
}
# Defaults on a user's own data: the network that fits them.
OWN_DEFAULTS: dict[str, dict[str, Any]] = {"pictures": {"mo": "resnet"}, "features": {"mo": "mlp"}}
LARGEST_SIDE = 16384  # pixels


@dataclass(frozen=True)
class Settings:
    """What parsing found.

    It holds every setting, the names of those that the user gave, and where the data are.
    """

    args: argparse.Namespace
    given: frozenset[str]
    location: Location


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Parse, find the data, and check; UserError, or exit status 2, on a bad value.

    What the user gave wins over what other flags imply, and that over the sample's defaults.
    """
    defaults, given = parse_given(build_parser, argv)
    asked = settle(defaults, given)
    if asked.sample and asked.data_dir is not None:
        raise UserError(f"--sample and --data_dir {asked.data_dir}: give one of the two")

    require_own_flags(given, {"data_dir": "--data_dir", "sample": "--sample"})

    if asked.data is None:
        if not asked.sample:
            _require_early_sense(asked, defaults, given)
        location = locate_dataset(asked.ds, asked.data_dir, want_sample=asked.sample)
    else:
        asked.ds, location = locate_own(given)
    kind = kind_of(asked.ds)
    layer: dict[str, Any] = {}
    if kind in OWN_DEFAULTS:
        layer = OWN_DEFAULTS[kind]
    elif location.is_sample:
        layer = SAMPLE_DEFAULTS[kind]
    args = settle(defaults, given, layer, _implied(asked))
    args.ds = asked.ds
    require_sense(args, frozenset(given))
    return Settings(args, frozenset(given), location)


def _require_early_sense(
    asked: argparse.Namespace, defaults: dict[str, Any], given: dict[str, Any]
) -> None:
    """UserError, before a download, for what neither the set nor its sample can do."""
    refusals = []
    for layer in ({}, SAMPLE_DEFAULTS[kind_of(asked.ds)]):
        args = settle(defaults, given, layer, _implied(asked))
        try:
            require_sense(args, frozenset(given))
        except UserError as refusal:
            refusals.append(refusal)
    if len(refusals) == 2:
        raise refusals[0]


def _implied(args: argparse.Namespace) -> dict[str, str]:
    """What some flags say about others."""
    implied = dict(RELEASED) if args.released else {}
    if args.partial_file is not None:
        implied["partial_type"] = "file"
    if args.ca is not None:
        implied["partial_type"] = "case"
    elif args.partial_type == "case":
        implied["ca"] = "03"
    if kind_of(args.ds) in OWN_KINDS:
        implied["partial_type"] = OWN_SETS
    return implied


# ---- the flags -----------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """The parser with the reference's defaults; every flag takes one dash or two."""
    description = "CAVL: partial-label learning by class activation value."
    parser = OneLineParser(prog="main.py", description=description)
    _add_data(parser.add_argument_group("data"))
    _add_method(parser.add_argument_group("method"))
    _add_training(parser.add_argument_group("model and optimisation"))
    _add_report(parser.add_argument_group("report"))
    add_training_flags(add_shared_flags(parser, skip_corrupt=False))
    parser.tell_sample(**SAMPLE_DEFAULTS)
    return parser


def _add(group: argparse._ArgumentGroup, name: str, **kwargs: Any) -> None:
    """A flag under one dash and two."""
    group.add_argument(f"-{name}", f"--{name}", dest=name, **kwargs)


def _switch(group: argparse._ArgumentGroup, name: str, help: str) -> None:
    _add(group, name, action="store_true", help=help)


def _choice(
    group: argparse._ArgumentGroup, name: str, choices: Sequence[str], default: str, help: str
) -> None:
    _add(group, name, choices=tuple(choices), default=default, help=help)


def _add_data(g: argparse._ArgumentGroup) -> None:
    def value(name: str, kind: Any, default: object, help: str) -> None:
        _add(g, name, type=kind, default=default, help=help)

    cases = ("01", "02", "03", "04")
    law = "law of the candidate sets S_i, which some data have already"

    _choice(g, "ds", list(DATA_SETS), "mnist", "data set")
    value("data_dir", Path, None, "root of the data sets (else $WSL_DATA_DIR, else ./data)")
    add_own_flags(g)
    side = "side of the pictures of --data, pixels (default: the network's, or 32)"
    _add(g, "size", type=whole(1, LARGEST_SIDE), default=None, metavar="N", help=side)
    _choice(g, "partial_type", PARTIAL_TYPES, "uss", law)
    value("q", number(0, below=1), 0.5, "fps: probability of each false candidate")
    _add(g, "ca", choices=cases, default=None, help="flip matrix; implies -partial_type case")
    value("rate", number(above=0), None, "instance: strength (0.4; 0.04 from 100 classes on)")
    value("oracle", readable_file, None, "instance: checkpoint of a model trained on clean labels")
    value("partial_file", readable_file, None, "file: .npy/.npz matrix (n,K) of 0/1")
    value("fold", whole(0), None, ".mat data: this fold only, 0-based (default: all)")
    value("folds", whole(2), 10, ".mat data: number of folds")
    rows = ("train", "all", "none")
    _choice(g, "standardize", rows, "train", ".mat data, features: rows of mean and std")
    _switch(g, "augment", "flip and 4-pixel crop, on the device")
    what = "pictures above this size (GB) stay off the device"
    value("resident_gb", number(0), 8.0, what)


def _add_method(g: argparse._ArgumentGroup) -> None:
    def value(name: str, kind: Any, default: object, help: str) -> None:
        _add(g, name, type=kind, default=default, help=help)

    kinds = ("logit", "softmax", "grad")
    soft = "soft selection: C = softmax(CAV / temperature) over S"

    _choice(g, "method", METHODS, "cavl", "rule of the confidence table C")
    _choice(g, "cav", kinds, "logit", "output that enters the CAV")
    _choice(g, "mask", ("candidates", "product"), "candidates", "product: as released")
    value("smoothing", number(0, below=1), 0.0, "label smoothing of the selected label")
    value("temperature", number(above=0), None, soft)
    moments = ("after", "before")
    _choice(g, "cav_forward", moments, "after", "second forward after the step, or none")
    _choice(g, "select", ("cav", "cam"), "cav", "select by CAV or by the area of the CAM")
    value("warmup", _warmup, 0, "epochs without selection, or auto")
    value("lw_weight", number(0), 2.0, "lws: weight of the non-candidates")
    value("lw_weight0", number(0), 1.0, "lws: weight of the candidates")
    _switch(g, "released", "preset: mask product, cav_forward after, partial_type uss")


def _add_training(g: argparse._ArgumentGroup) -> None:
    def value(name: str, kind: Any, default: object, help: str) -> None:
        _add(g, name, type=kind, default=default, help=help)

    names = f"{', '.join(MODELS)}, or any of timm or torchvision"
    published = "start from published weights, of timm or torchvision"
    _add(g, "mo", type=_network, default="mlp", metavar="NAME", help=f"model: {names}")
    _add(g, "pretrained", action="store_true", default=None, help=published)
    _add(g, "weights", type=readable_file, default=None, help="start from a file of weights")
    frozen = "train the head alone, on features computed once"
    _switch(g, "frozen_features", frozen)
    heads = "of a network of timm or torchvision"
    _choice(g, "head", ("linear", "mlp"), "linear", heads)
    value("depth", whole(high=DEEPEST), 32, "resnet: depth (6n+2)")
    value("lr", number(above=0), 1e-3, "learning rate")
    value("wd", number(0), 1e-3, "weight decay (L2 in the gradient)")
    value("bs", whole(1, LARGEST), 64, "batch size of each process")
    value("ep", whole(1, LARGEST), 250, "epochs")
    _choice(g, "op", ("sgd", "adam"), "adam", "optimiser; sgd has momentum 0.9")
    _choice(g, "schedule", ("none", "cosine"), "none", "learning-rate schedule")
    value("gpu", str, "0", "index of the GPU; ignored without CUDA")
    add_sync_bn_flag(g, "-sync_bn")


def _add_report(g: argparse._ArgumentGroup) -> None:
    images = "training images whose candidate CAMs are drawn, up to 200"
    curve = "training images of the curve of right picks by CAM, CAV, output"
    each = "; 0: none"
    side = "run these methods side by side"
    seeds = "run these seeds; with -compare each method"
    corrupt = "leave unreadable pictures of --data out, and count them"

    _add(g, "cam_vis", type=whole(0, 200), default=0, help=images)
    _add(g, "selection_curve", type=whole(0), default=0, metavar="N", help=curve + each)
    _add(g, "compare", type=_method_list, default=None, metavar="A,B", help=side)
    _add(g, "seeds", type=seed_list, default=None, metavar="0,1,2", help=seeds)
    add_jobs_flag(g, "-jobs")
    g.add_argument("--skip_corrupt", action="store_true", help=corrupt)


def _method_list(text: str) -> list[str]:
    names = text.split(",")
    for place, name in enumerate(names):
        if name not in METHODS:
            known = ", ".join(METHODS)
            raise argparse.ArgumentTypeError(f"unknown method {name!r}, choose from {known}")
        if name in names[:place]:
            raise argparse.ArgumentTypeError(f"{name} stands there twice")
    return names


def _network(text: str) -> str:
    """The name of a network; whether timm or torchvision has it shows when it is built."""
    try:
        return require_spelling(text, MODELS)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _warmup(text: str) -> int | str:
    if text == "auto":
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"must be at least 0 or 'auto', not {text!r}")
