"""Which learning curves are drawn: those of curves.csv, and of run directories.

Where both have a task and a metric they are in one chart, and the paper's number is a line across.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from sidebyside.chart import Chart
from sidebyside.chart import figures as figures_of
from sidebyside.metrics import FIXED, Curve, by_epoch, curve_of, is_number, mean_curve
from sidebyside.records import Paper
from sidebyside.runs import RunFolder, groups, names
from sidebyside.wording import show

OTHER = "other"  # in the place of a paper, for runs that no paper's script made
_WANTED = re.compile(r"acc|mAP|f1|loss|top|iou|pxap|disambiguation", re.I)
_CONTEXT = re.compile(
    r"^(ds|dataset|dataset_name|data|data_dir|domain|partial_type|q|rate|simulate_partial_\w+"
    r"|mo|model|model_name|architecture|image_size|mnist_\w+)$"
)


def curve(label: str, runs: Sequence[RunFolder], split: str, metric: str) -> Curve | None:
    """The curve of a metric over runs that differ only in seed; None where there is no point."""
    points = mean_curve([run.lines for run in runs], split, metric)
    if not points:
        return None

    last = points[-1].epoch
    if any(max(by_epoch(run.lines, split, metric), default=last) > last for run in runs):
        label = f"{label} (to epoch {show(last)}, where the first of them ends)"
    return curve_of(label, points)


def measured(
    paper: Paper, runs: Sequence[RunFolder] = (), named: dict[Path, str] | None = None
) -> list[Chart]:
    """The charts of curves.csv: for each data set, setting and metric, a line for each method.

    Own runs on a data set of that name are drawn over them; the paper's numbers are lines across.
    """
    named = named or names(runs)
    figures = []
    for (dataset, setting, name), lines in paper.curves.items():
        title = f"{paper.name}: {name.replace('/', ' ')}"
        own = _own_lines(dataset, name, runs, named)
        published = _published(paper, dataset, setting, name, lines)
        figures += figures_of(title, f"{dataset}, {setting}", [*lines, *own], published)
    return figures


def _own_lines(
    dataset: str, name: str, runs: Sequence[RunFolder], named: dict[Path, str]
) -> list[Curve]:
    """The curves of runs whose data set has the name of the chart's."""
    split, _, metric = name.partition("/")
    same = [run for run in runs if _is_named(run, dataset)]
    lines = []
    for label, group in groups(same, named).items():
        line = curve(f"yours: {label}", group, split, metric)
        if line is not None:
            lines.append(line)
    return lines


def _is_named(run: RunFolder, dataset: str) -> bool:
    told = _letters(run.data.rpartition("/")[2])
    whole = _letters(dataset)
    is_sample = "sample" in dataset.lower()
    return told != "" and whole.startswith(told) and bool(run.is_sample) == is_sample


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _published(
    paper: Paper, dataset: str, setting: str, name: str, lines: Sequence[Curve]
) -> list[tuple[float, str]]:
    """The paper's numbers of the chart's task and metric: value in the chart's unit, and method."""
    largest = max(max(line.mean) for line in lines)
    metric = _letters(name.partition("/")[2])
    found = []
    for row in paper.published:
        is_task = row.cells["dataset"] == dataset and row.cells["setting"] == setting
        words = re.findall(r"[a-z0-9]+", row.cells["metric"].lower())
        if row.value is None or not is_task or not any(word in metric for word in words):
            continue
        is_percent = row.value > 1 >= largest
        value = row.value / 100 if is_percent else row.value
        found.append((value, f"paper: {row.cells['method']}"))
    return found


def charts(
    paper: str, runs: Sequence[RunFolder], named: dict[Path, str] | None = None
) -> list[Chart]:
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
            figures += figures_of(title, told, lines)
    return figures


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
