"""Run directories given on the command line: found, read in whatever state they are, named, and put together.

What cannot be read is told in one line for each run, and the rest is shown.
"""

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
    """How the runs of a paper are known, and which of their settings name the method and the data."""

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

    `faults`: what of it could not be read; empty for a run in order. `says_sample`: what config.json says, if it does.
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
        return next((name for name, mark in MARKS.items() if mark.setting in self.settings), None)

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
        known = (self.settings.get(key) for key in keys)
        return next((_last_part(value) for value in known if value not in (None, "", "auto")), "")

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
        """Whether it ran on the offline sample, asked for or not; None where neither it nor its data tell."""
        if self.settings.get("sample"):
            return True
        for told in (self.says_sample, self.summary.get("offline_sample")):
            if isinstance(told, bool):
                return told
        return True if self._has_marker() else None

    def _has_marker(self) -> bool:
        """Whether a path among its settings is a drawn sample; relative ones count from the paper's folder too."""
        paths = [
            v for v in self.settings.values() if isinstance(v, str) and "/" in v and "\0" not in v
        ]
        homes = [Path.cwd(), *([ROOT / self.paper] if self.paper else [])]
        return any(os.path.isfile(home / path / "SAMPLE.json") for home in homes for path in paths)  # noqa: PTH113

    @property
    def experiment(self) -> dict[str, Any]:
        """The settings that make the experiment: all but the seed and where and how it ran."""
        return {k: v for k, v in self.settings.items() if k not in _NOT_THE_EXPERIMENT}


def _seed(settings: dict[str, Any]) -> int | None:
    seed = settings.get("seed")
    if seed is None:
        return 0
    is_whole = isinstance(seed, int) and not isinstance(seed, bool)
    return seed if is_whole else None


# --- finding and reading ---


def find(folders: Iterable[Path]) -> tuple[list[RunFolder], list[str]]:
    """All run directories in and below the folders, and a line for whatever is there and cannot be shown (whole).

    A run that started others inside its own folder (several seeds or methods) stands back behind them.
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
    return [run for place, run in found.items() if not _is_parent(run, place, found)], told


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
        names = {*inner, *files}
        has_config = "config.json" in names
        is_run = "metrics.jsonl" in names or (
            has_config and names & {"summary.json", "checkpoints"}
        )
        if is_run or (has_config and Path(here) == folder):
            places.append(Path(here))
    if not places and not problems:
        problems.append(f"{folder}: holds no run (config.json and metrics.jsonl)")
    return places, problems


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts run-2 before run-10."""
    parts = re.split(r"(\d{1,18})", name)
    return [(int(part), "") if k % 2 else (-1, part) for k, part in enumerate(parts)]


def read_run(folder: Path) -> RunFolder:
    """A run, with its faults where metrics or summary are damaged; UserError where its config tells nothing."""
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
    says_sample = config.get("offline_sample")
    return RunFolder(
        path=folder,
        settings=settings,
        command=_command(config),
        commit=commit if isinstance(commit, str) else "",
        summary=summary,
        lines=tuple(lines),
        faults=tuple(faults),
        says_sample=says_sample if isinstance(says_sample, bool) else None,
    )


def _command(config: dict[str, Any]) -> str:
    """The command that started the run (the first launch), "" where config.json does not tell."""
    launches = config.get("launches")
    first = launches[0] if isinstance(launches, list) and launches else config
    command = first.get("command") if isinstance(first, dict) else None
    return command if isinstance(command, str) else ""


def _lines(path: Path, faults: list[str]) -> list[dict[str, Any]]:
    if not os.path.lexists(path):  # nothing was logged yet
        return []
    try:
        lines, wrong = metric_lines(path)
    except UserError as error:
        faults.append(_told(error, path))
        return []
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        faults.append(f"{path.name}: {wrong[0]}{others}")
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
    """An error's text, with the file's name alone in the place of its path: the folder stands before it already."""
    return str(error).replace(str(path), path.name)


# --- naming and grouping ---


def names(runs: Sequence[RunFolder]) -> dict[Path, str]:
    """A name for each run: its folder's, with as many folders before it as tell it from the others."""
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
    """Runs that differ only in seed (or fold), each group under its folders' name, method and what else differs.

    A run with a seed that its group has already (a copy, a second try) is a group of its own, so that no mean counts
    one seed twice.
    """
    named = named or names(runs)
    together: dict[tuple[str, int], list[RunFolder]] = defaultdict(list)
    times: dict[tuple, int] = defaultdict(int)
    for run in runs:
        experiment = json.dumps(run.experiment, sort_keys=True, default=str)
        same = (experiment, run.seed, str(run.settings.get("fold")))
        together[experiment, times[same]].append(run)
        times[same] += 1

    varied = _varied([group[0] for group in together.values()])
    labels: dict[str, list[RunFolder]] = {}
    for group in together.values():
        settings = group[0].experiment
        told = [_short(key, settings.get(key)) for key in varied[:4]]
        if not any(key in _PLAIN for key in varied[:4]) and group[0].method:
            told.insert(0, group[0].method)
        label = f"{name_of(group, named)}: {', '.join(told)}" if told else name_of(group, named)
        labels[label] = group
    return labels


def _varied(firsts: Sequence[RunFolder]) -> list[str]:
    """The settings in which experiments differ; where those that name the method tell all apart, these alone."""
    experiments = [run.experiment for run in firsts]
    keys = dict.fromkeys(key for experiment in experiments for key in experiment)
    varied = [k for k in keys if len({str(e.get(k)) for e in experiments}) > 1]
    methods = [k for k in firsts[0].mark.method if k in varied] if firsts else []
    told = {tuple(str(e.get(k)) for k in methods) for e in experiments}
    return methods if methods and len(told) == len(experiments) else varied


def _short(key: str, value: Any) -> str:
    text = _last_part(value)
    return text if key in _PLAIN else f"{key} {text}"


def _last_part(value: Any) -> str:
    """The last part of a path; any other value as text, at most 40 characters of it."""
    text = re.sub(r".*/(?=.)", "", str(value)).rstrip("/")
    return text if len(text) <= 40 else f"{text[:39]}…"


class Told(NamedTuple):
    """What a table says of a run besides its name."""

    seed: str
    kind: str
    epochs: str
    figures: str


def told_of(run: RunFolder) -> Told:
    """The seed, `sample` or `real`, the last epoch with a metric, and the first figure of the summary."""
    kind = {True: "sample", False: "real", None: "not told"}[run.is_sample]
    last = max((line["epoch"] for line in run.lines), default=None)
    figures = [
        f"{name} {show(value)}" for name, value in run.summary.items() if _is_figure(name, value)
    ]
    state = "no figure" if run.is_finished else "unfinished"
    return Told(
        seed="?" if run.seed is None else str(run.seed),
        kind=kind,
        epochs="none" if last is None else show(last),
        figures=figures[0] if figures else state,
    )


def _is_figure(name: str, value: object) -> bool:
    """Whether a summary's entry is a measured figure: whole numbers are counts (epochs, images)."""
    return isinstance(value, float) and is_number(value) and "second" not in name
