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
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from common.cli import OneLineParser, UserError, folder_path, run_main, whole
from common.text import read_json
from sidebyside.records import load_rows
from sidebyside.results import OURS, PAPERS, is_sample_row

ROOT = Path(__file__).resolve().parent.parent
SCALES = ("sample", "small", "full")
SMALL = 60.0  # minutes an experiment may take and still be small
UNKNOWN = 5.0  # minutes, where nothing says how long
_OWN_FLAGS = ("output_dir", "resume", "overwrite")  # set here
_PLACEHOLDER = re.compile(r"(^|:)\$?\w*(DIR|RUN|NAME|PATH|FILE|WEIGHTS|PRETRAINED|CHECKPOINT)$|^\$")
_DATA = re.compile(r"(^|[=:])DATA(?=/|$)")


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
    """Every experiment there is, in a fixed order: paper by paper the commands of ours.csv, each once.

    UserError, with file and line, where an ours.csv cannot be read.
    """
    found: dict[tuple, Experiment] = {}
    for paper in PAPERS:
        path = root / paper / "results" / "ours.csv"
        groups: dict[str, list[dict[str, str]]] = {}
        for row in load_rows(path, paper, OURS) if path.exists() else ():
            groups.setdefault(row.cells["command"].strip(), []).append(row.cells)
        groups.pop("", None)
        for command, rows in groups.items():
            for experiment in from_rows(root / paper, command, rows):
                found[paper, shlex.join(experiment.arguments)] = experiment
    return list(found.values())


def from_rows(folder: Path, command: str, rows: Sequence[dict[str, str]]) -> list[Experiment]:
    """The experiments behind the rows of one command: one for each seed if it has --seed, else one."""
    # figures of one run share its name and its minutes
    measured = {(row["run"], row["minutes"]) for row in rows if row["minutes"].strip()}
    minutes = sum(float(minutes) for _, minutes in measured) or None
    commits = tuple(dict.fromkeys(row["commit"] for row in rows))
    scale = _scale(minutes, is_sample=any(is_sample_row(row) for row in rows))

    arguments, by_hand = cleaned(folder, command)
    seeds = sorted({int(float(seed)) for row in rows for seed in row["seeds"].split()})
    at = next((k for k, a in enumerate(arguments) if re.fullmatch(r"--?seed(=\d+)?", a)), None)
    if at is None or not seeds or by_hand:
        return [Experiment(folder.name, scale, arguments, minutes, commits, by_hand)]

    rest = arguments[:at] + arguments[at + (1 if "=" in arguments[at] else 2) :]
    share = minutes / len(seeds) if minutes else None
    return [
        Experiment(folder.name, scale, (*rest, "--seed", str(s)), share, commits) for s in seeds
    ]


def _scale(minutes: float | None, *, is_sample: bool) -> str:
    if is_sample:
        return "sample"
    return "small" if minutes is not None and minutes <= SMALL else "full"


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
    named = next(
        (w for w in rest if _PLACEHOLDER.search(w.partition("=")[2] or w) and w != "DATA"), ""
    )
    return (script, *rest), f"needs your own {named}" if named else ""


def changed_since(commit: str, paper: str, root: Path = ROOT) -> bool:
    """Whether code of the paper or of common differs from what `commit` had; True where git cannot tell."""
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
    digest = hashlib.sha256()
    for path in sorted(p for folder in (paper, "common") for p in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def state_of(
    experiment: Experiment, out: Path, data: Path | None, again: bool, root: Path = ROOT
) -> str:
    """`run`, `start over`, or the reason why it is left out. OUT/NAME.json holds the code that it last ran with."""
    if experiment.by_hand:
        return f"by hand: {experiment.by_hand}"
    if not (root / experiment.paper / experiment.arguments[0]).is_file():
        return f"no {experiment.paper}/{experiment.arguments[0]}"
    if data is None and any(_DATA.search(a) for a in experiment.arguments):
        return "needs --data"
    absent = _absent(experiment, data) if data is not None else ""
    if absent:
        return f"needs {absent}, which is not there"

    note = out / f"{experiment.name}.json"
    if note.exists():
        past = _past(note)
        if past.get("code") != fingerprint(experiment.paper, root):
            return "start over"
        if past.get("finished") is True:
            return "start over" if again else "measured here"
    if again or not experiment.commits:
        return "run"
    is_changed = any(changed_since(commit, experiment.paper, root) for commit in experiment.commits)
    return "run" if is_changed else "measured at this commit"


def _past(note: Path) -> dict[str, object]:
    """What was written of an earlier run; {} where that is damaged, so that nothing goes on with unknown code."""
    try:
        return read_json(note, dict)
    except UserError:
        return {}


def _absent(experiment: Experiment, data: Path) -> str:
    """The first folder or file below DATA that the command names and that is not there; "" if all are."""
    for argument in experiment.arguments:
        if not _DATA.search(argument):
            continue
        path = Path(placed(argument, data).rpartition("=")[2].rpartition(":")[2])
        is_pattern = any(sign in path.name for sign in "*?[")
        if not is_pattern and not path.exists() and not any(path.parent.glob(f"{path.name}.*")):
            return str(path)
    return ""


def placed(argument: str, data: Path | None) -> str:
    """The argument with the folder of the data in the place of DATA."""
    folder = str(data.resolve()) if data else "DATA"
    return _DATA.sub(lambda match: match.group(1) + folder, argument)


def launcher_words(text: str) -> list[str]:
    """What stands before the script, as separate words; this Python where `text` is empty.

    UserError for quotes that do not close and for a program that is not there. The program is looked for from here,
    though the scripts run in their papers' folders.
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
    """The whole command: launcher, script, arguments with the data's place, run directory, --resume or --overwrite."""
    arguments = [placed(argument, args.data) for argument in experiment.arguments]
    place = ["--output_dir", str((args.out / experiment.name).resolve())]
    return [
        *launcher_words(args.launcher),
        *arguments,
        *place,
        "--overwrite" if state == "start over" else "--resume",
    ]


def run(command: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command in `folder`, its output in `log`; a signal to us is passed on, so that the run saves itself."""
    with log.open("a", encoding="utf-8") as file:
        print(f"$ {shlex.join(command)}", file=file, flush=True)
        child = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


def write_note(path: Path, code: str, *, finished: bool) -> None:
    """Write which code a run directory's run is of, and whether it came to its end; the file appears whole."""
    part = path.with_name(f".{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps({"code": code, "finished": finished}))
    part.replace(path)


def run_all(todo: Sequence[tuple[Experiment, str]], args: argparse.Namespace, root: Path) -> int:
    """Run one after the other; returns how many failed. The estimate is scaled by how this machine has done so far."""
    failed = 0
    expected = 0.0
    spent = 0.0
    with tqdm(todo, unit="experiment") as bar:
        for number, (experiment, state) in enumerate(bar):
            left = sum(e.minutes or UNKNOWN for e, _ in todo[number:]) * (
                spent / expected if spent else 1.0
            )
            bar.set_postfix_str(f"about {left:.0f} min left, {experiment.name}")
            start = time.monotonic()
            log = args.out / f"{experiment.name}.log"
            note = args.out / f"{experiment.name}.json"
            code = fingerprint(experiment.paper, root)
            write_note(note, code, finished=False)
            status = run(command_of(experiment, state, args), root / experiment.paper, log)
            if status == 0:
                write_note(note, code, finished=True)
            spent += (time.monotonic() - start) / 60
            expected += experiment.minutes or UNKNOWN
            if status in (130, 143, -signal.SIGTERM, -signal.SIGINT):
                raise SystemExit(130 if status in (130, -signal.SIGINT) else 143)
            if status:
                failed += 1
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                last = next((line for line in reversed(lines) if line.strip()), "no output")
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
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default="sample",
        help="each holds the ones before it, but sample",
    )
    parser.add_argument(
        "--paper", choices=PAPERS, action="append", help="only this one (may be given again)"
    )
    parser.add_argument(
        "--data", type=folder_path, default=None, help="stands for DATA in the commands"
    )
    parser.add_argument(
        "--out",
        type=folder_path,
        default=ROOT / "runs" / "reproduce",
        help="run directories and logs",
    )
    parser.add_argument(
        "--launcher", default="", help='instead of python, for instance "accelerate launch"'
    )
    parser.add_argument(
        "--again", action="store_true", help="also what was measured at this commit"
    )
    parser.add_argument(
        "--index", type=whole(0), default=None, help="only this one of the list (Slurm array)"
    )
    parser.add_argument("--dry_run", action="store_true", help="list, run nothing")
    parser.add_argument("--root", type=folder_path, default=ROOT, help="the repository")
    return parser


def _stop(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main(argv: list[str] | None = None) -> int:
    """List, choose, run."""
    args = build_parser().parse_args(argv)
    for flag, folder in (("--data", args.data), ("--root", args.root)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{flag} {folder}: no such directory")
    launcher_words(args.launcher)

    scales = {"sample": ("sample",), "small": ("small",), "full": ("small", "full")}[args.scale]
    wanted = [
        e for e in experiments(args.root) if e.paper in (args.paper or PAPERS) and e.scale in scales
    ]
    rows = [
        (k, e, state_of(e, args.out, args.data, args.again, args.root))
        for k, e in enumerate(wanted)
    ]
    if args.index is not None:
        if args.index >= len(rows):
            there = f"0 to {len(rows) - 1}" if rows else "none"
            raise UserError(
                f"--index {args.index}: no such experiment; there are {there} (see --dry_run)"
            )
        rows = [row for row in rows if row[0] == args.index]
    todo = [(e, state) for _, e, state in rows if state in ("run", "start over")]
    print(listing(rows) or "nothing of this scale")
    total = sum(e.minutes or UNKNOWN for e, _ in todo)
    print(
        f"{len(todo)} of {len(rows)} to run, about {total:.0f} min; run directories in {args.out}",
        flush=True,
    )
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
