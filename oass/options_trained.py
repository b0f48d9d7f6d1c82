"""The command lines of the scripts around the training: trained networks, lists. Without torch."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.aliases import one_module
from common.cli import (
    OneLineParser,
    UserError,
    add_shared_flags,
    folder_path,
    image_size,
    non_negative_int,
    parse_given,
    positive_int,
    settle,
)
from common.own import add_own_flags
from common.text import expanded
from oass.data_voc import PACKAGE_DATA
from oass.options import Settings
from oass.options_check import refuse_flags
from oass.options_flags import DIFFICULT, DIFFICULT_HELP, PUZZLES, add_data_dir
from oass.options_own import classes_of_run, locate_data_of, shown_classes

one_module(__name__, "oass.options_trained")

LARGEST_SCALE = 8.0
# The shared flags of training that a script which only uses a network has no use for.
ONLY_IN_TRAINING = dict.fromkeys(
    ("max_steps", "checkpoint_every", "resume"), "this script does not train"
)


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which network."""
    add = parser.add_argument_group("network").add_argument
    add(
        "--checkpoint",
        type=expanded,
        required=True,
        help="a run directory, its best.pt or last.pt, or a state dict",
    )
    add("--architecture", default=None, help="default: the checkpoint's, else resnet50")
    add("--image_size", type=image_size, default=None, help="default: the checkpoint's, else 512")


def scale_list(text: str) -> list[float]:
    """argparse type: image scales with commas between, each above 0."""
    try:
        scales = list(map(float, text.split(",")))
    except ValueError as error:
        problem = f"expected numbers with commas between, not {text!r}"
        raise argparse.ArgumentTypeError(problem) from error
    if not all(0 < scale <= LARGEST_SCALE for scale in scales):
        raise argparse.ArgumentTypeError(f"above 0 and at most {LARGEST_SCALE:g} each, not {text}")
    return scales


def new_file(text: str) -> Path:
    """argparse type: where a file can be written, no folder."""
    path = expanded(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: a folder, expected the name of a file")
    return path


# --- inference_classification.py ---


def build_inference_parser() -> argparse.ArgumentParser:
    """The flags of inference_classification.py."""
    parser = OneLineParser(description="OASS: evaluate and use a trained classifier.")
    group = parser.add_argument_group("what")
    add = group.add_argument
    add(
        "--network",
        choices=("student", "teacher"),
        default="student",
        help="the trained one, or its average",
    )
    add_data_dir(add)
    add_own_flags(group)
    add(
        "--domain",
        default=None,
        help="split or path of an id list, of --data train or val "
        "(default: what the run was evaluated on, else val)",
    )
    add("--batch_size", type=positive_int, default=None, help="default: the checkpoint's, else 32")
    add("--num_workers", type=non_negative_int, default=4, help="loader processes")
    add(
        "--difficult",
        choices=DIFFICULT,
        default=None,
        help=f"{DIFFICULT_HELP}; default: the checkpoint's, else include",
    )
    add(
        "--drop_last_eval",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="measure whole batches only (default: as the checkpoint's run)",
    )
    add(
        "--scales",
        type=scale_list,
        default="1.0",
        help="image scales, commas between; "
        "logits, maps and instances are averaged, in every number and file",
    )
    add(
        "--flip",
        action="store_true",
        help="average with the mirrored image, in every number and file",
    )
    _add_output_flags(parser)
    add_network_flags(parser)
    add_shared_flags(parser)
    return parser


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("files, in the run directory").add_argument
    add(
        "--server_files",
        action="store_true",
        help="results/VOC2012/Main/comp2_cls_DOMAIN_CLASS.txt",
    )
    add(
        "--neighbours",
        action="store_true",
        help="figure of the nearest instances of each class, and precision",
    )
    add = parser.add_argument_group("more").add_argument
    add(
        "--export_instances",
        type=new_file,
        default=None,
        metavar="NPZ",
        help="descriptors of images and classes",
    )
    add(
        "--cam_iou", action="store_true", help="mask IoU of the class maps, thresholds 0.10 to 0.45"
    )


def parse_inference(argv: Sequence[str] | None = None) -> Settings:
    """The settings of inference_classification.py; UserError or status 2 for a bad value."""
    defaults, given = parse_given(build_inference_parser(), argv)
    refuse_flags(given, ONLY_IN_TRAINING)
    flags, (location, own) = locate_data_of(given)
    if own is not None:
        refuse_flags(given, {"server_files": "VOC's server takes VOC's own lists"})
    return Settings(settle(defaults, flags), frozenset(given), location, own)


# --- explain.py ---


def build_explain_parser() -> argparse.ArgumentParser:
    """The flags of explain.py."""
    parser = OneLineParser(description="OASS: the puzzle on your own picture.")
    add = parser.add_argument
    add(
        "--image",
        nargs="+",
        required=True,
        metavar="PLACE",
        help="picture files, folders, patterns such as 'pics/*.jpg'",
    )
    add("--npz", action="store_true", help="write the maps of every picture too, NAME.npz")
    add(
        "--before",
        type=expanded,
        default=None,
        metavar="CHECKPOINT",
        help="another one, whose maps stand beside",
    )
    add(
        "--classes",
        nargs="+",
        default=None,
        metavar="NAME",
        help="names of the network's classes (default: the three likeliest)",
    )
    add(
        "--strategy",
        choices=PUZZLES,
        default=None,
        help="where to cut (default: the checkpoint's)",
    )
    add_network_flags(parser)
    add_shared_flags(parser)
    return parser


def parse_explain(argv: Sequence[str] | None = None) -> Settings:
    """The settings of explain.py; UserError or status 2 for a bad value."""
    defaults, given = parse_given(build_explain_parser(), argv)
    reasons = {**ONLY_IN_TRAINING, "sample": "the pictures are those of --image"}
    refuse_flags(given, reasons)
    args = settle(defaults, given)
    require_known_classes(args.classes or (), args.checkpoint)
    return Settings(args, frozenset(given))


def require_known_classes(asked: Sequence[str], checkpoint: Path) -> None:
    """UserError for the first name that is none of the classes, as far as the run tells them."""
    if not checkpoint.exists():
        raise UserError(f"{checkpoint}: no such checkpoint")
    classes = classes_of_run(checkpoint)
    strange = [name for name in asked if classes is not None and name not in classes]
    if strange:
        raise UserError(f"--classes {strange[0]}: choose from {shown_classes(classes or [])}")


# --- prepare_voc.py ---


def parse_preparation(argv: Sequence[str] | None = None) -> Settings:
    """The settings of prepare_voc.py: data_dir, sbd (None: without), to."""
    description = "Write VOC's id lists, train_aug among them, where the training scripts look."
    parser = OneLineParser(description=description)
    add_data_dir(parser.add_argument)
    parser.add_argument(
        "--sbd", type=folder_path, default=None, help="folder with SBD's train.txt and val.txt"
    )
    parser.add_argument("--to", type=folder_path, default=PACKAGE_DATA, help="where the lists go")
    defaults, given = parse_given(parser, argv)
    return Settings(settle(defaults, given), frozenset(given))
