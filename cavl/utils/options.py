"""The flags of `python main.py`: the reference's names and defaults, and ours beside them."""

import argparse
from pathlib import Path

from cavl.utils.datasets import DATA_SETS, locate_dataset
from common.aliases import one_module
from common.cli import (
    OneLineParser,
    UserError,
    add_shared_flags,
    number,
    parse_given,
    readable_file,
    seed_list,
    settle,
    whole,
)

one_module(__name__, "cavl.utils.options")

METHODS = ("cavl", "rc", "proden", "cc", "lws", "uniform")
MODELS = ("linear", "mlp", "lenet", "convnet", "resnet", "densenet")
MAP_MODELS = ("convnet", "resnet", "densenet")  # those that end in feature maps
PARTIAL_TYPES = ("uss", "uss_exact", "fps", "case", "instance", "file")
DEEPEST = 10_000  # layers of a resnet
LARGEST = 1_000_000_000  # epochs, and images of a batch
OWN_SETS, OWN_KINDS = (
    "own",
    ("mat", "plcifar"),
)  # the partial type, and the data, that come with candidate sets


def _name_list(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown method {unknown[0]!r}, choose from {', '.join(METHODS)}"
        )
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise argparse.ArgumentTypeError(f"{repeated[0]} stands there twice")
    return names


def _warmup(text: str) -> int | str:
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"must be at least 0 or 'auto', not {text!r}")


def build_parser() -> argparse.ArgumentParser:
    """The parser with the reference's defaults; every flag takes one dash or two."""
    parser = OneLineParser(
        prog="main.py", description="CAVL: partial-label learning by class activation value."
    )

    def add(group: argparse._ArgumentGroup, name: str, **kwargs: object) -> None:
        group.add_argument(f"-{name}", f"--{name}", dest=name, **kwargs)

    g = parser.add_argument_group("data")
    add(g, "ds", type=str, default="mnist", choices=tuple(DATA_SETS), help="data set")
    add(
        g,
        "data_dir",
        type=Path,
        default=None,
        help="root of the data sets (else $WSL_DATA_DIR, else ./data)",
    )
    add(g, "partial_type", default="uss", choices=PARTIAL_TYPES, help="law of the candidate sets S_i;"
        " with -ca case, with -partial_file file; .mat and plcifar10 have their own sets")  # fmt: skip
    add(
        g,
        "q",
        type=number(0, below=1),
        default=0.5,
        help="fps: probability of each false candidate",
    )
    add(
        g,
        "ca",
        default=None,
        choices=("01", "02", "03", "04"),
        help="flip matrix; implies -partial_type case",
    )
    add(
        g,
        "rate",
        type=number(above=0),
        default=None,
        help="instance: strength (default 0.4; 0.04 from 100 classes on)",
    )
    add(
        g,
        "oracle",
        type=readable_file,
        default=None,
        help="instance: checkpoint of a model trained on clean labels",
    )
    add(
        g,
        "partial_file",
        type=readable_file,
        default=None,
        help="file: .npy/.npz matrix (n,K) of 0/1",
    )
    add(
        g,
        "fold",
        type=whole(0),
        default=None,
        help=".mat data: this fold only, 0-based (default: all)",
    )
    add(g, "folds", type=whole(2), default=10, help=".mat data: number of folds")
    add(
        g,
        "standardize",
        default="train",
        choices=("train", "all", "none"),
        help=".mat data: rows of mean and std",
    )
    add(g, "augment", action="store_true", help="flip and 4-pixel crop, on the device")
    add(
        g,
        "resident_gb",
        type=number(0),
        default=8.0,
        help="images above this size stay on the host",
    )

    g = parser.add_argument_group("model")
    add(g, "mo", type=str, default="mlp", choices=MODELS, help="model")
    add(g, "depth", type=whole(high=DEEPEST), default=32, help="resnet: depth (6n+2)")

    g = parser.add_argument_group("method")
    add(g, "method", default="cavl", choices=METHODS, help="rule of the confidence table C")
    add(
        g,
        "cav",
        default="logit",
        choices=("logit", "softmax", "grad"),
        help="output that enters the CAV",
    )
    add(
        g,
        "mask",
        default="candidates",
        choices=("candidates", "product"),
        help="product: as released",
    )
    add(
        g,
        "smoothing",
        type=number(0, below=1),
        default=0.0,
        help="label smoothing of the selected label",
    )
    add(
        g,
        "temperature",
        type=number(above=0),
        default=None,
        help="soft selection: C = softmax(CAV / temperature) over S",
    )
    add(
        g,
        "cav_forward",
        default="after",
        choices=("after", "before"),
        help="second forward after the step, or none",
    )
    add(
        g,
        "select",
        default="cav",
        choices=("cav", "cam"),
        help="select by CAV or by the area of the CAM",
    )
    add(g, "warmup", type=_warmup, default=0, help="epochs without selection, or auto")
    add(g, "lw_weight", type=number(0), default=2.0, help="lws: weight of the non-candidates")
    add(g, "lw_weight0", type=number(0), default=1.0, help="lws: weight of the candidates")
    add(
        g,
        "released",
        action="store_true",
        help="preset: mask product, cav_forward after, partial_type uss",
    )

    g = parser.add_argument_group("optimisation")
    add(g, "lr", type=number(above=0), default=1e-3, help="learning rate")
    add(g, "wd", type=number(0), default=1e-3, help="weight decay (L2 in the gradient)")
    add(g, "bs", type=whole(1, LARGEST), default=64, help="batch size of each process")
    add(g, "ep", type=whole(1, LARGEST), default=250, help="epochs")
    add(g, "op", default="adam", choices=("sgd", "adam"), help="optimiser; sgd has momentum 0.9")
    add(g, "schedule", default="none", choices=("none", "cosine"), help="learning-rate schedule")
    add(g, "gpu", type=str, default="0", help="index of the GPU; ignored without CUDA")
    add(g, "compile", action="store_true", help="torch.compile the model")

    g = parser.add_argument_group("report")
    add(
        g,
        "cam_vis",
        type=whole(0, 200),
        default=0,
        help="training images whose candidate CAMs are drawn, up to 200",
    )
    add(g, "selection_curve", type=whole(0), default=0, metavar="N", help="training images on which the curve of"
        " how often CAM, CAV and output pick the true label is measured each epoch; 0: none")  # fmt: skip
    add(
        g,
        "compare",
        type=_name_list,
        default=None,
        metavar="A,B",
        help="run these methods side by side",
    )
    add(
        g,
        "seeds",
        type=seed_list,
        default=None,
        metavar="0,1,2",
        help="run these seeds; with -compare each method",
    )
    add_shared_flags(parser, skip_corrupt=False)
    g.add_argument(
        "--skip_corrupt",
        action="store_true",
        help="accepted for all five; these sets hold no image files",
    )
    return parser


# Defaults on the drawn samples: a run of seconds on two CPU cores.
SAMPLE_DEFAULTS = {
    "idx": {"ep": 60},
    "cifar": {"ep": 12, "mo": "resnet", "depth": 8, "lr": 3e-3, "bs": 32},
    "plcifar": {"ep": 12, "mo": "resnet", "depth": 8},
    "mat": {"ep": 60, "folds": 3},
}


# What --released stands for.
RELEASED = {"mask": "product", "cav_forward": "after", "partial_type": "uss"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check; `args._location` says where the data are. UserError or exit status 2 on a bad value.

    What the user gave wins over what other flags imply, and that over the sample's defaults.
    """
    defaults, given = parse_given(build_parser, argv)
    asked = settle(defaults, given)
    if asked.sample and asked.data_dir is not None:
        raise UserError(f"--sample and --data_dir {asked.data_dir}: give one of the two")

    location = locate_dataset(asked.ds, asked.data_dir, want_sample=asked.sample)
    sample_defaults = SAMPLE_DEFAULTS[DATA_SETS[asked.ds].kind] if location.is_sample else {}
    args = settle(defaults, given, sample_defaults, _implied(asked))
    args._location = location
    _require_bounds(args)
    _require_acting(args)
    _require_agreement(args)
    return args


def _implied(args: argparse.Namespace) -> dict[str, str]:
    """What some flags say about others."""
    implied = dict(RELEASED) if args.released else {}
    if args.partial_file is not None:
        implied["partial_type"] = "file"
    if args.ca is not None:
        implied["partial_type"] = "case"
    elif args.partial_type == "case":
        implied["ca"] = "03"
    if DATA_SETS[args.ds].kind in OWN_KINDS:
        implied["partial_type"] = OWN_SETS
    return implied


def is_resnet_depth(depth: object) -> bool:
    """Whether a CIFAR ResNet can have this depth: 6n+2, n from 1 on."""
    return isinstance(depth, int) and 8 <= depth <= DEEPEST and (depth - 2) % 6 == 0


def _refuse(wrong: dict[str, bool]) -> None:
    """UserError with the first message whose condition holds."""
    for message, holds in wrong.items():
        if holds:
            raise UserError(message)


def _require_bounds(args: argparse.Namespace) -> None:
    """Every number within the bounds that others set, too."""
    is_fold = args.fold is None or args.fold < args.folds
    is_warmup = args.warmup == "auto" or args.warmup < args.ep
    _refuse(
        {
            f"-fold {args.fold}: 0 to {args.folds - 1}": not is_fold,
            f"-warmup {args.warmup}: less than -ep {args.ep}": not is_warmup,
            f"-depth {args.depth}: 6n+2 (8, 14, 20, 32, 56, ...)": not is_resnet_depth(args.depth),
            f"-gpu {args.gpu}: one index; for several GPUs use accelerate launch": not args.gpu.isdecimal(),
        }
    )


def _require_acting(args: argparse.Namespace) -> None:
    """Every flag that was given acts in this run; one that cannot is refused with what it is for."""
    kind = DATA_SETS[args.ds].kind
    law = args.partial_type
    methods = args.compare or [args.method]
    has_own_sets = kind in OWN_KINDS
    selects = "cavl" in methods
    selects_by_cav = selects and args.select == "cav"
    shows_cav = args.selection_curve > 0 or args.cam_vis > 0
    looks_again = not {"cavl", "rc", "lws"}.isdisjoint(methods)
    named = ", ".join(methods)

    own_sets = f"{args.ds} comes with its own candidate sets"
    idle = {
        "partial_type": (has_own_sets, f" {args.partial_type}: {own_sets}"),
        "ca": (has_own_sets, f": {own_sets}"),
        "partial_file": (has_own_sets, f": {own_sets}"),
        "q": (law != "fps", f" is for -partial_type fps, not {law}"),
        "rate": (law != "instance", f" is for -partial_type instance, not {law}"),
        "oracle": (law != "instance", f" is for -partial_type instance, not {law}"),
        "fold": (kind != "mat", f" {args.fold}: {args.ds} has a test part of its own"),
        "folds": (kind != "mat", f" {args.folds}: {args.ds} has a test part of its own"),
        "standardize": (
            kind != "mat",
            f" is for the features of .mat sets; {args.ds} holds images",
        ),
        "augment": (kind == "mat", f" flips images; {args.ds} holds features"),
        "depth": (args.mo != "resnet", f" is for -mo resnet, not {args.mo}"),
        "cav": (
            not (selects_by_cav or shows_cav),
            f": with -method {named} -select {args.select} no CAV is taken",
        ),
        "mask": (
            not (selects_by_cav or args.selection_curve),
            f": with -method {named} -select {args.select} no CAV is masked",
        ),
        "smoothing": (not selects, f" is for -method cavl, not {named}"),
        "temperature": (not selects, f" is for -method cavl, not {named}"),
        "select": (not selects, f" is for -method cavl, not {named}"),
        "warmup": (not selects, f" is for -method cavl, not {named}"),
        "released": (not selects, f" is for -method cavl, not {named}"),
        "cav_forward": (not looks_again, f" is for -method cavl, rc and lws, not {named}"),
        "lw_weight": ("lws" not in methods, f" is for -method lws, not {named}"),
        "lw_weight0": ("lws" not in methods, f" is for -method lws, not {named}"),
        "method": (args.compare is not None, ": -compare names the methods; give one of the two"),
        "seed": (args.seeds is not None, ": -seeds names the seeds; give one of the two"),
        "gpu": (args.cpu, ": -cpu stays off the GPU; give one of the two"),
    }
    for flag, (is_idle, why) in idle.items():
        if flag in args._given and is_idle:
            raise UserError(f"-{flag}{why}")


def _require_agreement(args: argparse.Namespace) -> None:
    """No two flags contradict each other."""
    law = args.partial_type
    methods = args.compare or [args.method]
    is_soft = args.temperature is not None
    by_cam = args.select == "cam"
    differs = any(
        getattr(args, name) != value for name, value in RELEASED.items() if name in args._given
    )
    map_models = ", ".join(MAP_MODELS)
    has_maps = args.mo in MAP_MODELS
    _refuse(
        {
            "-temperature: soft selection needs -mask candidates": is_soft
            and args.mask == "product",
            "-temperature softens the CAV; with -select cam the largest area is taken": is_soft
            and by_cam,
            "-select cam: the maps come from a forward of their own, after": by_cam
            and args.cav_forward == "before",
            "-ca draws the sets, -partial_file reads them: give one of the two": bool(
                args.ca and args.partial_file
            ),
            f"-ca is for -partial_type case, not {law}": "ca" in args._given and law != "case",
            f"-partial_file is for -partial_type file, not {law}": bool(args.partial_file)
            and law != "file",
            "-partial_type file: give the matrix with -partial_file": law == "file"
            and not args.partial_file,
            "--released: means -mask product, -cav_forward after, -partial_type uss": args.released
            and differs,
            "--released: means -partial_type uss, which -ca and -partial_file are not": args.released
            and law not in ("uss", OWN_SETS),
            "-method rc -cav_forward before: that is -method proden": args.cav_forward == "before"
            and "rc" in methods,
            f"-select needs class activation maps: {map_models} have them, {args.mo} not": by_cam
            and not has_maps,
            f"-cam_vis needs class activation maps: {map_models} have them, {args.mo} not": args.cam_vis
            > 0
            and not has_maps,
        }
    )
