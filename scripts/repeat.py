"""Measure rows of the campaign again with a fresh seed: does it fall where the others say?

    python scripts/repeat.py --data DATA --root CLONE --lot 0 --seed 300

Rows are drawn by lot among those of PAPER/results/campaign.toml that have been entered, one an
experiment. What made such a row runs once more with the fresh seed alone, below OUT/PAPER/NAME. Its
value should lie in the 95 % prediction interval of one further seed, mean +- t s sqrt(1 + 1/n) with
t of n - 1 degrees of freedom: the mean and s are over the row's n seeds, folds averaged before.
Exit status 1 where one does not.
"""

import common.interrupt  # noqa: F401

import argparse
import math
import os
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.cli import OneLineParser, UserError, folder_path, positive_int, run_main
from common.cli import seed as seed_number
from sidebyside.campaign import Registered, RowPlan, load_campaign, runs_of
from sidebyside.launch import run_logged
from sidebyside.measured import values_by_seed
from sidebyside.results import OURS, PAPERS, SEEDS, read

ROOT = Path(__file__).resolve().parent.parent
SURE = 0.95


@dataclass(frozen=True)
class Entered:
    """A row that stands in ours.csv: its experiment, its plan, its method, a value a seed."""

    experiment: Registered
    plan: RowPlan
    method: str
    values: tuple[float, ...]

    def __str__(self) -> str:
        metric = self.plan.fields["metric"]
        return f"{self.experiment.paper}/{self.experiment.name}: {self.method}, {metric}"


def entered_rows(experiment: Registered, root: Path) -> list[Entered]:
    """The rows of an experiment whose seeds stand in PAPER/results/seeds.csv, all of them."""
    path = root / experiment.paper / "results" / "seeds.csv"
    if not path.is_file():
        return []
    stored = read(path, SEEDS)
    found = []
    for plan in experiment.rows:
        for method in plan.methods:
            wanted = {"method": method, **plan.fields}
            values = {}
            for row in stored:
                if all(row[column] == wanted[column] for column in OURS[:5]):
                    values[int(row["seed"])] = float(row["value"])
            is_whole = set(experiment.seeds) <= set(values)
            if is_whole and len(values) > 1 and statistics.stdev(values.values()) > 0:
                found.append(Entered(experiment, plan, method, tuple(values.values())))
    return found


def drawn(rows: Sequence[Entered], count: int, lot: int) -> list[Entered]:
    """`count` rows by lot, of as many experiments; UserError where there are fewer."""
    names = sorted({(row.experiment.paper, row.experiment.name) for row in rows})
    if len(names) < count:
        raise UserError(f"--rows {count}: rows of {len(names)} experiments have been entered")
    generator = random.Random(lot)
    chosen = []
    for paper, name in generator.sample(names, count):
        own = [row for row in rows if (row.experiment.paper, row.experiment.name) == (paper, name)]
        chosen.append(generator.choice(own))
    return chosen


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where one further value lies with a probability of 95 %, if all are normal and alike.

    >>> low, high = prediction_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-2.968, 6.968)
    """
    from scipy import stats

    n = len(values)
    t = float(stats.t.ppf((1 + SURE) / 2, n - 1))
    half = t * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    mean = statistics.fmean(values)
    return mean - half, mean + half


def measured_again(row: Entered, args: argparse.Namespace) -> float:
    """The row's value with the fresh seed; its runs lie below OUT/PAPER/NAME."""
    experiment = replace(row.experiment, seeds=(args.seed,))
    folder = args.out.resolve() / experiment.paper / experiment.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{experiment.name}.log")
    environment = {**os.environ, "PYTHONPATH": str(args.root.resolve())}
    for words in experiment.lines(str(folder), str(args.data.resolve())):
        command = [sys.executable, *words[1:]]
        status = run_logged(command, args.root / experiment.paper, log, environment)
        if status != 0:
            raise UserError(f"{row}: its command failed ({status}); see {log}")
    runs = runs_of(folder, row.plan.methods[row.method])
    factor = 1.0 if row.plan.scale is None else row.plan.scale
    values = values_by_seed(runs, row.plan.key, factor)
    return statistics.fmean(values[args.seed])


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog="repeat.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", type=folder_path, required=True, help="stands for DATA in the commands")
    add("--out", type=folder_path, default=ROOT / "runs" / "repeat", help="run directories, logs")
    add("--root", type=folder_path, default=ROOT, help="the clone whose programs run")
    add("--rows", type=positive_int, default=3, help="how many rows (default 3)")
    add("--lot", type=seed_number, default=0, help="the seed of the lot (default 0)")
    add("--seed", type=seed_number, default=300, help="the fresh seed (default 300)")
    add("--dry_run", action="store_true", help="draw and list, run nothing")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Draw, run, compare."""
    args = build_parser().parse_args(argv)
    rows: list[Entered] = []
    for paper in PAPERS:
        for experiment in load_campaign(args.root, paper):
            if args.seed in experiment.seeds:
                raise UserError(f"--seed {args.seed}: {paper}/{experiment.name} has used it")
            rows += entered_rows(experiment, ROOT)

    outside = 0
    for row in drawn(rows, args.rows, args.lot):
        low, high = prediction_interval(row.values)
        told = f"{row}: {low:.4g} to {high:.4g} from {len(row.values)} seeds"
        if args.dry_run:
            print(told)
            continue
        value = measured_again(row, args)
        is_inside = low <= value <= high
        outside += not is_inside
        print(f"{told}; seed {args.seed}: {value:.4g}, {'inside' if is_inside else 'OUTSIDE'}")
    return 1 if outside else 0


if __name__ == "__main__":
    run_main(main)
