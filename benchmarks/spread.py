"""How far the number under "Try it" of each README moves with the seed and with the threads.

    python benchmarks/spread.py            # seeds 0 to 2 on one and two threads: half an hour
    python benchmarks/spread.py --paper csl --seeds 0,1,2 --threads 1,2
    python benchmarks/spread.py --write    # keeps the values, writes the READMEs' lines

The values are kept in benchmarks/results/spread.csv. A README holds the lines `<!-- spread -->` and
`<!-- /spread -->`; what stands between them is written by --write, from that file.
"""

import common.interrupt  # noqa: F401

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.cli import UserError, run_main, seed_list

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "spread.csv"
FIELDS = ("paper", "seed", "threads", "value")
BLOCK = re.compile(r"<!-- spread -->\n(?P<line>.*?)<!-- /spread -->", re.DOTALL)


@dataclass(frozen=True)
class Demo:
    """The first command of a README, and the number that it ends with."""

    command: str
    key: str  # of summary.json
    decimals: int
    printed: str  # where the README prints it: a pattern with the group `value`


DEMOS = {
    "cavl": Demo(
        "main.py",
        "test_accuracy_last10_mean",
        4,
        r"mean of the last 10 epochs: (?P<value>[\d.]+)",
    ),
    "oass": Demo(
        "train_classification_with_puzzle_cTopk_w_ema.py",
        "map",
        1,
        r"cTopk-w: mAP (?P<value>[\d.]+) %",
    ),
    "calm": Demo(
        "main.py --attribution_method=CALM_EM",
        "test_accuracy",
        2,
        r"test accuracy (?P<value>[\d.]+) %",
    ),
    "csl": Demo(
        "train.py --partial_loss_mode=selective",
        "mAP_model_final",
        2,
        r"mAP model (?P<value>[\d.]+)",
    ),
    "mile": Demo(
        "MILe.py --dataset mnist",
        "real_f1_final",
        4,
        r"F1@0\.1 (?P<value>[\d.]+)",
    ),
}


def measured(paper: str, seed: int, threads: int) -> float:
    """The number that the README's first command ends with, on the sample and the CPU."""
    demo = DEMOS[paper]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = ["--sample", "--cpu", "--seed", str(seed), "--output_dir", str(run)]
        command = [sys.executable, *demo.command.split(), *flags]
        done = subprocess.run(
            command, cwd=ROOT / paper, env=environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise UserError(f"{paper}: {' '.join(command)} failed: {done.stderr[-300:]}")
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return summary[demo.key]


def read_values() -> list[dict[str, str]]:
    """The rows of benchmarks/results/spread.csv; [] where it is not there."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_values(rows: Iterable[dict[str, str]]) -> None:
    """Replace benchmarks/results/spread.csv."""
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def bounds(paper: str, rows: Iterable[dict[str, str]]) -> tuple[float, float]:
    """The least and the largest value of a paper."""
    values = [float(row["value"]) for row in rows if row["paper"] == paper]
    return min(values), max(values)


def listed(numbers: Iterable[str]) -> str:
    """Whole numbers in words of a sentence.

    >>> listed(["2", "0", "1"]), listed(["1", "2"])
    ('0, 1 and 2', '1 and 2')
    """
    ordered = sorted(set(numbers), key=int)
    if len(ordered) == 1:
        return ordered[0]
    return f"{', '.join(ordered[:-1])} and {ordered[-1]}"


def sentence(paper: str, rows: Iterable[dict[str, str]]) -> str:
    """What a README says about the spread of its number."""
    mine = [row for row in rows if row["paper"] == paper]
    low, high = bounds(paper, mine)
    decimals = DEMOS[paper].decimals
    seeds = listed(row["seed"] for row in mine)
    threads = listed(row["threads"] for row in mine)
    return (
        f"Other seeds, processors and numbers of threads give other digits: with seeds {seeds}, "
        f"each on {threads} threads,\nit lies between {low:.{decimals}f} and {high:.{decimals}f} "
        "(`python ../benchmarks/spread.py` measures it).\n"
    )


def write_readme(paper: str, rows: Iterable[dict[str, str]]) -> None:
    """Put the sentence between the marks of a paper's README."""
    path = ROOT / paper / "README.md"
    text = path.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise UserError(f"{path}: has no lines <!-- spread --> and <!-- /spread -->")
    block = f"<!-- spread -->\n{sentence(paper, rows)}<!-- /spread -->"
    path.write_text(BLOCK.sub(lambda _: block, text), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--paper", choices=DEMOS, action="append", help="only this one")
    parser.add_argument("--seeds", type=seed_list, default=[0, 1, 2], help="default 0,1,2")
    parser.add_argument("--threads", type=seed_list, default=[1, 2], help="default 1,2")
    parser.add_argument("--write", action="store_true", help="keep the values; write the READMEs")
    args = parser.parse_args(argv)

    rows = read_values()
    for paper in args.paper or DEMOS:
        fresh = []
        for seed in args.seeds:
            for threads in args.threads:
                value = measured(paper, seed, threads)
                print(f"{paper:5} seed {seed}  threads {threads}  {value:.4f}", flush=True)
                told = (paper, str(seed), str(threads), f"{value:.6f}")
                fresh.append(dict(zip(FIELDS, told, strict=True)))
        if args.write:
            rows = [row for row in rows if row["paper"] != paper] + fresh
            write_values(rows)
            write_readme(paper, rows)
    return 0


if __name__ == "__main__":
    run_main(main)
