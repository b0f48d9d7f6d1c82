"""Learning curves as inline SVG: a line for the mean over runs, a band for their spread.

They are drawn of curves.csv and of run directories. Points have a marker, so that a run of one
epoch is seen.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from sidebyside.markup import slug, text
from sidebyside.metrics import FIXED, Curve, by_epoch, curve_of, is_number, mean_curve
from sidebyside.records import Paper
from sidebyside.runs import RunFolder, groups, names
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
OTHER = "other"  # in the place of a paper, for runs that no paper's script made
_WANTED = re.compile(r"acc|mAP|f1|loss|top|iou|pxap|disambiguation", re.I)
_CONTEXT = re.compile(
    r"^(ds|dataset|dataset_name|data|data_dir|domain|partial_type|q|rate|simulate_partial_\w+"
    r"|mo|model|model_name|architecture|image_size|mnist_\w+)$"
)


# --- which curves ---


def curve(label: str, runs: Sequence[RunFolder], split: str, metric: str) -> Curve | None:
    """The curve of a metric over runs that differ only in seed; None where there is no point."""
    points = mean_curve([run.lines for run in runs], split, metric)
    if not points:
        return None

    last = points[-1].epoch
    if any(max(by_epoch(run.lines, split, metric), default=last) > last for run in runs):
        label = f"{label} (to epoch {show(last)}, where the first of them ends)"
    return curve_of(label, points)


def measured(paper: Paper) -> str:
    """The charts of curves.csv: for each data set, setting and metric, a line for each method."""
    figures = []
    for (dataset, setting, name), lines in paper.curves.items():
        title = f"{paper.name}: {name.replace('/', ' ')}"
        figures += _figures(title, f"{dataset}, {setting}", lines)
    return "\n".join(figures)


def charts(paper: str, runs: Sequence[RunFolder], named: dict[Path, str] | None = None) -> str:
    """All charts of one paper's runs: for each task and metric, a line for each experiment."""
    named = named or names(runs)
    figures = []
    for (is_sample, task), own in sorted(_by_task(runs).items(), key=str):
        labelled = groups(own, named)
        told = ", ".join(f"{key} {_last_part(value)}" for key, value in task)
        for split, metric in _metrics(own):
            lines = []
            for label, group in labelled.items():
                line = curve(label, group, split, metric)
                if line is not None:
                    lines.append(line)
            title = f"{paper}: {split} {metric}{_SAMPLE[is_sample]}"
            figures += _figures(title, told, lines)
    return "\n".join(figures)


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


_SAMPLE = {
    True: " (offline sample)",
    False: "",
    None: " (real data or sample: the run does not tell)",
}
_Task = tuple[bool | None, tuple[tuple[str, str], ...]]


def _by_task(runs: Sequence[RunFolder]) -> dict[_Task, list[RunFolder]]:
    tasks: dict[_Task, list[RunFolder]] = defaultdict(list)
    for run in runs:
        task = []
        for key, value in run.experiment.items():
            if _CONTEXT.match(key) and value not in (None, ""):
                task.append((key, str(value)))
        tasks[run.is_sample, tuple(sorted(task))].append(run)
    return tasks


def _metrics(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """What to draw: evaluation figures first, then the training loss; six at most."""
    found: dict[tuple[str, str], None] = {}
    for run in runs:
        found.update(dict.fromkeys(_numbers_of(run)))

    wanted = [pair for pair in found if _WANTED.search(pair[1])] or list(found)
    chosen = [pair for pair in wanted if pair[0] not in ("train", "start", "runs")][:5]
    if ("train", "loss") in wanted:
        chosen.append(("train", "loss"))
    return chosen


def _numbers_of(run: RunFolder) -> Iterator[tuple[str, str]]:
    for line in run.lines:
        for metric, value in line.items():
            if metric not in FIXED and is_number(value):
                yield line["split"], metric


# --- drawing ---


def _figures(title: str, task: str, lines: Sequence[Curve]) -> list[str]:
    """The lines in as many charts as their number needs."""
    pages = [lines[k : k + LINES] for k in range(0, len(lines), LINES)]
    figures = []
    for number, page in enumerate(pages, 1):
        told = title
        if len(pages) > 1:
            told += f" ({number} of {len(pages)})"
        figures.append(_figure(told, task, page))
    return figures


class _Frame:
    """Where an epoch and a value lie in the chart, in units of its view box."""

    def __init__(self, lines: Sequence[Curve]) -> None:
        low = min(min(line.lower) for line in lines)
        high = max(max(line.upper) for line in lines)
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


def _figure(title: str, task: str, lines: Sequence[Curve]) -> str:
    frame = _Frame(lines)
    parts = _axes(frame)
    for number, line in enumerate(lines):
        parts += _drawn(frame, line, number)

    told = "; ".join(f"{line.label} {show(line.mean[-1])}" for line in lines)
    label = text(f"{title}; last values: {told}")
    counts = sorted({line.runs for line in lines})
    spread = "one run"
    if counts[-1] > 1:
        spread = f"mean over {'/'.join(map(str, counts))} runs, band: one standard deviation"
    return (
        f'<figure class="chart" id="{slug(f"{title} {task}")}">'
        f"<figcaption><strong>{text(title)}</strong><br>{text(task)}; {spread}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>{_legend(lines)}</figure>"
    )


def _axes(frame: _Frame) -> list[str]:
    parts = []
    values = ticks(frame.low, frame.high)
    for value, told in zip(values, tick_texts(values), strict=True):
        y = f"{frame.y(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{told}</text>')
    for epoch in ticks(frame.first, frame.last):
        if epoch % 1 == 0:
            place = f'x="{frame.x(epoch):.1f}" y="{HEIGHT - BOTTOM + 16}"'
            parts.append(f'<text {place} text-anchor="middle">{epoch:.15g}</text>')
    middle = (LEFT + WIDTH) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 3}" text-anchor="middle">epoch</text>')
    return parts


def _drawn(frame: _Frame, curve: Curve, number: int) -> list[str]:
    """A curve: band, line, markers; at one epoch the band is an upright stroke."""
    style = f"c{number % COLOURS}"
    line = frame.points(curve.epochs, curve.mean)
    up = frame.points(curve.epochs, curve.upper)
    down = frame.points(curve.epochs, curve.lower)

    parts = []
    if curve.runs > 1 and len(line) == 1:
        parts.append(f'<polyline class="line {style}" points="{down[0]} {up[0]}"/>')
    elif curve.runs > 1:
        parts.append(f'<polygon class="band {style}" points="{" ".join([*up, *down[::-1]])}"/>')
    if len(line) > 1:
        parts.append(f'<polyline class="line {style} {_dash(number)}" points="{" ".join(line)}"/>')

    marked = line
    if len(line) > MARKED:
        marked = line[-1:]
    for place in marked:
        x, y = place.split(",")
        parts.append(f'<circle class="mark {style}" cx="{x}" cy="{y}" r="3"/>')
    return parts


def _legend(lines: Sequence[Curve]) -> str:
    items = []
    for number, curve in enumerate(lines):
        style = f"c{number % COLOURS}"
        last = show(curve.mean[-1])
        if curve.runs > 1:
            last = mean_and_spread(curve.mean[-1], curve.std[-1])
        items.append(
            '<li><svg viewBox="0 0 26 8" width="26" height="8" aria-hidden="true">'
            f'<line class="line {style} {_dash(number)}" x1="0" y1="4" x2="26" y2="4"/>'
            f'<circle class="mark {style}" cx="13" cy="4" r="3"/></svg> '
            f"{text(curve.label)} <small>{last}</small></li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _dash(number: int) -> str:
    if number < COLOURS:
        return ""
    return "dashed"


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
