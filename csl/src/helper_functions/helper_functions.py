"""The helpers under the names of the released code; each lives in a room of its own."""

import argparse
from collections.abc import Sequence

from common.aliases import one_module
from csl.build_optimizer import ModelEma, add_weight_decay
from csl.data_augment import CutoutPIL, RandAugment
from csl.data_coco import CocoDetection, LVISDetection
from csl.evaluate_metrics import (
    AP_partial,
    AverageMeter,
    average_precision,
    mAP,
    mAP_partial,
    prf_metrics,
)
from csl.options_infer import fill_in, parse

one_module(__name__, "csl.src.helper_functions.helper_functions")

__all__ = [
    "AP_partial",
    "AverageMeter",
    "CocoDetection",
    "CutoutPIL",
    "LVISDetection",
    "ModelEma",
    "RandAugment",
    "add_weight_decay",
    "average_precision",
    "mAP",
    "mAP_partial",
    "parse_args",
    "prf_metrics",
]


def parse_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """The settings of infer.py, with the head and threshold that follow from the data set.

    parser: that of infer.py, or the released code's own.
    """
    is_ours = any(action.dest == "json" for action in parser._actions)
    if not is_ours:
        args = parser.parse_args(argv)
        fill_in(args)
        return args
    return parse(argv, parser).args
