"""Flags about which part of a network is trained, and what of it is kept."""

import argparse
from collections.abc import Collection
from typing import Any

from common.aliases import one_module
from common.cli import UserError, non_negative_int

one_module(__name__, "csl.options_frozen")

WITHOUT_DRAWS = {"augment": "none"}  # what --frozen_features sets


def add_frozen_flags(group: Any) -> None:
    """Add the flags; the default of all is None, so that runs without them can be resumed."""
    group.add_argument(
        "--frozen_features",
        action="store_true",
        default=None,
        help="train the head only, on features computed once",
    )
    group.add_argument(
        "--train_stages",
        type=non_negative_int,
        default=None,
        metavar="N",
        help="train the head and the last N stages of the network (default: all)",
    )
    group.add_argument(
        "--only_last",
        action="store_true",
        default=None,
        help="of checkpoints keep last.pt alone",
    )


def frozen_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that --frozen_features stands for."""
    return WITHOUT_DRAWS if args.frozen_features else {}


def refuse_with_frozen(args: argparse.Namespace, given: Collection[str]) -> None:
    """UserError for flags that --frozen_features leaves without a meaning."""
    if not args.frozen_features:
        return
    if "augment" in given and args.augment != "none":
        told = "not with --frozen_features, whose features are of the pictures as they are"
        raise UserError(f"--augment {args.augment}: {told}")
    if args.train_stages is not None:
        raise UserError("--train_stages: not with --frozen_features, which trains the head only")
