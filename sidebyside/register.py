"""The registered claims of a paper, read from PAPER/results/claims.toml.

A claim is registered before the runs that decide it: one endpoint (metric and protocol), a margin a
data set, the number of seeds, the date. Its fields:

    name, statement, source      what the paper says, and where
    registered                   a date; rows that are older judge it as *earlier code*
    better, worse, where         which rows are compared: column -> pattern
    endpoint                     { metric, protocol }: the one measure that counts
    higher_is_better             false where smaller numbers are better
    margins                      [{ dataset, delta }]: the first pattern that fits gives the margin
    secondary                    metrics that are shown beside it, and count for nothing
    beside                       methods that are shown for scale: chance, all labels, a baseline
    equal_accuracy               points by which the accuracies of both may differ, else confounded
    seeds, data, protocol        the plan, in numbers and words
    command                      how to measure it

Patterns match whole cells of ours.csv, case ignored.
"""

import datetime
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.cli import UserError
from common.text import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "claims.toml"
COLUMNS = ("method", "dataset", "setting", "metric", "protocol")


@dataclass(frozen=True)
class Claim:
    """`better` rows beat `worse` rows in the endpoint, by a margin, other things equal.

    Rows are compared where they agree in all of the first five columns that `better` does not name.
    """

    paper: str
    name: str
    statement: str
    better: Mapping[str, str]
    worse: Mapping[str, str]
    endpoint: Mapping[str, str]
    margins: Sequence[tuple[str, float]]
    where: Mapping[str, str] = field(default_factory=dict)
    higher: bool = True
    registered: datetime.date | None = None
    source: str = ""
    command: str = ""
    secondary: Sequence[str] = ()
    beside: str = ""
    equal_accuracy: float | None = None
    seeds: int = 0
    data: str = ""
    protocol: str = ""

    def delta(self, dataset: str) -> float:
        """The margin on a data set; UserError where none was registered for it."""
        for pattern, delta in self.margins:
            if fits(pattern, dataset):
                return delta
        raise UserError(f"{self.paper}/results/{FILE}: {self.name}: no margin for {dataset}")


def fits(pattern: str, cell: str) -> bool:
    """Whether a pattern matches a whole cell, case ignored."""
    return re.fullmatch(pattern, cell, re.I) is not None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; UserError naming the place of what is not TOML."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from error


def load_claims(root: Path, paper: str) -> list[Claim]:
    """The claims of a paper in their order; [] where it has no file.

    UserError naming the claim and the field of what is wrong.
    """
    path = root / paper / "results" / FILE
    if not path.is_file():
        return []
    content = read_toml(path)
    entries = content.get("claim")
    if not isinstance(entries, list) or set(content) != {"claim"}:
        raise UserError(f"{path}: expected [[claim]] tables and nothing else")
    claims = [_claim(paper, entry, f"{path}: claim {n}") for n, entry in enumerate(entries, 1)]
    names = [claim.name for claim in claims]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two claims are named {name!r}")
    return claims


# --- one entry ---

_TEXTS = ("name", "statement", "source", "command", "beside", "data", "protocol")
_NEEDED = ("name", "statement", "registered", "better", "worse", "endpoint", "margins", "seeds")
_KNOWN = {
    *(*_TEXTS, *_NEEDED, "where"),
    *("higher_is_better", "secondary", "equal_accuracy"),
}


def _claim(paper: str, entry: Mapping[str, Any], where: str) -> Claim:
    for name in _NEEDED:
        if name not in entry:
            raise UserError(f"{where}: has no {name}")
    for name in entry:
        if name not in _KNOWN:
            raise UserError(f"{where}: {name} is no field of a claim")
    for name in _TEXTS:
        _require(isinstance(entry.get(name, ""), str), where, name, "a text")
    is_date = isinstance(entry["registered"], datetime.date)
    _require(is_date, where, "registered", "a date, as 2026-11-28")
    is_count = isinstance(entry["seeds"], int) and entry["seeds"] >= 2
    _require(is_count, where, "seeds", "a whole number from 2 on")
    higher = entry.get("higher_is_better", True)
    _require(isinstance(higher, bool), where, "higher_is_better", "true or false")
    close = entry.get("equal_accuracy")
    _require(close is None or _is_positive(close), where, "equal_accuracy", "a number above 0")

    texts = {name: entry[name] for name in _TEXTS if name in entry}
    return Claim(
        paper=paper,
        better=_patterns(entry, "better", where),
        worse=_patterns(entry, "worse", where),
        where=_patterns(entry, "where", where),
        endpoint=_patterns(entry, "endpoint", where),
        margins=_margins(entry["margins"], where),
        higher=higher,
        registered=entry["registered"],
        secondary=_secondary(entry.get("secondary", []), where),
        equal_accuracy=close,
        seeds=entry["seeds"],
        **texts,
    )


def _require(is_right: bool, where: str, name: str, what: str) -> None:
    if not is_right:
        raise UserError(f"{where}: {name} must be {what}")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _patterns(entry: Mapping[str, Any], name: str, where: str) -> dict[str, str]:
    """A table of column -> pattern."""
    table = entry.get(name, {})
    _require(isinstance(table, dict), where, name, "a table of column = pattern")
    for column, pattern in table.items():
        _require(column in COLUMNS, where, f"{name}.{column}", f"one of {', '.join(COLUMNS)}")
        _check_pattern(pattern, where, f"{name}.{column}")
    _require("metric" in table or name != "endpoint", where, name, "a table with a metric")
    return dict(table)


def _check_pattern(pattern: object, where: str, name: str) -> None:
    _require(isinstance(pattern, str), where, name, "a text")
    try:
        re.compile(str(pattern))
    except re.error as error:
        raise UserError(f"{where}: {name}: {error}") from error


def _margins(found: object, where: str) -> list[tuple[str, float]]:
    margins = []
    is_list = isinstance(found, list) and len(found) > 0
    _require(is_list, where, "margins", "a list of { dataset, delta }")
    assert isinstance(found, list)
    for entry in found:
        is_whole = isinstance(entry, dict) and set(entry) == {"dataset", "delta"}
        _require(is_whole, where, "margins", "a list of { dataset, delta }")
        _check_pattern(entry["dataset"], where, "margins.dataset")
        _require(_is_positive(entry["delta"]), where, "margins.delta", "a number above 0")
        margins.append((entry["dataset"], float(entry["delta"])))
    return margins


def _secondary(found: object, where: str) -> list[str]:
    _require(isinstance(found, list), where, "secondary", "a list of metrics")
    assert isinstance(found, list)
    for pattern in found:
        _check_pattern(pattern, where, "secondary")
    return list(found)
