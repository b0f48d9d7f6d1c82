"""The figures: threshold study, learning curves, label sets, several runs side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.aliases import one_module
from common.plots import new_figure, save_figure, save_grid
from mile.data import Source
from mile.evaluate import Outputs, Rule, Study
from mile.method import prediction_set

one_module(__name__, "mile.figures")

SHOWN = 8  # test images whose label sets are followed over the generations
CLASSES_SHOWN = 10

Lines = Sequence[Mapping[str, Any]]  # of metrics.jsonl


def _axes(columns: int, width: float = 5.0) -> tuple[Any, Any]:
    """A figure, and its axes in a row."""
    figure = new_figure(width * columns, 3.6)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def draw_thresholds(
    path: Path, study: Study, rho: float, title: str, trivial: Mapping[str, float]
) -> None:
    """F1, precision, recall and coverage over the threshold; the two trivial answers as lines."""
    figure, (left, right) = _axes(2)
    rhos = study.rho.numpy()
    left.plot(rhos, study.f1.numpy(), label="f1")
    left.plot(rhos, study.precision.numpy(), label="precision")
    left.plot(rhos, study.recall.numpy(), label="recall")

    one = trivial["trivial_f1_one_right_label"]
    every = trivial["trivial_f1_all_labels"]
    left.axhline(one, color="grey", ls=":", label="F1, one right label")
    left.axhline(every, color="grey", ls="--", label="F1, all labels")
    left.axvline(rho, color="black", lw=0.8)
    left.set(xlabel="threshold", title=title)
    left.legend(fontsize=7)

    right.plot(rhos, study.coverage.numpy())
    right.axvline(rho, color="black", lw=0.8)
    right.set(xlabel="threshold", title="predicted labels an image")
    save_figure(figure, path)


def draw_curves(path: Path, lines: Lines, imitation_steps: int) -> None:
    """Over the steps: test metrics, the loss of both phases, label-set sizes; imitation shaded."""
    figure, (of_test, of_loss, of_sets) = _axes(3, 4.4)

    def plot(axis: Any, split: str, metric: str, name: str) -> None:
        points = [
            (line["step"], line[metric])
            for line in lines
            if line["split"] == split and line.get(metric) is not None
        ]
        if points:
            axis.plot(*zip(*points, strict=True), marker=".", label=name)

    plot(of_test, "test", "acc", "acc")
    plot(of_test, "test", "real_acc", "real_acc")
    plot(of_test, "test", "real_f1", "real_f1")
    plot(of_loss, "interactive", "loss", "interactive")
    plot(of_loss, "imitation", "loss", "imitation")
    plot(of_sets, "test", "label_coverage", "predicted, test")
    plot(of_sets, "imitation", "labels_per_image", "pseudo labels, train")

    ends = [line["step"] for line in lines if line["split"] == "imitation"]
    titles = {"test": of_test, "loss of a phase": of_loss, "labels an image": of_sets}
    for title, axis in titles.items():
        for end in ends:
            axis.axvspan(end - imitation_steps, end, color="grey", alpha=0.15, lw=0)
        axis.set(xlabel="step", title=title)
        axis.legend(fontsize=7)
    save_figure(figure, path)


def draw_label_sets(
    path: Path, source: Source, outputs: Outputs, rule: Rule, *, is_sample: bool
) -> None:
    """Test images with y, true and predicted set."""
    names = source.class_names
    pictures = list(source.pictures(outputs.ids).numpy())
    predicted = prediction_set(outputs.logits, rule.rho, rule.schema, rule.protocol)
    titles = []
    for label, real, set_of in zip(outputs.label, outputs.real, predicted, strict=True):
        true = _names(real, names)
        titles.append(f"y {names[label]}\ntrue {true}\npred {_names(set_of, names)}")

    half = (len(pictures) + 1) // 2
    rows = [pictures[:half], pictures[half:]]
    titles_of_rows = [titles[:half], titles[half:]]
    if not rows[1]:
        del rows[1], titles_of_rows[1]
    note = f"{rule.schema}: predicted sets at threshold {rule.rho:g}"
    if is_sample:
        note += ", offline sample"
    save_grid(path, rows, titles_of_rows, cell=2.2, suptitle=note)


def draw_growth(path: Path, names: Sequence[str], outputs: Outputs, history: torch.Tensor) -> None:
    """p of test images over the generations; history (G,n,C) of the n images of `outputs`."""
    count = history.shape[2]
    highest = history.amax((0, 1)).topk(min(CLASSES_SHOWN, count)).indices
    classes = highest.sort().values

    figure, axes = _axes(min(4, history.shape[1]), 3.0)
    for i, axis in enumerate(axes):
        axis.imshow(history[:, i, classes].numpy(), vmin=0, vmax=1, aspect="auto", cmap="viridis")
        ticks = [names[c] + "*" * bool(outputs.real[i, c]) for c in classes.tolist()]
        axis.set_xticks(range(len(classes)), ticks, rotation=90, fontsize=6)
        axis.set(ylabel="generation", title=f"test image {outputs.ids[i]} (* true)")
    save_figure(figure, path)


def _names(row: torch.Tensor, names: Sequence[str]) -> str:
    """The classes of a set, bool (C,), in words."""
    return " ".join(names[c] for c in row.nonzero().flatten().tolist()) or "none"


def draw_comparison(
    path: Path,
    runs: Mapping[str, Sequence[Lines]],
    rho: float,
    all_labels: float,
    title: str,
) -> None:
    """Test metrics over the steps, a colour a schema: each seed thin, their mean thick.

    runs: schema -> the test lines of each seed. `all_labels`: the F1 of answering every label, as a
    line beside the networks' F1.
    """
    figure, axes = _axes(3, 4.4)
    figure.suptitle(title, fontsize=9)
    axes[1].axhline(all_labels, color="grey", ls="--", lw=0.8, label="no network: all labels")
    titles = {
        "acc": "accuracy",
        "real_f1": f"F1 at {rho:g}",
        "label_coverage": "predicted labels an image",
    }
    for axis, (metric, name) in zip(axes, titles.items(), strict=True):
        for number, (schema, seeds) in enumerate(runs.items()):
            _draw_schema(axis, seeds, metric, schema, f"C{number}")
        axis.set(xlabel="step", title=name)
        axis.legend(fontsize=7)
    save_figure(figure, path)


def _draw_schema(axis: Any, seeds: Sequence[Lines], metric: str, schema: str, color: str) -> None:
    steps = [line["step"] for line in seeds[0]]
    values = [[_number(line[metric]) for line in lines] for lines in seeds]
    for one in values:
        axis.plot(steps, one, color=color, lw=0.6, alpha=0.5)
    mean = [sum(column) / len(column) for column in zip(*values, strict=True)]
    axis.plot(steps, mean, color=color, lw=2, marker=".", label=schema)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
