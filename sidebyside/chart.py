"""A chart of learning curves: a line for the mean over runs, a band for their spread.

Python computes places in a view box, templates/curves.html.j2 draws them. Points have a marker, so
that a run of one epoch is seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sidebyside.metrics import Curve
from sidebyside.wording import mean_and_spread, show

# Of a chart, in units of its view box: the size, and the margins around the plot.
WIDTH = 460
HEIGHT = 260
LEFT = 52
RIGHT = 10
TOP = 12
BOTTOM = 34
COLOURS = 6
LINES = 2 * COLOURS  # of one chart: each colour drawn through and dashed
MARKED = 15  # points of a line, up to which each gets a marker


@dataclass(frozen=True)
class Drawn:
    """A curve in units of the view box: style, band, line, markers, and what its legend says."""

    style: str
    dash: str
    band: str  # the points of a polygon, "" where there is one run
    stroke: str  # the points of an upright line in place of a band at one epoch
    line: str
    marks: list[tuple[str, str]]
    label: str
    last: str


@dataclass(frozen=True)
class Chart:
    """All that one figure shows."""

    title: str
    task: str
    spread: str
    label: str
    y_ticks: list[tuple[str, str]]
    x_ticks: list[tuple[str, str]]
    lines: list[Drawn]
    across: list[tuple[str, str]]  # of the paper's numbers: place and text


class _Frame:
    """Where an epoch and a value lie in the chart, in units of its view box."""

    def __init__(self, lines: Sequence[Curve], across: Sequence[float] = ()) -> None:
        low = min([min(line.lower) for line in lines] + list(across))
        high = max([max(line.upper) for line in lines] + list(across))
        self.low, self.high = _widened(low, high)
        self.first = min(line.epochs[0] for line in lines)
        self.last = max(line.epochs[-1] for line in lines)
        if not self.last > self.first:
            self.last = self.first + 1

    def x(self, epoch: float) -> float:
        return LEFT + (epoch - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def point(self, epoch: float, value: float) -> str:
        return f"{self.x(epoch):.1f},{self.y(value):.1f}"

    def points(self, epochs: Sequence[float], values: Sequence[float]) -> list[str]:
        return list(map(self.point, epochs, values))


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range; where it is too narrow for its numbers, with a tenth of their size around it."""
    size = max(abs(low), abs(high))
    if high - low > size * 1e-9:
        return low, high
    margin = size / 10 or 1.0
    return low - margin, high + margin


def figures(
    title: str,
    task: str,
    lines: Sequence[Curve],
    published: Sequence[tuple[float, str]] = (),
) -> list[Chart]:
    """The lines in as many charts as their number needs."""
    pages = [lines[k : k + LINES] for k in range(0, len(lines), LINES)]
    figures = []
    for number, page in enumerate(pages, 1):
        told = title
        if len(pages) > 1:
            told += f" ({number} of {len(pages)})"
        figures.append(_figure(told, task, page, published))
    return figures


def _figure(
    title: str, task: str, lines: Sequence[Curve], published: Sequence[tuple[float, str]]
) -> Chart:
    frame = _Frame(lines, [value for value, _ in published])
    told = "; ".join(f"{line.label} {show(line.mean[-1])}" for line in lines)
    counts = sorted({line.runs for line in lines})
    spread = "one run"
    if counts[-1] > 1:
        spread = f"mean over {'/'.join(map(str, counts))} runs, band: one standard deviation"

    values = ticks(frame.low, frame.high)
    y_ticks = []
    for value, text in zip(values, tick_texts(values), strict=True):
        y_ticks.append((f"{frame.y(value):.1f}", text))
    x_ticks = []
    for epoch in ticks(frame.first, frame.last):
        if epoch % 1 == 0:
            x_ticks.append((f"{frame.x(epoch):.1f}", f"{epoch:.15g}"))
    return Chart(
        title=title,
        task=task,
        spread=spread,
        label=f"{title}; last values: {told}",
        y_ticks=y_ticks,
        x_ticks=x_ticks,
        lines=[_drawn(frame, line, number) for number, line in enumerate(lines)],
        across=[(f"{frame.y(value):.1f}", told) for value, told in published],
    )


def _drawn(frame: _Frame, curve: Curve, number: int) -> Drawn:
    """A curve: band, line, markers; at one epoch the band is an upright stroke."""
    line = frame.points(curve.epochs, curve.mean)
    up = frame.points(curve.epochs, curve.upper)
    down = frame.points(curve.epochs, curve.lower)

    band = ""
    stroke = ""
    last = show(curve.mean[-1])
    if curve.runs > 1:
        last = mean_and_spread(curve.mean[-1], curve.std[-1])
        if len(line) == 1:
            stroke = f"{down[0]} {up[0]}"
        else:
            band = " ".join([*up, *down[::-1]])

    marked = line
    if len(line) > MARKED:
        marked = line[-1:]
    marks = []
    for place in marked:
        x, _, y = place.partition(",")
        marks.append((x, y))
    return Drawn(
        style=f"c{number % COLOURS}",
        dash="" if number < COLOURS else "dashed",
        band=band,
        stroke=stroke,
        line=" ".join(line) if len(line) > 1 else "",
        marks=marks,
        label=curve.label,
        last=last,
    )


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About `wanted` round values from low to high: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / wanted
    exponent = math.floor(math.log10(rough))
    power = 10.0**exponent
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough)
    slack = 1e-9  # 0.3 is a little more than three times 0.1
    numbers = range(math.ceil(low / step - slack), math.floor(high / step + slack) + 1)
    return [round(k * step, max(0, 2 - exponent)) for k in numbers]


def tick_texts(values: Sequence[float]) -> list[str]:
    """The values with as many digits as tell neighbours apart.

    >>> tick_texts([96.872, 96.874, 96.876])
    ['96.872', '96.874', '96.876']
    """
    if len(values) < 2:
        return [show(value) for value in values]
    step = values[1] - values[0]
    largest = max(abs(value) for value in values)
    digits = max(1, math.floor(math.log10(largest)) - math.floor(math.log10(step)) + 1)
    if step < 1e-4 or largest >= 1e9:
        return [f"{value:.{digits}g}" for value in values]
    decimals = max(0, -math.floor(math.log10(step)))
    return [f"{value:.{decimals}f}" for value in values]
