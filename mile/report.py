"""What a run writes besides its metrics: output.txt, the summary, exported label sets (figures: figures.py)."""

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from common.aliases import one_module
from common.checkpoint import atomic_write
from common.run import Run
from mile.evaluation import Outputs, evaluate, metrics_of, skipped_of
from mile.figures import draw_curves, draw_label_sets, draw_thresholds
from mile.learning import IteratedLearning, pseudo_labels
from mile.sources import Source
from mile.thresholds import (
    Study,
    classes_without_positive,
    mean_average_precision,
    threshold_study,
    trivial_f1,
)
from mile.utils import prediction_set, probabilities

one_module(__name__, "mile.report")

METRICS = (
    "acc",
    "real_acc",
    "real_f1",
    "label_coverage",
    "precision",
    "recall",
    "real_f1_025",
    "real_f1_05",
)


def output_lines(run: Run) -> list[str]:
    """output.txt of the unofficial code: one line a generation, three decimals; and eval_skipped where it is not 0."""
    names = {
        "acc": "acc",
        "real-acc": "real_acc",
        "real-f1": "real_f1",
        "label_coverage": "label_coverage",
    }
    lines = []
    for line in run.lines:
        if line["split"] != "test":
            continue
        parts = [
            f"epoch:{line['epoch'] - 1}",
            *(f"{name}:{decimals(line[key], 3)}" for name, key in names.items()),
        ]
        if line.get("eval_skipped"):
            parts.append(f"eval_skipped:{line['eval_skipped']:.0f}")
        lines.append(" ".join(parts))
    return lines


def decimals(value: float | None, places: int = 4) -> str:
    """A metric as text; undefined (None or NaN) is a dash."""
    return "-" if value is None or math.isnan(value) else f"{value:.{places}f}"


def without_unreadable(skipped: int) -> str:
    """What stands beside numbers that are not of the whole evaluation set; empty where they are."""
    return f"without {skipped} unreadable image{'s' * (skipped != 1)}" if skipped else ""


def write_evaluation(run: Run, metrics: dict[str, float], what: str, skipped: int = 0) -> None:
    """Log and print an evaluation of `what`, and how many unreadable images it is without; output.txt anew."""
    if skipped:
        metrics = {**metrics, "eval_skipped": skipped}
    run.log("test", **metrics)
    if run.is_main:
        atomic_write(run.folder / "output.txt", ("\n".join(output_lines(run)) + "\n").encode())
    names = {
        "acc": "acc",
        "real_acc": "real_acc",
        "real_f1": "real_f1",
        "label_coverage": "coverage",
    }
    shown = "  ".join(f"{name} {decimals(metrics[key])}" for key, name in names.items())
    note = f"  ({without_unreadable(skipped)})" if skipped else ""
    run.print(f"{what}  test         {shown}{note}")


def summarize(
    run: Run, outputs: Outputs, model: nn.Module, source: Source, conf: Any, history: torch.Tensor
) -> dict[str, Any]:
    """The study over all thresholds of the model's outputs, the figures, and the summary of the run.

    history (G,SHOWN,C): p of the first test images after each generation.
    """
    logits, _, real, _ = outputs
    skipped = skipped_of(outputs, source)
    p, rho = probabilities(logits, conf.schema), conf.eval_rho
    study = threshold_study(logits, real, conf.schema, conf.protocol)
    at_rho = threshold_study(logits, real, conf.schema, conf.protocol, [rho])
    tests = [line for line in run.lines if line["split"] == "test"]
    names = (*METRICS, "acc5") if conf.dataset == "webvision" else METRICS
    summary = {f"{name}_final": tests[-1][name] if tests else None for name in names}
    summary |= {
        "real_f1_best_oracle": max(
            (line["real_f1"] for line in tests if line["real_f1"] is not None), default=None
        ),
        "mAP": mean_average_precision(p, real),
        "classes": source.num_classes,
        "mAP_classes": source.num_classes
        - len(classes_without_positive(real)),  # that the mean is over
        "images": len(real),
        "eval_skipped": skipped,  # unreadable images that the figures are without
        "images_with_labels": int(
            real.any(1).sum()
        ),  # that real_acc, F1 and coverage are means over
        **study.best,
        "f1_by_threshold_at_rho": at_rho.f1.item(),
        "coverage_by_threshold_at_rho": at_rho.coverage.item(),
        **trivial_f1(real),
        **_on_imagenet(run, model, source, conf),
        "generations": run.progress.epoch,
        "steps": run.progress.step,
        "skipped": run.progress.skipped,
        "offline_sample": conf._is_sample,
    }
    if run.is_main:
        _write_study(run, study)
        draw_thresholds(run, study, summary, rho, conf)
        if run.progress.epoch:
            draw_curves(run, conf)
        draw_label_sets(run, source, outputs, conf, history)
        _print_end(run, summary, rho, conf)
        for line in averaged_over(real, source.class_names, conf.protocol):
            run.print(line)
        if skipped:
            run.print(
                f"  all of these are {without_unreadable(skipped)} of the {len(real) + skipped}"
            )
    return summary


def averaged_over(real: torch.Tensor, class_names: Sequence[str], protocol: str) -> list[str]:
    """What the means leave out, a line each: classes without a positive (mAP), images without a label (F1)."""
    lines = []
    absent = classes_without_positive(real)
    if absent:
        shown = ", ".join(class_names[c] for c in absent[:5])
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        count = len(class_names) - len(absent)
        lines.append(
            f"  mAP is over {count} of {len(class_names)} classes; without a positive: {shown}{more}"
        )

    empty = int((~real.any(1)).sum())
    if empty:
        over = (
            "divided by all images"
            if protocol == "unofficial"
            else f"over the other {len(real) - empty}"
        )
        lines.append(
            f"  {empty} of {len(real)} images have no label: real_acc, F1 and coverage are {over}"
        )
    return lines


def _on_imagenet(run: Run, model: nn.Module, source: Source, conf: Any) -> dict[str, float]:
    """Top-1 and top-5 accuracy on ImageNet's validation set, of a run on WebVision."""
    batches = source.second_evaluation()
    if batches is None:
        return {}
    outputs = evaluate(model, batches, source.num_classes, run.accelerator, run.poll)
    metrics = metrics_of(outputs, conf)
    found = {f"imagenet_{name}": metrics[name] for name in ("acc", "acc5")}
    found["imagenet_eval_skipped"] = (
        source.second_left_out + source.second_size - len(outputs.index)
    )
    return found


def _print_end(run: Run, summary: dict[str, Any], rho: float, conf: Any) -> None:
    name = conf.schema + " (offline sample)" * conf._is_sample

    def show(key: str) -> str:
        return decimals(summary[key])

    run.print(
        f"{name}: acc {show('acc_final')}  real_acc {show('real_acc_final')}  F1@{rho:g} {show('real_f1_final')}  "
        f"coverage {show('label_coverage_final')}  mAP {show('mAP')}"
    )
    run.print(
        f"  best F1 {show('best_f1')} at threshold {show('best_f1_threshold')}; trivial answers: one right label "
        f"{show('trivial_f1_one_right_label')}, all labels {show('trivial_f1_all_labels')}"
    )


def _write_study(run: Run, study: Study) -> None:
    rows = [
        ",".join(Study._fields),
        *(",".join(f"{v:.6f}" for v in row) for row in zip(*study, strict=True)),
    ]
    atomic_write(run.folder / "thresholds.csv", ("\n".join(rows) + "\n").encode())


def label_sets(logits: torch.Tensor, label: torch.Tensor, rho: float, conf: Any) -> torch.Tensor:
    """The sets (n,C) bool that a network with logits (n,C) teaches at rho; for softmax those that it predicts."""
    if conf.schema == "softmax":
        return prediction_set(logits, rho, "softmax", conf.protocol)
    return pseudo_labels(
        logits, rho, conf.threshold_on, label if conf.keep_ground_truth else None
    ).bool()


def export_label_sets(run: Run, learner: IteratedLearning, source: Source, conf: Any) -> None:
    """label_sets.json: {training image: [class index, ...]}, the student's sets at the learner's last rho.

    Of the images that can be read. Under the evaluation transform; `labels_by_name` reads the file of a folder set.
    """
    outputs = evaluate(
        learner.student, source.relabelled(), source.num_classes, run.accelerator, run.poll
    )
    sets = label_sets(outputs.logits, outputs.label, learner.rho, conf)
    if run.is_main:
        names = source.names_of_training_images()
        rows = zip(outputs.index.tolist(), sets, strict=True)
        table = {names[place]: row.nonzero().flatten().tolist() for place, row in rows}
        atomic_write(run.folder / "label_sets.json", (json.dumps(table) + "\n").encode())
        run.print(f"label sets of {len(table)} training images: {run.folder / 'label_sets.json'}")
