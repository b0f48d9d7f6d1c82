"""The flags of calm's scripts: the original's names and defaults, ours beside them, the sample's defaults."""

import argparse
import math

from calm.erasing import BASELINES
from calm.network import ARCHITECTURES
from calm.network.head import ACTIVATIONS
from calm.network.universal import METHODS, PROCESSES, canonical_method
from calm.score_map_method import GRADIENT_PROCESSES
from calm.util import THRESHOLD_TYPES
from common.cam import NORM_TYPES
from common.cli import OneLineParser, add_shared_flags, non_negative_int, positive_int

TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
DATASETS = ("CUB", "ILSVRC", "OpenImages")
ROOT = "dataset/"  # compared by identity: the default is not a path that the user gave
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
    raise argparse.ArgumentTypeError(f"{value!r} is neither of {', '.join(TRUE)} nor of {', '.join(FALSE)}")


def _method(text: str) -> str:
    try:
        return canonical_method(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _dataset(text: str) -> str:
    name = "ILSVRC" if text == "ImageNet" else text
    if name not in DATASETS:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(DATASETS)} (ImageNet is ILSVRC)")
    return name


def _open_unit(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie strictly between 0 and 1, not {value}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, not {value}")
    return value


def _odd(text: str) -> int:
    value = int(text)
    if value < 1 or value % 2 == 0:
        raise argparse.ArgumentTypeError(f"must be odd and positive, not {value}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, not {value}")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or above and finite, not {value}")
    return value


def build_parser(prog: str = "main.py", own: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """One parser for training and for every evaluation, as in the original; `own`: one script's flags, which win."""
    everywhere = OneLineParser(add_help=False, description="CALM: class activation latent mapping (ICCV 2021).")
    _add_everywhere(everywhere)
    description = (own or everywhere).description
    parents = [everywhere] if own is None else [everywhere, own]
    return OneLineParser(prog=prog, description=description, parents=parents, conflict_handler="resolve")


def _add_everywhere(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    _add_data(parser)
    _add_model(parser)
    _add_maps(parser)
    _add_evaluation(parser)
    group = add_shared_flags(parser, seed=None)
    group.add_argument("--workers", type=non_negative_int, default=4, help="loader workers")


def _flag(group: argparse._ArgumentGroup, name: str, default: bool, text: str) -> None:
    """A switch of the original: --name, --name=True, --name no."""
    group.add_argument(f"--{name}", type=str2bool, nargs="?", const=True, default=default, help=text)


def _add_run(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("experiment")
    g.add_argument("--experiment_name", default=NAME, help="the run directory is SAVE_ROOT/EXPERIMENT_NAME")
    g.add_argument("--save_root", default="save", help="where experiments lie")
    _flag(g, "override_cache", False, "the same as --overwrite")
    _flag(g, "is_train", True, "False: only evaluate the checkpoint")
    _flag(g, "use_load_checkpoint", False, "start from --load_checkpoint (evaluations: from the experiment without it)")
    g.add_argument("--load_checkpoint", default=None, help="a file, or a run's folder, as it is or under SAVE_ROOT")
    _flag(
        g, "is_different_checkpoint", False, "load the entries that fit; also the original's other learning-rate groups"
    )
    g.add_argument("--logger_type", choices=("PythonLogger", "tensorboard"), default="PythonLogger", help="logger")


def _add_data(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("data")
    g.add_argument(
        "--dataset_name", "--dataset", type=_dataset, default="CUB", help="CUB, ILSVRC (ImageNet), OpenImages"
    )
    g.add_argument("--data_root", default=ROOT, help="holds the data sets' folders, or is the folder")
    g.add_argument("--metadata_root", default="metadata/", help="/<dataset> is appended, unless the lists lie in it")
    g.add_argument("--mask_root", default=ROOT, help="/OpenImages is appended; default: where the images lie")
    g.add_argument("--num_classes", type=positive_int, default=None, help="default: the data set's")
    _flag(g, "proxy_training_set", False, "train on image_ids_proxy.txt")
    g.add_argument("--resize_size", type=positive_int, default=256, help="side in pixels before the random crop")
    g.add_argument("--crop_size", type=positive_int, default=224, help="side in pixels of the input")
    _flag(g, "cache_images", False, "keep resized images in memory")
    g.add_argument("--image_list", default=None, help="evaluate only the test ids of this file")


def _add_model(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("model and optimisation")
    g.add_argument("--architecture", choices=tuple(ARCHITECTURES), default="resnet50", help="network")
    g.add_argument("--attribution_method", type=_method, default="CAM", help=f"{', '.join(METHODS)}; _ for - is fine")
    _flag(g, "pretrained", True, "start from ImageNet (off in a sample run)")
    g.add_argument("--pretrained_path", default=None, help="file or folder of torchvision's weights")
    _flag(g, "use_bn", False, "batch norm (vgg16, inception_v3)")
    _flag(g, "large_feature_map", False, "28x28 instead of 14x14 at 224")
    g.add_argument("--prior_activation", choices=tuple(ACTIVATIONS), default=None, help="of the attention; default: the"
                   " checkpoint's, else relu (softplus in a sample run)")  # fmt: skip
    g.add_argument(
        "--prior_gradient", choices=("detach", "full"), default="detach", help="through the normaliser of p(z|x)"
    )
    g.add_argument("--em_teacher", choices=("none", "ema"), default="none", help="whose posterior is the E-step")
    g.add_argument("--ema_decay", type=_share, default=0.99, help="of the EMA teacher")
    g.add_argument("--batch_size", type=positive_int, default=64, help="images per process and step")
    g.add_argument("--epochs", type=positive_int, default=40, help="epochs")
    g.add_argument("--lr", type=_positive, default=0.01, help="learning rate of the backbone")
    g.add_argument("--lr_decay_frequency", type=positive_int, default=30, help="x 0.1 at every such epoch, from 1")
    g.add_argument("--lr_classifier_ratio", type=_positive, default=10, help="the other group's rate over lr")
    g.add_argument("--momentum", type=_share, default=0.9, help="Nesterov momentum")
    g.add_argument("--weight_decay", type=_not_negative, default=1e-4, help="weight decay")
    g.add_argument(
        "--param_groups", choices=("released", "clean"), default="released", help="clean: backbone and heads"
    )


def _add_maps(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("score maps")
    g.add_argument("--score_map_method", choices=("activation_map", "backprop"), default="activation_map",
                   help="*_grad processes use backprop in any case")  # fmt: skip
    g.add_argument("--score_map_process", choices=(*PROCESSES, *GRADIENT_PROCESSES), default="vanilla", help="map")
    g.add_argument("--norm_type", choices=NORM_TYPES, default="minmax", help="to [0,1]")
    g.add_argument("--smoothing_ksize", type=_odd, default=1, help="taps of a Gaussian over the map; 1: none")
    g.add_argument("--smooth_grad_nr_iter", type=positive_int, default=50, help="noisy copies")
    g.add_argument("--smooth_grad_sigma", type=_positive, default=4.0, help="the range of x over the noise's sigma")
    g.add_argument("--integrated_grad_nr_iter", type=positive_int, default=50, help="steps of the path")
    g.add_argument("--ig_variant", choices=("released", "standard"), default="released", help="standard: captum's")
    g.add_argument("--superclass_file", default=None, help="JSON, label -> labels (superclass.py writes one)")


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("evaluation")
    g.add_argument("--threshold_type", choices=THRESHOLD_TYPES, default="even", help="of the maps")
    g.add_argument("--cam_curve_interval", type=_open_unit, default=0.001, help="spacing of the thresholds")
    g.add_argument("--iou_thresholds", type=int, nargs="+", default=[30, 50, 70], help="percent (eval_wsol)")
    _flag(g, "multi_contour_eval", True, "eval_wsol: all contours (V2) or the largest (V1)")
    _flag(g, "save_maps", False, "eval_wsol: keep the maps as scoremaps/ID.npy, float32, unscaled")
    g.add_argument("--foreground", choices=("segmentation", "box"), default=None,
                   help="of the cue masks; default: segmentation, box where a set has none")  # fmt: skip
    g.add_argument("--cue_protocol", choices=("both", "released", "per_pair"), default="both",
                   help="fresh histograms for each pair, or never reset as released")  # fmt: skip
    g.add_argument("--max_pairs", type=positive_int, default=None, help="cue localisation: pairs per number of parts")
    g.add_argument(
        "--attribute_rule", choices=("released", "name"), default="released", help="name: part names before ::"
    )
    g.add_argument("--erase_k", type=_share, nargs="+", default=list(ERASE_K_LIST), help="shares of pixels to erase")
    g.add_argument("--erase_seed", type=int, default=0, help="of the randomly erased pixels")
    g.add_argument("--erase_repeats", type=positive_int, default=1, help="random erasings to average over")
    g.add_argument("--baseline", choices=BASELINES, default="zero", help="what erased pixels become")
    g.add_argument(
        "--auc_steps", type=non_negative_int, default=0, help="deletion and insertion AUC with so many steps; 0: not"
    )
    g.add_argument("--tie_break", choices=("index", "random"), default="index", help="random: mean of five orders")


def sample_defaults(first: argparse.Namespace) -> dict[str, object]:
    """Size, epochs and network of a run on the drawn birds: trained from scratch, hence the prior's full gradient."""
    is_small = not first._gave_architecture or first.architecture == "small"
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
