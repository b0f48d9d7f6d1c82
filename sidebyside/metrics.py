"""The lines of metrics.jsonl, in whatever state the file is, and the mean of several runs."""

import json
import operator
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.text import MARK, read_bytes

FIXED = ("step", "epoch", "split")  # every line has them; the others are metrics
LARGEST = 1e100  # beyond it a number is a sign of damage, and squares of it overflow


def is_number(value: object) -> bool:
    """Whether a metric is a finite number that can be averaged (true and false are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST  # false for NaN; an int of any size can be compared


def metric_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines that can be used, and what is wrong with the others, in file order.

    A line is an object with a `split` (text) and an `epoch` (a number). A killed machine leaves
    half a line, or zeros, at the end: the lines before it count. UserError where the file itself
    cannot be read.
    """
    lines = []
    faults = []
    for number, raw in enumerate(read_bytes(path).removeprefix(MARK).split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            line = _line(raw)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
        else:
            lines.append(line)
            for fault in _unusable(line):
                faults.append(f"line {number}: {fault}")
    return lines, faults


def _line(raw: bytes) -> dict[str, Any]:
    """One line as an object with split and epoch; ValueError with a few words for anything else."""
    if b"\0" in raw:
        raise ValueError("holds a NUL")
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("not json") from None
    if not isinstance(content, dict):
        raise ValueError("not an object")
    if not isinstance(content.get("split"), str):
        raise ValueError("has no split")
    if not is_number(content.get("epoch")):
        raise ValueError("has no epoch")
    return content


def _unusable(line: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the values of a line: not finite, or a number written as text.

    null (undefined) is right, and so are lists, objects and notes, which no curve is drawn of.
    """
    for name, value in line.items():
        if name in FIXED or isinstance(value, bool) or is_number(value):
            continue
        if isinstance(value, int | float):
            yield f"{name} is no finite number"
        if isinstance(value, str) and _reads_as_number(value):
            yield f"{name} is text, not a number"


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Point(NamedTuple):
    """What several runs had at one epoch: mean, sample standard deviation (0 for one run), n."""

    epoch: float
    mean: float
    std: float
    runs: int


@dataclass(frozen=True)
class Curve:
    """Mean and sample standard deviation over runs, epoch by epoch."""

    label: str
    epochs: list[float]
    mean: list[float]
    std: list[float]
    runs: int

    @property
    def upper(self) -> list[float]:
        """Mean and deviation added, epoch by epoch."""
        return list(map(operator.add, self.mean, self.std))

    @property
    def lower(self) -> list[float]:
        """The mean less the deviation, epoch by epoch."""
        return list(map(operator.sub, self.mean, self.std))


def curve_of(label: str, points: Sequence[Point]) -> Curve:
    """The curve through points in order of epochs; its runs are the fewest of any of them."""
    return Curve(
        label,
        epochs=[point.epoch for point in points],
        mean=[point.mean for point in points],
        std=[point.std for point in points],
        runs=min(point.runs for point in points),
    )


def by_epoch(lines: Sequence[dict[str, Any]], split: str, metric: str) -> dict[float, float]:
    """The metric of one run by epoch; of several lines of an epoch (resumed) the last counts."""
    values = {}
    for line in lines:
        if line.get("split") == split and is_number(line.get(metric)):
            values[line["epoch"]] = float(line[metric])
    return values


def mean_curve(runs: Sequence[Sequence[dict[str, Any]]], split: str, metric: str) -> list[Point]:
    """The points of a metric over the metrics lines of several runs.

    Epochs that fewer runs have than others are left out.
    """
    together: dict[float, list[float]] = defaultdict(list)
    for lines in runs:
        for epoch, value in by_epoch(lines, split, metric).items():
            together[epoch].append(value)

    most = max(map(len, together.values()), default=0)
    points = []
    for epoch, values in sorted(together.items()):
        if len(values) < most:
            continue
        spread = 0.0
        if most > 1:
            spread = statistics.stdev(values)
        points.append(Point(epoch, statistics.fmean(values), spread, most))
    return points
