"""The flags of training: the released names and defaults, and ours. Without torch."""

import argparse
from collections.abc import Callable

from common.aliases import one_module
from common.cli import (
    OneLineParser,
    add_shared_flags,
    add_sync_bn_flag,
    add_training_flags,
    image_size,
    non_negative_int,
    number,
    positive_int,
    whole,
)
from common.own import add_own_flags
from oass.data_voc import DEFAULT_DATA_DIR

one_module(__name__, "oass.options_flags")

PUZZLES = ("max", "cMax", "cTopk", "cTopk-w")  # the four scripts
# The GAP classifier; class-specific instances alone; PuzzleCAM's cut at the centre.
BASELINES = ("gap", "none", "uniform")
WITH_TEACHER = ("cMax", "cTopk", "cTopk-w")
WITHOUT_TILES = ("gap", "none")
PAIR_PER_IMAGE = ("max", "uniform")  # the others cut at each present class
# part of --loss_option -> its name in the log
LOSS_PARTS = {"cl": "class_loss", "pcl": "p_class_loss", "re": "re_loss", "conf": "conf_loss"}
RULES = ("paper", "released")  # of keypoints
RE_LOSSES = ("L1_Loss", "L2_Loss")
RE_LOSS_OPTIONS = ("none", "masking", "selection")
LEVELS = ("feature", "cam")
P_LOSSES = ("teacher", "student", "full")
P_TARGETS = ("image", "onehot")
TILE_MODES = ("group", "batch", "eval")
DIFFICULT = ("include", "ignore")
DIFFICULT_HELP = "ignore: no mAP counts classes of difficult objects alone"
AUGMENTATIONS = ("colorjitter", "randaugment")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
RESNESTS = ("resnest50", "resnest101", "resnest200", "resnest269")
ARCHITECTURES = ("resnet_tiny", *RESNETS, *RESNESTS)
MOST_PEAKS = 1000  # of --topk


def str2bool(text: str) -> bool:
    """yes/true/t/y/1 or no/false/f/n/0, in any case."""
    word = text.lower()
    if word in ("yes", "true", "t", "y", "1"):
        return True
    if word in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")


def _no_teacher(text: str) -> float:
    raise argparse.ArgumentTypeError(
        f"{text}: the max script has no EMA teacher; leave the flag out"
    )


class GivenPath(argparse.Action):
    """`--data_dir PATH`; without a value (an unset `$your_dir`) as if not given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if values is not None:
            setattr(namespace, self.dest, values)


def add_data_dir(add: Callable[..., object]) -> None:
    """The flag `--data_dir`."""
    places = "folder of a VOC devkit"
    add(
        "--data_dir",
        nargs="?",
        action=GivenPath,
        default=DEFAULT_DATA_DIR,
        metavar="PATH",
        help=places,
    )


def build_parser(strategy: str) -> argparse.ArgumentParser:
    """The parser of the script of `strategy`, with the released defaults."""
    parser = OneLineParser(
        description=f"OASS: multi-label classification with puzzles cut at keypoints ({strategy})."
    )
    _add_released_data(parser)
    _add_released_optimisation(parser)
    _add_released_method(parser, strategy)
    _add_our_method(parser)
    _add_our_data(parser)
    add_training_flags(add_shared_flags(parser))
    parser.tell_sample(all=sample_defaults(strategy, None))
    return parser


def _add_released_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    add = group.add_argument
    add(
        "--num_workers",
        type=non_negative_int,
        default=4,
        help="loader processes, capped at the CPU cores",
    )
    add_data_dir(add)
    add_own_flags(group)
    add("--image_size", type=image_size, default=512, help="side S in pixels, a multiple of 32")
    add("--min_image_size", type=image_size, default=320, help="longer side in training, at least")
    add("--max_image_size", type=image_size, default=640, help="longer side in training, at most")
    add("--augment", type=str, default="", help=f"names run together: {', '.join(AUGMENTATIONS)}")


def _add_released_optimisation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model and optimisation").add_argument
    add(
        "--architecture",
        type=str,
        default="resnet50",
        help="resnet*, resnest*, resnet_tiny, or any name of timm or torchvision",
    )
    add("--batch_size", type=positive_int, default=32, help="images a step, over all processes")
    add("--max_epoch", type=positive_int, default=15, help="epochs")
    add(
        "--warmup_epoch",
        type=non_negative_int,
        default=0,
        help="staircase up to --lr; 1 is none, as released",
    )
    add(
        "--lr",
        type=number(above=0),
        default=0.1,
        help="rate of the backbone's weights; biases x2, new x10 and x20",
    )
    add("--wd", type=number(0), default=1e-4, help="weight decay, of weights only")
    add("--nesterov", type=str2bool, default=True, help="SGD's momentum")
    add(
        "--print_ratio",
        type=number(above=0, high=1),
        default=0.1,
        help="a log line every so many epochs",
    )
    add("--tag", type=str, default="", help="name of the run")


def _add_released_method(parser: argparse.ArgumentParser, strategy: str) -> None:
    add = parser.add_argument_group("method").add_argument
    add("--num_pieces", type=int, default=4, help="tiles; only 4")
    add("--h_co", type=int, default=250, help="unused, as released")
    add("--w_co", type=int, default=250, help="unused, as released")
    add(
        "--loss_option",
        type=str,
        default="cl_pcl_re",
        help=f"of {', '.join(LOSS_PARTS)}, joined by _",
    )
    add(
        "--level",
        type=str,
        default="feature",
        help="what L_re compares: feature (F, R) or cam (normalised)",
    )
    add("--re_loss", type=str, default="L1_Loss", help="L1_Loss or L2_Loss")
    add("--re_loss_option", type=str, default="masking", help="none, masking, selection")
    add("--alpha_re", type=number(0), default=1.0, help="weight of L_re after its ramp")
    add(
        "--alpha_schedule_re",
        type=number(0),
        default=0.50,
        help="length of that ramp, in parts of the run",
    )
    add(
        "--alpha_p",
        type=number(0),
        default=1.0,
        help="weight of L_pcl",
    )
    if strategy == "max":
        add("--alpha_ema", type=_no_teacher, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    if strategy in WITH_TEACHER:
        add("--alpha_ema", type=number(0, below=1), default=0.99, help="momentum of the teacher")


def _add_our_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("ours: method")
    add = group.add_argument
    add(
        "--keypoint_rule",
        choices=RULES,
        default="paper",
        help="where to cut, README, deviations",
    )
    add("--topk", type=whole(1, MOST_PEAKS), default=5, help="k: local maxima that make a keypoint")
    add(
        "--min_distance",
        type=image_size,
        default=None,
        help="of local maxima, pixels (default 20 S/512)",
    )
    add(
        "--radius",
        type=image_size,
        default=None,
        help="released cTopk: of the maxima used (default S/4)",
    )
    add("--teacher_bn", choices=TILE_MODES, default="group", help="tiles' batch norm")
    add(
        "--tile_bn_stats",
        action="store_true",
        help="max, uniform: tiles move the running statistics",
    )
    add(
        "--p_loss",
        choices=P_LOSSES,
        default="teacher",
        help="L_pcl of whose tiles, or of the full image",
    )
    add(
        "--p_target",
        choices=P_TARGETS,
        default="image",
        help="L_pcl's target with --p_loss student",
    )
    add(
        "--sgd_momentum",
        type=number(0, below=1),
        default=None,
        help="of SGD (default: --wd, as released)",
    )
    add(
        "--clip_grad",
        type=number(above=0),
        default=None,
        metavar="NORM",
        help="clip the gradient to this norm",
    )
    add("--tile_chunk", type=positive_int, default=None, metavar="N", help="pairs in one tile pass")
    add_sync_bn_flag(group)
    add(
        "--weights",
        default=None,
        metavar="W",
        help="imagenet, none, a PATH, backbone:PATH; sample: its own",
    )
    add("--pretrained", action="store_true", help="published weights, as --weights imagenet")
    what = "gap, none, uniform: train the heads, on features computed once"
    add("--frozen_features", action="store_true", default=None, help=what)
    add(
        "--released", action="store_true", help="every switch (R) of the README's table as released"
    )


def _add_our_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("ours: data and evaluation").add_argument
    add("--train_domain", default="train_aug", help="split or path of an id list")
    add("--val_domain", default="val", help="split or path of an id list")
    add("--difficult", choices=DIFFICULT, default="include", help=DIFFICULT_HELP)
    add("--drop_last_eval", action="store_true", help="evaluate whole batches only")
    add("--eval_ema", action="store_true", help="evaluate the teacher too")
    add(
        "--last_only",
        action="store_true",
        default=None,
        help="keep checkpoints/last.pt and no best.pt: half the disk",
    )
    add(
        "--pictures",
        type=non_negative_int,
        default=4,
        metavar="N",
        help="images drawn with their puzzle each epoch",
    )


def sample_defaults(strategy: str, architecture: str | None) -> dict[str, object]:
    """What a run on the offline sample uses where the user gave nothing: seconds on a CPU core.

    A large network that was asked for (`architecture`) gets one epoch of small batches, a proof
    that the command runs; the small one learns. `max` gets a weak, slow L_re: at the README's
    weights it collapses in runs this short (README, deviations). 24 epochs, 480 steps: after 160
    CSI alone is far from done.
    """
    small: dict[str, object] = {
        "image_size": 64,
        "min_image_size": 64,
        "max_image_size": 80,
        "min_distance": 5,
    }
    small |= {"num_workers": 0, "print_ratio": 0.5, "pictures": 2}
    if architecture not in (None, "resnet_tiny"):
        return {**small, "max_epoch": 1, "batch_size": 16, "train_domain": "train"}
    # make_cam's slope is about 1 / max, so one map whose peak nears its epsilon can throw the
    # network in a single step (a gradient of norm 246, usually 0.2): a slow ramp, 5 % of a run
    # being 248 steps of the README's and 24 here, keeps maps from shrinking early, and the norm is
    # clipped.
    alphas = {"alpha_re": 1.0, "alpha_schedule_re": 0.5, "alpha_p": 0.5}
    if strategy in ("max", "uniform"):
        alphas = {"alpha_re": 0.3, "alpha_schedule_re": 1.0, "alpha_p": 0.5}
    optimiser = {
        "max_epoch": 24,
        "batch_size": 24,
        "lr": 0.02,
        "sgd_momentum": 0.9,
        "clip_grad": 1.0,
    }
    return {**small, **alphas, **optimiser, "architecture": "resnet_tiny"}
