"""Which settings of main.py go together: bounds, flags that do nothing, contradictions."""

import argparse

from cavl.options_datasets import OWN_DATA, kind_of
from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "cavl.options_rules")

MAP_MODELS = ("convnet", "resnet", "densenet")  # those that end in feature maps
NO_MAP_MODELS = ("linear", "mlp", "lenet")
MODELS = (*NO_MAP_MODELS, *MAP_MODELS)  # this paper's own; every other name is a library's
DEEPEST = 10_000  # layers of a resnet
OWN_SETS = "own"  # the partial type of data that come with candidate sets
OWN_KINDS = ("mat", "plcifar")  # and the kinds of these data

# What --released stands for.
RELEASED = {"mask": "product", "cav_forward": "after", "partial_type": "uss"}


def require_sense(args: argparse.Namespace, given: frozenset[str]) -> None:
    """UserError for settings that cannot be. given: the names of those that the user set."""
    _require_bounds(args)
    _require_acting(args, given)
    _require_agreement(args, given)


def is_resnet_depth(depth: object) -> bool:
    """Whether a CIFAR ResNet can have this depth: 6n+2, n from 1 on."""
    return isinstance(depth, int) and 8 <= depth <= DEEPEST and (depth - 2) % 6 == 0


def has_maps(mo: str, head: str = "linear") -> bool:
    """Whether a network of -mo has class activation maps: all with a linear head on a map have."""
    return mo not in NO_MAP_MODELS and head == "linear"


def needs_maps(args: argparse.Namespace) -> bool:
    """Whether a run looks at the maps of its network at every step or epoch."""
    if not has_maps(args.mo, args.head):
        return False
    by_cam = args.method == "cavl" and args.select == "cam"
    return by_cam or args.selection_curve > 0


def _refuse(wrong: dict[str, bool]) -> None:
    """UserError with the first message whose condition holds."""
    for message, holds in wrong.items():
        if holds:
            raise UserError(message)


def _require_bounds(args: argparse.Namespace) -> None:
    """Every number within the bounds that others set, too."""
    is_fold = args.fold is None or args.fold < args.folds
    is_warmup = args.warmup == "auto" or args.warmup < args.ep
    has_depth = is_resnet_depth(args.depth)
    is_index = args.gpu.isdecimal()
    _refuse(
        {
            f"-fold {args.fold}: 0 to {args.folds - 1}": not is_fold,
            f"-warmup {args.warmup}: less than -ep {args.ep}": not is_warmup,
            f"-depth {args.depth}: 6n+2 (8, 14, 20, 32, 56, ...)": not has_depth,
            f"-gpu {args.gpu}: one index; for several GPUs use accelerate launch": not is_index,
        }
    )


def _require_acting(args: argparse.Namespace, given: frozenset[str]) -> None:
    """Every flag that was given acts in this run; another is refused with what it is for."""
    idle = _idle_in_data(args) | _idle_in_method(args)
    for flag, (is_idle, why) in idle.items():
        if flag in given and is_idle:
            raise UserError(f"-{flag}{why}")


def _idle_in_data(args: argparse.Namespace) -> dict[str, tuple[bool, str]]:
    """Flag -> whether it does nothing with these data and sets, and the words behind it."""
    kind = kind_of(args.ds)
    holds_features = kind in ("mat", "features")
    law = args.partial_type
    has_own_sets = kind in OWN_KINDS
    own_sets = f": {args.ds} comes with its own candidate sets"
    own_test = f"{args.ds} has a test part of its own"
    if args.ds in OWN_DATA:
        own_test = "--data has a val part, of its own or drawn by -seed"
    not_instance = f" is for -partial_type instance, not {law}"
    return {
        "partial_type": (has_own_sets, f" {args.partial_type}{own_sets}"),
        "ca": (has_own_sets, own_sets),
        "partial_file": (has_own_sets, own_sets),
        "q": (law != "fps", f" is for -partial_type fps, not {law}"),
        "rate": (law != "instance", not_instance),
        "oracle": (law != "instance", not_instance),
        "fold": (kind != "mat", f" {args.fold}: {own_test}"),
        "folds": (kind != "mat", f" {args.folds}: {own_test}"),
        "standardize": (
            not holds_features,
            f" is for the features of .mat sets; {args.ds} holds images",
        ),
        "augment": (holds_features, f" flips images; {args.ds} holds features"),
        "size": (
            kind != "pictures" and not (args.frozen_features and not holds_features),
            " is for the pictures of --data, and with --frozen_features for others;"
            f" {args.ds} has its own size",
        ),
        "depth": (args.mo != "resnet", f" is for -mo resnet, not {args.mo}"),
        "pretrained": (
            args.mo in MODELS,
            f": there are no published weights of {args.mo}; name one of timm's networks",
        ),
        "head": (args.mo in MODELS, f" is for networks of timm and torchvision, not {args.mo}"),
    }


def _idle_in_method(args: argparse.Namespace) -> dict[str, tuple[bool, str]]:
    """Flag -> whether it does nothing with these methods, and the words behind it."""
    methods = args.compare or [args.method]
    named = ", ".join(methods)
    selects = "cavl" in methods
    takes_cav = selects and args.select == "cav"
    shows_cav = args.selection_curve > 0 or args.cam_vis > 0
    looks_again = not {"cavl", "rc", "lws"}.isdisjoint(methods)
    no_cav = f": with -method {named} -select {args.select} no CAV is"
    not_cavl = (not selects, f" is for -method cavl, not {named}")
    not_lws = ("lws" not in methods, f" is for -method lws, not {named}")
    gpu = ": -cpu stays off the GPU; give one of the two"
    if not args.cpu:
        gpu = ": with --jobs the runs take the GPUs in turn; choose by CUDA_VISIBLE_DEVICES"
    return {
        "cav": (not (takes_cav or shows_cav), f"{no_cav} taken"),
        "mask": (not (takes_cav or args.selection_curve), f"{no_cav} masked"),
        "smoothing": not_cavl,
        "temperature": not_cavl,
        "select": not_cavl,
        "warmup": not_cavl,
        "released": not_cavl,
        "cav_forward": (not looks_again, f" is for -method cavl, rc and lws, not {named}"),
        "lw_weight": not_lws,
        "lw_weight0": not_lws,
        "method": (args.compare is not None, ": -compare names the methods; give one of the two"),
        "seed": (args.seeds is not None, ": -seeds names the seeds; give one of the two"),
        "gpu": (args.cpu or args.jobs > 1, gpu),
    }


def _require_agreement(args: argparse.Namespace, given: frozenset[str]) -> None:
    """No two flags contradict each other."""
    law = args.partial_type
    methods = args.compare or [args.method]
    is_soft = args.temperature is not None
    by_cam = args.select == "cam"
    is_before = args.cav_forward == "before"
    has_file = args.partial_file is not None
    chosen = [name for name in RELEASED if name in given]
    differs = any(getattr(args, name) != RELEASED[name] for name in chosen)
    named = "and the networks of timm and torchvision"
    what = args.mo if args.head == "linear" else f"-head {args.head}"
    no_maps = f"needs class activation maps: {', '.join(MAP_MODELS)} {named} have them, {what} not"
    no_features = f"needs a feature map: {', '.join(MAP_MODELS)} {named} have one, {args.mo} not"
    _refuse(
        {
            "-temperature: soft selection needs -mask candidates": (
                is_soft and args.mask == "product"
            ),
            "-temperature softens the CAV; with -select cam the largest area is taken": (
                is_soft and by_cam
            ),
            "-select cam: the maps come from a forward of their own, after": by_cam and is_before,
            "-ca draws the sets, -partial_file reads them: give one of the two": (
                args.ca is not None and has_file
            ),
            f"-ca is for -partial_type case, not {law}": "ca" in given and law != "case",
            f"-partial_file is for -partial_type file, not {law}": has_file and law != "file",
            "-partial_type file: give the matrix with -partial_file": law == "file"
            and not has_file,
            "--released: means -mask product, -cav_forward after, -partial_type uss": (
                args.released and differs
            ),
            "--released: means -partial_type uss, which -ca and -partial_file are not": (
                args.released and law not in ("uss", OWN_SETS)
            ),
            "-method rc -cav_forward before: that is -method proden": is_before and "rc" in methods,
            f"-select {no_maps}": by_cam and not has_maps(args.mo, args.head),
            f"-cam_vis {no_maps}": args.cam_vis > 0 and not has_maps(args.mo, args.head),
            f"--frozen_features {no_features}": args.frozen_features and not has_maps(args.mo),
            "--frozen_features: features are of the pictures as they are; leave out -augment": (
                args.frozen_features and args.augment
            ),
            "-pretrained and -weights: give one of the two": bool(args.pretrained)
            and args.weights is not None,
        }
    )
