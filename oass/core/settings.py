"""The command line, read and checked: sample defaults, `--released`, and the bounds of section i of the spec."""

import argparse
import math
import re
from collections.abc import Iterable, Sequence

from common.cli import UserError, parse_with_sample_defaults
from oass.core.backbones import ARCHITECTURES
from oass.core.datasets import locate_voc
from oass.core.losses import RE_LOSS_OPTIONS, RE_LOSSES
from oass.core.options import AUGMENTATIONS, LOSS_PARTS, RELEASED, WITH_TEACHER, WITHOUT_TILES, build_parser
from oass.core.terms import terms_of

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
    optimiser = {"max_epoch": 24, "batch_size": 24, "lr": 0.02, "sgd_momentum": 0.9, "clip_grad": 1.0}
    return {**small, **alphas, **optimiser, "architecture": "resnet_tiny"}


def parse_args(strategy: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check; `args._location` says where the data are. UserError or exit status 2 on a bad value."""
    found = []
    probe = build_parser(strategy)
    probe.set_defaults(architecture=None)  # None where the user names none

    def is_sample_run(first: argparse.Namespace) -> bool:
        found.append(locate_voc(first.data_dir, first.sample))
        return found[-1].is_sample

    args = parse_with_sample_defaults(
        lambda: build_parser(strategy),
        argv,
        is_sample_run,
        lambda _: sample_defaults(strategy, probe.parse_args(argv).architecture),
    )
    args._location = found[0]
    args.strategy = strategy
    if args.weights is None:
        own = "sample" if args.architecture == "resnet_tiny" else "none"
        args.weights = own if args._location.is_sample else "imagenet"
    if args.released:
        vars(args).update({name: value for name, (value, _) in RELEASED.items()})
    check(args)
    if (args.h_co, args.w_co) != (250, 250):
        print("--h_co, --w_co: unused, in the released code too", flush=True)
    return args


def check(args: argparse.Namespace) -> None:
    """UserError for the first setting that is out of bounds."""
    for holds, message in (*_data_bounds(args), *_method_bounds(args), *_optimiser_bounds(args)):
        if not holds:
            raise UserError(message)


Bounds = list[tuple[bool, str]]


def _one_of(flag: str, value: str, choices: Iterable[str]) -> tuple[bool, str]:
    return value in choices, f"--{flag} {value}: choose from {', '.join(choices)}"


def _data_bounds(args: argparse.Namespace) -> Bounds:
    size, low, high = args.image_size, args.min_image_size, args.max_image_size
    known = args.architecture in ARCHITECTURES or args.architecture.startswith("timm:")
    strange = re.sub("|".join(AUGMENTATIONS), "", args.augment).strip("_-+, ")
    return [
        (known, f"--architecture {args.architecture}: choose from {', '.join(ARCHITECTURES)}, or timm:NAME"),
        (size % 32 == 0 and size >= MIN_SIZE, f"--image_size {size}: a multiple of 32, from {MIN_SIZE} on"),
        (low > 0, f"--min_image_size {low}: must be above 0"),
        (low <= high, f"--min_image_size {low} is above --max_image_size {high}"),
        (0 < args.print_ratio <= 1, f"--print_ratio {args.print_ratio}: above 0, at most 1"),
        (not strange, f"--augment {args.augment}: {strange!r} is none of {', '.join(AUGMENTATIONS)}"),
        (args.pictures >= 0, f"--pictures {args.pictures}: must not be negative"),
        (
            args.weights != "sample" or args._location.is_sample,
            "--weights sample: that pretraining belongs to the offline sample; choose imagenet, none or a PATH",
        ),
    ]


def _method_bounds(args: argparse.Namespace) -> Bounds:
    unknown = [part for part in args.loss_option.split("_") if part not in LOSS_PARTS]
    terms = terms_of(args.strategy, args.p_loss, args.loss_option)
    weights = (args.alpha_re, args.alpha_schedule_re, args.alpha_p)
    alpha_ema = getattr(args, "alpha_ema", 0.0)
    return [
        (args.num_pieces == 4, f"--num_pieces {args.num_pieces}: a keypoint cuts an image in 4, nothing else"),
        (not unknown, f"--loss_option {args.loss_option}: {unknown[:1]} is none of {', '.join(LOSS_PARTS)}"),
        _one_of("re_loss", args.re_loss, RE_LOSSES),
        _one_of("level", args.level, ("feature", "cam")),
        _one_of("re_loss_option", args.re_loss_option, RE_LOSS_OPTIONS),
        (
            all(0 <= weight < math.inf for weight in weights),
            "--alpha_re, --alpha_schedule_re, --alpha_p: must be finite numbers and not be negative",
        ),
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
        (0 <= alpha_ema < 1, f"--alpha_ema {alpha_ema}: 0 <= alpha_ema < 1"),
        (not args.eval_ema or args.strategy in WITH_TEACHER, "--eval_ema: this strategy has no teacher"),
    ]


def _optimiser_bounds(args: argparse.Namespace) -> Bounds:
    momentum = args.wd if args.sgd_momentum is None else args.sgd_momentum
    hint = "--sgd_momentum 0.9 or --nesterov false (without --sgd_momentum it is --wd)"
    return [
        (args.lr > 0, f"--lr {args.lr}: must be above 0"),
        (args.wd >= 0, f"--wd {args.wd}: must not be negative"),
        (args.warmup_epoch >= 0, f"--warmup_epoch {args.warmup_epoch}: must not be negative"),
        (args.clip_grad is None or 0 < args.clip_grad < math.inf, f"--clip_grad {args.clip_grad}: must be above 0"),
        (0 <= momentum < 1, f"--sgd_momentum {momentum}: 0 <= momentum < 1"),
        (not args.nesterov or momentum > 0, f"Nesterov needs momentum: {hint}"),
    ]
