"""The flags of calm's scripts, and the defaults of the sample.

They are the original's names and defaults, and ours beside them. One parser serves training and all
evaluations, as in the original; options_table.py says where each flag has an effect.
"""

import argparse
from pathlib import Path
from typing import Any

from calm.options_names import (
    ACTIVATIONS,
    ARCHITECTURES,
    BASELINES,
    DATASETS,
    GRADIENT_PROCESSES,
    LOGGER_TYPES,
    METHODS,
    NORM_TYPES,
    PROCESSES,
    THRESHOLD_TYPES,
    canonical_method,
)
from calm.options_sample import sample_defaults
from calm.options_table import acts_in
from common.aliases import one_module
from common.backbones_names import require_spelling
from common.cli import (
    OneLineParser,
    UserError,
    add_shared_flags,
    add_sync_bn_flag,
    add_training_flags,
    image_size,
    non_negative_int,
    number,
    positive_int,
    readable_file,
    seed,
    whole,
)
from common.own import add_own_flags

one_module(__name__, "calm.options_flags")

TRUE = ("yes", "true", "t", "y", "1")
FALSE = ("no", "false", "f", "n", "0")
ROOT = "dataset/"
NAME = "result"
ERASE_K_LIST = (0.1, 0.3, 0.5, 0.7, 0.9)


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


def _network(text: str) -> str:
    """A name that may be one of a network: whether it is one is known when timm is imported."""
    try:
        return require_spelling(text, ARCHITECTURES)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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
    prog: str = "main.py",
    own: argparse.ArgumentParser | None = None,
    *,
    script: str | None = None,
) -> argparse.ArgumentParser:
    """Return one parser for training and for every evaluation, as in the original.

    `own` are one script's flags, which win. With the name of a `script` --help tells the flags that
    act there; the others are taken as before.
    """
    everywhere = OneLineParser(
        add_help=False, description="CALM: class activation latent mapping (ICCV 2021)."
    )
    _add_everywhere(everywhere)
    parents: list[argparse.ArgumentParser] = [everywhere]
    description = everywhere.description
    if own is not None:
        parents.append(own)
        description = own.description or description
    parser = OneLineParser(
        prog=prog, description=description, parents=parents, conflict_handler="resolve"
    )
    if script is None:
        return parser

    for action in parser._actions:
        if not acts_in(action.dest, script):
            action.help = argparse.SUPPRESS
    parser.epilog = "The original's flags of the other scripts are taken too, and do nothing here."
    if script != "explain":  # which takes no sample's defaults
        parser.tell_sample(all=sample_defaults(True))
    return parser


def _add_everywhere(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    _add_data(parser)
    _add_model(parser)
    _add_maps(parser)
    _add_evaluation(parser)
    add_own_flags(parser.add_argument_group("own data"))
    group = add_shared_flags(parser, seed=None)
    add_training_flags(group)
    group.add_argument("--workers", type=non_negative_int, default=4, help="loader workers")


def _flag(group: argparse._ArgumentGroup, name: str, default: bool, text: str) -> None:
    """A switch of the original: --name, --name=True, --name no."""
    kind: dict[str, Any] = {"type": str2bool, "nargs": "?", "const": True, "metavar": "BOOL"}
    group.add_argument(f"--{name}", default=default, help=text, **kind)


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("experiment")
    group.add_argument(
        "--experiment_name", default=NAME, help="the run directory is SAVE_ROOT/EXPERIMENT_NAME"
    )
    group.add_argument("--save_root", default="save", help="where experiments lie")
    _flag(group, "override_cache", False, "the same as --overwrite")
    _flag(group, "is_train", True, "False: only evaluate the checkpoint")
    _flag(
        group,
        "use_load_checkpoint",
        False,
        "start from --load_checkpoint, or the experiment's own",
    )
    group.add_argument(
        "--load_checkpoint",
        default=None,
        help="a file, or a run's folder, as it is or under SAVE_ROOT",
    )
    _flag(
        group,
        "is_different_checkpoint",
        False,
        "load the entries that fit",
    )
    group.add_argument("--logger_type", choices=LOGGER_TYPES, default="PythonLogger", help="logger")
    _flag(group, "only_last", False, "keep no checkpoint but checkpoints/last.pt")


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset_name",
        "--dataset",
        type=_dataset,
        default="CUB",
        help="CUB, ILSVRC (ImageNet), OpenImages",
    )
    group.add_argument(
        "--data_root", default=ROOT, help="holds the data sets' folders, or is the folder"
    )
    group.add_argument(
        "--metadata_root",
        default="metadata/",
        help="/<dataset> is appended, unless the lists lie in it",
    )
    group.add_argument(
        "--mask_root", default=ROOT, help="/OpenImages is appended; default: where the images lie"
    )
    group.add_argument(
        "--num_classes", type=positive_int, default=None, help="default: the data set's"
    )
    _flag(group, "proxy_training_set", False, "train on image_ids_proxy.txt")
    group.add_argument(
        "--resize_size", type=image_size, default=256, help="side in pixels before the random crop"
    )
    group.add_argument(
        "--crop_size", type=image_size, default=224, help="side in pixels of the input"
    )
    _flag(group, "cache_images", False, "keep resized images in memory")
    _flag(
        group,
        "frozen_features",
        False,
        "train the heads alone, on features computed once",
    )
    group.add_argument(
        "--image_list", type=readable_file, default=None, help="only the test ids of this file"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and optimisation")
    group.add_argument(
        "--architecture",
        type=_network,
        default="resnet50",
        metavar="NAME",
        help=f"{', '.join(ARCHITECTURES)}; any of timm, torchvision",
    )
    group.add_argument(
        "--attribution_method",
        type=_method,
        default="CAM",
        help=f"{', '.join(METHODS)}; _ for - is fine",
    )
    _flag(group, "pretrained", True, "start from ImageNet's weights")
    group.add_argument(
        "--pretrained_path",
        type=_existing,
        default=None,
        help="file or folder of torchvision's weights",
    )
    group.add_argument(
        "--weights",
        type=_existing,
        default=None,
        metavar="FILE",
        help="start the backbone from any weight file, in place of --pretrained",
    )
    _flag(group, "use_bn", False, "batch norm (vgg16, inception_v3)")
    _flag(group, "large_feature_map", False, "28x28 instead of 14x14 at 224")
    group.add_argument(
        "--prior_activation",
        choices=ACTIVATIONS,
        default=None,
        help="of the attention (default: the checkpoint's, else relu; sample: softplus)",
    )
    group.add_argument(
        "--prior_gradient",
        choices=("detach", "full"),
        default="detach",
        help="through the normaliser of p(z|x)",
    )
    group.add_argument(
        "--em_teacher",
        choices=("none", "ema"),
        default="none",
        help="whose posterior is the E-step",
    )
    group.add_argument("--ema_decay", type=_share, default=0.99, help="of the EMA teacher")
    group.add_argument(
        "--batch_size", type=positive_int, default=64, help="images per process and step"
    )
    add_sync_bn_flag(group)
    group.add_argument("--epochs", type=positive_int, default=40, help="epochs")
    group.add_argument(
        "--lr", type=number(above=0), default=0.01, help="learning rate of the backbone"
    )
    group.add_argument(
        "--lr_decay_frequency",
        type=positive_int,
        default=30,
        help="x 0.1 at every such epoch, from 1",
    )
    group.add_argument(
        "--lr_classifier_ratio",
        type=number(above=0),
        default=10,
        help="the other group's rate over lr",
    )
    group.add_argument("--momentum", type=_share, default=0.9, help="Nesterov momentum")
    group.add_argument("--weight_decay", type=number(0), default=1e-4, help="weight decay")
    group.add_argument(
        "--param_groups",
        choices=("released", "clean"),
        default="released",
        help="clean: backbone and heads",
    )


def _add_maps(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("score maps")
    group.add_argument(
        "--score_map_method",
        choices=("activation_map", "backprop"),
        default="activation_map",
        help="for gradients: backprop",
    )
    group.add_argument(
        "--score_map_process",
        choices=(*PROCESSES, *GRADIENT_PROCESSES),
        default="vanilla",
        help="kind of map",
    )
    group.add_argument("--norm_type", choices=NORM_TYPES, default="minmax", help="to [0,1]")
    group.add_argument(
        "--smoothing_ksize", type=_odd, default=1, help="taps of a Gaussian over the map; 1: none"
    )
    group.add_argument("--smooth_grad_nr_iter", type=positive_int, default=50, help="noisy copies")
    group.add_argument(
        "--smooth_grad_sigma",
        type=number(above=0),
        default=4.0,
        help="the range of x over the noise's sigma",
    )
    group.add_argument(
        "--integrated_grad_nr_iter", type=positive_int, default=50, help="steps of the path"
    )
    group.add_argument(
        "--ig_variant",
        choices=("released", "standard"),
        default="released",
        help="standard: captum's",
    )
    group.add_argument(
        "--superclass_file",
        type=readable_file,
        default=None,
        help="JSON, label -> labels (superclass.py writes one)",
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--threshold_type", choices=THRESHOLD_TYPES, default="even", help="of the maps"
    )
    group.add_argument(
        "--cam_curve_interval", type=_open_unit, default=0.001, help="spacing of the thresholds"
    )
    group.add_argument(
        "--iou_thresholds", type=_percent, nargs="+", default=[30, 50, 70], help="percent"
    )
    _flag(group, "multi_contour_eval", True, "all contours (V2) or the largest (V1)")
    _flag(group, "save_maps", False, "keep the maps as scoremaps/ID.npy, float32, unscaled")
    group.add_argument(
        "--foreground",
        choices=("segmentation", "box"),
        default=None,
        help="of the cue masks (default: segmentation where there is one)",
    )
    group.add_argument(
        "--cue_protocol",
        choices=("both", "released", "per_pair"),
        default="both",
        help="new histograms a pair, or never as released",
    )
    group.add_argument(
        "--max_pairs", type=positive_int, default=None, help="class pairs per number of parts"
    )
    group.add_argument(
        "--attribute_rule",
        choices=("released", "name"),
        default="released",
        help="name: part names before ::",
    )
    group.add_argument(
        "--erase_k",
        type=_share,
        nargs="+",
        default=list(ERASE_K_LIST),
        help="shares of pixels to erase",
    )
    group.add_argument("--erase_seed", type=seed, default=0, help="of the randomly erased pixels")
    group.add_argument(
        "--erase_repeats", type=positive_int, default=1, help="random erasings to average over"
    )
    group.add_argument(
        "--baseline", choices=BASELINES, default="zero", help="what erased pixels become in R_k"
    )
    group.add_argument(
        "--auc_steps",
        type=non_negative_int,
        default=0,
        help="deletion and insertion AUC with so many steps; 0: not",
    )
    group.add_argument(
        "--tie_break",
        choices=("index", "random"),
        default="index",
        help="random: mean of five orders",
    )
