"""The rule behind every verdict, and the arithmetic of it.

A claim says that one row is better than others, by at least a margin delta that was written down
before the runs. A pair of rows has differences d_s = better - worse, one a seed (the sign turned
where lower is better), their mean d and its t interval. The verdict, tested in this order:

    reproduced      the 95 % interval lies above 0, and d >= delta
    contradicted    the 95 % interval lies below 0, and d <= -delta
    no difference   the 90 % interval lies within -delta .. delta (two one-sided tests)
    undecided       else; with the number of seeds that would decide it at 80 % power

"Better than A and B" holds where it holds for both. Several data sets share the error of 5 % by
Holm's procedure; where their verdicts differ the claim is mixed.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import nctdtr, ndtr, stdtr, stdtrit

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 10_000  # more are not worth a number
NORMAL_FROM = 200  # seeds, from which on t is as good as normal
LARGE_SHIFT = 30.0  # from which on the non-central t cannot be computed, and the power is 1

REPRODUCED = "reproduced"
CONTRADICTED = "contradicted"
NO_DIFFERENCE = "no difference"
UNDECIDED = "undecided"
MIXED = "mixed"
CONFOUNDED = "confounded"
NOT_ENOUGH = "not enough seeds"
NOT_RUN = "not run"
VERDICTS = (
    *(REPRODUCED, CONTRADICTED, NO_DIFFERENCE, UNDECIDED, MIXED),
    *(CONFOUNDED, NOT_ENOUGH, NOT_RUN),
)

RULE = (
    "Each claim was registered with one primary endpoint and a margin, the smallest difference "
    "that matters, before its runs. Rows that agree in data set, setting, metric and protocol are "
    "compared by their differences seed by seed. Reproduced: the 95 % t interval of the mean lies "
    "on the claimed side of zero and the mean is at least the margin. Contradicted: the same on "
    "the other side. No difference: the 90 % interval lies within the margin on both sides. "
    "Otherwise it is undecided, and we say how many seeds would decide it at 80 % power. A claim "
    "over several methods holds where it holds for each; several tasks (data set and setting) "
    "share the error of 5 % by Holm's procedure, and a claim is mixed where they disagree. Maps "
    "of networks whose accuracies differ by more than the registered points are confounded. Rows "
    "of other data, code, device or major version of torch are not paired; rows from before the "
    "registration are judged as earlier code while there are no newer ones, and then only shown. "
    "Results on the offline samples are judged by the same rule, in a column of their own, and say "
    "nothing about the paper's numbers."
)


@dataclass(frozen=True)
class Sample:
    """One side of a comparison: mean and sample standard deviation over n runs."""

    mean: float
    std: float | None
    n: int
    by_seed: Mapping[int, float] | None = None  # where the value of each seed is known
    seeds: int | None = None  # where it is not n: several folds a seed

    @property
    def runs(self) -> int:
        """The number of independent runs: seeds, for the folds of a seed are none of their own."""
        return self.n if self.seeds is None else self.seeds

    @property
    def is_enough(self) -> bool:
        """At least two seeds, and a deviation."""
        return self.runs >= 2 and self.std is not None

    @property
    def variance_of_mean(self) -> float:
        """s^2 / runs; 0 where no deviation is known."""
        return (self.std or 0.0) ** 2 / self.runs


@dataclass(frozen=True)
class Difference:
    """A mean difference in favour of the claim, its standard error, and how it was found."""

    mean: float
    error: float
    df: float  # degrees of freedom of the t distribution
    n: int  # seeds on the smaller side
    how: str

    def turned(self) -> "Difference":
        """The difference with its sign turned."""
        return replace(self, mean=-self.mean)

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        """The two-sided t interval of the mean at a level in 0..1."""
        half = t_quantile(self.df, level) * self.error
        return self.mean - half, self.mean + half

    @property
    def p_value(self) -> float:
        """Two-sided, of the hypothesis that there is no difference; 1 where there is none."""
        if self.mean == 0:
            return 1.0
        if self.error == 0:
            return 0.0
        return float(2 * stdtr(self.df, -abs(self.mean) / self.error))

    @property
    def spread(self) -> float:
        """The standard deviation of the difference of one seed, for planning."""
        return self.error * math.sqrt(self.n)

    def with_variance(self, variance: float, of: str) -> "Difference":
        """The same mean with a further variance in its error, such as that of the test pictures."""
        error = math.sqrt(self.error**2 + variance)
        return replace(self, error=error, how=f"{self.how}, {of}")


@dataclass(frozen=True)
class Decision:
    """The verdict on a pair: by which difference, interval and margin.

    seeds_observed, seeds_margin: of an undecided pair, how many seeds would show the observed
    difference, and one as large as the margin, at 80 % power; None where no number would, or
    more than `MOST_SEEDS`.
    """

    verdict: str
    difference: Difference | None = None
    low: float = math.nan
    high: float = math.nan
    delta: float = 0.0
    seeds_observed: int | None = None
    seeds_margin: int | None = None

    def confounded(self) -> "Decision":
        """The same difference between networks that cannot be compared."""
        return replace(self, verdict=CONFOUNDED, seeds_observed=None, seeds_margin=None)

    @property
    def is_decided(self) -> bool:
        """Whether more seeds of the same are of no use."""
        return self.verdict in (REPRODUCED, CONTRADICTED, NO_DIFFERENCE)


# --- one pair ---


def t_quantile(df: float, level: float = 1 - ALPHA) -> float:
    """The two-sided quantile of Student's t: 4.303 for df 2, 12.706 for df 1, at 95 %."""
    return float(stdtrit(df, 0.5 + level / 2))


def paired(better: Sequence[float], worse: Sequence[float]) -> Difference:
    """The mean of better_s - worse_s with its error; n >= 2 values each, seeds in one order."""
    differences = [b - w for b, w in zip(better, worse, strict=True)]
    n = len(differences)
    error = statistics.stdev(differences) / math.sqrt(n)
    how = f"paired t over {n} seeds"
    if error == 0:
        how += ", the same difference in each"
    return Difference(statistics.fmean(differences), error, n - 1, n, how)


def welch(better: Sample, worse: Sample) -> Difference:
    """From means, standard deviations (ddof 1) and at least two seeds of both sides.

    The degrees of freedom are those of Welch and Satterthwaite.
    """
    mean = better.mean - worse.mean
    how = f"Welch t, {better.runs} and {worse.runs} seeds"
    n = min(better.runs, worse.runs)
    variance = better.variance_of_mean + worse.variance_of_mean
    if variance == 0:
        return Difference(mean, 0.0, n - 1, n, f"{how}, no spread on either side")

    of_better = better.variance_of_mean**2 / (better.runs - 1)
    of_worse = worse.variance_of_mean**2 / (worse.runs - 1)
    df = variance**2 / (of_better + of_worse)
    return Difference(mean, math.sqrt(variance), df, n, how)


def difference(better: Sample, worse: Sample, higher: bool = True) -> Difference | None:
    """The difference in favour of the claim; None with fewer than two seeds on a side."""
    of_better = better.by_seed or {}
    of_worse = worse.by_seed or {}
    shared = sorted(set(of_better) & set(of_worse))
    if len(shared) >= 2:
        found = paired([of_better[s] for s in shared], [of_worse[s] for s in shared])
    elif better.is_enough and worse.is_enough:
        found = welch(better, worse)
    else:
        return None
    return found if higher else found.turned()


def decide(found: Difference | None, delta: float, alpha: float = ALPHA) -> Decision:
    """The verdict on one pair.

    Args:
        found: the difference in favour of the claim; None: not enough seeds.
        delta: the margin, in the units of the metric, > 0.
        alpha: the error that this pair may have; below 5 % where data sets share it.
    """
    if not delta > 0:
        raise ValueError(f"delta {delta}: the margin must be above 0")
    if found is None:
        return Decision(NOT_ENOUGH, delta=delta)

    low, high = found.interval(1 - alpha)
    narrow_low, narrow_high = found.interval(1 - 2 * alpha)
    decided = Decision(UNDECIDED, found, low, high, delta)
    if low > 0 and found.mean >= delta:
        return replace(decided, verdict=REPRODUCED)
    if high < 0 and found.mean <= -delta:
        return replace(decided, verdict=CONTRADICTED)
    if -delta <= narrow_low and narrow_high <= delta:
        return replace(decided, verdict=NO_DIFFERENCE)
    return replace(
        decided,
        seeds_observed=seeds_needed(found.mean, found.spread, alpha),
        seeds_margin=seeds_needed(delta, found.spread, alpha),
    )


# --- how many seeds ---


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """The chance that a paired t test of n seeds sees an effect, in standard deviations of d_s.

    The tail of the non-central t distribution; of the normal one where n is large.
    """
    critical = t_quantile(n - 1, 1 - alpha)
    shift = abs(effect) * math.sqrt(n)
    if n > NORMAL_FROM or shift > LARGE_SHIFT:
        return float(ndtr(shift - critical) + ndtr(-shift - critical))
    return float(1 - nctdtr(n - 1, shift, critical) + nctdtr(n - 1, shift, -critical))


def seeds_needed(effect: float, spread: float, alpha: float = ALPHA) -> int | None:
    """The fewest seeds that see a mean difference `effect` at 80 % power.

    `spread` is the standard deviation of d_s, in the same units. None where more than `MOST_SEEDS`
    would be needed.
    """
    if spread == 0:
        return 2
    ratio = abs(effect) / spread
    for n in range(2, MOST_SEEDS + 1):
        if power(ratio, n, alpha) >= POWER:
            return n
    return None


# --- test pictures ---


def variance_of_test_set(
    metric: Callable[[np.ndarray], float], images: int, draws: int = 1000, seed: int = 0
) -> float:
    """The variance of a metric over test sets drawn anew: the bootstrap over pictures.

    Args:
        metric: positions (images,) int64 of the drawn pictures -> the mean over seeds of the
            difference of both methods on them.
        images: how many test pictures there are.
    """
    generator = np.random.default_rng(seed)
    values = [metric(generator.integers(0, images, images)) for _ in range(draws)]
    return float(np.var(values, ddof=1))


# --- several pairs ---


def of_all(verdicts: Sequence[str]) -> str:
    """The verdict of a claim that must hold for every pair of a data set.

    One contradiction refutes it; a method that is no worse keeps it from holding.
    """
    if not verdicts:
        return NOT_RUN
    if all(verdict == REPRODUCED for verdict in verdicts):
        return REPRODUCED
    for verdict in (CONTRADICTED, NO_DIFFERENCE, CONFOUNDED, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return NOT_ENOUGH


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The error that each of several tests may have so that all share `alpha`, by Holm.

    The smallest p may have alpha / m, the next alpha / (m - 1), and so on; from the first that
    fails on, all have that one's.
    """
    m = len(p_values)
    levels = [alpha] * m
    level = alpha
    has_failed = False
    for rank, place in enumerate(sorted(range(m), key=lambda place: p_values[place])):
        if not has_failed:
            level = alpha / (m - rank)
            has_failed = p_values[place] > level
        levels[place] = level
    return levels


def decide_all(
    data_sets: Mapping[str, Sequence[Difference | None]], delta: Mapping[str, float]
) -> dict[str, list[Decision]]:
    """The decisions of a claim: by data set, one a pair; data sets share the error by Holm.

    A data set's p is the largest of its pairs', as all of them must hold. `delta`: the margin of
    each data set.
    """
    largest = {}
    for name, pairs in data_sets.items():
        known = [found.p_value for found in pairs if found is not None]
        if known:
            largest[name] = max(known)
    levels = dict(zip(largest, holm_levels(list(largest.values())), strict=True))
    decisions = {}
    for name, pairs in data_sets.items():
        alpha = levels.get(name, ALPHA)
        decisions[name] = [decide(found, delta[name], alpha) for found in pairs]
    return decisions


def combine(by_data_set: Sequence[str]) -> str:
    """The verdict on a claim from those on its data sets; mixed where they disagree.

    Data sets without enough seeds say nothing, unless there are no others.
    """
    decided = [verdict for verdict in by_data_set if verdict not in (NOT_ENOUGH, NOT_RUN)]
    if not decided:
        return NOT_ENOUGH if NOT_ENOUGH in by_data_set else NOT_RUN
    if len(set(decided)) > 1:
        return MIXED
    return decided[0]


def mean_interval(side: Sample) -> tuple[float, float] | None:
    """The 95 % t interval of a mean; None for fewer than two seeds."""
    if not side.is_enough:
        return None
    half = t_quantile(side.runs - 1) * math.sqrt(side.variance_of_mean)
    return side.mean - half, side.mean + half


def reason(decision: Decision, *sides: Sample) -> str:
    """Why a pair got its verdict, in a few words; `sides` are the two that were compared."""
    if decision.difference is None:
        if any(side.n >= 2 and side.std is None for side in sides):
            return "no deviation known on a side"
        return "fewer than two seeds on a side"
    if decision.verdict == REPRODUCED:
        return "interval above zero, mean beyond the margin"
    if decision.verdict == CONTRADICTED:
        return "the opposite holds"
    if decision.verdict == NO_DIFFERENCE:
        return "interval within the margin"
    return f"decided by {_seeds_in_words(decision)}"


def _seeds_in_words(decision: Decision) -> str:
    """How many seeds would decide an undecided pair."""

    def told(count: int | None) -> str:
        return f"more than {MOST_SEEDS:,}" if count is None else str(count)

    observed = told(decision.seeds_observed)
    margin = told(decision.seeds_margin)
    return f"{observed} seeds at this difference, {margin} at the margin"
