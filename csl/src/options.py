"""The flags of train.py: the released code's names and defaults (hyphens or underscores), and ours beside them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.cli import OneLineParser, UserError, add_shared_flags, positive_int, seed_list
from csl.src.errors import SettingsError
from csl.src.helper_functions.coco_simulation import SCHEMES, check_param, scheme_of
from csl.src.helper_functions.locate import Found, locate_data
from csl.src.loss_functions.partial_asymmetric_loss import MODES
from csl.src.models.tresnet.tresnet import SMALLEST
from csl.src.models.utils.factory import canonical_name

_SELECTIVE = {"partial_loss_mode": "selective", "likelihood_topk": 5, "prior_threshold": 0.5}
# The rows of the paper's tables as settings of the same loss (README, results).
RECIPES = {
    "ignore_ce": {"partial_loss_mode": "ignore", "gamma_pos": 0.0, "gamma_neg": 0.0, "gamma_unann": 0.0},
    "negative_ce": {"partial_loss_mode": "negative", "gamma_pos": 0.0, "gamma_neg": 0.0, "gamma_unann": 0.0},
    "negative_asl": {"partial_loss_mode": "negative", "gamma_pos": 1.0, "gamma_neg": 4.0, "gamma_unann": 4.0},
    "csl_fpc": _SELECTIVE | {"gamma_pos": 0.0, "gamma_neg": 3.0, "gamma_unann": 4.0},
    "csl_rps": _SELECTIVE | {"gamma_pos": 0.0, "gamma_neg": 1.0, "gamma_unann": 4.0},
}
# A run of about half a minute on one core; the first twenty COCO classes, so that K = 1 stands for the paper's 5 of 80.
SAMPLE_DEFAULTS = {
    "model_name": "tresnet_tiny",
    "image_size": 64,
    "epochs": 12,
    "batch_size": 32,
    "lr": 6e-3,
    "workers": 0,
    "likelihood_topk": 1,
    "augment": "shift",
}
DEFAULT_MODEL_PATH = "./tresnet_m.pth"


class EitherDash(OneLineParser):
    """A parser of --a_flag that takes --a-flag too."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: object = None) -> tuple:
        """argparse's, on flags with underscores."""
        import sys

        return super().parse_known_args([underscored(a) for a in (sys.argv[1:] if args is None else args)], namespace)


def underscored(argument: str) -> str:
    """`--model-path=x-y` as `--model_path=x-y`; anything else as it is."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _names(text: str) -> list[str]:
    return text.split(",")


def build_parser() -> argparse.ArgumentParser:
    """The parser with the released defaults (spec c); its parse_args([]) shows them."""
    parser = EitherDash(prog="train.py", description="CSL: multi-label training with partial annotations.")

    g = parser.add_argument_group("data")
    g.add_argument("--data", default="./data", help="data root; layouts in the README")
    g.add_argument("--metadata", default="./data/COCO_2014", help="hyperml: train.json, val.json")
    g.add_argument("--debug_mode", choices=("auto", "on_farm", "hyperml"), default="auto", help="on_farm: official"
        " COCO; hyperml: metadata folder; auto: look")  # fmt: skip
    g.add_argument("--dataset", choices=("auto", "coco", "lvis", "openimages"), default="auto")
    g.add_argument("--class_list", type=Path, default=None, help="Open Images: only these classes, a MID a line")
    g.add_argument("--num_classes", type=positive_int, default=None, help="default: from the data")
    g.add_argument("--image_size", type=positive_int, default=448, help="pixels; images are squashed to a square")
    g.add_argument("-j", "--workers", type=int, default=8, help="loader processes")
    g.add_argument("--keep_empty", action="store_true", help="keep images without any annotation")
    g.add_argument("--skip_missing", action="store_true", help="leave out images whose file is not there")
    g.add_argument("--augment", choices=("paper", "shift", "none"), default="paper", help="paper: CutoutPIL and"
        " RandAugment; shift: up to 6 pixels")  # fmt: skip

    g = parser.add_argument_group("partial annotation")
    g.add_argument("--simulate_partial_type", choices=tuple(SCHEMES), default=None, help="of complete labels")
    g.add_argument("--simulate_partial_param", type=float, default=1000.0, help="fpc: labels kept per class;"
        " rps: share dropped")  # fmt: skip
    g.add_argument("--partial_labels", type=Path, default=None, help="npz of partial labels (partial_labels.npz"
        " of another run) instead of a simulation")  # fmt: skip

    _add_loss(parser)

    g = parser.add_argument_group("model and optimisation")
    g.add_argument("--model_name", default="tresnet_m", help="tresnet_m, _l, _xl, _l_v2, _tiny or timm/NAME")
    g.add_argument("--model_path", default=DEFAULT_MODEL_PATH, help="pretrained weights; the head is not taken")
    g.add_argument("--do_bottleneck_head", action="store_true", help="head of 512 hidden features (Open Images)")
    g.add_argument("--lr", type=float, default=2e-4, help="maximum of the one-cycle schedule")
    g.add_argument("--weight_decay", type=float, default=1e-4, help="L2 inside Adam, not on biases and norms")
    g.add_argument("--epochs", type=positive_int, default=30, help="epochs the schedule spans")
    g.add_argument("--stop_epoch", type=positive_int, default=None, help="run only so many epochs")
    g.add_argument("-b", "--batch_size", type=positive_int, default=64, help="of each process")
    g.add_argument("--ema_decay", type=float, default=0.9997, help="decay of the averaged model")
    g.add_argument("--ema_warmup", choices=("auto", "on", "off"), default="auto", help="decay min(d, (1+t)/(10+t));"
        " auto: on below 20000 steps")  # fmt: skip
    g.add_argument("--best", choices=("ema", "model", "max"), default="ema", help="what chooses best.pt; max is the"
        " released habit")  # fmt: skip

    g = parser.add_argument_group("report")
    g.add_argument("-p", "--print_freq", type=positive_int, default=64, help="steps between printed losses")
    g.add_argument("--path_dest", default="./outputs", help="parent of the default run directory")
    g.add_argument("--compare", type=_names, default=None, metavar="RECIPE,...", help="train these recipes"
        " side by side; csl stands for the recipe of the scheme, all for the paper's four rows")  # fmt: skip
    g.add_argument("--schemes", type=_names, default=None, metavar="fpc,rps", help="with --compare")
    g.add_argument("--seeds", type=seed_list, default=None, metavar="0,1,2", help="with --compare")
    add_shared_flags(parser)
    return parser


def _add_loss(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group("loss")
    g.add_argument("--partial_loss_mode", choices=(*MODES, "None"), default="negative")
    g.add_argument("--recipe", choices=tuple(RECIPES), default=None, help="mode and gammas of a row of the table")
    g.add_argument("--clip", type=float, default=0.0, help="probability margin m of the negatives")
    for name, default in (("gamma", (0.0, 1.0, 2.0)), ("alpha", (1.0, 1.0, 1.0))):
        for part, value in zip(("pos", "neg", "unann"), default, strict=True):
            g.add_argument(f"--{name}_{part}", type=float, default=value)
    g.add_argument("--likelihood_topk", type=int, default=5, help="K: K * batch un-annotated labels are dropped")
    g.add_argument("--likelihood_scope", choices=("batch", "sample"), default="batch", help="K * B of the batch as"
        " released, or K of each image")  # fmt: skip
    g.add_argument("--likelihood_share", type=float, default=None, help="instead of K: this share of the"
        " un-annotated labels")  # fmt: skip
    g.add_argument("--prior_path", default=None, help="csv Classes,avg_pred")
    g.add_argument("--prior_threshold", type=float, default=0.05, help="classes above it are dropped; 0: off")
    g.add_argument("--prior_quantile", type=float, default=None, help="instead of the threshold: this quantile of"
        " the prior (0.9: a tenth of the classes is dropped)")  # fmt: skip
    g.add_argument("--estimate_prior", type=positive_int, default=None, metavar="N", help="first train a temporary"
        " network for N epochs in ignore mode and use its prior")  # fmt: skip
    g.add_argument("--prior_window", choices=("epoch", "all"), default="epoch", help="steps the estimate averages"
        " over: the last epoch, or all as released")  # fmt: skip
    g.add_argument("--stable_loss", action="store_true", help="logsigmoid: confident errors keep a gradient")


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check; `args._found` says where the data are. Given flags win over recipe and sample defaults."""
    defaults, given = parse_given(parser, argv)
    first = argparse.Namespace(**(defaults | given))
    found = locate_data(first, is_given="data" in given)
    defaults |= RECIPES.get(first.recipe, {})
    if found.is_sample:
        defaults |= SAMPLE_DEFAULTS | _sample_simulation(first, found)
    args = argparse.Namespace(**(defaults | given))
    args._found, args._given = found, set(given)
    if found.is_sample and "model_path" not in given:
        args.model_path = None
    if args.simulate_partial_type:
        args.simulate_partial_type = scheme_of(args.simulate_partial_type)
    args.model_name = canonical_name(args.model_name)
    _require(args)
    return args


def parse_given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[dict, dict]:
    """The defaults of all flags, and the values of those that the command line holds."""
    defaults, unset = vars(parser.parse_args([])), object()
    args = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, unset)))
    return defaults, {name: value for name, value in vars(args).items() if value is not unset}


def _sample_simulation(first: argparse.Namespace, found: Found) -> dict:
    """Complete labels show no difference between the modes: the sample's own simulation where none was asked for."""
    if found.layout == "openimages" or first.partial_labels:
        return {}
    if first.simulate_partial_type is None and first.schemes is None:
        return {"simulate_partial_type": "fpc", "simulate_partial_param": 60.0}
    return {"simulate_partial_param": default_param(first.simulate_partial_type or "fpc", True)}


def default_param(scheme: str, is_sample: bool) -> float:
    """The parameter of the paper's tables, and the sample's of fpc."""
    return 0.5 if scheme_of(scheme) == "rps" else 60.0 if is_sample else 1000.0


def _require(args: argparse.Namespace) -> None:
    """Bounds and wrong combinations (spec i)."""
    bounds = [
        (args.lr > 0, f"--lr {args.lr}: must be above 0"),
        (args.weight_decay >= 0, f"--weight_decay {args.weight_decay}: must not be negative"),
        (args.workers >= 0, f"--workers {args.workers}: must not be negative"),
        (0 <= args.clip < 1, f"--clip {args.clip}: 0 <= clip < 1"),
        (args.likelihood_topk >= 0, f"--likelihood_topk {args.likelihood_topk}: must not be negative"),
        (0 <= args.prior_threshold <= 1, f"--prior_threshold {args.prior_threshold}: a probability"),
        (0 <= (args.likelihood_share or 0) <= 1, f"--likelihood_share {args.likelihood_share}: a share in 0..1"),
        (0 <= (args.prior_quantile or 0) <= 1, f"--prior_quantile {args.prior_quantile}: in 0..1"),
        (
            args.prior_quantile is None or args.prior_path or args.estimate_prior,
            "--prior_quantile: of which prior? give --prior_path, or --estimate_prior N",
        ),
        (0 <= args.ema_decay < 1, f"--ema_decay {args.ema_decay}: 0 <= decay < 1"),
        (not args.stable_loss or not args.clip, "--stable_loss: not together with --clip, which bounds q already"),
        (not (args.estimate_prior and args.prior_path), "--estimate_prior makes a prior; leave --prior_path out"),
        (args.schemes is None or args.compare, "--schemes: only with --compare"),
        (args.seeds is None or args.compare, "--seeds: only with --compare"),
        (not (args.partial_labels and args.simulate_partial_type), "--partial_labels replaces the simulation"),
    ]
    bounds += [(v >= 0, f"--{k} {v}: must not be negative") for k, v in vars(args).items() if k.startswith("gamma_")]
    for holds, message in bounds:
        if not holds:
            raise UserError(message)
    if args.simulate_partial_type and not args.compare:
        check_param(args.simulate_partial_type, args.simulate_partial_param)
    if args.model_name.startswith("tresnet") and (args.image_size % 4 or args.image_size < SMALLEST):
        low = max(args.image_size // 4 * 4, SMALLEST)
        raise SettingsError(
            f"--image_size {args.image_size}: TResNet needs multiples of 4 from {SMALLEST} on,"
            f" such as {low} or {low + 4}"
        )
    for name in args.compare or ():
        if name not in (*RECIPES, "csl", "all"):
            raise UserError(f"--compare {name}: choose from {', '.join(RECIPES)}, csl, all")
    if args.schemes:
        args.schemes = [scheme_of(name) for name in args.schemes]
