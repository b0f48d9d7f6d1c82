"""`--frozen_features`: what goes with it, and what it sets. Without torch."""

import argparse
from collections.abc import Mapping
from typing import Any

from common.aliases import one_module
from common.cli import UserError
from oass.options_check import refuse_flags
from oass.options_flags import WITHOUT_TILES

one_module(__name__, "oass.options_frozen")

CUTS = (*WITHOUT_TILES, "uniform")  # strategies whose tiles are known before the training
FROZEN = {"teacher_bn": "eval"}  # the statistics of a frozen backbone are its own

_DRAWN = "--frozen_features shows every picture as an evaluation does, once for all"
NOT_FROZEN = {
    **dict.fromkeys(("min_image_size", "max_image_size", "augment"), _DRAWN),
    "released": "the release trains its backbone",
    "tile_bn_stats": "the statistics of frozen features stay",
}


def check_frozen(args: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """UserError for a strategy or a flag that does not go with --frozen_features."""
    if not args.frozen_features:
        return
    if args.strategy not in CUTS:
        problem = f"{args.strategy} cuts where the maps of the moment peak"
        remedy = f"choose {', '.join(CUTS)} (ablation.py --strategies), or train the backbone too"
        raise UserError(f"--frozen_features: {problem}, so its tiles cannot be computed; {remedy}")
    refuse_flags(given, NOT_FROZEN)
    if args.teacher_bn != "eval":
        problem = "frozen tiles have the running statistics"
        raise UserError(f"--teacher_bn {args.teacher_bn}: {problem}; leave it out")
