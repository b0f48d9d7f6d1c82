"""The lines of metrics.jsonl, in whatever state the file is, and the mean of several runs."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.text import MARK, read_bytes

FIXED = ("step", "epoch", "split")  # every line has them; the others are metrics
LARGEST = 1e100  # beyond it a number is a sign of damage, and squares of it overflow


def is_number(value: object) -> bool:
    """Whether a metric is a finite number that can be averaged (true and false are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST  # false for NaN; an int of any size can be compared


def metric_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines that can be used, and for each of the others (or values in them) what is wrong, in file order.

    A line is an object with a `split` (text) and an `epoch` (a number). A killed machine leaves half a line, or
    zeros, at the end: the lines before it count. UserError where the file itself cannot be read.
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
            faults += [f"line {number}: {fault}" for fault in _unusable(line)]
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
    """What is wrong with the values of a line: numbers that are not finite, numbers written as text.

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


def mean_curve(
    runs: Sequence[Sequence[dict]], split: str, metric: str
) -> list[tuple[float, float, float, int]]:
    """Epoch, mean, sample deviation (0 for one run) and n over the metrics lines of several runs.

    Of several lines of an epoch the last counts (a resumed run); epochs that fewer runs have than others are left out.
    """
    by_epoch: dict[float, list[float]] = defaultdict(list)
    for lines in runs:
        known = [l for l in lines if l.get("split") == split and is_number(l.get(metric))]
        own = {l["epoch"]: float(l[metric]) for l in known}
        for epoch, value in own.items():
            by_epoch[epoch].append(value)

    most = max(map(len, by_epoch.values()), default=0)
    points = []
    for epoch, values in sorted(by_epoch.items()):
        if len(values) == most:
            spread = statistics.stdev(values) if most > 1 else 0.0
            points.append((epoch, statistics.fmean(values), spread, most))
    return points
