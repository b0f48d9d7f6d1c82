"""The rule behind every verdict, and the arithmetic of it.

A claim says that one row is better than another. On each pair of rows that agree in all else:

    d      mean of (better - worse), the sign turned where lower is better
    paired the values are known by seed (results/seeds.csv): t interval over d_s, s the shared seeds
    Welch  only mean, std and n are known: d +- t(df) sqrt(s1^2/n1 + s2^2/n2),
           df by Welch and Satterthwaite

The pair holds if the 95 % interval lies above zero. It does not if it lies below, or includes zero.
With fewer than two seeds on a side there is no interval: not enough seeds. A claim is reproduced if
all its decided pairs hold, not reproduced if none does, partly reproduced in between.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95

REPRODUCED = "reproduced"
PARTLY = "partly reproduced"
NOT_REPRODUCED = "not reproduced"
NOT_ENOUGH = "not enough seeds"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_ENOUGH, NOT_RUN)

RULE = (
    "A claim compares two methods. For every pair of rows that agree in data set, setting, metric "
    "and protocol we take the mean difference and its 95 % t interval: paired by seed where the "
    "values of both are known by seed, Welch's where only mean, standard deviation and n (runs: "
    "seeds, times folds where a set has folds) are known. The pair holds if the interval lies on "
    "the claimed side of zero; if it includes zero, or lies on the other side, it does not hold. "
    "Fewer than two seeds on a side: not enough seeds. Reproduced: all decided pairs hold. Partly "
    "reproduced: some do. Not reproduced: none does. Results on the offline samples are judged by "
    "the same rule, in a column of their own, and say nothing about the paper's numbers."
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
    def is_enough(self) -> bool:
        """At least two seeds, and a deviation."""
        return self.n >= 2 and self.std is not None and (self.seeds is None or self.seeds >= 2)

    @property
    def variance_of_mean(self) -> float:
        """s^2 / n; 0 where no deviation is known."""
        return (self.std or 0.0) ** 2 / self.n


@dataclass(frozen=True)
class Interval:
    """A mean difference, the ends of its 95 % interval, and how it was computed."""

    difference: float
    low: float
    high: float
    how: str

    def turned(self) -> "Interval":
        """The interval of the difference with its sign turned."""
        return Interval(-self.difference, -self.high, -self.low, self.how)


def t_quantile(df: float, level: float = LEVEL) -> float:
    """The two-sided quantile of Student's t: 4.303 for df 2, 12.706 for df 1, at 95 %."""
    return float(stdtrit(df, 0.5 + level / 2))


def paired(better: Sequence[float], worse: Sequence[float]) -> Interval:
    """The t interval of the mean of better_s - worse_s; n >= 2 values each, seeds in one order."""
    differences = [b - w for b, w in zip(better, worse, strict=True)]
    n = len(differences)
    mean = statistics.fmean(differences)
    half = t_quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)

    how = f"paired t over {n} seeds"
    if half == 0:
        how += ", the same difference in each"
    return Interval(mean, mean - half, mean + half, how)


def welch(better: Sample, worse: Sample) -> Interval:
    """Welch's interval from means, standard deviations (ddof 1) and n >= 2 of both sides."""
    mean = better.mean - worse.mean
    how = f"Welch t, n {better.n} and {worse.n}"

    variance = better.variance_of_mean + worse.variance_of_mean
    if variance == 0:
        return Interval(mean, mean, mean, f"{how}, no spread on either side")

    parts = better.variance_of_mean**2 / (better.n - 1), worse.variance_of_mean**2 / (worse.n - 1)
    df = variance**2 / sum(parts)
    half = t_quantile(df) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, how)


def mean_interval(side: Sample) -> tuple[float, float] | None:
    """The 95 % t interval of a mean; None for fewer than two runs."""
    if side.std is None or not side.is_enough:
        return None
    half = t_quantile(side.n - 1) * side.std / math.sqrt(side.n)
    return side.mean - half, side.mean + half


def compare(better: Sample, worse: Sample, higher: bool = True) -> tuple[str, Interval | None]:
    """The verdict on one pair, and its interval in favour of the claim: above zero it holds."""
    of_better = better.by_seed or {}
    of_worse = worse.by_seed or {}
    shared = sorted(set(of_better) & set(of_worse))

    if len(shared) >= 2:
        interval = paired([of_better[s] for s in shared], [of_worse[s] for s in shared])
    elif better.is_enough and worse.is_enough:
        interval = welch(better, worse)
    else:
        return NOT_ENOUGH, None

    if not higher:
        interval = interval.turned()
    if interval.low > 0:
        return REPRODUCED, interval
    return NOT_REPRODUCED, interval


def combine(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its pairs; no pair: not run."""
    if not verdicts:
        return NOT_RUN
    held = verdicts.count(REPRODUCED)
    failed = verdicts.count(NOT_REPRODUCED)

    if held and failed:
        return PARTLY
    if held:
        return REPRODUCED
    if failed:
        return NOT_REPRODUCED
    return NOT_ENOUGH


def reason(verdict: str, interval: Interval | None, *sides: Sample) -> str:
    """Why a pair got its verdict, in a few words; `sides` are the two that were compared."""
    if interval is None:
        if any(side.n >= 2 and side.std is None for side in sides):
            return "no deviation known on a side"
        return "fewer than two seeds on a side"

    if verdict == REPRODUCED:
        return "interval excludes zero"
    if interval.high >= 0:
        return "interval includes zero"
    return "the opposite holds"
