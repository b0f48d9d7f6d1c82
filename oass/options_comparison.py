"""The command line of many runs: strategies with flags of their own, and seeds. Without torch."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from common.aliases import one_module
from common.cli import UserError, add_jobs_flag, parse_given, seed_list, settle
from oass.options import Settings, parse
from oass.options_check import refuse_flags
from oass.options_flags import BASELINES, PUZZLES, WITH_TEACHER, build_parser

one_module(__name__, "oass.options_comparison")

FOR_ALL_RUNS = ("--seed", "--output_dir", "--resume", "--overwrite")  # no variant's own
OWN_VALUES = ("--strategies", "--seeds", "--jobs", "--output_dir")
OWN_SWITCHES = ("--overwrite", "--resume")


@dataclass(frozen=True)
class Comparison:
    """What the command line of many runs says.

    args: its flags, with `seeds`. variants: by name (a strategy and its own flags) the settings of
    their runs, but for the seed and the folder.
    """

    args: argparse.Namespace
    variants: dict[str, Settings]


def build_comparison_parser() -> argparse.ArgumentParser:
    """The flags of training, --strategies and --seeds."""
    parser = build_parser("cMax")
    parser.description = "OASS: a table of strategies and seeds."
    add = parser.add_argument_group("many runs").add_argument
    add(
        "--strategies",
        default=",".join(("none", *PUZZLES)),
        help="with commas between; flags may follow",
    )
    add("--seeds", type=seed_list, default="0,1,2", help="each strategy with each of them")
    add_jobs_flag(parser)
    return parser


def parse_comparison(argv: Sequence[str] | None = None) -> Comparison:
    """The settings of ablation.py; UserError or status 2 for a bad value of any of its runs."""
    if argv is None:
        argv = sys.argv[1:]
    defaults, given = parse_given(build_comparison_parser(), argv)
    refuse_flags(given, {"seed": "every strategy runs with each of --seeds"})
    args = settle(defaults, given)
    if args.resume:
        problem = "one checkpoint cannot start several runs; --resume without a path"
        raise UserError(f"--resume {args.resume}: {problem}")

    entries = list(map(shlex.split, args.strategies.split(",")))
    for words in entries:
        _check_variant(words, entries)
    shared = _without_flags(argv, OWN_VALUES, OWN_SWITCHES)
    variants = {}
    for strategy, *flags in entries:
        fitting = shared
        if strategy not in WITH_TEACHER:
            fitting = _without_flags(shared, ("--alpha_ema",))
        variants[" ".join((strategy, *flags))] = parse(strategy, flags, shared=fitting)
    return Comparison(args, variants)


def _check_variant(words: list[str], entries: list[list[str]]) -> None:
    """UserError where an entry of --strategies is no strategy with own flags, or comes twice."""
    known = (*BASELINES, *PUZZLES)
    name = " ".join(words)
    if not words or words[0] not in known:
        raise UserError(f"--strategies: {name!r} is none of {', '.join(known)}")
    if entries.count(words) > 1:
        raise UserError(f"--strategies: {name!r} stands there twice; expected once")
    fixed = [word for word in words if word.split("=")[0] in FOR_ALL_RUNS]
    if fixed:
        problem = f"{fixed[0]} is for all runs alike; give it outside"
        raise UserError(f"--strategies: {name!r}: {problem}")


def _without_flags(
    argv: Sequence[str], with_value: Sequence[str], switches: Sequence[str] = ()
) -> list[str]:
    """argv without these flags and their values, `--flag VALUE` or `--flag=VALUE`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in with_value:
        parser.add_argument(flag)
    for flag in switches:
        parser.add_argument(flag, action="store_true")
    return parser.parse_known_args(argv)[1]
