"""The ablation table of the method from one command: baselines and strategies, several seeds.

    python3 ablation.py --strategies gap,none,uniform,max,cMax,cTopk,cTopk-w --seeds 0,1,2 --output_dir runs/table

gap: GAP classifier. none: class-specific instances alone. uniform: PuzzleCAM's cut at the centre. A strategy may have
flags of its own, as in --strategies "none,none --p_loss full,cMax --alpha_re 0.3,cMax --level cam". All other flags are
those of the training scripts; one without an effect on a strategy is named and left out there. With --resume finished
runs are kept; interrupted ones go on.
"""

import common.interrupt  # noqa: F401

import argparse
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

from common.aliases import one_module
from common.cli import UserError, parse_given, run_main, seed_list
from common.text import write_csv
from oass.core.options import BASELINES, PUZZLES, WITH_TEACHER, build_parser, refuse_flags
from oass.core.report import without
from oass.core.settings import parse_args
from oass.core.train import train

one_module(__name__, "oass.ablation")

FOR_ALL_RUNS = ("--seed", "--output_dir", "--resume", "--overwrite")  # no variant's own
METRICS = ("map", "best_map", "pointing", "dead_cam")


def split_argv(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """This script's own flags, and what is left for the runs. UserError for an unknown strategy."""
    parser = build_parser("cMax")
    parser.description = __doc__
    parser.add_argument(
        "--strategies",
        default=",".join(("none", *PUZZLES)),
        help="with commas between; flags may follow",
    )
    parser.add_argument(
        "--seeds", type=seed_list, default="0,1,2", help="each strategy with each of them"
    )
    own = parser.parse_args(argv)
    given = parse_given(lambda: parser, argv)[1]
    refuse_flags(given, {"seed": "every strategy runs with each of --seeds"})
    if own.resume:
        raise UserError(
            f"--resume {own.resume}: one checkpoint cannot start several runs; --resume without a path"
        )

    known = (*BASELINES, *PUZZLES)
    own.variants = [shlex.split(entry) for entry in own.strategies.split(",")]
    for variant in own.variants:
        name = " ".join(variant)
        if not variant or variant[0] not in known:
            raise UserError(f"--strategies: {name!r} is none of {', '.join(known)}")
        if own.variants.count(variant) > 1:
            raise UserError(f"--strategies: {name!r} stands there twice; expected once")
        fixed = [word for word in variant if word.split("=")[0] in FOR_ALL_RUNS]
        if fixed:
            raise UserError(
                f"--strategies: {name!r}: {fixed[0]} is for all runs alike; give it outside"
            )
    return own, drop_flags(
        argv, {flag: "store" for flag in ("--strategies", "--seeds", "--output_dir")}
    )


def drop_flags(argv: Sequence[str] | None, actions: dict[str, str]) -> list[str]:
    """argv without these flags and their values, `--flag VALUE` or `--flag=VALUE`; argparse's action for each."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag, action in actions.items():
        parser.add_argument(flag, action=action)
    return parser.parse_known_args(argv)[1]


def one_run(variant: list[str], seed: int, folder: Path, rest: list[str]) -> dict[str, object]:
    """The summary of one run in folder/VARIANT/seed_N; a variant is a strategy and its own flags, which win."""
    strategy, *flags = variant
    if strategy not in WITH_TEACHER:
        rest = drop_flags(rest, {"--alpha_ema": "store"})
    place = folder / "_".join(variant).replace("--", "").replace("/", "-") / f"seed_{seed}"
    own = [*flags, "--seed", str(seed), "--output_dir", str(place)]
    return train(parse_args(strategy, own, shared=rest), strategy)


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything, print and write the table."""
    own, rest = split_argv(argv)
    folder = own.output_dir or Path("experiments/ablation")
    rows = []
    for variant in own.variants:
        summaries = [one_run(variant, seed, folder, rest) for seed in own.seeds]
        row: dict[str, object] = {
            "strategy": " ".join(variant),
            "seeds": " ".join(map(str, own.seeds)),
        }
        for metric in METRICS:
            values = [s[metric] for s in summaries if s[metric] is not None]
            row[metric] = round(statistics.mean(values), 4) if values else ""
            row[f"{metric}_std"] = round(statistics.stdev(values), 4) if len(values) > 1 else ""
        row["each"] = " ".join(f"{s['map']:.2f}" for s in summaries if s["map"] is not None)
        skipped = max(s.get("eval_skipped", 0) for s in summaries)
        if skipped:
            row["eval_skipped"] = skipped
        rows.append(row)
    columns = list(max(rows, key=len))
    write_csv(
        folder / "ablation.csv",
        [columns, *([row.get(name, "") for name in columns] for row in rows)],
    )
    width = max(10, *(len(str(row["strategy"])) + 1 for row in rows))
    print(
        f"{'strategy':<{width}}{'mAP %':>8}{'std':>7}{'pointing':>10}{'dead maps':>11}   each seed"
    )
    for row in rows:
        print(f"{row['strategy']:<{width}}{row['map']!s:>8.6}{row['map_std']!s:>7.5}{row['pointing']!s:>10.5}"
              f"{row['dead_cam']!s:>11.5}   {row['each']}{without(row)}")  # fmt: skip
    print(f"table: {folder / 'ablation.csv'}")


if __name__ == "__main__":
    run_main(main)
