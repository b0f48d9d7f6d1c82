"""The flags of train.py.

They are the released code's names and defaults (hyphens or underscores), and ours beside them.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.aliases import one_module
from common.cli import (
    OneLineParser,
    UserError,
    add_jobs_flag,
    add_shared_flags,
    add_sync_bn_flag,
    add_training_flags,
    image_size,
    non_negative_int,
    number,
    parse_given,
    positive_int,
    seed_list,
    settle,
)
from common.own import add_own_flags
from csl.data_errors import expanded
from csl.data_locate import Found, locate_data, require_metadata
from csl.options_checks import (
    refuse_contradictions,
    refuse_idle_flags,
    refuse_other_layouts,
)
from csl.options_choices import (
    INTERPOLATIONS,
    MODES,
    OF_DEFAULT_FILE,
    RECIPES,
    SAMPLE_DEFAULTS,
    SAMPLE_SIMULATION,
    SCHEMES,
    SCOPES,
    canonical_name,
    default_param,
    require_size,
    scheme_of,
)
from csl.options_frozen import add_frozen_flags, frozen_settings, refuse_with_frozen
from csl.options_scores import add_autocast_flag, add_half_flag

one_module(__name__, "csl.options")

DATA_HELP = (
    "own data (class folders, csv, json, COCO json, VOC devkit), or the folder of COCO 2014 or"
    " 2017, LVIS or Open Images: README.md tells its files"
)
DEFAULT_MODEL_PATH = f"./{OF_DEFAULT_FILE}.pth"
SETS = {
    "pos": "annotated positives",
    "neg": "annotated negatives",
    "unann": "un-annotated labels",
}


class EitherDash(OneLineParser):
    """A parser of --a_flag that takes --a-flag too."""

    def parse_known_args(  # type: ignore[override]  # two overloads, of one meaning
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """argparse's, on flags with underscores."""
        if args is None:
            args = sys.argv[1:]
        return super().parse_known_args(list(map(underscored, args)), namespace)


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


def add_data_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags that say where the data are and which of them count; returns their group."""
    group = parser.add_argument_group("data")
    group.add_argument("--data", default="./data", metavar="PLACE", help=DATA_HELP)
    add_own_flags(group, leave_out=["data"])
    group.add_argument(
        "--metadata", default="./data/COCO_2014", help="hyperml: train.json, val.json"
    )
    group.add_argument(
        "--debug_mode",
        choices=("auto", "on_farm", "hyperml"),
        default="auto",
        help="on_farm: COCO; hyperml: --metadata; auto: look",
    )
    group.add_argument(
        "--dataset",
        choices=("auto", "coco", "lvis", "openimages"),
        default="auto",
        help="layout of --data; auto: look",
    )
    group.add_argument(
        "--class_list",
        type=any_path,
        default=None,
        metavar="FILE",
        help="Open Images: a MID a line (default: all, or the checkpoint's)",
    )
    group.add_argument("-j", "--workers", type=non_negative_int, default=8, help="loader processes")
    group.add_argument(
        "--skip_missing", action="store_true", help="leave out images whose file is not there"
    )
    return group


def add_network_flags(
    parser: argparse.ArgumentParser, model_name: str, model_path: str
) -> argparse._ArgumentGroup:
    """Add the flags of a network that is scored, and of its input; returns their group."""
    group = parser.add_argument_group("network and its input")
    group.add_argument(
        "--model_name", default=model_name, help="used where the checkpoint does not tell"
    )
    group.add_argument("--model_path", default=model_path, help="weights, of any form")
    group.add_argument(
        "--which", choices=("ema", "model"), default="ema", help="of a run's last.pt or best.pt"
    )
    group.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        default="bilinear",
        help="default: the checkpoint's, else bilinear; bicubic: as released in infer",
    )
    return group


def build_parser() -> argparse.ArgumentParser:
    """The parser with the released defaults; its parse_args([]) shows them."""
    parser = EitherDash(
        prog="train.py", description="CSL: multi-label training with partial annotations."
    )

    group = add_data_flags(parser)
    group.add_argument(
        "--num_classes", type=positive_int, default=None, help="default: from the data"
    )
    group.add_argument(
        "--image_size", type=image_size, default=448, help="side in pixels, of a square"
    )
    group.add_argument(
        "--keep_empty", action="store_true", help="COCO: keep images without any annotation"
    )
    group.add_argument(
        "--augment",
        choices=("paper", "shift", "none"),
        default="paper",
        help="paper: CutoutPIL, RandAugment; shift: 6 pixels; none",
    )

    _add_partial(parser)
    _add_loss(parser)
    _add_training(parser)

    group = parser.add_argument_group("report")
    add_autocast_flag(group)
    group.add_argument(
        "-p", "--print_freq", type=positive_int, default=64, help="steps between printed losses"
    )
    add_half_flag(group)
    group.add_argument("--path_dest", default="./outputs", help="parent folder of runs")
    group.add_argument(
        "--compare",
        type=_names,
        default=None,
        metavar="RECIPE,...",
        help="recipes side by side; csl: the scheme's own; all: the table",
    )
    group.add_argument(
        "--schemes", type=_names, default=None, metavar="fpc,rps", help="with --compare"
    )
    group.add_argument(
        "--seeds", type=seed_list, default=None, metavar="0,1,2", help="with --compare"
    )
    add_jobs_flag(group)
    add_sync_bn_flag(group)
    add_training_flags(add_shared_flags(parser))
    parser.tell_sample(all=SAMPLE_DEFAULTS | SAMPLE_SIMULATION)
    return parser


def _add_partial(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("partial annotation")
    group.add_argument(
        "--simulate_partial_type",
        choices=tuple(SCHEMES),
        default=None,
        help="of complete labels (COCO)",
    )
    group.add_argument(
        "--simulate_partial_param",
        type=float,
        default=1000.0,
        help="fpc: labels kept a class; rps: share lost",
    )
    group.add_argument(
        "--partial_labels",
        type=any_path,
        default=None,
        metavar="FILE",
        help="in place of a simulation: partial_labels.npz of a run",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and optimisation")
    group.add_argument(
        "--model_name",
        default="tresnet_m",
        help="tresnet_m, _l, _xl, _l_v2, _tiny, or any network of timm or torchvision",
    )
    group.add_argument(
        "--model_path", default=DEFAULT_MODEL_PATH, help="pretrained weights; the head is not taken"
    )
    group.add_argument(
        "--weights",
        type=any_path,
        default=None,
        metavar="FILE",
        help="as --model_path, in any form and of any library",
    )
    group.add_argument(
        "--pretrained",
        action="store_true",
        help="published weights of --model_name, from the cache or the hub",
    )
    group.add_argument(
        "--do_bottleneck_head",
        action="store_true",
        help="head of 512 hidden features (Open Images)",
    )
    add_frozen_flags(group)
    group.add_argument(
        "--lr", type=number(above=0), default=2e-4, help="top of the one-cycle schedule"
    )
    group.add_argument(
        "--weight_decay",
        type=number(0),
        default=1e-4,
        help="L2 inside Adam, not on biases and norms",
    )
    group.add_argument("--epochs", type=positive_int, default=30, help="epochs the schedule spans")
    group.add_argument(
        "--stop_epoch", type=positive_int, default=None, help="run only so many epochs"
    )
    group.add_argument("-b", "--batch_size", type=positive_int, default=64, help="of each process")
    group.add_argument(
        "--ema_decay", type=number(0, below=1), default=0.9997, help="decay of the averaged model"
    )
    group.add_argument(
        "--ema_warmup",
        choices=("auto", "on", "off"),
        default="auto",
        help="smaller decay at first; auto: on below 20000 steps",
    )
    group.add_argument(
        "--best",
        choices=("ema", "model", "max"),
        default="ema",
        help="what chooses best.pt; max is the released habit",
    )


def _add_loss(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("loss")
    group.add_argument(
        "--partial_loss_mode",
        choices=(*MODES, "None"),
        default="negative",
        help="what un-annotated labels do",
    )
    group.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        default=None,
        help="a row of the table",
    )
    group.add_argument(
        "--clip", type=number(0, below=1), default=0.0, help="probability margin m of the negatives"
    )
    of_sets = (
        ("gamma", "focusing exponent", (0.0, 1.0, 2.0)),
        ("alpha", "factor", (1.0, 1.0, 1.0)),
    )
    for name, what, default in of_sets:
        for part, value in zip(SETS, default, strict=True):
            group.add_argument(
                f"--{name}_{part}", type=number(0), default=value, help=f"{what} of {SETS[part]}"
            )
    group.add_argument(
        "--likelihood_topk",
        type=non_negative_int,
        default=5,
        help="selective: K; K * batch labels are left out",
    )
    group.add_argument(
        "--likelihood_scope",
        choices=SCOPES,
        default="batch",
        help="selective: K * B of the batch, or K of each image",
    )
    group.add_argument(
        "--likelihood_share",
        type=number(0, 1),
        default=None,
        help="selective: in place of K, a share of the un-annotated",
    )
    group.add_argument("--prior_path", default=None, help="selective: csv Classes,avg_pred")
    group.add_argument(
        "--prior_threshold",
        type=number(0, 1),
        default=0.05,
        help="selective: classes above it are left out; 0: off",
    )
    group.add_argument(
        "--prior_quantile",
        type=number(0, 1),
        default=None,
        help="selective: in place of the threshold, a quantile of the prior",
    )
    group.add_argument(
        "--estimate_prior",
        type=positive_int,
        default=None,
        metavar="N",
        help="selective: use the prior of a network trained N epochs before",
    )
    group.add_argument(
        "--prior_window",
        choices=("epoch", "all"),
        default="epoch",
        help="steps of the estimate: last epoch, or all as released",
    )
    group.add_argument(
        "--stable_loss", action="store_true", help="logsigmoid: confident errors keep a gradient"
    )


@dataclass(frozen=True)
class Settings:
    """The settings of a command, which of them the user gave, and where the data are."""

    args: argparse.Namespace
    given: frozenset[str]
    found: Found


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Parse and check the flags of train.py; given flags win over recipe and sample defaults."""
    defaults, given = parse_given(build_parser, argv)
    if "path_dest" in given:
        given["path_dest"] = str(expanded(given["path_dest"], "--path_dest"))
    settings = settle_with_data(defaults, given, refuse_contradictions, _layers)
    args = settings.args
    refuse_with_frozen(args, settings.given)
    if args.simulate_partial_type:
        args.simulate_partial_type = scheme_of(args.simulate_partial_type)
    args.schemes = args.schemes and list(map(scheme_of, args.schemes))
    args.model_name = canonical_name(args.model_name)
    require_size(args.model_name, args.image_size, "--image_size")
    refuse_idle_flags(args, settings.given, is_sample=settings.found.is_sample)
    return settings


def settle_with_data(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    refuse: Callable[[argparse.Namespace, Collection[str]], None],
    layers: Callable[[argparse.Namespace, Found], Sequence[Mapping[str, Any]]],
) -> Settings:
    """Check the flags, look where the data are, and settle on what both say.

    Args:
        defaults, given: of `parse_given`.
        refuse: raises for flags that contradict each other, before the data are looked for.
        layers: what wins over the defaults, the last the most; what was given wins over all.
    """
    first = settle(defaults, given)
    refuse(first, set(given))
    found = find_data(first, set(given))
    args = settle(defaults, given, *layers(first, found))
    refuse_other_layouts(args, set(given), found)
    return Settings(args, frozenset(given), found)


def find_data(args: argparse.Namespace, given: Collection[str]) -> Found:
    """Where the data of `args` are. --metadata, where it is given, is the layout that is wanted."""
    if "metadata" in given:
        require_metadata(expanded(args.metadata, "--metadata"))
        if args.debug_mode == "auto":
            args.debug_mode = "hyperml"
    return locate_data(
        args.data,
        is_given="data" in given or "metadata" in given,
        dataset=args.dataset,
        debug_mode=args.debug_mode,
        metadata=args.metadata,
        sample=args.sample,
        images=args.images,
        classes=args.classes,
    )


def _layers(first: argparse.Namespace, found: Found) -> list[dict[str, Any]]:
    """The settings of the recipe, those of the sample, then those of frozen features."""
    layers: list[dict[str, Any]] = [RECIPES.get(first.recipe, {})]
    if found.is_sample:
        layers.append(SAMPLE_DEFAULTS | _sample_simulation(first, found))
    return [*layers, frozen_settings(first)]


def _sample_simulation(first: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Return the sample's own simulation where none was asked for.

    Of complete labels all modes are one.
    """
    if found.layout == "openimages" or first.partial_labels:
        return {}
    if first.simulate_partial_type is None and first.schemes is None:
        return SAMPLE_SIMULATION
    return {"simulate_partial_param": default_param(first.simulate_partial_type or "fpc", True)}
