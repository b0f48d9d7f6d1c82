"""Which settings fit together: terms of the loss, idle flags, bounds. Without torch."""

import argparse
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from common.aliases import one_module
from common.backbones_names import require_spelling
from common.cli import UserError
from common.locate import Location
from common.text import expanded, inside
from oass.options_flags import (
    ARCHITECTURES,
    AUGMENTATIONS,
    LEVELS,
    LOSS_PARTS,
    RE_LOSS_OPTIONS,
    RE_LOSSES,
    WITH_TEACHER,
    WITHOUT_TILES,
)

one_module(__name__, "oass.options_check")

MIN_SIZE = 64
WEIGHTS = ("imagenet", "none", "sample")


class Terms(NamedTuple):
    """Which parts of LOSS_PARTS a loss has."""

    present: frozenset[str]  # in the loss
    trained: frozenset[str]  # of these, those with a gradient
    over_pairs: frozenset[str]  # those averaged over (image, keypoint) pairs, where present

    @property
    def needs_tiles(self) -> bool:
        """Whether the loss looks at tiles."""
        return bool(self.present & self.over_pairs)


def terms_of(strategy: str, p_loss: str, loss_option: str) -> Terms:
    """The terms that `loss_option` names and the strategy has.

    L_re and conf need tiles. L_pcl looks at the tiles' maps: the teacher's, without a gradient
    (README, deviations: p_loss), or the student's (p_loss "student"; always so where there is no
    teacher). p_loss "full": at the maps of the whole image.
    """
    on_image = {"cl", "pcl"} if p_loss == "full" else {"cl"}
    on_tiles = {"pcl", "re", "conf"} - on_image
    if strategy in WITHOUT_TILES:
        on_tiles = set()
    constant: set[str] = set()
    if strategy in WITH_TEACHER and p_loss != "student":
        constant = on_tiles & {"pcl", "conf"}
    present = (on_image | on_tiles) & set(loss_option.split("_"))
    return Terms(frozenset(present), frozenset(present - constant), frozenset(on_tiles))


# What --released sets; the README's table of deviations has a row of each name.
RELEASED: dict[str, object] = {
    "keypoint_rule": "released",
    "teacher_bn": "group",
    "p_loss": "teacher",
    "tile_bn_stats": True,
    "drop_last_eval": True,
    "difficult": "include",
    "sgd_momentum": None,
    "clip_grad": None,
    "loss_option": "cl_pcl_re",
    "level": "feature",
    "re_loss_option": "masking",
}


def differences(args: argparse.Namespace) -> list[str]:
    """The switches that make this run another than the released one: flag and value."""
    found = []
    for name, value in RELEASED.items():
        has_no_effect = name == "tile_bn_stats" and args.strategy in WITH_TEACHER
        if getattr(args, name) != value and not has_no_effect:
            found.append(f"--{name} {getattr(args, name)}")
    if args.warmup_epoch and not args.released:
        found.append(f"--warmup_epoch {args.warmup_epoch}")
    return found


def refuse_flags(given: Iterable[str], reasons: Mapping[str, str]) -> None:
    """UserError for the first given flag that has no effect; `reasons`: why, for each such flag."""
    for name, reason in reasons.items():
        if name in given:
            raise UserError(f"--{name}: {reason}; leave it out")


def without_effect(args: argparse.Namespace) -> dict[str, str]:
    """The flags that change nothing with this strategy and the other flags: name and reason.

    A picture of the puzzle (--pictures) is an effect. The flags of the README's commands are never
    among them.
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
        only = "only the tiles that a student sees beside its teacher (--p_loss student)"
        note("p_target", f"{only} have such a choice")
    if not terms.needs_tiles:
        reason = f"{args.strategy} with --loss_option {args.loss_option} looks at no tiles"
        note("tile_bn_stats", reason)
        if not cuts:
            note(
                "teacher_bn tile_chunk keypoint_rule topk min_distance",
                f"{reason}, nor does a picture (--pictures 0)",
            )
    if has_teacher:
        note("tile_bn_stats", "the teacher sees the tiles, so no statistics of the student move")
    else:
        note("eval_ema", f"{args.strategy} has no teacher")
    if args.strategy == "uniform":
        note("keypoint_rule", "uniform cuts at the centre")
    if args.strategy != "cTopk" or args.keypoint_rule != "released":
        note("radius", "only cTopk by --keypoint_rule released has a radius")
    return idle


def check(args: argparse.Namespace, location: Location) -> None:
    """UserError for the first setting that is out of bounds."""
    if args.tag:
        inside("data", args.tag, "--tag")
    _check_data(args, location)
    _check_method(args)
    _check_optimiser(args)


def check_size(size: int) -> None:
    """UserError for a side of the picture that the networks do not take."""
    if size % 32 or size < MIN_SIZE:
        raise UserError(f"--image_size {size}: a multiple of 32, from {MIN_SIZE} on")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)


def _one_of(flag: str, value: str, choices: Iterable[str]) -> None:
    _require(value in choices, f"--{flag} {value}: choose from {', '.join(choices)}")


def _check_data(args: argparse.Namespace, location: Location) -> None:
    try:
        require_spelling(args.architecture, ARCHITECTURES)
    except UserError as error:
        raise UserError(f"--architecture {error}") from error
    _check_weights(args.weights)
    check_size(args.image_size)
    low = args.min_image_size
    high = args.max_image_size
    _require(low <= high, f"--min_image_size {low} is above --max_image_size {high}")
    strange = re.sub("|".join(AUGMENTATIONS), "", args.augment).strip("_-+, ")
    names = ", ".join(AUGMENTATIONS)
    _require(not strange, f"--augment {args.augment}: {strange!r} is none of {names}")
    _require(
        args.weights != "sample" or location.is_sample,
        "--weights sample: that pretraining belongs to the offline sample; "
        "choose imagenet, none or a PATH",
    )


def _check_weights(weights: str) -> None:
    """UserError for a file that is not there."""
    kind, _, path = weights.partition(":")
    if kind == "backbone":
        _require(expanded(path).exists(), f"--weights {weights}: there is no {path}")
    elif kind not in WEIGHTS:
        words = "imagenet, none, backbone:PATH or the PATH of a file"
        _require(expanded(weights).exists(), f"--weights {weights}: no such file; {words}")


def _check_method(args: argparse.Namespace) -> None:
    pieces = f"--num_pieces {args.num_pieces}: a keypoint cuts an image in 4, nothing else"
    _require(args.num_pieces == 4, pieces)
    unknown = [part for part in args.loss_option.split("_") if part not in LOSS_PARTS]
    option = f"--loss_option {args.loss_option}"
    _require(not unknown, f"{option}: {unknown[:1]} is none of {', '.join(LOSS_PARTS)}")
    _one_of("re_loss", args.re_loss, RE_LOSSES)
    _one_of("level", args.level, LEVELS)
    _one_of("re_loss_option", args.re_loss_option, RE_LOSS_OPTIONS)
    _require(
        args.p_loss != "full" or args.strategy != "gap",
        "--p_loss full: that term, B(GAP(F), y), is L_cl of gap already; leave the flag out",
    )
    _require(
        args.p_loss != "student" or args.strategy not in WITHOUT_TILES,
        f"--p_loss student: {args.strategy} cuts no tiles; choose full, or leave the flag out",
    )
    terms = terms_of(args.strategy, args.p_loss, args.loss_option)
    with_these = f"with {args.strategy} and --p_loss {args.p_loss} none of it has a gradient"
    _require(bool(terms.trained), f"{option}: {with_these}; add cl")
    _require(
        not args.tile_bn_stats or args.teacher_bn == "group" or args.strategy in WITH_TEACHER,
        "--tile_bn_stats: only the statistics of a pair's tiles move the running ones; "
        f"not with --teacher_bn {args.teacher_bn}",
    )


def _check_optimiser(args: argparse.Namespace) -> None:
    momentum = args.sgd_momentum
    if momentum is None:
        momentum = args.wd
    problem = "is SGD's momentum too, and that must be below 1; give --sgd_momentum"
    _require(momentum < 1, f"--wd {args.wd}: {problem}")
    hint = "--sgd_momentum 0.9 or --nesterov false (without --sgd_momentum it is --wd)"
    _require(not args.nesterov or momentum > 0, f"Nesterov needs momentum: {hint}")
