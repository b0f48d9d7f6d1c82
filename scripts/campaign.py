"""Run the experiments that were registered in PAPER/results/campaign.toml, and enter their rows.

    python scripts/campaign.py --data DATA --dry_run          # what would run, and for how long
    python scripts/campaign.py --data DATA --root CLONE       # run it; stopped, it goes on
    python scripts/campaign.py --data DATA --rows             # the rows of what has finished

CLONE is a clean clone of this repository: rows carry the hash of the method's code at the commit of
their runs, which uncommitted changes have none of. An experiment's run directory is OUT/PAPER/NAME.
"""

import common.interrupt  # noqa: F401

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import OneLineParser, UserError, folder_path, run_main
from common.files import atomic_write
from common.text import read_json
from sidebyside import results
from sidebyside.campaign import Registered, RowPlan, load_campaign, runs_of
from sidebyside.launch import run_logged

ROOT = Path(__file__).resolve().parent.parent


class Place:
    """Where an experiment runs, and what of it has run: OUT/PAPER/NAME, its log and its note."""

    def __init__(self, experiment: Registered, out: Path) -> None:
        self.folder = out.resolve() / experiment.paper / experiment.name
        self.log = self.folder.with_name(f"{experiment.name}.log")
        self.note = self.folder.with_name(f"{experiment.name}.json")

    def done(self) -> list[str]:
        """The command lines that have come to their end."""
        if not self.note.is_file():
            return []
        return read_json(self.note, dict).get("done", [])

    def add(self, line: str) -> None:
        """Note that a command line has come to its end."""
        done = [*self.done(), line]
        atomic_write(self.note, json.dumps({"done": done}, indent=2).encode())


def left_of(experiment: Registered, args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """What has not run to its end: each line as the note tells it, and the words to run."""
    place = Place(experiment, args.out)
    done = place.done()
    told = map(shlex.join, experiment.lines("OUT", "DATA"))
    lines = experiment.lines(str(place.folder), str(args.data.resolve()))
    return [(line, words) for line, words in zip(told, lines, strict=True) if line not in done]


def run(experiment: Registered, args: argparse.Namespace) -> bool:
    """Run what is left of an experiment; whether all of it has come to its end."""
    place = Place(experiment, args.out)
    place.folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(args.root.resolve())}
    for line, words in left_of(experiment, args):
        command = [sys.executable, *words[1:]]
        status = run_logged(command, args.root / experiment.paper, place.log, environment)
        if status in (130, 143):
            raise SystemExit(status)
        if status != 0:
            print(f"failed ({status}): {experiment.paper}/{experiment.name}: see {place.log}")
            return False
        place.add(line)
    return True


def enter(experiment: Registered, args: argparse.Namespace) -> int:
    """Write the rows of an experiment that has finished; how many."""
    count = 0
    for row in experiment.rows:
        for method, pattern in row.methods.items():
            enter_row(experiment, row, method, pattern, args)
            count += 1
    return count


def enter_row(
    experiment: Registered, row: RowPlan, method: str, pattern: str, args: argparse.Namespace
) -> None:
    """Write one row of ours.csv, its seeds and its curve; UserError where no run fits."""
    folder = Place(experiment, args.out).folder
    results.add(
        ROOT / experiment.paper / "results",
        runs_of(folder, pattern),
        key=row.key,
        curve=row.curve,
        scale=row.scale,
        superseded_by=args.superseded_by,
        method=method,
        command=experiment.told(row.commands),
        data=args.data / experiment.content,
        **row.fields,
    )


def require_clean(root: Path) -> None:
    """UserError where tracked files of the repository differ from its commit."""
    command = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"--root {root}: not a clone (git: {done.stderr.strip()})")
    if done.stdout.strip():
        first = done.stdout.split("\n")[0].strip()
        raise UserError(f"--root {root}: has uncommitted changes ({first}); give a clean clone")


def chosen(args: argparse.Namespace) -> list[Registered]:
    """The experiments that the flags name."""
    found: list[Registered] = []
    for paper in args.paper or results.PAPERS:
        found += load_campaign(args.root, paper)
    if args.only is None:
        return found
    names = [experiment.name for experiment in found]
    for name in args.only:
        if name not in names:
            raise UserError(f"--only {name}: no such experiment; there are {', '.join(names)}")
    return [experiment for experiment in found if experiment.name in args.only]


def listing(experiments: Sequence[Registered], args: argparse.Namespace) -> str:
    """A line an experiment: minutes, how much is left, name, claims."""
    lines = []
    for experiment in experiments:
        left = len(left_of(experiment, args))
        whole = len(experiment.lines("", ""))
        state = f"{left} of {whole} commands left" if left else "finished"
        name = f"{experiment.paper}/{experiment.name}"
        seeds = f"{len(experiment.seeds)} seeds"
        lines.append(f"{experiment.minutes:6.1f} min  {name}  {seeds}  [{state}]")
    return "\n".join(lines) or "nothing is registered"


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog="campaign.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", type=folder_path, required=True, help="stands for DATA in the commands")
    out = ROOT / "runs" / "campaign"
    add("--out", type=folder_path, default=out, help="run directories and logs")
    add("--root", type=folder_path, default=ROOT, help="the clone whose programs run")
    add("--paper", choices=results.PAPERS, action="append", help="only this one (may come again)")
    add("--only", action="append", metavar="NAME", help="only this experiment (may come again)")
    add("--rows", action="store_true", help="enter the rows of what has finished, run nothing")
    add("--superseded_by", default="", metavar="TEXT", help="why earlier rows count no longer")
    add("--dry_run", action="store_true", help="list, run nothing")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Choose, then list, run or enter."""
    args = build_parser().parse_args(argv)
    for flag, folder in (("--data", args.data), ("--root", args.root)):
        if not folder.is_dir():
            raise UserError(f"{flag} {folder}: no such directory")
    experiments = chosen(args)
    print(listing(experiments, args), flush=True)
    if args.dry_run:
        return 0

    if args.rows:
        count = 0
        for experiment in experiments:
            if not left_of(experiment, args):
                count += enter(experiment, args)
        results.update_readmes(ROOT)
        print(f"{count} rows entered")
        return 0

    require_clean(args.root)
    finished = [run(experiment, args) for experiment in experiments]
    print(f"{finished.count(True)} finished, {finished.count(False)} failed")
    return 1 if False in finished else 0


if __name__ == "__main__":
    run_main(main)
