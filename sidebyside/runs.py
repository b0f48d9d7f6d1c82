"""Run directories given on the command line, whose curves the page draws."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import FREE_SETTINGS, UserError

# A setting that only this paper's scripts have, and the setting that names the method.
MARKS = {
    "cavl": ("partial_type", ("method", "cav", "mask")),
    "oass": ("alpha_schedule_re", ("strategy", "tag")),
    "calm": ("attribution_method", ("attribution_method",)),
    "csl": ("partial_loss_mode", ("partial_loss_mode", "recipe")),
    "mile": ("schema", ("schema",)),
}
_NOT_THE_EXPERIMENT = FREE_SETTINGS | {"seed", "seeds", "compare", "fold", "tag", "experiment_name", "sample"}


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
