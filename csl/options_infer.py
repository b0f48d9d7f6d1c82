"""The flags of infer.py: the released names and defaults, ours beside them."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.aliases import one_module
from common.cli import (
    UserError,
    add_shared_flags,
    image_size,
    number,
    parse_given,
    positive_int,
    settle,
)
from csl.data_errors import MissingFileError, expanded
from csl.options import EitherDash, add_network_flags, any_path
from csl.options_checks import refuse_flags_of_training
from csl.options_scores import add_autocast_flag

one_module(__name__, "csl.options_infer")

DEFAULT_DIR = "./outputs/infer"
# Of --sample: a network of a minute is less sure of its names than one of weeks.
SAMPLE_SETTINGS = {
    "model_name": "tresnet_tiny",
    "input_size": 64,
    "dataset_type": "MS-COCO",
    "th": 0.5,
}


@dataclass(frozen=True)
class Settings:
    """The settings of a command, and which of them the user gave."""

    args: argparse.Namespace
    given: frozenset[str]

    @property
    def wants_sample_network(self) -> bool:
        """Tell whether a tiny network is trained on the spot.

        This is so with --sample and without --model_path.
        """
        return self.args.sample and "model_path" not in self.given


def threshold(text: str) -> float | None:
    """argparse type: a probability, or None."""
    return None if text == "None" else number(0, 1)(text)


def build_parser() -> argparse.ArgumentParser:
    """The parser with the released defaults."""
    parser = EitherDash(prog="infer.py", description="Name what is in pictures.")

    add = parser.add_argument_group("pictures").add_argument
    add(
        "--pic_path",
        nargs="+",
        default=["./pics/000000000885.jpg"],
        help="pictures, folders or patterns",
    )
    add("-b", "--batch_size", type=positive_int, default=16, help="pictures at once")

    add = add_network_flags(parser, "tresnet_m", "./models/mtresnet_opim_86.72.pth").add_argument
    add("--input_size", type=image_size, default=224, help="default: the checkpoint's, else 224")
    add(
        "--dataset_type",
        default="OpenImages",
        help="OpenImages, MS-COCO, or any other text; decides --th None",
    )

    group = parser.add_argument_group("names")
    add_autocast_flag(group)
    add = group.add_argument
    add(
        "--class_description_path",
        default="./data/oidv6-class-descriptions.csv",
        help="csv LabelName,DisplayName that spells out classes that are MIDs",
    )
    add(
        "--th",
        type=threshold,
        default=0.97,
        help="lowest probability that is shown; None: by data set",
    )
    add("--top_k", type=positive_int, default=30, help="most names of a picture")
    add("--npz", action="store_true", help="also write the raw activation maps of every picture")
    add("--json", type=any_path, default=None, help="also write the scores into this file")
    add_shared_flags(parser)
    parser.set_defaults(output_dir=DEFAULT_DIR)
    return parser


def parse(
    argv: Sequence[str] | None = None, parser: argparse.ArgumentParser | None = None
) -> Settings:
    """Parse the command line, and fill in what follows from it.

    Sets do_bottleneck_head, and th where it is None: 0.995 for Open Images, 0.7 for others.

    A default output_dir becomes None: not named, so that a second run gets a folder beside the
    first. With --sample the sample's network and pictures stand in for those that were not given.
    """
    defaults, given = parse_given(parser or build_parser, argv)
    args = settle(defaults, given, {"output_dir": None}, _sample_settings(given))
    refuse_flags_of_training(args, set(given))
    if args.json is not None:
        _require_writable(args.json)
    descriptions = expanded(args.class_description_path, "--class_description_path")
    if "class_description_path" in given and not descriptions.is_file():
        raise MissingFileError(f"--class_description_path {descriptions}: no such file")

    fill_in(args)
    return Settings(args, frozenset(given))


def fill_in(args: argparse.Namespace) -> None:
    """Set what follows from --dataset_type: do_bottleneck_head, and th where it is None."""
    args.do_bottleneck_head = args.dataset_type == "OpenImages"
    if args.dataset_type not in ("OpenImages", "MS-COCO"):
        told = "is neither OpenImages nor MS-COCO: a plain head"
        print(f"note: --dataset_type {args.dataset_type!r} {told}", flush=True)
    if args.th is None:
        args.th = 0.995 if args.dataset_type == "OpenImages" else 0.7


def _sample_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the sample changes.

    Its network is tiny, and less sure than one that was trained for weeks.
    """
    if not given.get("sample") or "model_path" in given:
        return {}
    return SAMPLE_SETTINGS


def _require_writable(path: Path) -> None:
    """UserError where --json names a folder, or nothing that can be written."""
    if path.is_dir():
        example = path / "scores.json"
        raise UserError(f"--json {path}: is a folder; name a file in it, such as {example}")
    if path.exists() and not path.is_file():
        raise UserError(f"--json {path}: is no ordinary file")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--json {path}: {there} cannot be written into")
