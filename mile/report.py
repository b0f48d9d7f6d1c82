"""What a run writes besides its metrics: output.txt, the figures, the summary, exported label sets."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from common.cam import save_grid
from common.checkpoint import atomic_write
from common.run import Run
from mile.config import setting
from mile.evaluation import all_logits
from mile.learning import pseudo_labels
from mile.sources import Source
from mile.thresholds import Study, mean_average_precision, probabilities, threshold_study, trivial_f1

SHOWN = 8  # test images whose label sets are followed over the generations
METRICS = ("acc", "real_acc", "real_f1", "label_coverage", "precision", "recall", "real_f1_025", "real_f1_05")


def output_lines(run: Run) -> list[str]:
    """output.txt of the unofficial code: one line a generation, three decimals."""
    return [
        f"epoch:{line['epoch'] - 1} acc:{_three(line['acc'])} real-acc:{_three(line['real_acc'])} "
        f"real-f1:{_three(line['real_f1'])} label_coverage:{_three(line['label_coverage'])}"
        for line in run.lines
        if line["split"] == "test"
    ]


def _three(value: float | None) -> str:
    return "nan" if value is None else f"{value:.3f}"


def write_generation(run: Run, metrics: dict[str, float], total: int) -> None:
    """Log and print the evaluation after a generation; output.txt anew."""
    run.log("test", **metrics)
    if run.is_main:
        atomic_write(run.folder / "output.txt", ("\n".join(output_lines(run)) + "\n").encode())
    names = {"acc": "acc", "real_acc": "real_acc", "real_f1": "real_f1", "label_coverage": "coverage"}
    shown = "  ".join(f"{name} {metrics[key]:.4f}" for key, name in names.items())
    run.print(f"generation {run.progress.epoch + 1}/{total}  test         {shown}")


@torch.inference_mode()
def first_probabilities(model: nn.Module, source: Source, conf: Any) -> torch.Tensor:
    """p (SHOWN,C) of the first evaluation images, on the CPU."""
    was_training = model.training
    model.eval()
    p = probabilities(model(source.first_inputs(SHOWN)), conf.schema).cpu()
    model.train(was_training)
    return p


def summarize(run: Run, model: nn.Module, source: Source, conf: Any, history: torch.Tensor) -> dict[str, Any]:
    """The study over all thresholds, the figures, and the summary of the run."""
    logits, label, real = all_logits(model, source.evaluation(), source.num_classes, run.accelerator)
    p = probabilities(logits, conf.schema)
    study = threshold_study(p, real)
    best, rho = study.best, setting(conf, "eval_rho")
    tests = [line for line in run.lines if line["split"] == "test"]
    summary = {f"{name}_final": tests[-1][name] if tests else None for name in METRICS}
    summary |= {
        "real_f1_best_oracle": max((line["real_f1"] for line in tests if line["real_f1"] is not None), default=None),
        "mAP": mean_average_precision(p, real),
        "best_f1": study.f1[best].item(),
        "best_f1_threshold": study.rho[best].item(),
        "best_f1_coverage": study.coverage[best].item(),
        "f1_by_threshold_at_rho": study.f1[_place(study, rho)].item(),
        "coverage_by_threshold_at_rho": study.coverage[_place(study, rho)].item(),
        **trivial_f1(real),
        "generations": len(tests),
        "steps": run.progress.step,
        "skipped": run.progress.skipped,
        "offline_sample": conf._is_sample,
    }
    if run.is_main:
        _write_study(run, study)
        draw_thresholds(run, study, summary, rho, conf)
        if tests:
            draw_curves(run, conf)
        draw_label_sets(run, source, p[:SHOWN], label, real, conf, history)
        _print_end(run, summary, rho, conf)
    return summary


def _place(study: Study, rho: float) -> int:
    return int((study.rho - rho).abs().argmin())


def _print_end(run: Run, summary: dict[str, Any], rho: float, conf: Any) -> None:
    name = conf.schema + " (offline sample)" * conf._is_sample

    def show(key: str) -> str:
        return "-" if summary[key] is None else f"{summary[key]:.4f}"

    run.print(
        f"{name}: acc {show('acc_final')}  real_acc {show('real_acc_final')}  F1@{rho:g} {show('real_f1_final')}  "
        f"coverage {show('label_coverage_final')}  mAP {show('mAP')}"
    )
    run.print(
        f"  best F1 {show('best_f1')} at threshold {show('best_f1_threshold')}; trivial answers: one right label "
        f"{show('trivial_f1_one_right_label')}, all labels {show('trivial_f1_all_labels')}"
    )


def _write_study(run: Run, study: Study) -> None:
    rows = [",".join(Study._fields), *(",".join(f"{v:.6f}" for v in row) for row in zip(*study, strict=True))]
    atomic_write(run.folder / "thresholds.csv", ("\n".join(rows) + "\n").encode())


def _axes(columns: int, width: float = 5.0) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(1, columns, figsize=(width * columns, 3.6), squeeze=False)


def _save(run: Run, name: str, figure: Any) -> None:
    from matplotlib import pyplot as plt

    figure.tight_layout()
    figure.savefig(run.figure(name), dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw_thresholds(run: Run, study: Study, summary: dict[str, Any], rho: float, conf: Any) -> None:
    """figures/thresholds.png: F1, precision and recall over the threshold, coverage; the trivial answers as lines."""
    figure, ((left, right),) = _axes(2)
    for name in ("f1", "precision", "recall"):
        left.plot(study.rho.numpy(), getattr(study, name).numpy(), label=name)
    left.axhline(summary["trivial_f1_one_right_label"], color="grey", ls=":", label="F1, one right label")
    left.axhline(summary["trivial_f1_all_labels"], color="grey", ls="--", label="F1, all labels")
    left.axvline(rho, color="black", lw=0.8)
    left.set(xlabel="threshold", title=f"{conf.schema}, mAP {summary['mAP']:.3f}")
    right.plot(study.rho.numpy(), study.coverage.numpy())
    right.axvline(rho, color="black", lw=0.8)
    right.set(xlabel="threshold", title="predicted labels an image")
    left.legend(fontsize=7)
    _save(run, "thresholds", figure)


def draw_curves(run: Run, conf: Any) -> None:
    """figures/curves.png over the steps: test metrics, the loss of both phases, label-set sizes; imitation shaded."""
    figure, (axes,) = _axes(3, 4.4)
    lines = {split: [x for x in run.lines if x["split"] == split] for split in ("interactive", "imitation", "test")}

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
    _save(run, "curves", figure)


def draw_label_sets(
    run: Run, source: Source, p: torch.Tensor, label: torch.Tensor, real: torch.Tensor, conf: Any, history: torch.Tensor
) -> None:
    """figures/labels.png: test images with y, true and predicted set; figures/growth.png: p over the generations."""
    rho, names = setting(conf, "eval_rho"), source.class_names
    pictures = source.pictures(SHOWN).numpy()
    predicted = (p > rho).scatter(1, p.argmax(1, keepdim=True), True)
    titles = [
        f"y {names[label[i]]}\ntrue {_names(real[i], names)}\npred {_names(predicted[i], names)}"
        for i in range(len(pictures))
    ]
    half = (len(pictures) + 1) // 2
    rows = [list(pictures[:half]), list(pictures[half:])]
    note = f"{conf.schema}: predicted sets at threshold {rho:g}" + ", offline sample" * conf._is_sample
    titles_by_row = [titles[:half], titles[half:]]
    save_grid(run.figure("labels"), [r for r in rows if r], titles_by_row[: len(rows)], cell=2.2, suptitle=note)
    if len(history) < 2:
        return
    figure, (axes,) = _axes(min(4, history.shape[1]), 3.0)
    classes = history.amax((0, 1)).topk(min(10, history.shape[2])).indices.sort().values
    for i, axis in enumerate(axes):
        axis.imshow(history[:, i, classes], vmin=0, vmax=1, aspect="auto", cmap="viridis")
        ticks = [names[c] + "*" * bool(real[i, c]) for c in classes.tolist()]
        axis.set_xticks(range(len(classes)), ticks, rotation=90, fontsize=6)
        axis.set(ylabel="generation", title=f"test image {i} (* true)")
    _save(run, "growth", figure)


def _names(row: torch.Tensor, names: Sequence[str]) -> str:
    return " ".join(names[c] for c in row.nonzero().flatten().tolist()) or "none"


def export_label_sets(run: Run, model: nn.Module, source: Source, conf: Any) -> None:
    """label_sets.json: {training image: label set at rho under the evaluation transform}, as a multi-label file."""
    logits, _, _ = all_logits(model, source.relabelled(), source.num_classes, run.accelerator)
    sets = pseudo_labels(logits, conf.rho, conf.threshold_on).bool()
    if run.is_main:
        names: Iterable[str] = source.names_of_training_images()
        table = {name: row.nonzero().flatten().tolist() for name, row in zip(names, sets, strict=True)}
        atomic_write(run.folder / "label_sets.json", (json.dumps(table) + "\n").encode())
        run.print(f"label sets of {len(table)} training images: {run.folder / 'label_sets.json'}")
