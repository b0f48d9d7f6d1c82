"""The flags that only one script has.

With them are the two kinds of flags of compare_methods.py, and the command line of
prepare_metadata.py.
"""

import argparse
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calm.options_flags import build_parser
from calm.options_names import DATASETS, canonical_method
from common.aliases import one_module
from common.cli import (
    OneLineParser,
    UserError,
    add_jobs_flag,
    non_negative_int,
    parse_given,
    positive_int,
    seed_list,
)

one_module(__name__, "calm.options_own")

ERASED = ("0.02", "0.05", "0.1", "0.3", "0.5", "0.7", "0.9")


def own_flags(script: str) -> OneLineParser:
    """The flags that only one script has; most have none."""
    adds = {
        "explain": _add_explain,
        "gallery": _add_gallery,
        "compare_methods": _add_compare,
    }
    own = OneLineParser(add_help=False)
    if script in adds:
        adds[script](own)
    return own


def _add_explain(own: argparse.ArgumentParser) -> None:
    own.description = "Why this class: overlays of images, and why A and not B."
    own.add_argument(
        "--image",
        nargs="+",
        default=None,
        help="pictures, folders, patterns such as pics/*.jpg (default: the first test image)",
    )
    own.add_argument(
        "--npz", action="store_true", help="also each picture's maps, as they are, as NAME.npz"
    )
    own.add_argument(
        "--classes",
        dest="labels",
        type=int,
        nargs="+",
        default=None,
        help="labels from 0 (default: the three likeliest)",
    )


def _add_gallery(own: argparse.ArgumentParser) -> None:
    own.description = "One figure per class pair: trained models and gradient baselines."
    own.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of training runs")
    own.add_argument(
        "--images", dest="rows", type=positive_int, default=2, help="rows for each class"
    )


def _add_compare(own: argparse.ArgumentParser) -> None:
    own.description = "CAM, CALM-EM and CALM-ML side by side, over several seeds."
    own.add_argument("--methods", default="CAM,CALM_EM,CALM_ML", help="comma-separated")
    own.add_argument("--seeds", type=seed_list, default="0,1,2", help="comma-separated")
    add_jobs_flag(own)
    own.add_argument(
        "--fresh", action="store_true", help="the sample only: pictures drawn anew with each seed"
    )
    own.add_argument(
        "--output_dir",
        "-output_dir",
        type=Path,
        default=Path("save/compare"),
        help="holds METHOD-SEED folders",
    )
    own.add_argument(
        "--auc_steps", type=non_negative_int, default=10, help="of deletion and insertion; 0: not"
    )


# What the runs differ in, and what each script needs, is set here.
SET_HERE = {
    "attribution_method": "use --methods",
    "seed": "use --seeds",
    "score_map_process": "each method has its own",
    "score_map_method": "each method has its own",
    "norm_type": "each method has its own",
    "threshold_type": "each method has its own",
    "experiment_name": "use --output_dir",
    "save_root": "use --output_dir",
    "use_load_checkpoint": "each run is trained, or gone on with",
    "load_checkpoint": "each run is trained, or gone on with",
    "is_train": "each run is trained, or gone on with",
    "resume": "each run is trained, or gone on with",
    "overwrite": "name another --output_dir",
    "override_cache": "name another --output_dir",
}


@dataclass(frozen=True)
class Comparison:
    """The flags of compare_methods.py, and those that go to main.py and the evaluations."""

    args: Namespace
    passed_on: list[str]


def parse_compare(argv: Sequence[str] | None = None) -> Comparison:
    """What compare_methods.py is asked for; exit status 2 for a flag that it sets itself."""
    argv = sys.argv[1:] if argv is None else list(argv)
    own = own_flags("compare_methods")
    parser = build_parser("compare_methods.py", own, script="compare_methods")
    if {"-h", "--help"} & set(argv):
        parser.parse_args(["--help"])
    mine, rest = own.parse_known_args(argv)
    _, given = parse_given(build_parser("compare_methods.py"), rest)
    if "data" in given:
        parser.error("--data: the methods are compared on CUB's parts, which own data have not")
    for flag, remedy in SET_HERE.items():
        if flag in given:
            parser.error(f"--{flag} is set by compare_methods.py; {remedy}")
    try:
        mine.methods = [canonical_method(name) for name in mine.methods.split(",")]
    except ValueError as error:
        raise UserError(f"--methods {mine.methods}: {error}") from error
    if mine.fresh and not given.get("sample"):
        raise UserError("--fresh draws the offline sample anew; it needs --sample")
    return Comparison(mine, rest)


def parse_prepare(argv: Sequence[str] | None = None) -> Namespace:
    """DATASET ROOT OUT of prepare_metadata.py; UserError where ROOT is no folder."""
    description = "Write the metadata lists of a data set."
    parser = OneLineParser(prog="prepare_metadata.py", description=description)
    parser.add_argument("dataset", choices=DATASETS, help="its name")
    parser.add_argument("root", type=Path, help="the data set's official folder")
    where = "the metadata folder of this data set, for instance metadata/CUB"
    parser.add_argument("out", type=Path, help=where)
    args = parser.parse_args(argv)
    if not args.root.is_dir():
        raise UserError(f"{args.root}: no such folder")
    return args
