"""Learning curves as inline SVG: a line for the mean over runs, a band for their spread; of curves.csv and of runs.

Points have a marker, so that a run of one epoch is seen.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from sidebyside.markup import slug, text
from sidebyside.metrics import FIXED, is_number, mean_curve
from sidebyside.records import Curve, Paper
from sidebyside.runs import RunFolder, groups, names
from sidebyside.wording import mean_and_spread, show

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 260, 52, 10, 12, 34
COLOURS = 6
LINES = 2 * COLOURS  # of one chart: each colour drawn through and dashed
MARKED = 15  # points of a line, up to which each gets a marker
OTHER = "other"  # in the place of a paper, for runs that no paper's script made
_WANTED = re.compile(r"acc|mAP|f1|loss|top|iou|pxap|disambiguation", re.I)
_CONTEXT = re.compile(
    r"^(ds|dataset|dataset_name|data|data_dir|domain|partial_type|q|rate|simulate_partial_\w+|mo|model|model_name"
    r"|architecture|image_size|mnist_\w+)$"
)


# --- which curves ---


def curve(label: str, runs: Sequence[RunFolder], split: str, metric: str) -> Curve | None:
    """The curve of one metric over runs that differ only in seed; None where they have no point of it."""
    points = mean_curve([run.lines for run in runs], split, metric)
    if not points:
        return None
    epochs, mean, std, counts = (list(column) for column in zip(*points, strict=True))

    longest = max(_last_epoch(run, split, metric) for run in runs)
    if longest > epochs[-1]:
        label = f"{label} (to epoch {show(epochs[-1])}, where the first of them ends)"
    return Curve(label, epochs, mean, std, counts[0])


def _last_epoch(run: RunFolder, split: str, metric: str) -> float:
    known = [l["epoch"] for l in run.lines if l["split"] == split and is_number(l.get(metric))]
    return max(known, default=-math.inf)


def measured(paper: Paper) -> str:
    """The charts of curves.csv: for each data set, setting and metric, a line for each method."""
    figures = []
    for (dataset, setting, name), lines in paper.curves.items():
        title = f"{paper.name}: {name.replace('/', ' ')}"
        figures += _figures(title, f"{dataset}, {setting}", lines)
    return "\n".join(figures)


def charts(paper: str, runs: Sequence[RunFolder], named: dict[Path, str] | None = None) -> str:
    """All charts of one paper's runs: for each task (data, network) and metric, a line for each experiment."""
    named = named or names(runs)
    figures = []
    for (is_sample, task), own in sorted(_by_task(runs).items(), key=str):
        labelled = groups(own, named)
        told = ", ".join(f"{k} {v.rstrip('/').rpartition('/')[2]}" for k, v in task)
        for split, metric in _metrics(own):
            found = [curve(label, group, split, metric) for label, group in labelled.items()]
            lines = [c for c in found if c is not None]
            title = f"{paper}: {split} {metric}{_SAMPLE[is_sample]}"
            figures += _figures(title, told, lines)
    return "\n".join(figures)


_SAMPLE = {
    True: " (offline sample)",
    False: "",
    None: " (real data or sample: the run does not tell)",
}
_Task = tuple[bool | None, tuple[tuple[str, str], ...]]


def _by_task(runs: Sequence[RunFolder]) -> dict[_Task, list[RunFolder]]:
    tasks: dict[_Task, list[RunFolder]] = defaultdict(list)
    for run in runs:
        settings = run.experiment.items()
        task = [(k, str(v)) for k, v in settings if _CONTEXT.match(k) and v not in (None, "")]
        tasks[run.is_sample, tuple(sorted(task))].append(run)
    return tasks


def _metrics(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """What to draw: evaluation figures first, then the training loss; six at most."""
    found = dict.fromkeys(pair for run in runs for pair in _numbers_of(run))
    wanted = [pair for pair in found if _WANTED.search(pair[1])] or list(found)
    evaluation = [pair for pair in wanted if pair[0] not in ("train", "start", "runs")]
    return [*evaluation[:5], *[pair for pair in wanted if pair == ("train", "loss")]]


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
        part = f" ({number} of {len(pages)})" if len(pages) > 1 else ""
        figures.append(_figure(title + part, task, page))
    return figures


class _Frame:
    """Where an epoch and a value lie in the chart, in units of its view box."""

    def __init__(self, lines: Sequence[Curve]) -> None:
        low = min(m - s for c in lines for m, s in zip(c.mean, c.std, strict=True))
        high = max(m + s for c in lines for m, s in zip(c.mean, c.std, strict=True))
        self.low, self.high = _widened(low, high)
        self.first = min(c.epochs[0] for c in lines)
        self.last = max(c.epochs[-1] for c in lines)
        if not self.last > self.first:
            self.last = self.first + 1

    def x(self, epoch: float) -> float:
        return LEFT + (epoch - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def point(self, epoch: float, value: float) -> str:
        return f"{self.x(epoch):.1f},{self.y(value):.1f}"


def _widened(low: float, high: float) -> tuple[float, float]:
    """The range, where it is empty or too narrow for its numbers with a tenth of their size around it."""
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

    told = "; ".join(f"{c.label} {show(c.mean[-1])}" for c in lines)
    counts = sorted({c.runs for c in lines})
    spread = "one run"
    if counts[-1] > 1:
        spread = f"mean over {'/'.join(map(str, counts))} runs, band: one standard deviation"
    return (
        f'<figure class="chart" id="{slug(f"{title} {task}")}">'
        f"<figcaption><strong>{text(title)}</strong><br>{text(task)}; {spread}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(f"{title}; last values: {told}")}">'
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


def _drawn(frame: _Frame, c: Curve, number: int) -> list[str]:
    """A curve: band, line, markers; at one epoch the band is an upright stroke."""
    style = f"c{number % COLOURS}"
    line = [frame.point(e, m) for e, m in zip(c.epochs, c.mean, strict=True)]
    up = [frame.point(e, m + s) for e, m, s in zip(c.epochs, c.mean, c.std, strict=True)]
    down = [frame.point(e, m - s) for e, m, s in zip(c.epochs, c.mean, c.std, strict=True)]
    parts = []
    if c.runs > 1 and len(line) == 1:
        parts.append(f'<polyline class="line {style}" points="{down[0]} {up[0]}"/>')
    elif c.runs > 1:
        parts.append(f'<polygon class="band {style}" points="{" ".join([*up, *down[::-1]])}"/>')
    if len(line) > 1:
        parts.append(f'<polyline class="line {style} {_dash(number)}" points="{" ".join(line)}"/>')

    for place in line if len(line) <= MARKED else line[-1:]:
        x, y = place.split(",")
        parts.append(f'<circle class="mark {style}" cx="{x}" cy="{y}" r="3"/>')
    return parts


def _legend(lines: Sequence[Curve]) -> str:
    items = []
    for number, c in enumerate(lines):
        style = f"c{number % COLOURS}"
        last = mean_and_spread(c.mean[-1], c.std[-1]) if c.runs > 1 else show(c.mean[-1])
        items.append(
            '<li><svg viewBox="0 0 26 8" width="26" height="8" aria-hidden="true">'
            f'<line class="line {style} {_dash(number)}" x1="0" y1="4" x2="26" y2="4"/>'
            f'<circle class="mark {style}" cx="13" cy="4" r="3"/></svg> '
            f"{text(c.label)} <small>{last}</small></li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _dash(number: int) -> str:
    return "dashed" if number >= COLOURS else ""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values between low and high, about `wanted` of them: steps of 1, 2 or 5 times a power of ten."""
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
