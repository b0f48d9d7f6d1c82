"""The command line, read and checked: what the user gave, the sample's values, where the data lie.

Importable without torch. Every script has a parse function here that returns its `Settings`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.aliases import one_module
from common.cli import UserError, parse_given, settle
from common.locate import Location
from common.own import Kind
from oass.options_check import RELEASED, check, refuse_flags, without_effect
from oass.options_flags import WITH_TEACHER, build_parser
from oass.options_frozen import FROZEN, check_frozen
from oass.options_own import locate_data, with_own_parts

one_module(__name__, "oass.options")


@dataclass(frozen=True)
class Settings:
    """What a command line says.

    args: every flag's value. given: the names of those that the user gave. location: where the data
    lie; None where the script reads no data set. own: what kind of own data they are (--data); None
    for VOC's devkit.
    """

    args: argparse.Namespace
    given: frozenset[str]
    location: Location | None = None
    own: Kind | None = None

    @property
    def data_root(self) -> Path:
        """The folder of the data; ValueError for a script that reads none."""
        if self.location is None:
            raise ValueError("these settings have no data set")
        return self.location.path


def sample_defaults(strategy: str, architecture: str | None) -> dict[str, object]:
    """What a run on the offline sample uses where the user gave nothing: seconds on a CPU core.

    A large network that was asked for (`architecture`) gets one epoch of small batches, a proof
    that the command runs; the small one learns. `max` gets a weak, slow L_re: at the README's
    weights it collapses in runs this short (README, deviations). 24 epochs, 480 steps: after 160
    CSI alone is far from done.
    """
    small: dict[str, object] = {
        "image_size": 64,
        "min_image_size": 64,
        "max_image_size": 80,
        "min_distance": 5,
    }
    small |= {"num_workers": 0, "print_ratio": 0.5, "pictures": 2}
    if architecture not in (None, "resnet_tiny"):
        return {**small, "max_epoch": 1, "batch_size": 16, "train_domain": "train"}
    # make_cam's slope is about 1 / max, so one map whose peak nears its epsilon can throw the
    # network in a single step (a gradient of norm 246, usually 0.2): a slow ramp, 5 % of a run
    # being 248 steps of the README's and 24 here, keeps maps from shrinking early, and the norm is
    # clipped.
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


def parse(
    strategy: str, argv: Sequence[str] | None = None, *, shared: Sequence[str] = ()
) -> Settings:
    """The settings of the training script of `strategy`; UserError or status 2 for a bad value.

    The released defaults, on the offline sample the sample's, then those of --released; what was
    given wins over all. A given flag that has no effect with this strategy and the other flags is
    refused. `shared`: flags before `argv` that are given to several strategies at once; those
    without an effect on this one are named and dropped.
    """
    if argv is None:
        argv = sys.argv[1:]
    parser = build_parser(strategy)
    defaults, given = parse_given(parser, [*shared, *argv])
    own = given
    if shared:
        own = parse_given(parser, argv)[1]
    location, kind = locate_data(given)
    layers: list[Mapping[str, object]] = []
    if location.is_sample:
        layers.append(sample_defaults(strategy, given.get("architecture")))
    if given.get("released"):
        layers.append(RELEASED)
    if given.get("frozen_features"):
        layers.append(FROZEN)

    args = _settled(strategy, location, settle(defaults, given, *layers))
    dropped = _idle_shared(args, given, own)
    while dropped:  # without one flag another may have no effect
        given = {name: value for name, value in given.items() if name not in dropped}
        args = _settled(strategy, location, settle(defaults, given, *layers))
        for name, reason in dropped.items():
            print(f"{strategy}: --{name} has no effect here ({reason})", flush=True)
        dropped = _idle_shared(args, given, own)

    check_frozen(args, given)
    check(args, location)
    refuse_flags(given, without_effect(args))
    if (args.h_co, args.w_co) != (250, 250):
        print("--h_co, --w_co: unused, in the released code too", flush=True)
    return Settings(with_own_parts(args, kind), frozenset(given), location, kind)


def _idle_shared(
    args: argparse.Namespace, given: Mapping[str, object], own: Mapping[str, object]
) -> dict[str, str]:
    """The flags of all strategies that have no effect on this one, and why."""
    idle = without_effect(args)
    return {name: idle[name] for name in given if name in idle and name not in own}


def _settled(strategy: str, location: Location, args: argparse.Namespace) -> argparse.Namespace:
    """The settings with what follows from the others."""
    args.strategy = strategy
    if strategy not in WITH_TEACHER:
        args.alpha_ema = None
    if args.pretrained:
        if args.weights not in (None, "imagenet"):
            raise UserError(f"--pretrained and --weights {args.weights}: give one of them")
        args.weights = "imagenet"
    if args.weights is not None:
        return args
    args.weights = "imagenet"
    if location.is_sample:
        args.weights = "sample" if args.architecture == "resnet_tiny" else "none"
    return args
