"""The flags of train.py: the released code's names and defaults (hyphens or underscores), and ours beside them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.aliases import one_module
from common.cli import (
    OneLineParser,
    UserError,
    add_shared_flags,
    image_size,
    non_negative_int,
    number,
    parse_given,
    positive_int,
    seed_list,
    settle,
)
from csl.src.contradictions import (
    refuse_contradictions,
    refuse_idle_flags,
    refuse_other_layouts,
    require_size,
)
from csl.src.errors import MissingFileError
from csl.src.helper_functions.coco_simulation import SCHEMES, scheme_of
from csl.src.helper_functions.files import expanded
from csl.src.helper_functions.locate import Found, locate_data
from csl.src.loss_functions.partial_asymmetric_loss import MODES, SCOPES
from csl.src.models.utils.factory import canonical_name
from csl.src.recipes import RECIPES, SAMPLE_DEFAULTS, default_param

one_module(__name__, "csl.src.options")

DATA_HELP = """folder with annotations/instances_{train,val}2014.json (or 2017), train2014, val2014; with
 annotations/lvis_v1_{train,val}.json (v0.5 too), train2017, val2017; or with data.csv or
 oidv6-train-annotations-human-imagelabels.csv and validation-annotations-human-imagelabels.csv of Open Images; looked
 for in its folders COCO_2014 and coco too""".replace("\n", "")
DEFAULT_MODEL_PATH = "./tresnet_m.pth"
SETS = {
    "pos": "annotated positives",
    "neg": "annotated negatives",
    "unann": "un-annotated labels, not in ignore modes",
}


class EitherDash(OneLineParser):
    """A parser of --a_flag that takes --a-flag too."""

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: object = None
    ) -> tuple:
        """argparse's, on flags with underscores."""
        import sys

        return super().parse_known_args(
            [underscored(a) for a in (sys.argv[1:] if args is None else args)], namespace
        )


def underscored(argument: str) -> str:
    """`--model-path=x-y` as `--model_path=x-y`; anything else as it is."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def any_path(text: str) -> Path:
    """argparse type: a path, `~` spelled out; whether it is there says who reads it."""
    try:
        return expanded(text, "")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).strip()) from error


def _names(text: str) -> list[str]:
    return text.split(",")


def build_parser() -> argparse.ArgumentParser:
    """The parser with the released defaults (spec c); its parse_args([]) shows them."""
    parser = EitherDash(
        prog="train.py", description="CSL: multi-label training with partial annotations."
    )

    g = parser.add_argument_group("data")
    g.add_argument("--data", default="./data", help=DATA_HELP)
    g.add_argument("--metadata", default="./data/COCO_2014", help="hyperml: train.json, val.json")
    g.add_argument("--debug_mode", choices=("auto", "on_farm", "hyperml"), default="auto", help="on_farm: official"
        " COCO; hyperml: metadata folder; auto: look")  # fmt: skip
    g.add_argument("--dataset", choices=("auto", "coco", "lvis", "openimages"), default="auto")
    g.add_argument(
        "--class_list",
        type=any_path,
        default=None,
        help="Open Images: only these classes, a MID a line",
    )
    g.add_argument("--num_classes", type=positive_int, default=None, help="default: from the data")
    g.add_argument(
        "--image_size", type=image_size, default=448, help="pixels; images are squashed to a square"
    )
    g.add_argument("-j", "--workers", type=non_negative_int, default=8, help="loader processes")
    g.add_argument(
        "--keep_empty", action="store_true", help="COCO: keep images without any annotation"
    )
    g.add_argument(
        "--skip_missing", action="store_true", help="leave out images whose file is not there"
    )
    g.add_argument("--augment", choices=("paper", "shift", "none"), default="paper", help="paper: CutoutPIL and"
        " RandAugment; shift: up to 6 pixels")  # fmt: skip

    g = parser.add_argument_group("partial annotation")
    g.add_argument(
        "--simulate_partial_type",
        choices=tuple(SCHEMES),
        default=None,
        help="of complete labels (COCO)",
    )
    g.add_argument("--simulate_partial_param", type=float, default=1000.0, help="fpc: labels kept per class;"
        " rps: share dropped")  # fmt: skip
    g.add_argument("--partial_labels", type=any_path, default=None, help="npz of partial labels (partial_labels.npz"
        " of another run) instead of a simulation")  # fmt: skip

    _add_loss(parser)

    g = parser.add_argument_group("model and optimisation")
    g.add_argument(
        "--model_name", default="tresnet_m", help="tresnet_m, _l, _xl, _l_v2, _tiny or timm/NAME"
    )
    g.add_argument(
        "--model_path", default=DEFAULT_MODEL_PATH, help="pretrained weights; the head is not taken"
    )
    g.add_argument(
        "--do_bottleneck_head",
        action="store_true",
        help="head of 512 hidden features (Open Images)",
    )
    g.add_argument(
        "--lr", type=number(above=0), default=2e-4, help="maximum of the one-cycle schedule"
    )
    g.add_argument(
        "--weight_decay",
        type=number(0),
        default=1e-4,
        help="L2 inside Adam, not on biases and norms",
    )
    g.add_argument("--epochs", type=positive_int, default=30, help="epochs the schedule spans")
    g.add_argument("--stop_epoch", type=positive_int, default=None, help="run only so many epochs")
    g.add_argument("-b", "--batch_size", type=positive_int, default=64, help="of each process")
    g.add_argument(
        "--ema_decay", type=number(0, below=1), default=0.9997, help="decay of the averaged model"
    )
    g.add_argument("--ema_warmup", choices=("auto", "on", "off"), default="auto", help="decay min(d, (1+t)/(10+t));"
        " auto: on below 20000 steps")  # fmt: skip
    g.add_argument("--best", choices=("ema", "model", "max"), default="ema", help="what chooses best.pt; max is the"
        " released habit")  # fmt: skip

    g = parser.add_argument_group("report")
    g.add_argument(
        "-p", "--print_freq", type=positive_int, default=64, help="steps between printed losses"
    )
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
    g.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        default=None,
        help="mode and gammas of a row of the table",
    )
    g.add_argument(
        "--clip", type=number(0, below=1), default=0.0, help="probability margin m of the negatives"
    )
    for name, default in (("gamma", (0.0, 1.0, 2.0)), ("alpha", (1.0, 1.0, 1.0))):
        what = "focusing exponent" if name == "gamma" else "factor"
        for part, value in zip(SETS, default, strict=True):
            g.add_argument(
                f"--{name}_{part}", type=number(0), default=value, help=f"{what} of {SETS[part]}"
            )
    g.add_argument("--likelihood_topk", type=non_negative_int, default=5, help="selective mode: K, so that K * batch"
        " un-annotated labels are dropped")  # fmt: skip
    g.add_argument("--likelihood_scope", choices=SCOPES, default="batch", help="selective mode: K * B of the batch as"
        " released, or K of each image")  # fmt: skip
    g.add_argument("--likelihood_share", type=number(0, 1), default=None, help="selective mode: instead of K, this"
        " share of the un-annotated labels")  # fmt: skip
    g.add_argument("--prior_path", default=None, help="selective mode: csv Classes,avg_pred")
    g.add_argument("--prior_threshold", type=number(0, 1), default=0.05, help="selective mode: classes above it are"
        " dropped; 0: off")  # fmt: skip
    g.add_argument("--prior_quantile", type=number(0, 1), default=None, help="selective mode: instead of the threshold,"
        " this quantile of the prior (0.9: a tenth of the classes is dropped)")  # fmt: skip
    g.add_argument("--estimate_prior", type=positive_int, default=None, metavar="N", help="selective mode: first train"
        " a temporary network for N epochs in ignore mode and use its prior")  # fmt: skip
    g.add_argument("--prior_window", choices=("epoch", "all"), default="epoch", help="steps the estimate averages"
        " over: the last epoch, or all as released")  # fmt: skip
    g.add_argument(
        "--stable_loss", action="store_true", help="logsigmoid: confident errors keep a gradient"
    )


def parse_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse and check; `args._found` says where the data are. Given flags win over recipe and sample defaults."""
    defaults, given = parse_given(parser, argv)
    if "path_dest" in given:
        given["path_dest"] = str(expanded(given["path_dest"], "--path_dest"))
    first = settle(defaults, given)
    refuse_contradictions(first, set(given))
    found = find_data(first, set(given))

    layers = [RECIPES.get(first.recipe, {})]
    if found.is_sample:
        layers.append(SAMPLE_DEFAULTS | _sample_simulation(first, found))
    args = settle(defaults, given, *layers)
    args._found = found
    if args.simulate_partial_type:
        args.simulate_partial_type = scheme_of(args.simulate_partial_type)
    args.schemes = args.schemes and [scheme_of(name) for name in args.schemes]
    args.model_name = canonical_name(args.model_name)
    require_size(args.model_name, args.image_size, "--image_size")
    refuse_other_layouts(args, set(given))
    refuse_idle_flags(args, set(given))
    return args


def find_data(args: argparse.Namespace, given: set[str]) -> Found:
    """Where the data of `args` are. --metadata, where it is given, is the layout that is wanted."""
    if "metadata" in given and args.debug_mode == "auto":
        args.debug_mode = "hyperml"
    if "metadata" in given:
        _require_metadata(expanded(args.metadata, "--metadata"))
    return locate_data(args, is_given=bool(given & {"data", "metadata"}))


def _require_metadata(folder: Path) -> None:
    """MissingFileError where a given --metadata has not both lists."""
    lists = ("train.json", "val.json")
    missing = [name for name in lists if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(
            f"--metadata {folder}: {' and '.join(missing)} of COCO's form not there"
        )


def _sample_simulation(first: argparse.Namespace, found: Found) -> dict:
    """Complete labels show no difference between the modes: the sample's own simulation where none was asked for."""
    if found.layout == "openimages" or first.partial_labels:
        return {}
    if first.simulate_partial_type is None and first.schemes is None:
        return {"simulate_partial_type": "fpc", "simulate_partial_param": 60.0}
    return {"simulate_partial_param": default_param(first.simulate_partial_type or "fpc", True)}
