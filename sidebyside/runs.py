"""Run directories given on the command line: found, read in whatever state, named, put together.

What cannot be read is told in one line for each run, and the rest is shown.
"""

import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.cli import FREE_SETTINGS, UserError
from common.text import read_json
from sidebyside.metrics import is_number, metric_lines
from sidebyside.wording import show

ROOT = Path(__file__).resolve().parent.parent


class Mark(NamedTuple):
    """How a paper's runs are known, and which of their settings name the method and the data."""

    setting: str  # that only this paper's scripts have
    method: tuple[str, ...]
    data: tuple[str, ...]  # the first one that is set


MARKS = {
    "cavl": Mark("partial_type", ("method", "cav", "mask"), ("ds",)),
    "oass": Mark("alpha_schedule_re", ("strategy",), ("data_dir",)),
    "calm": Mark("attribution_method", ("attribution_method",), ("dataset_name",)),
    "csl": Mark("partial_loss_mode", ("recipe", "partial_loss_mode"), ("dataset", "data")),
    "mile": Mark("schema", ("schema",), ("dataset",)),
}
_OTHER = Mark("", ("method",), ("dataset", "data", "data_dir"))
_SET = {"seed", "seeds", "compare", "fold", "tag", "experiment_name", "sample"}
_NOT_THE_EXPERIMENT = FREE_SETTINGS | _SET
_PLAIN = {"method", "schema", "strategy", "attribution_method", "partial_loss_mode", "recipe"}


@dataclass(frozen=True)
class RunFolder:
    """A finished or unfinished run: settings and command (config.json), summary, metric lines.

    `faults`: what of it could not be read; empty for a run in order. `says_sample`: what
    config.json says, if it does.
    """

    path: Path
    settings: dict[str, Any]
    command: str
    commit: str
    summary: dict[str, Any]
    lines: tuple[dict[str, Any], ...]
    faults: tuple[str, ...] = ()
    says_sample: bool | None = None

    @property
    def paper(self) -> str | None:
        """Which paper's script made it: known by a setting that only that script has."""
        for name, mark in MARKS.items():
            if mark.setting in self.settings:
                return name
        return None

    @property
    def mark(self) -> Mark:
        """Where its settings name the method and the data."""
        return MARKS.get(self.paper or "", _OTHER)

    @property
    def method(self) -> str:
        """The setting that names the method; "" where there is none."""
        return self._first_set(self.mark.method)

    @property
    def data(self) -> str:
        """The setting that names the data set, of a path its last part; "" where there is none."""
        return self._first_set(self.mark.data)

    def _first_set(self, keys: Sequence[str]) -> str:
        for key in keys:
            value = self.settings.get(key)
            if value not in (None, "", "auto"):
                return _last_part(value)
        return ""

    @property
    def seed(self) -> int | None:
        """The seed, 0 where none was given (calm); None where the setting is no whole number."""
        return _seed(self.settings)

    @property
    def is_finished(self) -> bool:
        """Whether it has a summary."""
        return bool(self.summary)

    @property
    def is_sample(self) -> bool | None:
        """Whether it ran on the offline sample; None where neither it nor its data tell."""
        if self.settings.get("sample"):
            return True
        for told in (self.says_sample, self.summary.get("offline_sample")):
            if isinstance(told, bool):
                return told
        if any(map(self._is_drawn_sample, self.settings.values())):
            return True
        return None

    def _is_drawn_sample(self, value: object) -> bool:
        """Whether a setting is the path of one; a relative path also counts from PAPER/."""
        if not isinstance(value, str) or "/" not in value or "\0" in value:
            return False
        homes = [Path.cwd()]
        if self.paper:
            homes.append(ROOT / self.paper)
        markers = [home / value / "SAMPLE.json" for home in homes]
        return any(map(os.path.isfile, markers))

    @property
    def experiment(self) -> dict[str, Any]:
        """The settings that make the experiment: all but the seed and where and how it ran."""
        settings = self.settings.items()
        return {name: value for name, value in settings if name not in _NOT_THE_EXPERIMENT}


def _seed(settings: dict[str, Any]) -> int | None:
    seed = settings.get("seed")
    if seed is None:
        return 0
    if isinstance(seed, bool) or not isinstance(seed, int):
        return None
    return seed


# --- finding and reading ---


def find(folders: Iterable[Path]) -> tuple[list[RunFolder], list[str]]:
    """All run directories in and below the folders; a line for each that cannot be shown (whole).

    A run that started others inside its own folder (several seeds or methods) stands back behind
    them.
    """
    found: dict[Path, RunFolder] = {}
    told: list[str] = []
    for folder in folders:
        places, problems = _places(Path(folder))
        told += problems
        for place in places:
            if place.resolve() in found:
                continue
            try:
                run = read_run(place)
            except UserError as error:
                told.append(f"{error}; this run is left out")
            else:
                found[place.resolve()] = run
                if run.faults:
                    told.append(f"{place}: {'; '.join(run.faults)}; the rest of this run is shown")
    shown = [run for place, run in found.items() if not _is_parent(run, place, found)]
    return shown, told


def _is_parent(run: RunFolder, place: Path, found: Iterable[Path]) -> bool:
    starts_others = run.settings.get("seeds") or run.settings.get("compare")
    return bool(starts_others) and any(place in other.parents for other in found)


def _places(folder: Path) -> tuple[list[Path], list[str]]:
    """The folders in and below `folder` that look like a run, and why there are none or not all."""
    if not os.path.exists(folder):  # noqa: PTH110 - Path's raises where a folder above is closed
        return [], [f"{folder}: no such directory; name run directories, or folders that hold some"]
    if not os.path.isdir(folder):  # noqa: PTH112
        return [], [f"{folder}: is a file; name the run directory that holds it"]

    problems: list[str] = []

    def closed(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")

    places = []
    for here, inner, files in os.walk(folder, onerror=closed):
        inner.sort(key=natural)
        if _looks_like_run({*inner, *files}, is_named=Path(here) == folder):
            places.append(Path(here))
    if not places and not problems:
        problems.append(f"{folder}: holds no run (config.json and metrics.jsonl)")
    return places, problems


def _looks_like_run(names: set[str], *, is_named: bool) -> bool:
    """Whether a folder with these names in it is a run; one that the user named needs no more."""
    if "metrics.jsonl" in names:
        return True
    if "config.json" not in names:
        return False
    return is_named or bool(names & {"summary.json", "checkpoints"})


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts run-2 before run-10."""
    key = []
    for part in re.split(r"(\d{1,18})", name):
        if part.isdecimal():
            key.append((int(part), ""))
        else:
            key.append((-1, part))
    return key


def read_run(folder: Path) -> RunFolder:
    """A run, and the faults of its metrics and summary; UserError where its config is damaged."""
    path = folder / "config.json"
    config = read_json(path, dict)
    settings = config.get("settings")
    if not isinstance(settings, dict):
        raise UserError(f"{path}: no settings, an object, in it")

    faults: list[str] = []
    if _seed(settings) is None:
        faults.append("config.json: the seed is no whole number")
    lines = _lines(folder / "metrics.jsonl", faults)
    summary = _summary(folder / "summary.json", faults)

    commit = config.get("commit")
    if not isinstance(commit, str):
        commit = ""
    says_sample = config.get("offline_sample")
    if not isinstance(says_sample, bool):
        says_sample = None
    return RunFolder(
        path=folder,
        settings=settings,
        command=_command(config),
        commit=commit,
        summary=summary,
        lines=tuple(lines),
        faults=tuple(faults),
        says_sample=says_sample,
    )


def _command(config: dict[str, Any]) -> str:
    """The command that started the run (the first launch), "" where config.json does not tell."""
    first: object = config
    launches = config.get("launches")
    if isinstance(launches, list) and launches:
        first = launches[0]
    if not isinstance(first, dict):
        return ""
    command = first.get("command")
    if not isinstance(command, str):
        return ""
    return command


def _lines(path: Path, faults: list[str]) -> list[dict[str, Any]]:
    if not os.path.lexists(path):  # nothing was logged yet
        return []
    try:
        lines, wrong = metric_lines(path)
    except UserError as error:
        faults.append(_told(error, path))
        return []
    if len(wrong) == 1:
        faults.append(f"{path.name}: {wrong[0]}")
    if len(wrong) > 1:
        faults.append(f"{path.name}: {wrong[0]} and {len(wrong) - 1} more")
    return lines


def _summary(path: Path, faults: list[str]) -> dict[str, Any]:
    if not os.path.lexists(path):  # not finished
        return {}
    try:
        return read_json(path, dict)
    except UserError as error:
        faults.append(_told(error, path))
        return {}


def _told(error: UserError, path: Path) -> str:
    """An error's text with the file's name in the place of its path: the folder is told already."""
    return str(error).replace(str(path), path.name)


# --- naming and grouping ---


def names(runs: Sequence[RunFolder]) -> dict[Path, str]:
    """A name for each run: its folder's, with as many before it as tell it from the others."""
    parts = {run.path: run.path.resolve().parts for run in runs}
    told: dict[Path, str] = {}
    for path, own in parts.items():
        others = [other for key, other in parts.items() if key != path]
        depth = 1
        while depth < len(own) and any(other[-depth:] == own[-depth:] for other in others):
            depth += 1
        told[path] = "/".join(own[-depth:])
    return told


def name_of(group: Sequence[RunFolder], named: dict[Path, str]) -> str:
    """The name of runs that are drawn as one line: one, both, or the first and the last of them."""
    own = sorted((named[run.path] for run in group), key=natural)
    if len(own) <= 2:
        return ", ".join(own)
    return f"{own[0]} … {own[-1]}"


def groups(
    runs: Sequence[RunFolder], named: dict[Path, str] | None = None
) -> dict[str, list[RunFolder]]:
    """Runs that differ only in seed (or fold), under their name, method and what else differs.

    A run with a seed that its group has already (a copy, a second try) is a group of its own, so
    that no mean counts one seed twice.
    """
    named = named or names(runs)
    together: dict[tuple[str, int], list[RunFolder]] = defaultdict(list)
    times: dict[tuple[object, ...], int] = defaultdict(int)
    for run in runs:
        experiment = json.dumps(run.experiment, sort_keys=True, default=str)
        same = (experiment, run.seed, str(run.settings.get("fold")))
        together[experiment, times[same]].append(run)
        times[same] += 1

    varied = _varied([group[0] for group in together.values()])
    labels: dict[str, list[RunFolder]] = {}
    for group in together.values():
        label = name_of(group, named)
        told = _told_apart(group[0], varied[:4])
        if told:
            label += f": {', '.join(told)}"
        labels[label] = group
    return labels


def _told_apart(run: RunFolder, keys: Sequence[str]) -> list[str]:
    """The method of a run, and what its settings `keys` are."""
    settings = run.experiment
    told = [_short(key, settings.get(key)) for key in keys]
    if run.method and _PLAIN.isdisjoint(keys):
        told.insert(0, run.method)
    return told


def _varied(firsts: Sequence[RunFolder]) -> list[str]:
    """The settings in which experiments differ; those of the method alone where these suffice."""
    if not firsts:
        return []
    experiments = [run.experiment for run in firsts]
    keys = dict.fromkeys(itertools.chain.from_iterable(experiments))
    varied = [key for key in keys if _kinds(experiments, [key]) > 1]
    methods = [key for key in firsts[0].mark.method if key in varied]
    if methods and _kinds(experiments, methods) == len(experiments):
        return methods
    return varied


def _kinds(experiments: Sequence[dict[str, Any]], keys: Sequence[str]) -> int:
    """How many different values the settings `keys` have among the experiments."""
    found = set()
    for experiment in experiments:
        values = map(experiment.get, keys)
        found.add(tuple(map(str, values)))
    return len(found)


def _short(key: str, value: Any) -> str:
    text = _last_part(value)
    if key in _PLAIN:
        return text
    return f"{key} {text}"


def _last_part(value: Any) -> str:
    """The last part of a path; any other value as text, at most 40 characters of it."""
    text = re.sub(r".*/(?=.)", "", str(value)).rstrip("/")
    if len(text) <= 40:
        return text
    return f"{text[:39]}…"


class Told(NamedTuple):
    """What a table says of a run besides its name."""

    seed: str
    kind: str
    epochs: str
    figures: str


def told_of(run: RunFolder) -> Told:
    """The seed, `sample` or `real`, the last epoch with a metric, the first figure."""
    kind = {True: "sample", False: "real", None: "not told"}[run.is_sample]
    seed = "?"
    if run.seed is not None:
        seed = str(run.seed)
    epochs = "none"
    if run.lines:
        epochs = show(max(line["epoch"] for line in run.lines))
    return Told(seed, kind, epochs, _first_figure(run))


def _first_figure(run: RunFolder) -> str:
    """The first figure of the summary with its name, or why there is none."""
    for name, value in run.summary.items():
        if _is_figure(name, value):
            return f"{name} {show(value)}"
    if run.is_finished:
        return "no figure"
    return "unfinished"


def _is_figure(name: str, value: object) -> bool:
    """Whether a summary's entry is a measured figure: whole numbers are counts (epochs, images)."""
    return isinstance(value, float) and is_number(value) and "second" not in name
