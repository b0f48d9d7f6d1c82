"""The flags of `python main.py`: the reference's names and defaults, and ours beside them."""

import argparse
from pathlib import Path

from cavl.utils.datasets import DATA_SETS, locate_dataset
from common.aliases import one_module
from common.cli import OneLineParser, UserError, add_shared_flags, parse_with_sample_defaults, positive_int, seed_list

one_module(__name__, "cavl.utils.options")

METHODS = ("cavl", "rc", "proden", "cc", "lws", "uniform")
MODELS = ("linear", "mlp", "lenet", "convnet", "resnet", "densenet")
MAP_MODELS = ("convnet", "resnet", "densenet")  # those that end in feature maps
PARTIAL_TYPES = ("uss", "uss_exact", "fps", "case", "instance", "file")
OWN_SETS, OWN_KINDS = "own", ("mat", "plcifar")  # the partial type, and the data, that come with candidate sets


def _name_list(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown method {unknown[0]!r}, choose from {', '.join(METHODS)}")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise argparse.ArgumentTypeError(f"{repeated[0]} stands there twice")
    return names


def _warmup(text: str) -> int | str:
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"must be at least 0 or 'auto', not {text!r}")


def build_parser() -> argparse.ArgumentParser:
    """The parser with the reference's defaults (spec c); every flag takes one dash or two."""
    parser = OneLineParser(prog="main.py", description="CAVL: partial-label learning by class activation value.")

    def add(group: argparse._ArgumentGroup, name: str, **kwargs: object) -> None:
        group.add_argument(f"-{name}", f"--{name}", dest=name, **kwargs)

    g = parser.add_argument_group("data")
    add(g, "ds", type=str, default="mnist", choices=tuple(DATA_SETS), help="data set")
    add(g, "data_dir", type=Path, default=None, help="root of the data sets (else $WSL_DATA_DIR, else ./data)")
    add(g, "partial_type", default=None, choices=PARTIAL_TYPES, help="law of the candidate sets S_i"
        " (default uss; with -ca case, with -partial_file file)")  # fmt: skip
    add(g, "q", type=float, default=0.5, help="fps: probability of each false candidate")
    add(g, "ca", default=None, choices=("01", "02", "03", "04"), help="flip matrix; implies -partial_type case")
    add(g, "rate", type=float, default=None, help="instance: strength (default 0.4; 0.04 from 100 classes on)")
    add(g, "oracle", type=Path, default=None, help="instance: checkpoint of a model trained on clean labels")
    add(g, "partial_file", type=Path, default=None, help="file: .npy/.npz matrix (n,K) of 0/1")
    add(g, "fold", type=int, default=None, help=".mat data: this fold only, 0-based (default: all)")
    add(g, "folds", type=int, default=10, help=".mat data: number of folds")
    add(g, "standardize", default="train", choices=("train", "all", "none"), help=".mat data: rows of mean and std")
    add(g, "augment", action="store_true", help="flip and 4-pixel crop, on the device")
    add(g, "resident_gb", type=float, default=8.0, help="images above this size stay on the host")

    g = parser.add_argument_group("model")
    add(g, "mo", type=str, default="mlp", choices=MODELS, help="model")
    add(g, "depth", type=int, default=32, help="resnet: depth (6n+2)")

    g = parser.add_argument_group("method")
    add(g, "method", default="cavl", choices=METHODS, help="rule of the confidence table C")
    add(g, "cav", default="logit", choices=("logit", "softmax", "grad"), help="output that enters the CAV")
    add(g, "mask", default=None, choices=("candidates", "product"), help="product: as released"
        " (default candidates; with --released product)")  # fmt: skip
    add(g, "smoothing", type=float, default=0.0, help="label smoothing of the selected label")
    add(g, "temperature", type=float, default=None, help="soft selection: C = softmax(CAV / temperature) over S")
    add(g, "cav_forward", default="after", choices=("after", "before"), help="second forward after the step, or none")
    add(g, "select", default="cav", choices=("cav", "cam"), help="select by CAV or by the area of the CAM")
    add(g, "warmup", type=_warmup, default=0, help="epochs without selection, or auto")
    add(g, "lw_weight", type=float, default=2.0, help="lws: weight of the non-candidates")
    add(g, "lw_weight0", type=float, default=1.0, help="lws: weight of the candidates")
    add(g, "released", action="store_true", help="preset: mask product, cav_forward after, partial_type uss")

    g = parser.add_argument_group("optimisation")
    add(g, "lr", type=float, default=1e-3, help="learning rate")
    add(g, "wd", type=float, default=1e-3, help="weight decay (L2 in the gradient)")
    add(g, "bs", type=positive_int, default=64, help="batch size of each process")
    add(g, "ep", type=int, default=250, help="epochs")
    add(g, "op", default="adam", choices=("sgd", "adam"), help="optimiser; sgd has momentum 0.9")
    add(g, "schedule", default="none", choices=("none", "cosine"), help="learning-rate schedule")
    add(g, "gpu", type=str, default="0", help="index of the GPU; ignored without CUDA")
    add(g, "compile", action="store_true", help="torch.compile the model")

    g = parser.add_argument_group("report")
    add(g, "cam_vis", type=int, default=0, help="training images whose candidate CAMs are drawn")
    add(g, "selection_curve", type=int, default=0, metavar="N", help="training images on which the curve of"
        " how often CAM, CAV and output pick the true label is measured each epoch; 0: none")  # fmt: skip
    add(g, "compare", type=_name_list, default=None, metavar="A,B", help="run these methods side by side")
    add(g, "seeds", type=seed_list, default=None, metavar="0,1,2", help="run these seeds; with -compare each method")
    add_shared_flags(parser, skip_corrupt=False)
    g.add_argument("--skip_corrupt", action="store_true", help="accepted for all five; these sets hold no image files")
    return parser


# Defaults on the drawn samples: a run of seconds on two CPU cores.
SAMPLE_DEFAULTS = {
    "idx": {"ep": 60},
    "cifar": {"ep": 12, "mo": "resnet", "depth": 8, "lr": 3e-3, "bs": 32},
    "plcifar": {"ep": 12, "mo": "resnet", "depth": 8},
    "mat": {"ep": 60, "folds": 3},
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check; `args._location` says where the data are. UserError or exit status 2 on a bad value."""
    found = []

    def is_sample_run(first: argparse.Namespace) -> bool:
        found.append(locate_dataset(first.ds, first.data_dir, want_sample=first.sample))
        return found[-1].is_sample

    args = parse_with_sample_defaults(
        build_parser, argv, is_sample_run, lambda first: SAMPLE_DEFAULTS[DATA_SETS[first.ds].kind]
    )
    args._location = found[0]
    _resolve(args)
    _require(args)
    return args


def _resolve(args: argparse.Namespace) -> None:
    """Fill in what other flags imply; a flag that says otherwise stays and is refused by `_require`."""
    implied = "case" if args.ca else "file" if args.partial_file else "uss"
    if DATA_SETS[args.ds].kind in OWN_KINDS:
        implied = OWN_SETS
    args.partial_type = args.partial_type or implied
    if args.partial_type == "case":
        args.ca = args.ca or "03"
    args.mask = args.mask or ("product" if args.released else "candidates")


def _require(args: argparse.Namespace) -> None:
    """Bounds of the spec's table of bad input (section i), and flags that exclude each other."""
    soft, by_cam = args.temperature is not None, args.select == "cam"
    kind, law, methods = DATA_SETS[args.ds].kind, args.partial_type, args.compare or [args.method]
    draws_sets = kind not in OWN_KINDS
    preset = (args.mask, args.cav_forward, law) == ("product", "after", "uss" if draws_sets else OWN_SETS)
    bounds = [
        (args.ep >= 1, f"-ep {args.ep}: at least 1"),
        (args.lr > 0, f"-lr {args.lr}: must be above 0"),
        (args.wd >= 0, f"-wd {args.wd}: must not be negative"),
        (0 <= args.q < 1, f"-q {args.q}: 0 <= q < 1"),
        (args.rate is None or args.rate > 0, f"-rate {args.rate}: must be above 0"),
        (0 <= args.smoothing < 1, f"-smoothing {args.smoothing}: 0 <= smoothing < 1"),
        (not soft or args.temperature > 0, f"-temperature {args.temperature}: must be above 0"),
        (not soft or args.mask == "candidates", "-temperature: soft selection needs -mask candidates"),
        (not (soft and by_cam), "-temperature softens the CAV; with -select cam the largest area is taken"),
        (not by_cam or args.cav_forward == "after", "-select cam: the maps come from a forward of their own, after"),
        (draws_sets or law == OWN_SETS, f"-partial_type {law}: {args.ds} comes with its own candidate sets"),
        (draws_sets or not args.ca, f"-ca: {args.ds} comes with its own candidate sets"),
        (draws_sets or not args.partial_file, f"-partial_file: {args.ds} comes with its own candidate sets"),
        (not args.ca or law == "case", f"-ca is for -partial_type case, not {law}"),
        (not (args.ca and args.partial_file), "-ca draws the sets, -partial_file reads them: give one of the two"),
        (not args.partial_file or law == "file", f"-partial_file is for -partial_type file, not {law}"),
        (args.rate is None or law == "instance", f"-rate is for -partial_type instance, not {law}"),
        (args.oracle is None or law == "instance", f"-oracle is for -partial_type instance, not {law}"),
        (not args.released or preset, "--released: means -mask product, -cav_forward after, -partial_type uss"),
        (args.cav_forward == "after" or "rc" not in methods, "-method rc -cav_forward before: that is -method proden"),
        (not (args.augment and kind == "mat"), f"-augment flips images; {args.ds} holds features"),
        (args.fold is None or kind == "mat", f"-fold {args.fold}: {args.ds} has a test part of its own"),
        (args.folds >= 2, f"-folds {args.folds}: at least 2"),
        (args.fold is None or 0 <= args.fold < args.folds, f"-fold {args.fold}: 0 to {args.folds - 1}"),
        (args.warmup == "auto" or args.warmup < args.ep, f"-warmup {args.warmup}: less than -ep {args.ep}"),
        (args.depth >= 8 and (args.depth - 2) % 6 == 0, f"-depth {args.depth}: 6n+2 (8, 14, 20, 32, 56, ...)"),
        (args.cam_vis >= 0, f"-cam_vis {args.cam_vis}: must not be negative"),
        (args.selection_curve >= 0, f"-selection_curve {args.selection_curve}: must not be negative"),
        (args.seed >= 0, "-seed: must not be negative"),
        (law != "file" or args.partial_file, "-partial_type file: give the matrix with -partial_file"),
        (args.gpu.isdigit(), f"-gpu {args.gpu}: one index; for several GPUs use accelerate launch"),
    ]
    for holds, message in bounds:
        if not holds:
            raise UserError(message)
    for flag in ("select", "cam_vis"):
        wants_maps = args.select == "cam" if flag == "select" else args.cam_vis > 0
        if wants_maps and args.mo not in MAP_MODELS:
            raise UserError(f"-{flag} needs class activation maps: {', '.join(MAP_MODELS)} have them, {args.mo} not")
