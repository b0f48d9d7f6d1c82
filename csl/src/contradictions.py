"""Flags that contradict each other, or that would have no effect, are refused before the long work.

A flag acts wherever its help says. Where another flag takes its place, the message names both.
"""

import argparse
from collections.abc import Iterable

from common.cli import UserError
from csl.src.errors import SettingsError
from csl.src.helper_functions.classes import tell
from csl.src.helper_functions.coco_simulation import check_param, scheme_of
from csl.src.helper_functions.get_data import refuse_class_list
from csl.src.helper_functions.locate import OF_DATASET, OF_DEBUG_MODE, wanted_names
from csl.src.loss_functions.partial_asymmetric_loss import mode_of
from csl.src.models.tresnet.tresnet import SMALLEST
from csl.src.models.utils.factory import TIMM
from csl.src.recipes import RECIPES, default_param

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


def refuse_contradictions(args: argparse.Namespace, given: set[str]) -> None:
    """UserError for flags of train.py that cannot be meant together; `given`: what the command line holds."""
    refuse_contradictions_of_data(args, given)
    pairs = [
        (args.stable_loss and args.clip, "--stable_loss: not together with --clip, which bounds q already"),
        (args.estimate_prior and args.prior_path, "--estimate_prior makes a prior; leave --prior_path out"),
        (
            args.prior_quantile is not None and not args.prior_path and not args.estimate_prior,
            "--prior_quantile: of which prior? give --prior_path, or --estimate_prior N",
        ),
        (
            {"path_dest", "output_dir"} <= given,
            "--path_dest: not together with --output_dir, which is the run directory itself",
        ),
        (
            args.do_bottleneck_head and args.model_name.lower().startswith(TIMM),
            f"--do_bottleneck_head: --model_name {args.model_name} has no such head",
        ),
    ]
    refuse(pairs)
    _refuse_of_simulation(args, given)
    _refuse_of_comparison(args, given)


def refuse_contradictions_of_data(args: argparse.Namespace, given: set[str]) -> None:
    """UserError where --dataset, --debug_mode, --metadata and --sample ask for different data."""
    by_dataset = OF_DATASET.get(args.dataset, {"hyperml"})
    by_mode = OF_DEBUG_MODE.get(args.debug_mode, {"hyperml"})
    pairs = [
        (not wanted_names(args), f"--debug_mode {args.debug_mode}: not with --dataset {args.dataset}, it is of COCO"),
        (
            "metadata" in given and "hyperml" not in by_mode,
            f"--metadata: not with --debug_mode {args.debug_mode}, which has annotations of its own",
        ),
        (
            "metadata" in given and "hyperml" not in by_dataset,
            f"--metadata: not with --dataset {args.dataset}, it is of COCO's form",
        ),
        ("metadata" in given and args.sample, "--metadata: not with --sample, which has annotations of its own"),
    ]
    refuse(pairs)


def _refuse_of_simulation(args: argparse.Namespace, given: set[str]) -> None:
    of_file = [name for name in OF_SIMULATION if name in given]
    pairs = [
        (
            args.partial_labels is not None and bool(of_file),
            f"--partial_labels replaces the simulation; leave --{of_file[0] if of_file else ''} out",
        ),
        (
            args.simulate_partial_type == "single_positive" and "simulate_partial_param" in given,
            "--simulate_partial_param: --simulate_partial_type single_positive has none",
        ),
    ]
    refuse(pairs)


def _refuse_of_comparison(args: argparse.Namespace, given: set[str]) -> None:
    if args.compare is None:
        refuse((name in given, f"--{name}: only with --compare") for name in ("schemes", "seeds"))
        return
    schemes = [scheme_of(name) for name in args.schemes or ()]
    own = args.simulate_partial_type
    set_here = [name for name in SET_BY_ROWS if name in given]
    of_csl = [name for name in (*OURS_OF_SELECTIVE, "prior_path") if name in given]
    pairs = [(name not in ROWS, f"--compare {name}: choose from {', '.join(ROWS)}") for name in args.compare]
    pairs += [
        ("recipe" in given, "--recipe: not with --compare, whose rows are recipes"),
        (bool(set_here), f"--{set_here[0] if set_here else ''}: not with --compare, whose rows set it"),
        ({"seed", "seeds"} <= given, "--seed: not with --seeds, which names them all"),
        (
            bool(schemes) and own is not None and scheme_of(own) not in schemes,
            f"--simulate_partial_type {own}: not among --schemes {','.join(schemes)}",
        ),
        (
            bool(of_csl) and not any(name == "all" or name.startswith("csl") for name in args.compare),
            f"--{of_csl[0] if of_csl else ''}: none of the rows of --compare is in selective mode",
        ),
    ]
    refuse(pairs)


def refuse_other_layouts(args: argparse.Namespace, given: set[str]) -> None:
    """SettingsError for flags that the layout of the data has no use for."""
    layout = args._found.layout
    refuse_class_list(args, args._found)
    if layout not in ("lvis", "openimages"):
        return
    for name in (*OF_SIMULATION, "partial_labels"):
        if name in given:
            raise SettingsError(
                f"--{name} wants complete labels (COCO's layout); {args._found.files.train} has partial"
            )
    if "keep_empty" in given:
        kept = "images without a label are never kept" if layout == "lvis" else "every row of the csv is an image"
        raise SettingsError(f"--keep_empty: only of COCO's layout; of {args._found.files.train} {kept}")


def refuse_idle_flags(args: argparse.Namespace, given: set[str]) -> None:
    """UserError for flags of train.py that the other settings leave without effect; the released ones are only told."""
    if args.stop_epoch is not None and args.stop_epoch > args.epochs:
        raise UserError(f"--stop_epoch {args.stop_epoch}: beyond the {args.epochs} of --epochs")
    schemes = args.schemes or [args.simulate_partial_type]
    if schemes == [None] and "simulate_partial_param" in given:
        raise UserError("--simulate_partial_param: of which simulation? give --simulate_partial_type")
    for scheme in schemes:
        if scheme is not None:
            check_param(scheme, param_of(args, scheme))
    if args.compare is None:
        _refuse_of_mode(args, given)


def param_of(args: argparse.Namespace, scheme: str) -> float:
    """The parameter of a scheme: --simulate_partial_param, which is of --simulate_partial_type where that is given."""
    is_of_it = scheme == (args.simulate_partial_type or scheme)
    if "simulate_partial_param" in args._given and is_of_it:
        return args.simulate_partial_param
    if args.compare is None:
        return args.simulate_partial_param  # the default, or the sample's
    return default_param(scheme, args._found.is_sample)


def _refuse_of_mode(args: argparse.Namespace, given: set[str]) -> None:
    mode = mode_of(args)
    if mode != "selective":
        refuse(
            (name in given, f"--{name}: only the selective mode uses it, this is --partial_loss_mode {mode}")
            for name in OURS_OF_SELECTIVE
        )
        _tell_idle(given, RELEASED_OF_SELECTIVE, f"no effect in --partial_loss_mode {mode}")
    if mode.startswith("ignore"):
        _tell_idle(given, ("gamma_unann", "alpha_unann"), f"no effect in --partial_loss_mode {mode}")
    if args.likelihood_share is not None:
        _tell_idle(given, ("likelihood_topk",), "--likelihood_share takes its place")
    if args.prior_quantile is not None:
        _tell_idle(given, ("prior_threshold",), "--prior_quantile takes its place")


def _tell_idle(given: set[str], names: Iterable[str], why: str) -> None:
    for name in names:
        if name in given:
            tell(f"--{name}: {why}")


def refuse_flags_of_training(args: argparse.Namespace, given: set[str]) -> None:
    """UserError for shared flags that a script which trains nothing has no use for."""
    pairs = [(name in given, f"--{name}: only of train.py; this script trains nothing") for name in OF_TRAINING]
    precision = getattr(args, "mixed_precision", None)
    pairs.append((precision not in (None, "no"), f"--mixed_precision {precision}: scores are computed in float32"))
    refuse(pairs)


def require_size(model_name: str, size: int, flag: str) -> None:
    """SettingsError where TResNet cannot take pictures of this size."""
    if model_name.startswith("tresnet") and (size % 4 or size < SMALLEST):
        low = max(size // 4 * 4, SMALLEST)
        raise SettingsError(
            f"{flag} {size}: TResNet needs multiples of 4 from {SMALLEST} on, such as {low} or {low + 4}"
        )
