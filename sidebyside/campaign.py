"""Experiments that were registered before they ran: PAPER/results/campaign.toml.

An experiment is a list of commands and the rows of ours.csv that its runs become. In a command OUT
stands for the experiment's run directory, DATA for the folder of the data sets, SEEDS for all seeds
with commas between them; a command with SEED is run once for each of them. The fields:

    name          the run directory below OUT/PAPER
    registered    the date; before the first run
    claims        which registered claims (claims.toml) its rows decide
    seeds         whole numbers, each once
    commands      in their order, run in the paper's folder; safe to repeat
    minutes       on one core, for all of it
    content       a file or folder below DATA whose checksum the rows carry
    dataset, setting
    row           tables { methods, metric, protocol, key, ... }: `methods` is name -> runs below
                  OUT (a pattern); `key` is of summary.json; where they differ also scale, curve,
                  dataset, setting; of several commands the number of the one that made the runs, or
                  the numbers of all that it takes, as `command`
"""

import datetime
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import UserError
from sidebyside.register import load_claims, read_toml

FILE = "campaign.toml"
_NEEDED = {
    *("name", "registered", "claims", "seeds", "commands", "minutes"),
    *("content", "dataset", "setting", "row"),
}
_ROW_NEEDED = {"methods", "metric", "protocol", "key"}
_ROW_MAY = {"scale", "curve", "dataset", "setting", "command"}
_PLACES = re.compile(r"\b(DATA|OUT|SEEDS|SEED)\b")


@dataclass(frozen=True)
class RowPlan:
    """What becomes a row of ours.csv for each method: method -> pattern of run directories."""

    methods: Mapping[str, str]
    key: str
    fields: Mapping[str, str]  # dataset, setting, metric, protocol
    scale: float | None = None
    curve: str = ""
    commands: tuple[int, ...] = (0,)  # that lead to the runs, in their order


@dataclass(frozen=True)
class Registered:
    """One experiment of a campaign."""

    paper: str
    name: str
    registered: datetime.date
    claims: tuple[str, ...]
    seeds: tuple[int, ...]
    commands: tuple[str, ...]
    minutes: float
    content: str
    rows: tuple[RowPlan, ...]

    def lines(self, out: str, data: str) -> list[list[str]]:
        """The words of every command to run, its placeholders filled.

        out: the experiment's run directory. data: the folder of the data sets.
        """
        found = []
        for command in self.commands:
            seeds: tuple[int | str, ...] = ("",)
            if re.search(r"\bSEED\b", command):
                seeds = self.seeds
            for seed in seeds:
                known = {"OUT": out, "DATA": data, "SEEDS": self._listed(), "SEED": str(seed)}
                words = shlex.split(command)
                found.append([_filled(word, known) for word in words])
        return found

    def told(self, numbers: Sequence[int]) -> str:
        """Commands as a row tells them: with their seeds, without the run directory."""
        known = {"OUT": "OUT", "DATA": "DATA", "SEEDS": self._listed(), "SEED": "SEED"}
        lines = []
        for number in numbers:
            words = shlex.split(self.commands[number])
            lines.append(shlex.join([_filled(word, known) for word in words]))
        return " && ".join(lines)

    def _listed(self) -> str:
        return ",".join(map(str, self.seeds))


def runs_of(folder: Path, pattern: str) -> list[Path]:
    """The run directories below an experiment's that a row's pattern names, sorted.

    UserError where there is none.
    """
    runs = sorted(path for path in folder.glob(pattern) if (path / "config.json").is_file())
    if not runs:
        raise UserError(f"{folder}: no run is named {pattern}")
    return runs


def _filled(word: str, known: Mapping[str, str]) -> str:
    return _PLACES.sub(lambda match: known[match[1]], word)


def load_campaign(root: Path, paper: str) -> list[Registered]:
    """The registered experiments of a paper in their order; [] where it has no file.

    UserError names the experiment and what is wrong with it.
    """
    path = root / paper / "results" / FILE
    if not path.is_file():
        return []
    content = read_toml(path)
    entries = content.get("experiment")
    if not isinstance(entries, list) or set(content) != {"experiment"}:
        raise UserError(f"{path}: expected [[experiment]] tables and nothing else")
    known = {claim.name for claim in load_claims(root, paper)}
    found = []
    for number, entry in enumerate(entries, 1):
        found.append(_experiment(paper, entry, known, f"{path}: experiment {number}"))
    names = [experiment.name for experiment in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two experiments are named {name!r}")
    return found


def _experiment(paper: str, entry: Mapping[str, Any], claims: set[str], where: str) -> Registered:
    _check_fields(entry, _NEEDED, set(), where)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(entry["name"])):
        raise UserError(f"{where}: name: expected letters, digits, - _ . and nothing else")
    if not isinstance(entry["registered"], datetime.date):
        raise UserError(f"{where}: registered must be a date, as 2026-11-29")
    for name in entry["claims"]:
        if name not in claims:
            raise UserError(f"{where}: {name!r} is no registered claim of {paper}")
    seeds = tuple(entry["seeds"])
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{where}: seeds must be whole numbers, each once")
    for command in entry["commands"]:
        if not shlex.split(command) or shlex.split(command)[0] != "python":
            raise UserError(f"{where}: a command begins with python, not {command!r}")
    rows = []
    for number, row in enumerate(entry["row"], 1):
        rows.append(_row(entry, row, f"{where}, row {number}"))
    return Registered(
        paper=paper,
        name=entry["name"],
        registered=entry["registered"],
        claims=tuple(entry["claims"]),
        seeds=seeds,
        commands=tuple(entry["commands"]),
        minutes=float(entry["minutes"]),
        content=entry["content"],
        rows=tuple(rows),
    )


def _row(entry: Mapping[str, Any], row: Mapping[str, Any], where: str) -> RowPlan:
    _check_fields(row, _ROW_NEEDED, _ROW_MAY, where)
    fields = {}
    for name in ("dataset", "setting", "metric", "protocol"):
        fields[name] = str(row.get(name, entry.get(name, "")))
    return RowPlan(
        methods=dict(row["methods"]),
        key=row["key"],
        fields=fields,
        scale=row.get("scale"),
        curve=row.get("curve", ""),
        commands=_commands(entry, row, where),
    )


def _commands(entry: Mapping[str, Any], row: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """Which commands lead to a row's runs, counted from 0."""
    count = len(entry["commands"])
    if count > 1 and "command" not in row:
        raise UserError(f"{where}: command: say which of the {count} made the runs")
    given = row.get("command", 1)
    numbers = given if isinstance(given, list) else [given]
    for number in numbers:
        if number not in range(1, count + 1):
            raise UserError(f"{where}: command {number}: there are {count}")
    return tuple(number - 1 for number in numbers)


def _check_fields(entry: Mapping[str, Any], needed: set[str], may: set[str], where: str) -> None:
    missing = sorted(needed - set(entry))
    if missing:
        raise UserError(f"{where}: has no {', '.join(missing)}")
    unknown = sorted(set(entry) - needed - may)
    if unknown:
        raise UserError(f"{where}: {', '.join(unknown)}: no such field")
