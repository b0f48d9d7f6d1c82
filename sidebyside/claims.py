"""What a claim is, a comparison between rows, and the judge of it.

A claim names rows by patterns, never numbers: what the paper reports is looked up in paper.csv,
what we measured in ours.csv, and the verdict is computed (sidebyside/verdict.py). The entries stand
in sidebyside/register.py.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sidebyside.numbers import units_differ
from sidebyside.records import KEY, Paper, Row
from sidebyside.verdict import NOT_ENOUGH, Interval, combine, compare, reason


@dataclass(frozen=True)
class Claim:
    """`better` rows beat `worse` rows, other things equal.

    `better`, `worse`, `where`: column -> pattern (case ignored, whole cell). Rows are compared when
    they agree in all of the first five columns that `better` does not name. `source`: where the
    paper says it. `command`: how to measure it on real data, where no row holds a command yet.
    `note`: what a reader of the verdict must know besides.
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
        """In which of torch and device the two rows were measured apart; "" where in none known."""
        parts = []
        for column in ("torch", "device"):
            one = self.better.cells[column]
            other = self.worse.cells[column]
            if one and other and one != other:
                parts.append(f"{column} {one} and {other}")
        if not parts:
            return ""
        return f"measured with {', '.join(parts)}"


def verdicts(pairs: Iterable[Pair]) -> list[str]:
    """The verdict of each pair."""
    return [pair.verdict for pair in pairs]


@dataclass(frozen=True)
class Judgement:
    """A claim, the paper's pairs of numbers, and our judged pairs: real data, and the sample."""

    claim: Claim
    published: list[tuple[Row, Row]]
    real: list[Pair]
    sample: list[Pair]
    commands: list[str]

    @property
    def verdict(self) -> str:
        """The verdict on real data."""
        return combine(verdicts(self.real))

    @property
    def note(self) -> str:
        """The claim's note, once there are pairs on real data that it speaks of."""
        if not self.real:
            return ""
        return self.claim.note

    @property
    def on_sample(self) -> str:
        """The verdict of the same rule on the offline sample."""
        return combine(verdicts(self.sample))


def judge(claim: Claim, paper: Paper) -> Judgement:
    """Compare every pair of rows the claim speaks of."""
    real = _judged(claim, paper.real)
    return Judgement(
        claim,
        published=_pairs(claim, paper.published),
        real=real,
        sample=_judged(claim, paper.samples),
        commands=_commands(claim, paper, real),
    )


def _commands(claim: Claim, paper: Paper, judged: Sequence[Pair]) -> list[str]:
    """Those that measured the judged pairs; else of rows without a number; else the claim's."""
    rows: list[Row] = []
    for pair in judged:
        rows += [pair.better, pair.worse]
    if not judged:
        rows = [row for row in paper.real if row.value is None and _speaks_of(claim, row)]

    commands = dict.fromkeys(row.cells["command"] for row in rows)
    commands.pop("", None)
    return list(commands) or [claim.command]


def _speaks_of(claim: Claim, row: Row) -> bool:
    return _fits(claim, row, claim.better) or _fits(claim, row, claim.worse)


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
    """Why two rows of one task's name are no measurements of the same; "" where they may be."""
    one = better.cells["data_sha"]
    other = worse.cells["data_sha"]
    if one and other and one != other:
        return f"measured on other data ({one} and {other})"
    if units_differ(better, worse):
        return "one looks like percent, the other like a fraction"
    return ""


def _pairs(claim: Claim, rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The pairs (better, worse) that the claim compares, among the rows that have a number."""
    shared = [column for column in KEY if column not in claim.better]
    known = [row for row in rows if row.value is not None]
    better = [row for row in known if _fits(claim, row, claim.better)]
    worse = [row for row in known if _fits(claim, row, claim.worse)]

    pairs = []
    for one, other in itertools.product(better, worse):
        if one is not other and one.pick(shared) == other.pick(shared):
            pairs.append((one, other))
    return pairs


def _fits(claim: Claim, row: Row, side: Mapping[str, str]) -> bool:
    for column, pattern in {**claim.where, **side}.items():
        if not re.fullmatch(pattern, row.cells[column], re.I):
            return False
    return True
