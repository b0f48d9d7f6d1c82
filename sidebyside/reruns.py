"""The experiments behind results/ours.csv: the commands that measured its rows, to be run again."""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sidebyside.fullscale import Planned, load_planned
from sidebyside.records import load_rows
from sidebyside.results import OURS, PAPERS, is_sample_row

SCALES = ("sample", "small", "full")
SMALL = 60.0  # minutes an experiment may take and still be small
_OWN_FLAGS = ("output_dir", "resume", "overwrite")  # reproduce.py sets them
_OWN_WORDS = "DIR|RUN|OUT|NAME|PATH|FILE|WEIGHTS|PRETRAINED|CHECKPOINT"
_PLACEHOLDER = re.compile(rf"(^|:)\$?\w*({_OWN_WORDS})$|^\$")
_DATA = re.compile(r"(^|[=:])DATA(?=/|$)")
_SEVERAL = re.compile(r"[;&|<>]|\bfor\b|\$\(")
_SEED = re.compile(r"--?seed(=\d+)?")
_Cells = Mapping[str, str]


@dataclass(frozen=True)
class Experiment:
    """One command: `arguments` start with the script.

    `commits`: where ours.csv says it was measured; `runs`: the run directories that it names.
    `trained_by`: the name of the experiment whose run an evaluation looks at, if that is one.
    `planned`: of the paper's own settings, what it needs and decides.
    """

    paper: str
    scale: str
    arguments: tuple[str, ...]
    minutes: float | None = None
    commits: tuple[str, ...] = ()
    by_hand: str = ""
    runs: tuple[str, ...] = ()
    trained_by: str = ""
    planned: Planned | None = None

    @property
    def name(self) -> str:
        """PAPER/WORDS-HASH, the run directory below OUT."""
        words = re.sub(r"[^A-Za-z0-9]+", "_", " ".join(self.arguments)).strip("_")
        digest = hashlib.sha256(shlex.join(self.arguments).encode()).hexdigest()
        return f"{self.paper}/{words[:60]}-{digest[:6]}"

    @property
    def evaluated(self) -> str:
        """The run that --experiment_name gives to an evaluation, as FOLDER/METHOD-SEED; or ""."""
        script, *rest = self.arguments
        if script.startswith("eval_") and "--experiment_name" in rest[:-1]:
            return rest[rest.index("--experiment_name") + 1]
        return ""


# --- from the rows ---


def experiments(root: Path) -> list[Experiment]:
    """Every experiment there is, in a fixed order: each command of ours.csv once, trainings first.

    Then, paper by paper, the papers' own settings (full.toml). UserError, with file and place,
    where a file cannot be read.
    """
    found: list[Experiment] = []
    for paper in PAPERS:
        path = root / paper / "results" / "ours.csv"
        if path.exists():
            found += _of_paper(path, paper)
    for paper in PAPERS:
        found += [_of_planned(root / paper, planned) for planned in load_planned(root, paper)]
    return found


def _of_planned(folder: Path, planned: Planned) -> Experiment:
    arguments, by_hand = cleaned(folder, planned.command)
    return Experiment(
        paper=planned.paper,
        scale="full",
        arguments=arguments,
        minutes=60 * planned.gpu_hours,
        by_hand=by_hand,
        planned=planned,
    )


def _of_paper(path: Path, paper: str) -> list[Experiment]:
    groups: dict[str, list[_Cells]] = {}
    for row in load_rows(path, paper, OURS):
        if row.superseded_by:
            continue
        groups.setdefault(row.cells["command"].strip(), []).append(row.cells)
    groups.pop("", None)

    found: dict[tuple[str, ...], Experiment] = {}
    for command, rows in groups.items():
        for experiment in from_rows(path.parent.parent, command, rows):
            found[experiment.arguments] = experiment
    return trained_first(list(found.values()))


def trained_first(found: Sequence[Experiment]) -> list[Experiment]:
    """The experiments, evaluations after the trainings and with the names of theirs."""
    trainings = []
    evaluations = []
    for experiment in found:
        trained_by = _trained_by(experiment, found)
        if trained_by:
            evaluations.append(replace(experiment, trained_by=trained_by))
        else:
            trainings.append(experiment)
    return trainings + evaluations


def _trained_by(experiment: Experiment, others: Sequence[Experiment]) -> str:
    """The name of the first other experiment with the run that this one evaluates; "" if none."""
    run = experiment.evaluated.rpartition("/")[2]
    for other in others:
        if run and run in other.runs and not other.evaluated:
            return other.name
    return ""


def from_rows(folder: Path, command: str, rows: Sequence[_Cells]) -> list[Experiment]:
    """The experiments behind a command's rows: one for each seed if it names a seed, else one."""
    # figures of one run share its name and its minutes
    measured = {(row["run"], row["minutes"]) for row in rows if row["minutes"].strip()}
    minutes = sum(float(minutes) for _, minutes in measured) or None
    is_sample = any(map(is_sample_row, rows))

    arguments, by_hand = cleaned(folder, command)
    whole = Experiment(
        paper=folder.name,
        scale=_scale(minutes, is_sample=is_sample),
        arguments=arguments,
        minutes=minutes,
        commits=tuple(dict.fromkeys(row["commit"] for row in rows)),
        by_hand=by_hand,
        runs=tuple(" ".join(row["run"] for row in rows).split()),
    )
    seeds = sorted(set(map(_as_seed, " ".join(row["seeds"] for row in rows).split())))
    if by_hand or not seeds:
        return [whole]

    by_seed = _for_each_seed(whole, seeds)
    if not by_seed:
        return [whole]
    share = None
    if minutes is not None:
        share = minutes / len(seeds)
    return [replace(whole, arguments=own, minutes=share) for own in by_seed]


def _as_seed(text: str) -> int:
    return int(float(text))


def _for_each_seed(whole: Experiment, seeds: Sequence[int]) -> list[tuple[str, ...]]:
    """The arguments with each of the seeds; [] where the command names no single seed."""
    arguments = whole.arguments
    evaluated = re.fullmatch(r"(.*-)\d+", whole.evaluated)
    if evaluated is not None:  # of a run that has its seed in its name
        at = arguments.index(whole.evaluated)
        return [(*arguments[:at], f"{evaluated[1]}{seed}", *arguments[at + 1 :]) for seed in seeds]

    for at, argument in enumerate(arguments):
        if _SEED.fullmatch(argument):
            after = at + 1 if "=" in argument else at + 2
            rest = (*arguments[:at], *arguments[after:])
            return [(*rest, "--seed", str(seed)) for seed in seeds]
    return []


def _scale(minutes: float | None, *, is_sample: bool) -> str:
    if is_sample:
        return "sample"
    if minutes is not None and minutes <= SMALL:
        return "small"
    return "full"


# --- from a command ---


def cleaned(folder: Path, command: str) -> tuple[tuple[str, ...], str]:
    """Script and arguments, without interpreter and run directory; why by hand only, or ""."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return (command,), "cannot be read as a command"

    at = _script(words)
    if at is None or _SEVERAL.search(command):
        return (command,), "is more than one command"
    script = words[at].rpartition(f"{folder.name}/")[2]
    rest = _without_own_flags(words[at + 1 :])

    for word in rest:
        value = word.partition("=")[2] or word
        if word != "DATA" and _PLACEHOLDER.search(value):
            return (script, *rest), f"needs your own {word}"
    return (script, *rest), ""


def _script(words: Sequence[str]) -> int | None:
    """Where the script stands among the words."""
    for at, word in enumerate(words):
        if word.endswith(".py"):
            return at
    return None


def _without_own_flags(words: Sequence[str]) -> list[str]:
    """The words without --output_dir, --resume and --overwrite, and without the values of these."""
    rest = []
    may_be_value = False
    for word in words:
        flag = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and flag in _OWN_FLAGS:
            may_be_value = flag != "overwrite" and "=" not in word
        elif may_be_value and not word.startswith("-"):
            may_be_value = False
        else:
            may_be_value = False
            rest.append(word)
    return rest


def needs_data(experiment: Experiment) -> bool:
    """Whether its command names DATA, the folder of the data sets."""
    return any(map(_DATA.search, experiment.arguments))


def placed(argument: str, data: Path | None) -> str:
    """The argument with the folder of the data in the place of DATA."""
    if data is None:
        return argument
    folder = str(data.resolve())
    return _DATA.sub(lambda match: match.group(1) + folder, argument)


def absent(experiment: Experiment, data: Path) -> str:
    """The first path below DATA that the command names and that is not there; "" if all are."""
    for argument in filter(_DATA.search, experiment.arguments):
        path = Path(placed(argument, data).rpartition("=")[2].rpartition(":")[2])
        is_pattern = re.search(r"[*?[]", path.name)
        if not is_pattern and not path.exists() and not any(path.parent.glob(f"{path.name}.*")):
            return str(path)
    return ""
