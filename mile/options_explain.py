"""The flags of explain.py; nothing here imports torch."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.aliases import one_module
from common.cli import (
    OneLineParser,
    UserError,
    add_shared_flags,
    folder_path,
    number,
    parse_given,
    settle,
    whole,
)

one_module(__name__, "mile.options_explain")


@dataclass(frozen=True)
class ExplainSettings:
    """What explain.py was asked for."""

    args: argparse.Namespace


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = OneLineParser(
        prog="explain.py",
        description="Which labels a trained network gives pictures, and where it sees them.",
    )
    group = parser.add_argument_group("what is explained")
    group.add_argument(
        "--run", type=folder_path, default=None, metavar="RUN", help="a run directory of MILe.py"
    )
    group.add_argument(
        "--image",
        nargs="+",
        default=None,
        metavar="PICTURE",
        help="pictures, folders, patterns such as 'pics/*.jpg'",
    )
    group.add_argument(
        "--rho",
        type=number(above=0, below=1),
        default=None,
        help="threshold of the label sets; default: the run's eval_rho",
    )
    group.add_argument(
        "--most", type=whole(1, 20), default=5, help="maps in a row of a picture, at most"
    )
    group.add_argument("--npz", action="store_true", help="also write the raw maps")
    add_shared_flags(parser)
    return parser


def parse(argv: Sequence[str] | None = None) -> ExplainSettings:
    """The settings; UserError where the run or the pictures are not named, or are not there."""
    defaults, given = parse_given(build_parser(), argv)
    args = settle(defaults, given)
    if args.run is None:
        raise UserError("--run is missing: a run directory of MILe.py, such as checkpoint/NAME")
    if not args.image:
        raise UserError("--image is missing: give pictures, folders or patterns")
    if not Path(args.run, "checkpoints", "last.pt").is_file():
        raise UserError(f"--run {args.run}: no checkpoints/last.pt there; name a run directory")
    args.run = Path(args.run)
    return ExplainSettings(args)
