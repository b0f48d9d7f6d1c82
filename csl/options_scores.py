"""Flags of how test images are scored: train, validate and infer share them."""

import argparse

from common.aliases import one_module

one_module(__name__, "csl.options_scores")


def add_autocast_flag(group: argparse._ArgumentGroup) -> None:
    """Add the flag of the precision in which test images are scored."""
    group.add_argument(
        "--eval_autocast",
        action="store_true",
        help="score in bfloat16 (fp16 with --mixed_precision fp16), faster on a GPU; scores are"
        " float32, and differ in the third digit",
    )


def add_half_flag(group: argparse._ArgumentGroup) -> None:
    """Add the flag that says how scores of a large test set are kept."""
    group.add_argument(
        "--half_scores",
        action="store_true",
        help="keep the test set's scores in float16, in half the memory; the mAP moves below 0.05",
    )
