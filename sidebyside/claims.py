"""The judge: a registered claim on the rows of a paper's results.

A claim names rows by patterns, never numbers: what the paper reports is looked up in paper.csv,
what we measured in ours.csv, and the verdict is computed (sidebyside/verdict.py). Rows are grouped
by task, that is data set and setting; on each task the claim must hold for all its pairs.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sidebyside.numbers import units_differ
from sidebyside.records import KEY, Paper, Row
from sidebyside.register import Claim, fits
from sidebyside.verdict import (
    Decision,
    Difference,
    combine,
    decide,
    decide_all,
    difference,
    of_all,
    reason,
)

ACCURACY = r"(test )?acc(uracy)?( %)?|top-1.*"


@dataclass(frozen=True)
class Pair:
    """Two rows of ours.csv and the decision on them, in favour of the claim.

    `obstacle`: why the two numbers cannot be compared at all, if so; such a pair is not decided.
    `is_earlier`: a row was measured before the claim was registered, or with code of unknown hash.
    """

    better: Row
    worse: Row
    decision: Decision
    obstacle: str = ""
    is_earlier: bool = False

    @property
    def verdict(self) -> str:
        """The verdict on this pair."""
        return self.decision.verdict

    @property
    def why(self) -> str:
        """Why it got its verdict."""
        return self.obstacle or reason(self.decision, self.better.side, self.worse.side)


@dataclass(frozen=True)
class Task:
    """The pairs of a claim on one data set and setting, and the verdict on all of them."""

    name: str
    pairs: list[Pair]

    @property
    def verdict(self) -> str:
        """The claim must hold for every pair."""
        return of_all(verdicts(self.pairs))


def verdicts(pairs: Iterable[Pair]) -> list[str]:
    """The verdict of each pair."""
    return [pair.verdict for pair in pairs]


@dataclass(frozen=True)
class Judgement:
    """A claim, the paper's pairs of numbers, and our judged tasks: real data, and the sample.

    `earlier`: tasks of real rows from before the registration, once there are newer ones;
    `secondary`: pairs in other metrics; `beside`: rows that give the scale. All three are shown
    only.
    """

    claim: Claim
    published: list[tuple[Row, Row]]
    tasks: list[Task]
    sample_tasks: list[Task]
    earlier: list[Task] = field(default_factory=list)
    secondary: list[Pair] = field(default_factory=list)
    beside: list[Row] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def real(self) -> list[Pair]:
        """All pairs on real data."""
        return list(itertools.chain.from_iterable(task.pairs for task in self.tasks))

    @property
    def before(self) -> list[Pair]:
        """All pairs on real data that a newer measurement has taken out of the verdict."""
        return list(itertools.chain.from_iterable(task.pairs for task in self.earlier))

    @property
    def sample(self) -> list[Pair]:
        """All pairs on the offline sample."""
        return list(itertools.chain.from_iterable(task.pairs for task in self.sample_tasks))

    @property
    def verdict(self) -> str:
        """The verdict on real data."""
        return combine([task.verdict for task in self.tasks])

    @property
    def on_sample(self) -> str:
        """The verdict of the same rule on the offline sample."""
        return combine([task.verdict for task in self.sample_tasks])

    @property
    def is_earlier(self) -> bool:
        """Whether the verdict rests on rows from before the registration."""
        return any(pair.is_earlier for pair in self.real)


def judge(claim: Claim, paper: Paper) -> Judgement:
    """Compare every pair of rows the claim speaks of."""
    counted, before = _newest(claim, _endpoint_pairs(claim, paper.real))
    of_samples, _ = _newest(claim, _endpoint_pairs(claim, paper.samples))
    tasks = _tasks(claim, paper, counted)
    return Judgement(
        claim,
        published=_published(claim, paper.published),
        tasks=tasks,
        sample_tasks=_tasks(claim, paper, of_samples),
        earlier=_tasks(claim, paper, before),
        secondary=_secondary(claim, paper),
        beside=_beside(claim, paper.real),
        commands=_commands(claim, paper, tasks),
    )


def judge_all(papers: Iterable[Paper]) -> list[Judgement]:
    """Every registered claim of the papers, in its order."""
    judgements = []
    for paper in papers:
        judgements += [judge(claim, paper) for claim in paper.claims]
    return judgements


# --- deciding ---


RowPair = tuple[Row, Row]


def _newest(claim: Claim, pairs: Sequence[RowPair]) -> tuple[list[RowPair], list[RowPair]]:
    """The pairs that count, and those that do not: from before the registration.

    As long as nothing newer is measured, all count, and the verdict says so.
    """
    newer = [pair for pair in pairs if not any(_is_earlier(claim, row) for row in pair)]
    if not newer:
        return list(pairs), []
    return newer, [pair for pair in pairs if pair not in newer]


def _tasks(claim: Claim, paper: Paper, wanted: Sequence[RowPair]) -> list[Task]:
    """Pairs in the endpoint, task by task, decided together."""
    rows = [*paper.real, *paper.samples]
    by_task: dict[str, list[RowPair]] = {}
    margins: dict[str, float] = {}
    for better, worse in wanted:
        name = better.listed("dataset", "setting")
        by_task.setdefault(name, []).append((better, worse))
        margins[name] = claim.delta(better.cells["dataset"])

    obstacles: dict[str, list[str]] = {}
    differences: dict[str, list[Difference | None]] = {}
    for name, pairs in by_task.items():
        obstacles[name] = [_obstacle(better, worse) for better, worse in pairs]
        differences[name] = [
            None if found else _difference(claim, paper, better, worse)
            for found, (better, worse) in zip(obstacles[name], pairs, strict=True)
        ]
    decisions = decide_all(differences, margins)

    tasks = []
    for name, pairs in by_task.items():
        judged = []
        for pair, decision, found in zip(pairs, decisions[name], obstacles[name], strict=True):
            judged.append(_judged(claim, rows, pair, decision, found))
        tasks.append(Task(name, judged))
    return tasks


def _difference(claim: Claim, paper: Paper, better: Row, worse: Row) -> Difference | None:
    """In favour of the claim; over seeds, and over test pictures where that is known."""
    found = difference(better.side, worse.side, claim.higher)
    variance = paper.test_variance(better, worse)
    if found is None or variance is None:
        return found
    return found.with_variance(variance, "and over test pictures")


def _judged(
    claim: Claim, rows: Sequence[Row], pair: tuple[Row, Row], decision: Decision, obstacle: str
) -> Pair:
    better, worse = pair
    apart = ""
    if claim.equal_accuracy is not None:
        apart = _unequal_accuracy(rows, better, worse, claim.equal_accuracy)
    if apart and not obstacle:
        decision = decision.confounded()
    is_earlier = _is_earlier(claim, better) or _is_earlier(claim, worse)
    return Pair(better, worse, decision, obstacle or apart, is_earlier)


def _is_earlier(claim: Claim, row: Row) -> bool:
    """Whether a row is older than the registration, or tells no hash of the method's code."""
    if not row.cells.get("method_sha"):
        return True
    return claim.registered is not None and row.cells["date"] < claim.registered.isoformat()


def _obstacle(better: Row, worse: Row) -> str:
    """Why two rows of one task's name are no measurements of the same; "" where they may be."""
    for column, what in (("data_sha", "on other data"), ("method_sha", "with other code")):
        one = better.cells[column]
        other = worse.cells[column]
        if one and other and one != other:
            return f"measured {what} ({one} and {other})"
    for column, read in (("torch", _major), ("device", _kind)):
        one = better.cells[column]
        other = worse.cells[column]
        if one and other and read(one) != read(other):
            return f"measured with {column} {one} and {other}"
    if units_differ(better, worse):
        return "one looks like percent, the other like a fraction"
    return ""


def _major(version: str) -> str:
    return version.partition(".")[0]


def _kind(device: str) -> str:
    """The device without its processes and threads: "x86_64 1x1 threads" is a x86_64."""
    return device.rpartition(" ")[0].rpartition(" ")[0] or device


def _unequal_accuracy(rows: Sequence[Row], better: Row, worse: Row, points: float) -> str:
    """Why the maps of two networks are not comparable: their accuracies; "" where they are."""
    of_better = _accuracy(rows, better)
    of_worse = _accuracy(rows, worse)
    if of_better is None or of_worse is None:
        return "confounded: the accuracy of a network is not known"
    if abs(of_better - of_worse) <= points:
        return ""
    return f"confounded: accuracy {of_better:.1f} and {of_worse:.1f}"


def _accuracy(rows: Sequence[Row], row: Row) -> float | None:
    """The accuracy in percent of the networks that a row was measured with."""
    same = ("method", "dataset", "setting")
    for other in rows:
        if other.pick(same) == row.pick(same) and fits(ACCURACY, other.cells["metric"]):
            return other.value
    return None


# --- which rows ---


def _endpoint_pairs(claim: Claim, rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    pairs = _pairs(claim, rows, claim.endpoint["metric"])
    protocol = claim.endpoint.get("protocol", ".*")
    return [pair for pair in pairs if fits(protocol, pair[0].cells["protocol"])]


def _published(claim: Claim, rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The paper's pairs in the endpoint, then in the secondary metrics."""
    pairs: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[Row, Row]] = {}
    for metric in (claim.endpoint["metric"], *claim.secondary):
        for better, worse in _pairs(claim, rows, metric):
            pairs.setdefault((better.key, worse.key), (better, worse))
    return list(pairs.values())


def _secondary(claim: Claim, paper: Paper) -> list[Pair]:
    """Pairs in the secondary metrics, each decided by itself; those of the endpoint left out."""
    rows = paper.real
    counted = {pair[0].key for pair in _endpoint_pairs(claim, rows)}
    found = []
    for metric in claim.secondary:
        for better, worse in _pairs(claim, rows, metric):
            if better.key in counted:
                continue
            obstacle = _obstacle(better, worse)
            seen = None if obstacle else _difference(claim, paper, better, worse)
            decision = decide(seen, claim.delta(better.cells["dataset"]))
            found.append(_judged(claim, rows, (better, worse), decision, obstacle))
    return found


def _beside(claim: Claim, rows: Sequence[Row]) -> list[Row]:
    """The rows in the endpoint that stand beside the methods for scale."""
    if not claim.beside:
        return []
    tasks = {pair[0].pick(("dataset", "setting")) for pair in _endpoint_pairs(claim, rows)}
    found = []
    for row in rows:
        is_named = fits(claim.beside, row.cells["method"])
        is_measured = fits(claim.endpoint["metric"], row.cells["metric"])
        if is_named and is_measured and row.pick(("dataset", "setting")) in tasks:
            found.append(row)
    return found


def _pairs(claim: Claim, rows: Sequence[Row], metric: str) -> list[tuple[Row, Row]]:
    """The pairs (better, worse) that the claim compares, among the rows that have a number."""
    shared = [column for column in KEY if column not in claim.better]
    known = [row for row in rows if row.value is not None and fits(metric, row.cells["metric"])]
    better = [row for row in known if _speaks_of(claim, row, claim.better)]
    worse = [row for row in known if _speaks_of(claim, row, claim.worse)]

    pairs = []
    for one, other in itertools.product(better, worse):
        if one is not other and one.pick(shared) == other.pick(shared):
            pairs.append((one, other))
    return pairs


def _speaks_of(claim: Claim, row: Row, side: Mapping[str, str]) -> bool:
    patterns = {**claim.where, **side}
    return all(fits(pattern, row.cells[column]) for column, pattern in patterns.items())


def _commands(claim: Claim, paper: Paper, tasks: Sequence[Task]) -> list[str]:
    """Those that measured the judged pairs; else of rows without a number; else the claim's."""
    rows: list[Row] = []
    for task in tasks:
        for pair in task.pairs:
            rows += [pair.better, pair.worse]
    if not rows:
        for row in paper.real:
            is_named = _speaks_of(claim, row, claim.better) or _speaks_of(claim, row, claim.worse)
            if (
                row.value is None
                and is_named
                and fits(claim.endpoint["metric"], row.cells["metric"])
            ):
                rows.append(row)

    commands = dict.fromkeys(row.cells["command"] for row in rows)
    commands.pop("", None)
    return list(commands) or [claim.command]
