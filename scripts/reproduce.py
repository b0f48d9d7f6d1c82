"""Run again what stands behind results/ours.csv, as far as this commit has not measured it yet.

    python scripts/reproduce.py --scale sample --dry_run       # what would run, and for how long
    python scripts/reproduce.py --scale small --data DATA      # real data, each within an hour
    python scripts/reproduce.py --scale full --dry_run         # the papers' settings, for GPUs
    python scripts/reproduce.py --scale full --data DATA --launcher "accelerate launch"
    python scripts/reproduce.py --scale full --data DATA --index 3    # slurm/reproduce.sbatch

An experiment is a command of ours.csv, once for each seed where the command names one; at full
scale also a command of full.toml, with the paper's own settings, data sets and networks. Its run
directory is OUT/NAME; stopped at any point, the same command goes on. An evaluation of runs that
another experiment trains comes after it. Afterwards: python compare.py OUT
"""

import common.interrupt  # noqa: F401

import argparse
import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from tqdm import tqdm

from common.cli import OneLineParser, UserError, folder_path, run_main, whole
from common.text import read_json
from sidebyside.launch import run_logged
from sidebyside.reruns import SCALES, Experiment, absent, experiments, needs_data, placed
from sidebyside.results import PAPERS

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN = 5.0  # minutes, where nothing says how long
RUN = "run"
START_OVER = "start over"


class Entry(NamedTuple):
    """A line of the list: index, experiment, and `run`, `start over` or why it is left out."""

    index: int
    experiment: Experiment
    state: str

    @property
    def is_to_run(self) -> bool:
        """Whether it is not left out."""
        return self.state in (RUN, START_OVER)


# --- what is measured already ---


def changed_since(commit: str, paper: str, root: Path = ROOT) -> bool:
    """Whether the paper's or common's code differs from `commit`'s; True where git cannot tell."""
    if not re.fullmatch(r"[0-9a-f]{7,40}", commit):  # unknown, or measured with uncommitted changes
        return True
    paths = [f":(glob){folder}/**/*.py" for folder in (paper, "common")]
    command = ["git", "-C", str(root), "diff", "--quiet", commit, "--", *paths]
    try:
        return subprocess.run(command, capture_output=True).returncode != 0
    except OSError:  # no git on this machine
        return True


def fingerprint(paper: str, root: Path = ROOT) -> str:
    """A hash of the paper's code and of common's, committed or not."""
    paths = [*(root / paper).rglob("*.py"), *(root / "common").rglob("*.py")]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def state_of(
    experiment: Experiment, out: Path, data: Path | None, again: bool, root: Path = ROOT
) -> str:
    """`run`, `start over`, or why it is left out; OUT/NAME.json holds the code it last ran with."""
    if experiment.by_hand:
        return f"by hand: {experiment.by_hand}"
    if not (root / experiment.paper / experiment.arguments[0]).is_file():
        return f"no {experiment.paper}/{experiment.arguments[0]}"
    if data is None and needs_data(experiment):
        return "needs --data"
    if data is not None and absent(experiment, data):
        return f"needs {absent(experiment, data)}, which is not there"

    note = out / f"{experiment.name}.json"
    if note.exists():
        past = read_note(note)
        if past.get("code") != fingerprint(experiment.paper, root):
            return START_OVER
        if past.get("finished") is True:
            return START_OVER if again else "measured here"
    if again or not experiment.commits:
        return RUN
    if any(changed_since(commit, experiment.paper, root) for commit in experiment.commits):
        return RUN
    return "measured at this commit"


def entries(wanted: Sequence[Experiment], args: argparse.Namespace) -> list[Entry]:
    """The list; an evaluation is left out where the runs that it needs are not here."""
    listed = []
    here = set()  # names of what has run, or will have run by then
    for index, experiment in enumerate(wanted):
        state = state_of(experiment, args.out, args.data, args.again, args.root)
        entry = Entry(index, experiment, state)
        if entry.is_to_run and not (experiment.trained_by in here or is_trained(experiment, args)):
            missing = f"needs {experiment.trained_by}, which has not run here; --again runs it"
            entry = entry._replace(state=missing)
        if entry.is_to_run:
            here.add(experiment.name)
        listed.append(entry)
    return listed


def is_trained(experiment: Experiment, args: argparse.Namespace) -> bool:
    """Whether the experiment that it evaluates has run to its end here; True if it needs none."""
    if not experiment.trained_by:
        return True
    note = args.out / f"{experiment.trained_by}.json"
    return note.exists() and read_note(note).get("finished") is True


def read_note(note: Path) -> dict[str, object]:
    """What was written of an earlier run; {} where it is damaged, so that the run starts over."""
    try:
        return read_json(note, dict)
    except UserError:
        return {}


def write_note(path: Path, code: str, *, finished: bool) -> None:
    """Write which code a run is of, and whether it came to its end; the file appears whole."""
    part = path.with_name(f".{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps({"code": code, "finished": finished}))
    part.replace(path)


# --- running ---


def launcher_words(text: str) -> list[str]:
    """What stands before the script, as separate words; this Python where `text` is empty.

    UserError for quotes that do not close and for a program that is not there. The program is
    looked for from here, though the scripts run in their papers' folders.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--launcher {text!r}: cannot be split into words ({error})") from error
    if not words:
        return [sys.executable]
    program = shutil.which(words[0])
    if program is None:
        raise UserError(f"--launcher {text!r}: no program {words[0]!r}")
    return [str(Path(program).absolute()), *words[1:]]


def command_of(experiment: Experiment, state: str, args: argparse.Namespace) -> list[str]:
    """The whole command: launcher, script, arguments, run directory, --resume or --overwrite."""
    arguments = [placed(argument, args.data) for argument in experiment.arguments]
    if experiment.trained_by:  # its run lies below OUT, not in the script's own folder
        at = arguments.index(experiment.evaluated)
        arguments[at] = experiment.evaluated.rpartition("/")[2]
        arguments += ["--save_root", str((args.out / experiment.trained_by).resolve())]

    place = ["--output_dir", str((args.out / experiment.name).resolve())]
    how = "--resume"
    if state == START_OVER or experiment.evaluated:  # an evaluation has nothing to go on with
        how = "--overwrite"
    return [*launcher_words(args.launcher), *arguments, *place, how]


def run_all(todo: Sequence[Entry], args: argparse.Namespace) -> int:
    """Run one after the other; returns how many failed."""
    failed = 0
    expected = 0.0  # minutes, of what has run
    spent = 0.0
    with tqdm(todo, unit="experiment") as bar:
        for number, entry in enumerate(bar):
            left = minutes_of(todo[number:])
            if spent:  # as this machine has done so far
                left *= spent / expected
            bar.set_postfix_str(f"about {left:.0f} min left, {entry.experiment.name}")

            start = time.monotonic()
            failed += run_one(entry, args)
            spent += (time.monotonic() - start) / 60
            expected += minutes_of([entry])
    return failed


def run_one(entry: Entry, args: argparse.Namespace) -> bool:
    """Run an experiment and write its note; whether it failed, which is told in one line."""
    experiment = entry.experiment
    if not is_trained(experiment, args):
        tqdm.write(f"failed: {experiment.name}: needs {experiment.trained_by} to have run first")
        return True

    log = args.out / f"{experiment.name}.log"
    note = args.out / f"{experiment.name}.json"
    code = fingerprint(experiment.paper, args.root)
    write_note(note, code, finished=False)
    command = command_of(experiment, entry.state, args)
    status = run_logged(command, args.root / experiment.paper, log)

    if status == 0:
        write_note(note, code, finished=True)
        return False
    if status in (130, -signal.SIGINT):
        raise SystemExit(130)
    if status in (143, -signal.SIGTERM):
        raise SystemExit(143)
    tqdm.write(f"failed ({status}): {experiment.name}: {last_line(log)} (all of it: {log})")
    return True


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        if line.strip():
            return line
    return "no output"


def minutes_of(listed: Iterable[Entry]) -> float:
    """How long they are expected to take."""
    return sum(entry.experiment.minutes or UNKNOWN for entry in listed)


# --- the command line ---


def listing(listed: Iterable[Entry]) -> str:
    """One line for each experiment: index, state, minutes, command."""
    lines = []
    for index, experiment, state in listed:
        minutes = "     ? min"
        if experiment.minutes:
            minutes = f"{experiment.minutes:6.1f} min"
        planned = experiment.planned
        if planned is not None:
            minutes = f"{planned.gpu_hours:6.1f} GPU h"
        command = f"{experiment.paper}: {' '.join(experiment.arguments)}"
        lines.append(f"{index:3d}  {minutes}  {command}  [{state}]")
        if planned is not None:
            lines.append(f"     needs {planned.data}; decides {', '.join(planned.claims)}")
    return "\n".join(lines)


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog="reproduce.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    scales = "sample: drawn data; small: what we ran on real data; full: the papers' settings"
    add("--scale", choices=SCALES, default="sample", help=scales)
    add("--paper", choices=PAPERS, action="append", help="only this one (may be given again)")
    add("--data", type=folder_path, default=None, help="stands for DATA in the commands")
    out = ROOT / "runs" / "reproduce"
    add("--out", type=folder_path, default=out, help="run directories and logs")
    add("--launcher", default="", help='instead of python, for instance "accelerate launch"')
    add("--again", action="store_true", help="also what was measured at this commit")
    add("--index", type=whole(0), default=None, help="only this one of the list (Slurm array)")
    add("--dry_run", action="store_true", help="list, run nothing")
    add("--count", action="store_true", help="print how many the list has, for a Slurm array")
    add("--root", type=folder_path, default=ROOT, help="the repository")
    return parser


def chosen(args: argparse.Namespace) -> list[Entry]:
    """The list of what the flags name; UserError for an index that it does not have."""
    papers = args.paper or PAPERS
    wanted = []
    for experiment in experiments(args.root):
        if experiment.paper in papers and experiment.scale == args.scale:
            wanted.append(experiment)

    listed = entries(wanted, args)
    if args.index is None:
        return listed
    if args.index >= len(listed):
        there = f"0 to {len(listed) - 1}" if listed else "none"
        raise UserError(
            f"--index {args.index}: no such experiment; there are {there} (see --dry_run)"
        )
    return [listed[args.index]]


def _stop(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main(argv: list[str] | None = None) -> int:
    """List, choose, run."""
    args = build_parser().parse_args(argv)
    for flag, folder in (("--data", args.data), ("--root", args.root)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{flag} {folder}: no such directory")
    launcher_words(args.launcher)

    listed = chosen(args)
    if args.count:
        print(len(listed))
        return 0
    todo = [entry for entry in listed if entry.is_to_run]
    print(listing(listed) or "nothing of this scale")
    count = f"{len(todo)} of {len(listed)} to run, about {minutes_of(todo):.0f} min"
    print(f"{count}; run directories in {args.out}", flush=True)
    if any(entry.state == "measured at this commit" for entry in listed):
        print("what was measured at this commit is left out; --again measures it here")
    if args.dry_run:
        return 0

    signal.signal(signal.SIGTERM, _stop)
    failed = run_all(todo, args)
    print(f"{len(todo) - failed} done, {failed} failed; side by side: python compare.py {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
