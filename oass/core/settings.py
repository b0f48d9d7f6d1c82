"""The command line, read and checked: sample defaults, `--released`, and the bounds of section i of the spec."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

from common.aliases import one_module
from common.cli import UserError, parse_given, settle
from common.data import Location
from common.text import inside
from oass.core.backbones import ARCHITECTURES
from oass.core.datasets import locate_voc
from oass.core.losses import RE_LOSS_OPTIONS, RE_LOSSES
from oass.core.options import (
    AUGMENTATIONS,
    LOSS_PARTS,
    RELEASED,
    WITH_TEACHER,
    WITHOUT_TILES,
    build_parser,
    refuse_flags,
)
from oass.core.terms import terms_of

one_module(__name__, "oass.core.settings")

MIN_SIZE = 64


def sample_defaults(strategy: str, architecture: str | None) -> dict[str, object]:
    """What a run on the offline sample uses where the user gave nothing: seconds on a CPU core.

    A large network that was asked for (`architecture`) gets one epoch of small batches, a proof that the
    command runs; the small one learns. `max` gets a weak, slow L_re: at the README's weights it collapses
    in runs this short (README, deviations). 24 epochs, 480 steps: after 160 CSI alone is far from done.
    """
    small = {"image_size": 64, "min_image_size": 64, "max_image_size": 80, "min_distance": 5}
    small |= {"num_workers": 0, "print_ratio": 0.5, "pictures": 2}
    if architecture not in (None, "resnet_tiny"):
        return {**small, "max_epoch": 1, "batch_size": 16, "train_domain": "train"}
    # make_cam's slope is about 1 / max, so one map whose peak nears its epsilon can throw the network in a single step
    # (a gradient of norm 246, usually 0.2): a slow ramp, 5 % of a run being 248 steps of the README's and 24 here,
    # keeps maps from shrinking early, and the norm is clipped.
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


def parse_args(
    strategy: str, argv: Sequence[str] | None = None, *, shared: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse and check; `args._location` says where the data are. UserError or exit status 2 on a bad value.

    The released defaults, on the offline sample the sample's, then those of --released; what was given wins over all.
    A given flag that has no effect with this strategy and the other flags is refused. `shared`: flags before `argv`
    that are given to several strategies at once; those without an effect on this one are named and dropped.
    """
    if argv is None:
        argv = sys.argv[1:]
    defaults, given = parse_given(lambda: build_parser(strategy), [*shared, *argv])
    location = locate_voc(given.get("data_dir"), given.get("sample", False))
    layers = []
    if location.is_sample:
        layers.append(sample_defaults(strategy, given.get("architecture")))
    if given.get("released"):
        layers.append({name: value for name, (value, _) in RELEASED.items()})

    args = _settled(strategy, location, settle(defaults, given, *layers))
    own = parse_given(lambda: build_parser(strategy), argv)[1] if shared else given
    while True:  # without one flag another may have no effect
        idle = without_effect(args)
        dropped = [name for name in given if name in idle and name not in own]
        if not dropped:
            break
        given = {name: value for name, value in given.items() if name not in dropped}
        args = _settled(strategy, location, settle(defaults, given, *layers))
        for name in dropped:
            print(f"{strategy}: --{name} has no effect here ({idle[name]})", flush=True)
    check(args)
    refuse_flags(given, without_effect(args))
    if (args.h_co, args.w_co) != (250, 250):
        print("--h_co, --w_co: unused, in the released code too", flush=True)
    return args


def _settled(strategy: str, location: Location, args: argparse.Namespace) -> argparse.Namespace:
    """The settings with what follows from the others."""
    args.strategy = strategy
    args._location = location
    if args.weights is None and location.is_sample:
        args.weights = "sample" if args.architecture == "resnet_tiny" else "none"
    elif args.weights is None:
        args.weights = "imagenet"
    return args


def without_effect(args: argparse.Namespace) -> dict[str, str]:
    """The flags that change nothing with this strategy and the other flags: name and reason.

    A picture of the puzzle (--pictures) is an effect. The flags of the README's commands are never among them.
    """
    terms = terms_of(args.strategy, args.p_loss, args.loss_option)
    has_no_tiles = args.strategy in WITHOUT_TILES
    has_teacher = args.strategy in WITH_TEACHER
    cuts = terms.needs_tiles or args.pictures > 0
    idle: dict[str, str] = {}

    def note(names: str, reason: str) -> None:
        for name in names.split():
            idle.setdefault(name, reason)

    if "re" not in terms.present:
        reason = f"--loss_option {args.loss_option} has no re"
        if has_no_tiles:
            reason = f"{args.strategy} cuts no tiles and has no L_re"
        note("alpha_re alpha_schedule_re level re_loss re_loss_option", reason)
    if "pcl" not in terms.present:
        reason = f"--loss_option {args.loss_option} has no pcl"
        if has_no_tiles:
            reason = f"{args.strategy} has no L_pcl"
        note("alpha_p p_loss p_target", reason)
    if args.strategy == "gap" and args.p_loss == "full":
        note("p_loss", "gap has that term, B(GAP(F), y), as its L_cl")
    if args.p_loss != "student" or not has_teacher:
        note(
            "p_target",
            "only the tiles that a student sees beside its teacher (--p_loss student) have such a choice",
        )
    if not terms.needs_tiles:
        reason = f"{args.strategy} with --loss_option {args.loss_option} looks at no tiles"
        note("tile_bn_stats", reason)
        if not cuts:
            note(
                "teacher_bn tile_chunk keypoint_rule topk min_distance",
                f"{reason}, nor does a picture (--pictures 0)",
            )
    if has_teacher:
        note(
            "tile_bn_stats", "the teacher sees the tiles, so no statistics of the student move (D7)"
        )
    else:
        note("eval_ema", f"{args.strategy} has no teacher")
    if args.strategy == "uniform":
        note("keypoint_rule", "uniform cuts at the centre")
    if args.strategy != "cTopk" or args.keypoint_rule != "released":
        note("radius", "only cTopk by --keypoint_rule released has a radius")
    return idle


def check(args: argparse.Namespace) -> None:
    """UserError for the first setting that is out of bounds."""
    if args.tag:
        inside("data", args.tag, "--tag")
    for holds, message in (*_data_bounds(args), *_method_bounds(args), *_optimiser_bounds(args)):
        if not holds:
            raise UserError(message)


Bounds = list[tuple[bool, str]]


def _one_of(flag: str, value: str, choices: Iterable[str]) -> tuple[bool, str]:
    return value in choices, f"--{flag} {value}: choose from {', '.join(choices)}"


def check_size(size: int) -> None:
    """UserError for a side of the picture that the networks do not take."""
    if size % 32 or size < MIN_SIZE:
        raise UserError(f"--image_size {size}: a multiple of 32, from {MIN_SIZE} on")


def _data_bounds(args: argparse.Namespace) -> Bounds:
    size, low, high = args.image_size, args.min_image_size, args.max_image_size
    known = args.architecture in ARCHITECTURES or args.architecture.startswith("timm:")
    strange = re.sub("|".join(AUGMENTATIONS), "", args.augment).strip("_-+, ")
    return [
        (
            known,
            f"--architecture {args.architecture}: choose from {', '.join(ARCHITECTURES)}, or timm:NAME",
        ),
        (
            size % 32 == 0 and size >= MIN_SIZE,
            f"--image_size {size}: a multiple of 32, from {MIN_SIZE} on",
        ),
        (low <= high, f"--min_image_size {low} is above --max_image_size {high}"),
        (
            not strange,
            f"--augment {args.augment}: {strange!r} is none of {', '.join(AUGMENTATIONS)}",
        ),
        (
            args.weights != "sample" or args._location.is_sample,
            "--weights sample: that pretraining belongs to the offline sample; choose imagenet, none or a PATH",
        ),
    ]


def _method_bounds(args: argparse.Namespace) -> Bounds:
    unknown = [part for part in args.loss_option.split("_") if part not in LOSS_PARTS]
    terms = terms_of(args.strategy, args.p_loss, args.loss_option)
    return [
        (
            args.num_pieces == 4,
            f"--num_pieces {args.num_pieces}: a keypoint cuts an image in 4, nothing else",
        ),
        (
            not unknown,
            f"--loss_option {args.loss_option}: {unknown[:1]} is none of {', '.join(LOSS_PARTS)}",
        ),
        _one_of("re_loss", args.re_loss, RE_LOSSES),
        _one_of("level", args.level, ("feature", "cam")),
        _one_of("re_loss_option", args.re_loss_option, RE_LOSS_OPTIONS),
        (
            args.p_loss != "full" or args.strategy != "gap",
            "--p_loss full: that term, B(GAP(F), y), is L_cl of gap already; leave the flag out",
        ),
        (
            args.p_loss != "student" or args.strategy not in WITHOUT_TILES,
            f"--p_loss student: {args.strategy} cuts no tiles; choose full, or leave the flag out",
        ),
        (
            bool(terms.trained),
            f"--loss_option {args.loss_option}: with {args.strategy} and --p_loss {args.p_loss} none of it has a "
            "gradient; add cl",
        ),
        (
            not args.tile_bn_stats or args.teacher_bn == "group" or args.strategy in WITH_TEACHER,
            f"--tile_bn_stats: only the statistics of a pair's tiles move the running ones; not with --teacher_bn "
            f"{args.teacher_bn}",
        ),
    ]


def _optimiser_bounds(args: argparse.Namespace) -> Bounds:
    momentum = args.wd if args.sgd_momentum is None else args.sgd_momentum
    hint = "--sgd_momentum 0.9 or --nesterov false (without --sgd_momentum it is --wd)"
    return [
        (
            momentum < 1,
            f"--wd {args.wd}: is SGD's momentum too, and that must be below 1; give --sgd_momentum",
        ),
        (not args.nesterov or momentum > 0, f"Nesterov needs momentum: {hint}"),
    ]
