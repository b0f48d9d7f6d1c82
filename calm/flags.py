"""The flags of calm's scripts: the original's names and defaults, ours beside them, the sample's defaults.

One parser serves training and all evaluations, as in the original; `ACTS` says where each flag has an effect.
"""

import argparse
from pathlib import Path
from typing import Any

from calm.erasing import BASELINES
from calm.network import ARCHITECTURES
from calm.network.head import ACTIVATIONS
from calm.network.universal import METHODS, PROCESSES, canonical_method
from calm.score_map_method import GRADIENT_PROCESSES
from calm.util import THRESHOLD_TYPES
from common.aliases import one_module
from common.cam import NORM_TYPES
from common.cli import (
    OneLineParser,
    add_shared_flags,
    image_size,
    non_negative_int,
    number,
    positive_int,
    readable_file,
    seed,
    whole,
)

one_module(__name__, "calm.flags")

TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
DATASETS = ("CUB", "ILSVRC", "OpenImages")
ROOT = "dataset/"
NAME = "result"
ERASE_K_LIST = (0.1, 0.3, 0.5, 0.7, 0.9)

TRAINING, CHECK, ERASING, CUES = "training", "evaluation", "erasing", "cues"
BOXES, EXPLAIN, GALLERY = "localisation", "explain", "gallery"
SCRIPTS = {
    TRAINING: "main.py",
    CHECK: "main.py --is_train=False",
    ERASING: "eval_pixel_perturb.py",
    CUES: "eval_cue_location.py",
    BOXES: "eval_wsol.py",
    EXPLAIN: "explain.py",
    GALLERY: "gallery.py",
}
_EVALUATIONS = (ERASING, CUES, BOXES)
_MAPS = (*_EVALUATIONS, EXPLAIN)
_NETWORK = (TRAINING, CHECK, *_MAPS)

# Where flags act; those that are not listed act everywhere.
_TABLE = (
    (_NETWORK, "architecture attribution_method use_bn large_feature_map prior_activation"),
    (_NETWORK, "use_load_checkpoint load_checkpoint"),
    ((TRAINING, CHECK), "is_train logger_type"),
    ((TRAINING,), "proxy_training_set resize_size cache_images pretrained pretrained_path"),
    ((TRAINING,), "prior_gradient em_teacher ema_decay param_groups epochs lr lr_decay_frequency"),
    ((TRAINING,), "lr_classifier_ratio momentum weight_decay resume max_steps checkpoint_every"),
    ((TRAINING, CHECK, *_EVALUATIONS), "batch_size workers"),
    ((CHECK, *_EVALUATIONS, GALLERY), "image_list"),
    ((BOXES,), "mask_root iou_thresholds multi_contour_eval save_maps"),
    (_MAPS, "score_map_method score_map_process smoothing_ksize superclass_file"),
    ((*_MAPS, GALLERY), "smooth_grad_nr_iter smooth_grad_sigma integrated_grad_nr_iter ig_variant"),
    ((CUES, EXPLAIN), "norm_type"),
    ((CUES,), "threshold_type cue_protocol"),
    ((CUES, BOXES), "cam_curve_interval"),
    ((CUES, GALLERY), "foreground attribute_rule max_pairs"),
    ((ERASING,), "erase_k erase_seed erase_repeats baseline auc_steps tie_break"),
)
ACTS: dict[str, tuple[str, ...]] = {}
for _places, _flags in _TABLE:
    ACTS.update(dict.fromkeys(_flags.split(), _places))

# The original's flags: its scripts take all of them, so ours do; one without an effect is named in the output.
# A flag of ours that has no effect is an error.
ORIGINALS = frozenset(
    "experiment_name save_root override_cache use_load_checkpoint is_different_checkpoint proxy_training_set use_bn "
    "large_feature_map is_train pretrained pretrained_path workers batch_size epochs load_checkpoint logger_type seed "
    "dataset_name data_root metadata_root mask_root architecture attribution_method cam_curve_interval resize_size "
    "crop_size lr lr_decay_frequency lr_classifier_ratio momentum weight_decay iou_thresholds smoothing_ksize "
    "score_map_method score_map_process norm_type threshold_type smooth_grad_nr_iter smooth_grad_sigma "
    "integrated_grad_nr_iter".split()
)
# What only some networks, processes or data sets have: (flag, setting, the values with which it acts).
ONLY_WITH = (
    ("use_bn", "architecture", ("vgg16", "inception_v3")),
    ("large_feature_map", "architecture", tuple(name for name in ARCHITECTURES if name != "small")),
    ("mask_root", "dataset_name", ("OpenImages",)),
    ("iou_thresholds", "dataset_name", ("CUB", "ILSVRC")),
    ("multi_contour_eval", "dataset_name", ("CUB", "ILSVRC")),
    (
        "smooth_grad_nr_iter",
        "score_map_process",
        tuple(p for p in GRADIENT_PROCESSES if "smooth" in p or "var" in p),
    ),
    (
        "smooth_grad_sigma",
        "score_map_process",
        tuple(p for p in GRADIENT_PROCESSES if "smooth" in p or "var" in p),
    ),
    ("integrated_grad_nr_iter", "score_map_process", ("integrated_grad",)),
    ("ig_variant", "score_map_process", ("integrated_grad",)),
    ("superclass_file", "score_map_process", tuple(p for p in PROCESSES if "superclass" in p)),
    ("ema_decay", "em_teacher", ("ema",)),
)
_ONLY_IN_TRAINING_WITH = (
    ("prior_activation", "attribution_method", ("CALM-EM", "CALM-ML")),
    ("prior_gradient", "attribution_method", ("CALM-EM", "CALM-ML")),
)


def without_effect(args: Any, place: str) -> dict[str, str]:
    """{flag that was given but has no effect in `place`: where, or with what, it has one}."""
    idle = {}
    conditions = ONLY_WITH + (_ONLY_IN_TRAINING_WITH if place == TRAINING else ())
    for flag in sorted(args._given):
        places = ACTS.get(flag, (place,))
        if place not in places:
            idle[flag] = f"acts in {', '.join(SCRIPTS[name] for name in places)}"
            continue
        for name, setting, values in conditions:
            is_settled = place != GALLERY or setting not in ("score_map_process", "architecture")
            if name == flag and is_settled and getattr(args, setting) not in values:
                idle[flag] = (
                    f"acts with --{setting} {' or '.join(values)}, not {getattr(args, setting)}"
                )
    return idle


def as_arguments(args: Any, place: str) -> list[str]:
    """The given flags that act in `place`, as arguments of a command line."""
    idle = without_effect(args, place)
    switches = {
        action.dest
        for action in build_parser()._actions
        if isinstance(action, argparse._StoreTrueAction)
    }
    arguments = []
    for flag in sorted(set(args._typed) - set(idle)):
        value = args._typed[flag]
        if flag in switches:
            arguments.append(f"--{flag}")
        elif isinstance(value, list):
            arguments += [f"--{flag}", *map(str, value)]
        else:
            arguments.append(f"--{flag}={value}")
    return arguments


def str2bool(value: str | bool) -> bool:
    """yes/true/t/y/1 or no/false/f/n/0 in any case; argparse error otherwise."""
    if isinstance(value, bool):
        return value
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise argparse.ArgumentTypeError(
        f"{value!r} is neither of {', '.join(TRUE)} nor of {', '.join(FALSE)}"
    )


def _method(text: str) -> str:
    try:
        return canonical_method(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _dataset(text: str) -> str:
    name = "ILSVRC" if text == "ImageNet" else text
    if name not in DATASETS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: choose from {', '.join(DATASETS)} (ImageNet is ILSVRC)"
        )
    return name


def _open_unit(text: str) -> float:
    value = number()(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie strictly between 0 and 1, not {value}")
    return value


def _share(text: str) -> float:
    value = number()(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, not {value}")
    return value


def _odd(text: str) -> int:
    value = whole(1)(text)
    if value % 2 == 0:
        raise argparse.ArgumentTypeError(f"must be odd and positive, not {value}")
    return value


def _percent(text: str) -> int:
    value = whole()(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"percentages between 0 and 100, not {value}")
    return value


def _existing(text: str) -> str:
    if not Path(text).expanduser().exists():
        raise argparse.ArgumentTypeError(f"{text}: no such file or folder")
    return text


def build_parser(
    prog: str = "main.py", own: argparse.ArgumentParser | None = None
) -> argparse.ArgumentParser:
    """One parser for training and for every evaluation, as in the original; `own`: one script's flags, which win."""
    everywhere = OneLineParser(
        add_help=False, description="CALM: class activation latent mapping (ICCV 2021)."
    )
    _add_everywhere(everywhere)
    description = (own or everywhere).description
    parents = [everywhere] if own is None else [everywhere, own]
    return OneLineParser(
        prog=prog, description=description, parents=parents, conflict_handler="resolve"
    )


def _add_everywhere(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    _add_data(parser)
    _add_model(parser)
    _add_maps(parser)
    _add_evaluation(parser)
    group = add_shared_flags(parser, seed=None)
    group.add_argument("--workers", type=non_negative_int, default=4, help="loader workers")
    for action in parser._actions:
        if action.dest in ACTS:
            action.help = f"{action.help} [{', '.join(ACTS[action.dest])}]"


def _flag(group: argparse._ArgumentGroup, name: str, default: bool, text: str) -> None:
    """A switch of the original: --name, --name=True, --name no."""
    group.add_argument(
        f"--{name}", type=str2bool, nargs="?", const=True, default=default, help=text
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("experiment")
    g.add_argument(
        "--experiment_name", default=NAME, help="the run directory is SAVE_ROOT/EXPERIMENT_NAME"
    )
    g.add_argument("--save_root", default="save", help="where experiments lie")
    _flag(g, "override_cache", False, "the same as --overwrite")
    _flag(g, "is_train", True, "False: only evaluate the checkpoint")
    _flag(
        g,
        "use_load_checkpoint",
        False,
        "start from --load_checkpoint (evaluations: the experiment's own where that is not given)",
    )
    g.add_argument(
        "--load_checkpoint",
        default=None,
        help="a file, or a run's folder, as it is or under SAVE_ROOT",
    )
    _flag(
        g,
        "is_different_checkpoint",
        False,
        "load the entries that fit; also the original's other learning-rate groups",
    )
    g.add_argument(
        "--logger_type",
        choices=("PythonLogger", "tensorboard"),
        default="PythonLogger",
        help="logger",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("data")
    g.add_argument(
        "--dataset_name",
        "--dataset",
        type=_dataset,
        default="CUB",
        help="CUB, ILSVRC (ImageNet), OpenImages",
    )
    g.add_argument(
        "--data_root", default=ROOT, help="holds the data sets' folders, or is the folder"
    )
    g.add_argument(
        "--metadata_root",
        default="metadata/",
        help="/<dataset> is appended, unless the lists lie in it",
    )
    g.add_argument(
        "--mask_root", default=ROOT, help="/OpenImages is appended; default: where the images lie"
    )
    g.add_argument("--num_classes", type=positive_int, default=None, help="default: the data set's")
    _flag(g, "proxy_training_set", False, "train on image_ids_proxy.txt")
    g.add_argument(
        "--resize_size", type=image_size, default=256, help="side in pixels before the random crop"
    )
    g.add_argument("--crop_size", type=image_size, default=224, help="side in pixels of the input")
    _flag(g, "cache_images", False, "keep resized images in memory")
    g.add_argument(
        "--image_list", type=readable_file, default=None, help="only the test ids of this file"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("model and optimisation")
    g.add_argument(
        "--architecture", choices=tuple(ARCHITECTURES), default="resnet50", help="network"
    )
    g.add_argument(
        "--attribution_method",
        type=_method,
        default="CAM",
        help=f"{', '.join(METHODS)}; _ for - is fine",
    )
    _flag(g, "pretrained", True, "start from ImageNet (off in a sample run)")
    g.add_argument(
        "--pretrained_path",
        type=_existing,
        default=None,
        help="file or folder of torchvision's weights",
    )
    _flag(g, "use_bn", False, "batch norm (vgg16, inception_v3)")
    _flag(g, "large_feature_map", False, "28x28 instead of 14x14 at 224")
    g.add_argument("--prior_activation", choices=tuple(ACTIVATIONS), default=None, help="of the attention; default: the"
                   " checkpoint's, else relu (softplus in a sample run)")  # fmt: skip
    g.add_argument(
        "--prior_gradient",
        choices=("detach", "full"),
        default="detach",
        help="through the normaliser of p(z|x)",
    )
    g.add_argument(
        "--em_teacher",
        choices=("none", "ema"),
        default="none",
        help="whose posterior is the E-step",
    )
    g.add_argument("--ema_decay", type=_share, default=0.99, help="of the EMA teacher")
    g.add_argument(
        "--batch_size", type=positive_int, default=64, help="images per process and step"
    )
    g.add_argument("--epochs", type=positive_int, default=40, help="epochs")
    g.add_argument("--lr", type=number(above=0), default=0.01, help="learning rate of the backbone")
    g.add_argument(
        "--lr_decay_frequency",
        type=positive_int,
        default=30,
        help="x 0.1 at every such epoch, from 1",
    )
    g.add_argument(
        "--lr_classifier_ratio",
        type=number(above=0),
        default=10,
        help="the other group's rate over lr",
    )
    g.add_argument("--momentum", type=_share, default=0.9, help="Nesterov momentum")
    g.add_argument("--weight_decay", type=number(0), default=1e-4, help="weight decay")
    g.add_argument(
        "--param_groups",
        choices=("released", "clean"),
        default="released",
        help="clean: backbone and heads",
    )


def _add_maps(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("score maps")
    g.add_argument("--score_map_method", choices=("activation_map", "backprop"), default="activation_map",
                   help="*_grad processes use backprop in any case")  # fmt: skip
    g.add_argument(
        "--score_map_process",
        choices=(*PROCESSES, *GRADIENT_PROCESSES),
        default="vanilla",
        help="map",
    )
    g.add_argument("--norm_type", choices=NORM_TYPES, default="minmax", help="to [0,1]")
    g.add_argument(
        "--smoothing_ksize", type=_odd, default=1, help="taps of a Gaussian over the map; 1: none"
    )
    g.add_argument("--smooth_grad_nr_iter", type=positive_int, default=50, help="noisy copies")
    g.add_argument(
        "--smooth_grad_sigma",
        type=number(above=0),
        default=4.0,
        help="the range of x over the noise's sigma",
    )
    g.add_argument(
        "--integrated_grad_nr_iter", type=positive_int, default=50, help="steps of the path"
    )
    g.add_argument(
        "--ig_variant",
        choices=("released", "standard"),
        default="released",
        help="standard: captum's",
    )
    g.add_argument("--superclass_file", type=readable_file, default=None,
                   help="JSON, label -> labels (superclass.py writes one)")  # fmt: skip


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("evaluation")
    g.add_argument("--threshold_type", choices=THRESHOLD_TYPES, default="even", help="of the maps")
    g.add_argument(
        "--cam_curve_interval", type=_open_unit, default=0.001, help="spacing of the thresholds"
    )
    g.add_argument(
        "--iou_thresholds", type=_percent, nargs="+", default=[30, 50, 70], help="percent"
    )
    _flag(g, "multi_contour_eval", True, "all contours (V2) or the largest (V1)")
    _flag(g, "save_maps", False, "keep the maps as scoremaps/ID.npy, float32, unscaled")
    g.add_argument("--foreground", choices=("segmentation", "box"), default=None,
                   help="of the cue masks; default: segmentation, box where a set has none")  # fmt: skip
    g.add_argument("--cue_protocol", choices=("both", "released", "per_pair"), default="both",
                   help="fresh histograms for each pair, or never reset as released")  # fmt: skip
    g.add_argument(
        "--max_pairs", type=positive_int, default=None, help="class pairs per number of parts"
    )
    g.add_argument(
        "--attribute_rule",
        choices=("released", "name"),
        default="released",
        help="name: part names before ::",
    )
    g.add_argument(
        "--erase_k",
        type=_share,
        nargs="+",
        default=list(ERASE_K_LIST),
        help="shares of pixels to erase",
    )
    g.add_argument("--erase_seed", type=seed, default=0, help="of the randomly erased pixels")
    g.add_argument(
        "--erase_repeats", type=positive_int, default=1, help="random erasings to average over"
    )
    g.add_argument(
        "--baseline", choices=BASELINES, default="zero", help="what erased pixels become in R_k"
    )
    g.add_argument(
        "--auc_steps",
        type=non_negative_int,
        default=0,
        help="deletion and insertion AUC with so many steps; 0: not",
    )
    g.add_argument(
        "--tie_break",
        choices=("index", "random"),
        default="index",
        help="random: mean of five orders",
    )


def sample_defaults(first: argparse.Namespace) -> dict[str, object]:
    """Size, epochs and network of a run on the drawn birds: trained from scratch, hence the prior's full gradient."""
    is_small = "architecture" not in first._given or first.architecture == "small"
    return {
        "architecture": "small",
        "pretrained": False,
        "prior_gradient": "full",
        "crop_size": 64,
        "resize_size": 68,
        "epochs": 12 if is_small else 2,
        "lr": 0.02 if is_small else 0.01,
        "lr_decay_frequency": 10,
        "lr_classifier_ratio": 1.0,
        "batch_size": 32,
        "cache_images": True,
        "workers": 0,
    }
