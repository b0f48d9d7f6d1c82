"""Flags that contradict each other, or that would have no effect, are refused before the long work.

A flag acts wherever its help says. Where another flag takes its place, the message names both.
"""

import argparse
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from common.aliases import one_module
from common.cli import DomainError, UserError
from csl.data_locate import OF_DATASET, OF_DEBUG_MODE, Found, layout_is_named, wanted_names
from csl.options_choices import (
    NETWORKS,
    RECIPES,
    canonical_name,
    check_param,
    default_param,
    mode_of,
    scheme_of,
)

one_module(__name__, "csl.options_checks")

ROWS = (*RECIPES, "csl", "all")
SET_BY_ROWS = ("partial_loss_mode", "gamma_pos", "gamma_neg", "gamma_unann")
OF_SIMULATION = ("simulate_partial_type", "simulate_partial_param", "schemes")
OURS_OF_SELECTIVE = ("likelihood_scope", "likelihood_share", "prior_quantile", "estimate_prior")
RELEASED_OF_SELECTIVE = ("likelihood_topk", "prior_path", "prior_threshold")
OF_TRAINING = ("resume", "max_steps", "checkpoint_every")


def refuse(pairs: Iterable[tuple[bool, str]]) -> None:
    """UserError with the message of the first pair whose condition holds."""
    for holds, message in pairs:
        if holds:
            raise UserError(message)


def refuse_given(given: Collection[str], names: Iterable[str], why: str) -> None:
    """UserError that names the first of these flags that was given, and why it may not be."""
    for name in names:
        if name in given:
            raise UserError(f"--{name}: {why}")


def refuse_contradictions(args: argparse.Namespace, given: Collection[str]) -> None:
    """UserError for flags of train.py that cannot be meant together; `given`: the given ones."""
    refuse_contradictions_of_data(args, given)
    pairs = [
        (
            args.stable_loss and args.clip,
            "--stable_loss: not together with --clip, which bounds q already",
        ),
        (
            args.estimate_prior and args.prior_path,
            "--estimate_prior makes a prior; leave --prior_path out",
        ),
        (
            args.prior_quantile is not None and not args.prior_path and not args.estimate_prior,
            "--prior_quantile: of which prior? give --prior_path, or --estimate_prior N",
        ),
        (
            "path_dest" in given and "output_dir" in given,
            "--path_dest: not together with --output_dir, which is the run directory itself",
        ),
        (
            args.do_bottleneck_head and canonical_name(args.model_name) not in NETWORKS,
            f"--do_bottleneck_head: --model_name {args.model_name} has no such head",
        ),
    ]
    chosen = [f"--{name}" for name in ("model_path", "weights", "pretrained") if name in given]
    told = "each names weights to start from; give one"
    pairs.append((len(chosen) > 1, f"{' and '.join(chosen)}: {told}"))
    refuse(pairs)
    _refuse_of_simulation(args, given)
    _refuse_of_comparison(args, given)


def refuse_contradictions_of_data(args: argparse.Namespace, given: Collection[str]) -> None:
    """UserError where --dataset, --debug_mode, --metadata and --sample ask for different data."""
    by_dataset = OF_DATASET.get(args.dataset, {"hyperml"})
    by_mode = OF_DEBUG_MODE.get(args.debug_mode, {"hyperml"})
    pairs = [
        (
            not wanted_names(args.dataset, args.debug_mode),
            f"--debug_mode {args.debug_mode}: not with --dataset {args.dataset}, it is of COCO",
        ),
        (
            "metadata" in given and "hyperml" not in by_mode,
            f"--metadata: not with --debug_mode {args.debug_mode}, it has annotations of its own",
        ),
        (
            "metadata" in given and "hyperml" not in by_dataset,
            f"--metadata: not with --dataset {args.dataset}, it is of COCO's form",
        ),
        (
            "metadata" in given and args.sample,
            "--metadata: not with --sample, which has annotations of its own",
        ),
    ]
    refuse(pairs)
    _refuse_of_own(args, given)


def _refuse_of_own(args: argparse.Namespace, given: Collection[str]) -> None:
    """UserError for --images and --classes without own data that they could belong to."""
    chosen = [name for name in ("images", "classes") if name in given]
    if not chosen:
        return
    flag = f"--{chosen[0]}"
    if "data" not in given:
        raise UserError(f"{flag} belongs to --data, which is not given")
    pairs = [
        (args.sample, f"{flag}: not with --sample, it is of your own --data"),
        (
            layout_is_named(args.dataset, args.debug_mode) or "metadata" in given,
            f"{flag}: of your own --data; leave --dataset, --debug_mode and --metadata out",
        ),
    ]
    refuse(pairs)


def _refuse_of_simulation(args: argparse.Namespace, given: Collection[str]) -> None:
    if args.partial_labels is not None:
        told = "--partial_labels replaces the simulation; leave"
        refuse((name in given, f"{told} --{name} out") for name in OF_SIMULATION)
    if args.simulate_partial_type == "single_positive" and "simulate_partial_param" in given:
        told = "--simulate_partial_type single_positive has none"
        raise UserError(f"--simulate_partial_param: {told}")


def _refuse_of_comparison(args: argparse.Namespace, given: Collection[str]) -> None:
    if args.compare is None:
        refuse_given(given, ("schemes", "seeds", "jobs"), "only with --compare")
        return
    rows = ", ".join(ROWS)
    refuse((name not in ROWS, f"--compare {name}: choose from {rows}") for name in args.compare)
    refuse_given(given, SET_BY_ROWS, "not with --compare, whose rows set it")
    if "recipe" in given:
        raise UserError("--recipe: not with --compare, whose rows are recipes")
    if "seed" in given and "seeds" in given:
        raise UserError("--seed: not with --seeds, which names them all")

    schemes = [scheme_of(name) for name in args.schemes or ()]
    own = args.simulate_partial_type
    if schemes and own is not None and scheme_of(own) not in schemes:
        among = ",".join(schemes)
        raise UserError(f"--simulate_partial_type {own}: not among --schemes {among}")

    has_csl = any(name == "all" or name.startswith("csl") for name in args.compare)
    if not has_csl:
        told = "none of the rows of --compare is in selective mode"
        refuse_given(given, (*OURS_OF_SELECTIVE, "prior_path"), told)


def refuse_other_layouts(args: argparse.Namespace, given: Collection[str], found: Found) -> None:
    """DomainError for flags that the layout of the data has no use for."""
    refuse_class_list(args.class_list, found)
    if found.layout == "own":
        told = f"only of the official layouts; {found.files.train} is own data"
        refuse_given(given, ("keep_empty", "skip_missing"), f"{told}, whose pictures all count")
    if found.layout not in ("lvis", "openimages"):
        return
    source = found.files.train
    for name in (*OF_SIMULATION, "partial_labels"):
        if name in given:
            told = f"wants complete labels (COCO's layout); {source} has partial ones"
            raise DomainError(f"--{name} {told}")
    if "keep_empty" in given:
        kept = "every row of the csv is an image"
        if found.layout == "lvis":
            kept = "images without a label are never kept"
        raise DomainError(f"--keep_empty: only of COCO's layout; of {source} {kept}")


def refuse_class_list(class_list: Path | None, found: Found) -> None:
    """DomainError where --class_list was given with another layout than Open Images'."""
    if class_list is not None and found.layout != "openimages":
        raise DomainError(
            f"--class_list: only with Open Images; {found.files.train} is of another layout"
        )


def refuse_idle_flags(args: argparse.Namespace, given: Collection[str], *, is_sample: bool) -> None:
    """UserError for flags of train.py that the other settings leave without effect.

    The released ones among those of the loss are only told.
    """
    if args.stop_epoch is not None and args.stop_epoch > args.epochs:
        raise UserError(f"--stop_epoch {args.stop_epoch}: beyond the {args.epochs} of --epochs")
    schemes = args.schemes or [args.simulate_partial_type]
    if schemes == [None] and "simulate_partial_param" in given:
        told = "of which simulation? give --simulate_partial_type"
        raise UserError(f"--simulate_partial_param: {told}")
    for scheme in schemes:
        if scheme is not None:
            check_param(scheme, param_of(args, given, scheme, is_sample=is_sample))
    if args.compare is None:
        _refuse_of_mode(args, given)


def param_of(
    args: argparse.Namespace, given: Collection[str], scheme: str, *, is_sample: bool
) -> float:
    """The parameter of a scheme of a comparison, or of a run.

    --simulate_partial_param belongs to --simulate_partial_type where both are given.
    """
    is_of_it = scheme == (args.simulate_partial_type or scheme)
    if "simulate_partial_param" in given and is_of_it:
        return args.simulate_partial_param
    if args.compare is None:
        return args.simulate_partial_param  # the default, or the sample's
    return default_param(scheme, is_sample)


def _refuse_of_mode(args: argparse.Namespace, given: Collection[str]) -> None:
    mode = mode_of(args.partial_loss_mode)
    idle = f"no effect in --partial_loss_mode {mode}"
    if mode != "selective":
        told = f"only the selective mode uses it, this is --partial_loss_mode {mode}"
        refuse_given(given, OURS_OF_SELECTIVE, told)
        _tell_idle(given, RELEASED_OF_SELECTIVE, idle)
    if mode.startswith("ignore"):
        _tell_idle(given, ("gamma_unann", "alpha_unann"), idle)
    if args.likelihood_share is not None:
        _tell_idle(given, ("likelihood_topk",), "--likelihood_share takes its place")
    if args.prior_quantile is not None:
        _tell_idle(given, ("prior_threshold",), "--prior_quantile takes its place")


def _tell_idle(given: Collection[str], names: Iterable[str], why: str) -> None:
    for name in names:
        if name in given:
            print(f"note: --{name}: {why}", file=sys.stderr, flush=True)


def refuse_flags_of_training(args: argparse.Namespace, given: Collection[str]) -> None:
    """UserError for shared flags that a script which trains nothing has no use for."""
    refuse_given(given, OF_TRAINING, "only of train.py; this script trains nothing")
    precision = getattr(args, "mixed_precision", None)
    if precision not in (None, "no"):
        raise UserError(f"--mixed_precision {precision}: scores are computed in float32")
