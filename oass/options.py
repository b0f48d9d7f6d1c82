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
from oass.options_flags import WITH_TEACHER, build_parser, sample_defaults
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
