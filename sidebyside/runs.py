"""Run directories given on the command line: curves to draw, and values by seed for the rows they stand behind."""

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import FREE_SETTINGS, UserError
from sidebyside.records import Paper, Row, with_values

# A setting that only this paper's scripts have, and the setting that names the method.
MARKS = {
    "cavl": ("partial_type", ("method", "cav", "mask")),
    "oass": ("alpha_schedule_re", ("strategy", "tag")),
    "calm": ("attribution_method", ("attribution_method",)),
    "csl": ("partial_loss_mode", ("partial_loss_mode", "recipe")),
    "mile": ("schema", ("schema",)),
}
_NOT_THE_EXPERIMENT = FREE_SETTINGS | {"seed", "seeds", "compare", "fold", "tag", "experiment_name", "sample"}
_SCALES = (1.0, 100.0)


@dataclass(frozen=True)
class RunFolder:
    """A finished or unfinished run: settings and command (config.json), summary, metric lines."""

    path: Path
    settings: dict[str, Any]
    command: str
    commit: str
    summary: dict[str, Any]
    lines: tuple[dict[str, Any], ...]

    @property
    def paper(self) -> str | None:
        """Which paper's script made it: known by a setting that only that script has."""
        return next((name for name, (mark, _) in MARKS.items() if mark in self.settings), None)

    @property
    def seed(self) -> int:
        """The seed; None means 0 (calm)."""
        return int(self.settings.get("seed") or 0)

    @property
    def is_sample(self) -> bool:
        """Whether it ran on the offline sample, asked for or not."""
        if self.settings.get("sample") or self.summary.get("offline_sample"):
            return True
        paths = (v for v in self.settings.values() if isinstance(v, str) and "/" in v)
        return any((Path(p) / "SAMPLE.json").is_file() for p in paths)

    @property
    def experiment(self) -> dict[str, Any]:
        """The settings that make the experiment: all but the seed and where and how it ran."""
        return {k: v for k, v in self.settings.items() if k not in _NOT_THE_EXPERIMENT}


def find(folders: Iterable[Path]) -> list[RunFolder]:
    """All run directories in and below the folders; UserError where a folder holds none."""
    found: dict[Path, RunFolder] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such directory; name run directories, or folders that hold some")
        configs = sorted(Path(folder).rglob("config.json"))
        runs = [_read(path.parent) for path in configs if (path.parent / "metrics.jsonl").is_file()]
        runs = [run for run in runs if not run.settings.get("seeds") and not run.settings.get("compare")] or runs
        if not runs:
            raise UserError(f"{folder}: holds no run (config.json and metrics.jsonl)")
        found.update({run.path.resolve(): run for run in runs})
    return list(found.values())


def _read(folder: Path) -> RunFolder:
    try:
        config = json.loads((folder / "config.json").read_text())
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if line.strip()]
        path = folder / "summary.json"
        summary = json.loads(path.read_text()) if path.is_file() else {}
        command = config["launches"][0]["command"]
        return RunFolder(folder, config["settings"], command, config.get("commit") or "", summary, tuple(lines))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{folder}: config.json, metrics.jsonl or summary.json is damaged ({error!r})") from error


def attach(papers: Sequence[Paper], runs: Sequence[RunFolder]) -> int:
    """Give the rows of ours.csv their values by seed, where the runs they name are here; returns how many got them."""
    count = 0
    for paper in papers:
        own = [run for run in runs if run.paper in (paper.name, None)]
        for k, row in enumerate(paper.ours):
            by_seed = values_by_seed(row, own)
            if by_seed:
                paper.ours[k], count = with_values(row, by_seed), count + 1
    return count


def values_by_seed(row: Row, runs: Sequence[RunFolder]) -> dict[int, float] | None:
    """Seed -> value (the mean over folds), from the runs that the row names.

    The row does not say which entry of summary.json it is the mean of: it is the one whose mean and n come out
    as the row says. None where no set of runs here gives the row's number.
    """
    names = set(row.cells["run"].split())
    homes = defaultdict(list)
    for run in (r for r in runs if r.path.name in names):
        for home in run.path.resolve().parents:  # runs of the same names may lie in several folders
            homes[home].append(run)
    for _, group in sorted(homes.items(), key=lambda item: -len(item[0].parts)):
        if len(group) != row.n or row.value is None:
            continue
        for key, value in group[0].summary.items():
            if isinstance(value, (int, float)) and (values := _if_mean_of(row, group, key)):
                return values
    return None


def _if_mean_of(row: Row, runs: Sequence[RunFolder], key: str) -> dict[int, float] | None:
    numbers = [run.summary.get(key) for run in runs]
    if any(not isinstance(v, (int, float)) or isinstance(v, bool) for v in numbers):
        return None
    decimals = len(row.cells["mean"].partition(".")[2])
    for scale in _SCALES:
        if round(statistics.fmean(numbers) * scale, decimals) == row.value:
            seeds = defaultdict(list)
            for run, number in zip(runs, numbers, strict=True):
                seeds[run.seed].append(number * scale)
            return {seed: statistics.fmean(values) for seed, values in sorted(seeds.items())}
    return None


def groups(runs: Sequence[RunFolder]) -> dict[str, list[RunFolder]]:
    """Runs that differ only in seed, under a label made of the settings in which the groups differ."""
    together: dict[str, list[RunFolder]] = defaultdict(list)
    for run in runs:
        together[json.dumps(run.experiment, sort_keys=True, default=str)].append(run)
    experiments = [group[0].experiment for group in together.values()]
    varied = [k for k in experiments[0] if len({str(e.get(k)) for e in experiments}) > 1] if experiments else []
    methods = [k for k in MARKS.get(runs[0].paper or "", ("", ()))[1] if k in varied] if runs else []
    if methods and len({tuple(str(e.get(k)) for k in methods) for e in experiments}) == len(experiments):
        varied = methods
    labels: dict[str, list[RunFolder]] = {}
    for number, group in enumerate(together.values()):
        settings = group[0].experiment
        label = ", ".join(_short(k, settings.get(k)) for k in varied[:4]) or "one experiment"
        labels[label if label not in labels else f"{label} ({number + 1})"] = group
    return labels


def _short(key: str, value: Any) -> str:
    text = re.sub(r".*/(?=.)", "", str(value))
    return text if key in ("method", "schema", "strategy", "attribution_method") else f"{key} {text}"
