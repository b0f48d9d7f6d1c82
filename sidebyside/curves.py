"""Learning curves as inline SVG: a line for the mean over runs, a band for their spread; of curves.csv and of runs."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from sidebyside.markup import slug, text
from sidebyside.records import Curve, Paper, show
from sidebyside.results import is_number, mean_curve
from sidebyside.runs import RunFolder, groups

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 260, 52, 10, 12, 34
COLOURS = 6
_WANTED = re.compile(r"acc|mAP|f1|loss|top|iou|pxap|disambiguation", re.I)
_CONTEXT = re.compile(
    r"^(ds|dataset|data|data_dir|domain|partial_type|q|rate|simulate_partial_\w+|mo|model|architecture|image_size|mnist_\w+)$"
)


def curve(label: str, runs: Sequence[RunFolder], split: str, metric: str) -> Curve | None:
    """The curve of one metric over runs that differ only in seed; None where there are fewer than two points."""
    points = mean_curve([run.lines for run in runs], split, metric)
    if len(points) < 2:
        return None
    epochs, mean, std, counts = (list(column) for column in zip(*points, strict=True))
    return Curve(label, epochs, mean, std, counts[0])


def measured(paper: Paper) -> str:
    """The charts of curves.csv: one for each data set, setting and metric, a line for each method."""
    figures = []
    for (dataset, setting, name), lines in paper.curves.items():
        shown = [c for c in lines if len(c.epochs) > 1][: 2 * COLOURS]
        if shown:
            figures.append(_figure(f"{paper.name}: {name.replace('/', ' ')}", f"{dataset}, {setting}", shown))
    return "\n".join(figures)


def charts(paper: str, runs: Sequence[RunFolder]) -> str:
    """All charts of one paper: one for each task (data, network) and metric, a line for each method."""
    tasks: dict[tuple, list[RunFolder]] = defaultdict(list)
    for run in runs:
        task = {k: v for k, v in run.experiment.items() if _CONTEXT.match(k) and v not in (None, "")}
        tasks[(run.is_sample, tuple(sorted((k, str(v)) for k, v in task.items())))].append(run)
    figures = []
    for (is_sample, task), own in sorted(tasks.items(), key=str):
        labelled = groups(own)
        name = ", ".join(f"{k} {v.rstrip('/').rpartition('/')[2]}" for k, v in task)
        for split, metric in _metrics(own):
            found = [curve(label, group, split, metric) for label, group in labelled.items()]
            lines = [c for c in found if c is not None][: 2 * COLOURS]
            if lines:
                title = f"{paper}: {split} {metric}" + (" (offline sample)" if is_sample else "")
                figures.append(_figure(title, name, lines))
    return "\n".join(figures)


def _metrics(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """What to draw: evaluation figures first, then the training loss; six at most."""
    found = dict.fromkeys(
        (line["split"], metric)
        for run in runs
        for line in run.lines
        for metric, value in line.items()
        if metric not in ("step", "epoch", "split") and is_number(value) and _WANTED.search(metric)
    )
    evaluation = [pair for pair in found if pair[0] not in ("train", "start", "runs")]
    return [*evaluation[:5], *[pair for pair in found if pair == ("train", "loss")]]


def _figure(title: str, task: str, lines: Sequence[Curve]) -> str:
    low = min(m - s for c in lines for m, s in zip(c.mean, c.std, strict=True))
    high = max(m + s for c in lines for m, s in zip(c.mean, c.std, strict=True))
    first, last = min(c.epochs[0] for c in lines), max(c.epochs[-1] for c in lines)
    high, last = (high if high > low else low + 1), (last if last > first else first + 1)

    def x(epoch: float) -> float:
        return LEFT + (epoch - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{show(v)}</text>'
        for v in ticks(low, high)
    ]
    parts += [
        f'<text x="{x(v):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{show(v)}</text>'
        for v in ticks(first, last)
        if v % 1 == 0
    ]
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 3}" text-anchor="middle">epoch</text>')
    for number, c in enumerate(lines):
        up = [f"{x(e):.1f},{y(m + s):.1f}" for e, m, s in zip(c.epochs, c.mean, c.std, strict=True)]
        down = [f"{x(e):.1f},{y(m - s):.1f}" for e, m, s in zip(c.epochs, c.mean, c.std, strict=True)]
        line = " ".join(f"{x(e):.1f},{y(m):.1f}" for e, m in zip(c.epochs, c.mean, strict=True))
        if c.runs > 1:
            parts.append(f'<polygon class="band c{number % COLOURS}" points="{" ".join(up + down[::-1])}"/>')
        parts.append(f'<polyline class="line c{number % COLOURS} {_dash(number)}" points="{line}"/>')
    counts = sorted({c.runs for c in lines})
    told = "; ".join(f"{c.label} {show(c.mean[-1])}" for c in lines)
    spread = (
        f"mean over {'/'.join(map(str, counts))} runs, band: one standard deviation" if counts[-1] > 1 else "one run"
    )
    return (
        f'<figure class="chart" id="{slug(f"{title} {task}")}"><figcaption><strong>{text(title)}</strong><br>'
        f"{text(task)}; {spread}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(f"{title}; last values: {told}")}">'
        f"{''.join(parts)}</svg>{_legend(lines)}</figure>"
    )


def _legend(lines: Sequence[Curve]) -> str:
    items = (
        f'<li><svg viewBox="0 0 26 8" width="26" height="8" aria-hidden="true">'
        f'<line class="line c{k % COLOURS} {_dash(k)}" x1="0" y1="4" x2="26" y2="4"/></svg> '
        f"{text(c.label)} <small>{show(c.mean[-1])}{f' ± {show(c.std[-1])}' if c.runs > 1 else ''}</small></li>"
        for k, c in enumerate(lines)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _dash(number: int) -> str:
    return "dashed" if number >= COLOURS else ""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values between low and high, about `wanted` of them: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
