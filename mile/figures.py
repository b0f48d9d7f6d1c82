"""The figures: threshold study, learning curves, label sets, several runs side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.aliases import one_module
from common.plots import save_grid
from common.run import Run
from mile.evaluation import Outputs
from mile.sources import Source
from mile.thresholds import Study
from mile.utils import prediction_set

one_module(__name__, "mile.figures")

SHOWN = 8  # test images whose label sets are followed over the generations


def _axes(columns: int, width: float = 5.0) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(1, columns, figsize=(width * columns, 3.6), squeeze=False)


def _save(path: Path, figure: Any) -> None:
    from matplotlib import pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw_thresholds(run: Run, study: Study, summary: dict[str, Any], rho: float, conf: Any) -> None:
    """figures/thresholds.png: F1, precision and recall over the threshold, coverage; the trivial answers as lines."""
    figure, ((left, right),) = _axes(2)
    for name in ("f1", "precision", "recall"):
        left.plot(study.rho.numpy(), getattr(study, name).numpy(), label=name)
    left.axhline(
        summary["trivial_f1_one_right_label"], color="grey", ls=":", label="F1, one right label"
    )
    left.axhline(summary["trivial_f1_all_labels"], color="grey", ls="--", label="F1, all labels")
    left.axvline(rho, color="black", lw=0.8)
    left.set(xlabel="threshold", title=f"{conf.schema}, mAP {summary['mAP']:.3f}")
    right.plot(study.rho.numpy(), study.coverage.numpy())
    right.axvline(rho, color="black", lw=0.8)
    right.set(xlabel="threshold", title="predicted labels an image")
    left.legend(fontsize=7)
    _save(run.figure("thresholds"), figure)


def draw_curves(run: Run, conf: Any) -> None:
    """figures/curves.png over the steps: test metrics, the loss of both phases, label-set sizes; imitation shaded."""
    figure, (axes,) = _axes(3, 4.4)
    lines = {
        split: [x for x in run.lines if x["split"] == split]
        for split in ("interactive", "imitation", "test")
    }

    def plot(axis: Any, split: str, metric: str, name: str) -> None:
        points = [(x["step"], x[metric]) for x in lines[split] if x.get(metric) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), marker=".", label=name)

    for metric in ("acc", "real_acc", "real_f1"):
        plot(axes[0], "test", metric, metric)
    for split in ("interactive", "imitation"):
        plot(axes[1], split, "loss", split)
    plot(axes[2], "test", "label_coverage", "predicted, test")
    plot(axes[2], "imitation", "labels_per_image", "pseudo labels, train")
    for axis, title in zip(axes, ("test", "loss of a phase", "labels an image"), strict=True):
        for x in lines["imitation"]:
            axis.axvspan(x["step"] - conf.k_s, x["step"], color="grey", alpha=0.15, lw=0)
        axis.set(xlabel="step", title=title)
        axis.legend(fontsize=7)
    _save(run.figure("curves"), figure)


def draw_label_sets(
    run: Run, source: Source, outputs: Outputs, conf: Any, history: torch.Tensor
) -> None:
    """figures/labels.png: test images with y, true and predicted set; figures/growth.png: p over the generations.

    history (G,SHOWN,C): p of the first test images after each generation. Unreadable ones are left out.
    """
    rho, names = conf.eval_rho, source.class_names
    logits, label, real, index = (rows[outputs.index < history.shape[1]] for rows in outputs)
    if not len(index):
        return
    history = history[:, index]
    pictures = source.pictures(index).numpy()
    predicted = prediction_set(logits, rho, conf.schema, conf.protocol)
    titles = [
        f"y {names[label[i]]}\ntrue {_names(real[i], names)}\npred {_names(predicted[i], names)}"
        for i in range(len(pictures))
    ]
    half = (len(pictures) + 1) // 2
    rows = [list(pictures[:half]), list(pictures[half:])]
    note = (
        f"{conf.schema}: predicted sets at threshold {rho:g}" + ", offline sample" * conf._is_sample
    )
    titles_by_row = [titles[:half], titles[half:]]
    save_grid(
        run.figure("labels"),
        [r for r in rows if r],
        titles_by_row[: len(rows)],
        cell=2.2,
        suptitle=note,
    )
    if len(history) < 2:
        return
    figure, (axes,) = _axes(min(4, history.shape[1]), 3.0)
    classes = history.amax((0, 1)).topk(min(10, history.shape[2])).indices.sort().values
    for i, axis in enumerate(axes):
        axis.imshow(history[:, i, classes].numpy(), vmin=0, vmax=1, aspect="auto", cmap="viridis")
        ticks = [names[c] + "*" * bool(real[i, c]) for c in classes.tolist()]
        axis.set_xticks(range(len(classes)), ticks, rotation=90, fontsize=6)
        axis.set(ylabel="generation", title=f"test image {index[i]} (* true)")
    _save(run.figure("growth"), figure)


def _names(row: torch.Tensor, names: Sequence[str]) -> str:
    return " ".join(names[c] for c in row.nonzero().flatten().tolist()) or "none"


def draw_comparison(
    path: Path,
    runs: Mapping[str, Sequence[Sequence[dict]]],
    rho: float,
    all_labels: float,
    title: str,
) -> None:
    """Test metrics over the steps, a colour a schema: each seed thin, their mean thick. runs: schema -> test lines.

    `all_labels`: the F1 of answering every label, as a line beside the networks' F1.
    """
    figure, (axes,) = _axes(3, 4.4)
    figure.suptitle(title, fontsize=9)
    axes[1].axhline(all_labels, color="grey", ls="--", lw=0.8, label="no network: all labels")
    titles = {
        "acc": "accuracy",
        "real_f1": f"F1 at {rho:g}",
        "label_coverage": "predicted labels an image",
    }
    for axis, (metric, name) in zip(axes, titles.items(), strict=True):
        for number, (schema, seeds) in enumerate(runs.items()):
            values = [
                [float("nan") if line[metric] is None else line[metric] for line in lines]
                for lines in seeds
            ]
            steps = [line["step"] for line in seeds[0]]
            for one in values:
                axis.plot(steps, one, color=f"C{number}", lw=0.6, alpha=0.5)
            mean = [sum(column) / len(column) for column in zip(*values, strict=True)]
            axis.plot(steps, mean, color=f"C{number}", lw=2, marker=".", label=schema)
        axis.set(xlabel="step", title=name)
        axis.legend(fontsize=7)
    _save(path, figure)
