"""Forest plots: a row for each pair of a claim, its difference, interval and margin to scale.

Python computes places on a strip of 300 units; templates/forest.html.j2 draws them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidebyside.chart import tick_texts, ticks
from sidebyside.claims import Pair
from sidebyside.verdict import Difference

WIDTH = 300.0  # units of a strip
EDGE = 8.0  # units kept free on both sides, for arrows and the text of ticks
REACH = 6.0  # margins beyond which an interval may leave the axis


@dataclass(frozen=True)
class Strip:
    """Places on one strip, in its units: mean, ends of the interval, ends of the margin."""

    pair: Pair
    mean: float
    low: float
    high: float
    band_low: float
    band_high: float
    leaves_low: bool
    leaves_high: bool


@dataclass(frozen=True)
class Forest:
    """The strips of a claim on one axis: the place of zero, and ticks with their text."""

    strips: list[Strip]
    zero: float
    ticks: list[tuple[float, str]]


def forest(pairs: Sequence[Pair]) -> Forest | None:
    """The forest plot of the pairs that have a difference; None where none has."""
    drawn = []
    for pair in pairs:
        found = pair.decision.difference
        if found is not None:
            drawn.append((pair, found))
    if not drawn:
        return None
    low, high = _domain(drawn)

    def place(value: float) -> float:
        share = (value - low) / (high - low)
        return round(EDGE + share * (WIDTH - 2 * EDGE), 1)

    strips = []
    for pair, found in drawn:
        decision = pair.decision
        strips.append(
            Strip(
                pair=pair,
                mean=place(found.mean),
                low=place(max(decision.low, low)),
                high=place(min(decision.high, high)),
                band_low=place(max(-decision.delta, low)),
                band_high=place(min(decision.delta, high)),
                leaves_low=decision.low < low,
                leaves_high=decision.high > high,
            )
        )
    values = ticks(low, high, wanted=4)
    told = tick_texts(values)
    return Forest(strips, place(0.0), [(place(v), t) for v, t in zip(values, told, strict=True)])


def _domain(drawn: Sequence[tuple[Pair, Difference]]) -> tuple[float, float]:
    """The ends of the axis: all means, zero and margins; intervals as far as `REACH` margins."""
    low = 0.0
    high = 0.0
    for pair, found in drawn:
        decision = pair.decision
        reach = max(REACH * decision.delta, 1.5 * abs(found.mean))
        low = min(low, found.mean, -decision.delta, max(decision.low, -reach))
        high = max(high, found.mean, decision.delta, min(decision.high, reach))
    room = (high - low) * 0.04
    return low - room, high + room
