"""Run again what stands behind results/ours.csv: resumable, and only what this commit has not measured yet.

    python scripts/reproduce.py --scale sample --dry_run       # what would run, with the minutes it is expected to take
    python scripts/reproduce.py --scale small --data DATA      # real data, each experiment within an hour
    python scripts/reproduce.py --scale full --data DATA --launcher "accelerate launch"
    python scripts/reproduce.py --scale full --data DATA --index 3    # one of them: scripts/reproduce.slurm

An experiment is a command of ours.csv, once for each seed where the command names one. Its run directory is OUT/NAME;
stopped at any point, the same command goes on. Afterwards: python compare.py OUT
"""

import common.interrupt  # noqa: F401

import argparse
import csv
import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from common.cli import OneLineParser, UserError, run_main
from sidebyside.results import PAPERS

ROOT = Path(__file__).resolve().parent.parent
SCALES = ("sample", "small", "full")
SMALL = 60.0  # minutes an experiment may take and still be small
UNKNOWN = 5.0  # minutes, where nothing says how long
_OWN_FLAGS = ("output_dir", "resume", "overwrite")  # set here
_PLACEHOLDER = re.compile(r"^\$?\w*(DIR|RUN|NAME|PATH)$|^\$")
_DATA = re.compile(r"(^|=)DATA(?=/|$)")


@dataclass(frozen=True)
class Experiment:
    """One command: `arguments` start with the script. `commits`: where ours.csv says it was measured."""

    paper: str
    scale: str
    arguments: tuple[str, ...]
    minutes: float | None = None
    commits: tuple[str, ...] = ()
    by_hand: str = ""

    @property
    def name(self) -> str:
        """PAPER/WORDS-HASH, the run directory below OUT."""
        words = re.sub(r"[^A-Za-z0-9]+", "_", " ".join(self.arguments)).strip("_")
        return f"{self.paper}/{words[:60]}-{hashlib.sha256(shlex.join(self.arguments).encode()).hexdigest()[:6]}"


def experiments(root: Path = ROOT) -> list[Experiment]:
    """Every experiment there is, in a fixed order: paper by paper the commands of ours.csv, each once."""
    found: dict[tuple, Experiment] = {}
    for paper in PAPERS:
        path, groups = root / paper / "results" / "ours.csv", {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    groups.setdefault(row.get("command") or "", []).append(row)
        for command, rows in groups.items():
            for experiment in from_rows(root / paper, command, rows) if command else ():
                found[paper, shlex.join(experiment.arguments)] = experiment
    return list(found.values())


def from_rows(folder: Path, command: str, rows: Sequence[dict[str, str]]) -> list[Experiment]:
    """The experiments behind the rows of one command: one for each seed if it has --seed, else one."""
    measured = {(row["run"], row["minutes"]) for row in rows if row.get("minutes")}  # figures of one run share both
    minutes = sum(float(minutes) for _, minutes in measured) or None
    commits = tuple(dict.fromkeys(row.get("commit") or "" for row in rows))
    is_sample = bool(re.search(r"(^|\s)--?sample(\s|$)", command)) or "sample" in rows[0]["dataset"].lower()
    scale = "sample" if is_sample else "small" if minutes is not None and minutes <= SMALL else "full"
    arguments, by_hand = cleaned(folder, command)
    seeds = sorted({seed for row in rows for seed in (row.get("seeds") or "").split()}, key=int)
    at = next((k for k, a in enumerate(arguments) if re.fullmatch(r"--?seed(=\d+)?", a)), None)
    if at is None or not seeds or by_hand:
        return [Experiment(folder.name, scale, arguments, minutes, commits, by_hand)]
    rest = arguments[:at] + arguments[at + (1 if "=" in arguments[at] else 2) :]
    share = minutes / len(seeds) if minutes else None
    return [Experiment(folder.name, scale, (*rest, "--seed", s), share, commits) for s in seeds]


def cleaned(folder: Path, command: str) -> tuple[tuple[str, ...], str]:
    """Script and arguments, without interpreter and run directory; and why it can only run by hand, if so."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return (command,), "cannot be read as a command"
    at = next((k for k, word in enumerate(words) if word.endswith(".py")), None)
    if at is None or re.search(r"[;&|<>]|\bfor\b|\$\(", command):
        return (command,), "is more than one command"
    script = words[at].rpartition(f"{folder.name}/")[2]
    rest, skip = [], False
    for word, following in zip(words[at + 1 :], [*words[at + 2 :], "-"], strict=False):
        flag = word.lstrip("-").partition("=")[0] if word.startswith("-") else None
        if flag in _OWN_FLAGS:
            skip = flag != "overwrite" and "=" not in word and not following.startswith("-")
        elif not skip:
            rest.append(word)
        else:
            skip = False
    named = next((w for w in rest if _PLACEHOLDER.search(w.partition("=")[2] or w) and w != "DATA"), "")
    return (script, *rest), f"needs your own {named}" if named else ""


def changed_since(commit: str, paper: str, root: Path = ROOT) -> bool:
    """Whether code of the paper or of common differs from what `commit` had; True where git cannot tell."""
    if not re.fullmatch(r"[0-9a-f]{7,40}", commit):  # unknown, or measured with uncommitted changes
        return True
    paths = [f":(glob){folder}/**/*.py" for folder in (paper, "common")]
    done = subprocess.run(["git", "-C", str(root), "diff", "--quiet", commit, "--", *paths], capture_output=True)
    return done.returncode != 0


def fingerprint(paper: str, root: Path = ROOT) -> str:
    """A hash of the paper's code and of common's, committed or not."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in (paper, "common") for p in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def state_of(experiment: Experiment, out: Path, data: Path | None, again: bool, root: Path = ROOT) -> str:
    """`run`, `start over`, or the reason why it is left out. OUT/NAME.json holds the code that it last ran with."""
    if experiment.by_hand:
        return f"by hand: {experiment.by_hand}"
    if not (root / experiment.paper / experiment.arguments[0]).is_file():
        return f"no {experiment.paper}/{experiment.arguments[0]}"
    if data is None and any(_DATA.search(a) for a in experiment.arguments):
        return "needs --data"
    try:
        past = json.loads((out / f"{experiment.name}.json").read_text())
    except (OSError, ValueError):
        past = None
    if past is not None and past["code"] != fingerprint(experiment.paper, root):
        return "start over"
    if past is not None and past["finished"]:
        return "start over" if again else "measured here"
    if (
        not again
        and experiment.commits
        and not any(changed_since(c, experiment.paper, root) for c in experiment.commits)
    ):
        return "measured at this commit"
    return "run"


def command_of(experiment: Experiment, state: str, args: argparse.Namespace) -> list[str]:
    """The whole command: launcher, script, arguments with the data's place, run directory, --resume or --overwrite."""
    launcher = shlex.split(args.launcher) if args.launcher else [sys.executable]
    put = str(args.data.resolve()) if args.data else "DATA"
    arguments = [_DATA.sub(lambda m: m.group(1) + put, a) for a in experiment.arguments]
    place = ["--output_dir", str((args.out / experiment.name).resolve())]
    return [*launcher, *arguments, *place, "--overwrite" if state == "start over" else "--resume"]


def run(command: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command in `folder`, its output in `log`; a signal to us is passed on, so that the run saves itself."""
    with log.open("a") as file:
        print(f"$ {shlex.join(command)}", file=file, flush=True)
        child = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


def run_all(todo: Sequence[tuple[Experiment, str]], args: argparse.Namespace, root: Path) -> int:
    """Run one after the other; returns how many failed. The estimate is scaled by how this machine has done so far."""
    failed, expected, spent = 0, 0.0, 0.0
    with tqdm(todo, unit="experiment") as bar:
        for number, (experiment, state) in enumerate(bar):
            left = sum(e.minutes or UNKNOWN for e, _ in todo[number:]) * (spent / expected if spent else 1.0)
            bar.set_postfix_str(f"about {left:.0f} min left, {experiment.name}")
            start, log = time.monotonic(), args.out / f"{experiment.name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            note = {"code": fingerprint(experiment.paper, root), "finished": False}
            log.with_suffix(".json").write_text(json.dumps(note))
            status = run(command_of(experiment, state, args), root / experiment.paper, log)
            if status == 0:
                log.with_suffix(".json").write_text(json.dumps({**note, "finished": True}))
            spent, expected = spent + (time.monotonic() - start) / 60, expected + (experiment.minutes or UNKNOWN)
            if status in (130, 143, -signal.SIGTERM, -signal.SIGINT):
                raise SystemExit(130 if status in (130, -signal.SIGINT) else 143)
            if status:
                failed += 1
                last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1]
                tqdm.write(f"failed ({status}): {experiment.name}: {last} (all of it: {log})")
    return failed


def listing(rows: Iterable[tuple[int, Experiment, str]]) -> str:
    """One line for each experiment: index, state, minutes, command."""
    lines = []
    for index, e, state in rows:
        minutes = f"{e.minutes:6.1f} min" if e.minutes else "     ? min"
        lines.append(f"{index:3d}  {minutes}  {e.paper}: {' '.join(e.arguments)}  [{state}]")
    return "\n".join(lines)


def build_parser() -> OneLineParser:
    """The command line."""
    parser = OneLineParser(prog="reproduce.py", description=__doc__.split("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default="sample", help="each holds the ones before it, but sample")
    parser.add_argument("--paper", choices=PAPERS, action="append", help="only this one (may be given again)")
    parser.add_argument("--data", type=Path, default=None, help="stands for DATA in the commands")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "reproduce", help="run directories and logs")
    parser.add_argument("--launcher", default="", help='instead of python, for instance "accelerate launch"')
    parser.add_argument("--again", action="store_true", help="also what was measured at this commit")
    parser.add_argument("--index", type=int, default=None, help="only this one of the list (Slurm array)")
    parser.add_argument("--dry_run", action="store_true", help="list, run nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    return parser


def _stop(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main(argv: list[str] | None = None) -> int:
    """List, choose, run."""
    args = build_parser().parse_args(argv)
    if args.data is not None and not args.data.is_dir():
        raise UserError(f"--data {args.data}: no such directory")
    scales = {"sample": ("sample",), "small": ("small",), "full": ("small", "full")}[args.scale]
    wanted = [e for e in experiments(args.root) if e.paper in (args.paper or PAPERS) and e.scale in scales]
    rows = [(k, e, state_of(e, args.out, args.data, args.again, args.root)) for k, e in enumerate(wanted)]
    if args.index is not None:
        rows = [row for row in rows if row[0] == args.index]
    todo = [(e, state) for _, e, state in rows if state in ("run", "start over")]
    print(listing(rows) or "nothing of this scale")
    total = sum(e.minutes or UNKNOWN for e, _ in todo)
    print(f"{len(todo)} of {len(rows)} to run, about {total:.0f} min; run directories in {args.out}", flush=True)
    if any(state == "measured at this commit" for *_, state in rows):
        print("what was measured at this commit is left out; --again measures it here")
    if args.dry_run:
        return 0
    signal.signal(signal.SIGTERM, _stop)
    failed = run_all(todo, args, args.root)
    print(f"{len(todo) - failed} done, {failed} failed; side by side: python compare.py {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
