"""The flags of validate.py: the released names and defaults, ours beside them."""

import argparse
from collections.abc import Collection, Sequence
from typing import Any

from common.aliases import one_module
from common.cli import (
    DomainError,
    add_shared_flags,
    image_size,
    number,
    parse_given,
    positive_int,
)
from csl.data_locate import Found
from csl.options import EitherDash, Settings, add_data_flags, add_network_flags, settle_with_data
from csl.options_checks import refuse_contradictions_of_data, refuse_flags_of_training
from csl.options_scores import add_autocast_flag, add_half_flag

one_module(__name__, "csl.options_validate")

# Where the checkpoint does not say it; the sample's pictures have 64 pixels.
SAMPLE_DEFAULTS = {"image_size": 64, "workers": 0, "model_name": "tresnet_tiny"}


def build_parser() -> argparse.ArgumentParser:
    """The parser with the released defaults."""
    parser = EitherDash(prog="validate.py", description="Score a checkpoint on a test set.")

    group = add_data_flags(parser)
    add = group.add_argument
    add("positional_data", metavar="DATA", nargs="?", default=None, help="as --data")
    empty = group.add_mutually_exclusive_group()
    empty.add_argument(
        "--keep_empty",
        action="store_true",
        help="COCO: keep images without any annotation; default: as the checkpoint was scored",
    )
    empty.add_argument(
        "--leave_empty", dest="keep_empty", action="store_false", help="leave them out"
    )
    add("-b", "--batch_size", type=positive_int, default=32, help="of each process")

    group = add_network_flags(parser, "tresnet_l", "./TRresNet_L_448_86.6.pth")
    add = group.add_argument
    add("--num_classes", type=positive_int, default=80, help="checked where it is given")
    add("--image_size", type=image_size, default=448, help="default: the checkpoint's, else 448")

    group = parser.add_argument_group("report")
    add_autocast_flag(group)
    add = group.add_argument
    add("--thre", type=number(0, 1), default=0.8, help="predicted iff the probability is above it")
    add(
        "--calibrate",
        action="store_true",
        help="also F with the best threshold per class; they are chosen on this very set",
    )
    add("-p", "--print_freq", type=positive_int, default=64, help="batches between printed lines")
    add_half_flag(group)
    add_shared_flags(parser)
    parser.tell_sample(all=SAMPLE_DEFAULTS)
    return parser


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Parse; a sample run gets the sample's image size."""
    defaults, given = parse_given(build_parser, argv)
    data = given.pop("positional_data", None)
    if data is not None and given.get("data", data) != data:
        told = f"not together with --data {given['data']}; give one of them"
        raise DomainError(f"DATA {data}: {told}")
    if data is not None:
        given["data"] = data

    return settle_with_data(defaults, given, _refuse, _layers)


def _refuse(args: argparse.Namespace, given: Collection[str]) -> None:
    refuse_flags_of_training(args, given)
    refuse_contradictions_of_data(args, given)


def _layers(_: argparse.Namespace, found: Found) -> list[dict[str, Any]]:
    """The sample's settings where it serves."""
    if found.is_sample:
        return [SAMPLE_DEFAULTS]
    return []
