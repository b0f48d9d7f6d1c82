"""What a claim is, a comparison between rows, and the judge of it.

A claim names rows by patterns, never numbers: what the paper reports is looked up in paper.csv, what we measured
in ours.csv, and the verdict is computed (sidebyside/verdict.py). The entries stand in sidebyside/register.py.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sidebyside.numbers import units_differ
from sidebyside.records import KEY, Paper, Row
from sidebyside.verdict import NOT_ENOUGH, Interval, combine, compare, reason


@dataclass(frozen=True)
class Claim:
    """`better` rows beat `worse` rows, other things equal.

    `better`, `worse`, `where`: column -> pattern (case ignored, whole cell). Rows are compared when they agree in
    all of the first five columns that `better` does not name. `source`: where the paper says it. `command`: how to
    measure it on real data, where no row holds a command yet. `note`: what a reader of the verdict must know besides.
    """

    paper: str
    name: str
    statement: str
    better: Mapping[str, str]
    worse: Mapping[str, str]
    where: Mapping[str, str] = field(default_factory=dict)
    higher: bool = True
    source: str = ""
    command: str = ""
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """Two rows of ours.csv, their verdict and interval (in favour of the claim).

    `obstacle`: why the two numbers cannot be compared at all, if so; such a pair is not decided.
    """

    better: Row
    worse: Row
    verdict: str
    interval: Interval | None
    obstacle: str = ""

    @property
    def why(self) -> str:
        """Why it got its verdict, and what of the two measurements was not equal."""
        told = self.obstacle or reason(
            self.verdict, self.interval, self.better.side, self.worse.side
        )
        return "; ".join(filter(None, (told, self.apart)))

    @property
    def apart(self) -> str:
        """In which of torch and device the two rows were measured apart; "" where both are alike or not known."""
        parts = []
        for column in ("torch", "device"):
            one, other = self.better.cells[column], self.worse.cells[column]
            if one and other and one != other:
                parts.append(f"{column} {one} and {other}")
        return f"measured with {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Judgement:
    """A claim, the paper's pairs of numbers, and our pairs on real data and on the sample with their verdicts."""

    claim: Claim
    published: list[tuple[Row, Row]]
    real: list[Pair]
    sample: list[Pair]
    commands: list[str]

    @property
    def verdict(self) -> str:
        """The verdict on real data."""
        return combine([p.verdict for p in self.real])

    @property
    def note(self) -> str:
        """The claim's note, once there are pairs on real data that it speaks of."""
        return self.claim.note if self.real else ""

    @property
    def on_sample(self) -> str:
        """The verdict of the same rule on the offline sample."""
        return combine([p.verdict for p in self.sample])


def judge(claim: Claim, paper: Paper) -> Judgement:
    """Compare every pair of rows the claim speaks of."""
    real, sample = (_judged(claim, rows) for rows in (paper.real, paper.samples))
    used = [row for pair in real for row in (pair.better, pair.worse)]
    waiting = [
        r
        for r in paper.real
        if r.value is None and (_fits(claim, r, "better") or _fits(claim, r, "worse"))
    ]
    commands = dict.fromkeys(
        row.cells["command"] for row in used or waiting if row.cells["command"]
    )
    return Judgement(
        claim, _pairs(claim, paper.published), real, sample, list(commands) or [claim.command]
    )


def judge_all(papers: Iterable[Paper], claims: Sequence[Claim]) -> list[Judgement]:
    """Every claim of the register, in its order, for the papers given."""
    by_name = {paper.name: paper for paper in papers}
    return [judge(claim, by_name[claim.paper]) for claim in claims if claim.paper in by_name]


def _judged(claim: Claim, rows: Sequence[Row]) -> list[Pair]:
    pairs = []
    for better, worse in _pairs(claim, rows):
        obstacle = _obstacle(better, worse)
        if obstacle:
            pairs.append(Pair(better, worse, NOT_ENOUGH, None, obstacle))
        else:
            verdict, interval = compare(better.side, worse.side, claim.higher)
            pairs.append(Pair(better, worse, verdict, interval))
    return pairs


def _obstacle(better: Row, worse: Row) -> str:
    """Why two rows with the same name of task are no measurements of the same; "" where nothing speaks against it."""
    one, other = better.cells["data_sha"], worse.cells["data_sha"]
    if one and other and one != other:
        return f"measured on other data ({one} and {other})"
    if units_differ(better, worse):
        return "one looks like percent, the other like a fraction"
    return ""


def _pairs(claim: Claim, rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    shared = [c for c in KEY if c not in claim.better]
    known = [r for r in rows if r.value is not None]
    worse = [r for r in known if _fits(claim, r, "worse")]
    return [
        (b, w)
        for b in known
        if _fits(claim, b, "better")
        for w in worse
        if b is not w and all(b.cells[c] == w.cells[c] for c in shared)
    ]


def _fits(claim: Claim, row: Row, side: str) -> bool:
    patterns = {**claim.where, **getattr(claim, side)}
    return all(
        re.fullmatch(pattern, row.cells[column], re.I) for column, pattern in patterns.items()
    )
