"""What a run writes and prints besides its metrics.

Output.txt, the summary, exported label sets.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from common.aliases import one_module
from common.files import atomic_write
from common.run import Run
from mile.data import Source
from mile.evaluate import (
    Evaluated,
    Outputs,
    Rule,
    Study,
    classes_without_positive,
    evaluate,
    mean_average_precision,
    metrics_of,
    threshold_study,
    trivial_f1,
)
from mile.figures import draw_curves, draw_growth, draw_label_sets, draw_thresholds
from mile.method import probabilities
from mile.report_phases import PhaseLog, is_checked  # noqa: F401
from mile.report_weights import ClassNames, require_same_classes, save_weights, writable  # noqa: F401

one_module(__name__, "mile.report")

METRICS: tuple[str, ...] = ("acc", "real_acc", "real_f1", "label_coverage")
METRICS += ("precision", "recall", "real_f1_025", "real_f1_05")
CLASSES_NAMED = 5


# ---- one evaluation ------------------------------------------------------------------------------


def skipped_of(evaluated: Evaluated, source: Source) -> int:
    """How many images of the evaluation set were not evaluated: they cannot be read."""
    return source.left_out + source.test_size - len(evaluated)


def write_evaluation(run: Run, metrics: dict[str, float], what: str, skipped: int = 0) -> None:
    """Log and print an evaluation of `what`, and write output.txt anew.

    skipped: unreadable images that the numbers are without.
    """
    if skipped:
        metrics = {**metrics, "eval_skipped": skipped}
    run.log("test", **metrics)
    if run.is_main:
        text = "\n".join(output_lines(run)) + "\n"
        atomic_write(run.folder / "output.txt", text.encode())

    shown = "  ".join(_told(name, metrics[name]) for name in METRICS if is_known(metrics[name]))
    note = f"  ({without_unreadable(skipped)})" if skipped else ""
    run.print(f"{what}  test         {shown}{note}")


def output_lines(run: Run) -> list[str]:
    """The unofficial code's output.txt: a line a generation, and eval_skipped where it is not 0."""
    lines = []
    for line in run.lines:
        if line["split"] != "test":
            continue
        parts = [
            f"epoch:{line['epoch'] - 1}",
            f"acc:{decimals(line['acc'], 3)}",
            f"real-acc:{decimals(line['real_acc'], 3)}",
            f"real-f1:{decimals(line['real_f1'], 3)}",
            f"label_coverage:{decimals(line['label_coverage'], 3)}",
        ]
        if line.get("eval_skipped"):
            parts.append(f"eval_skipped:{line['eval_skipped']:.0f}")
        lines.append(" ".join(parts))
    return lines


SHORT = {"label_coverage": "coverage"}  # as the console calls a metric


def _told(name: str, value: float) -> str:
    return f"{SHORT.get(name, name)} {decimals(value)}"


def is_known(value: float | None) -> bool:
    """Whether a metric is defined: data without a single label have no accuracy."""
    return value is not None and not math.isnan(value)


def decimals(value: float | None, places: int = 4) -> str:
    """A metric as text; undefined (None or NaN) is a dash."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{places}f}"


def without_unreadable(skipped: int) -> str:
    """What stands beside numbers that are not of the whole evaluation set; empty where they are."""
    if not skipped:
        return ""
    return f"without {skipped} unreadable image{'s' * (skipped != 1)}"


# ---- the end of a run ----------------------------------------------------------------------------


def summarize(
    run: Run,
    evaluated: Evaluated,
    model: nn.Module,
    source: Source,
    rule: Rule,
    history: torch.Tensor,
    *,
    is_sample: bool,
    imitation_steps: int,
) -> dict[str, Any]:
    """The summary of a run, with the study over all thresholds of the outputs, and the figures.

    history (G,SHOWN,C): p of the first test images after each generation. imitation_steps: k_s.
    """
    outputs = evaluated.whole
    logits = outputs.logits
    real = outputs.real
    study = threshold_study(logits, real, rule.schema, rule.protocol)
    at_rho = threshold_study(logits, real, rule.schema, rule.protocol, [rule.rho])
    absent = classes_without_positive(real)
    skipped = skipped_of(evaluated, source)

    summary = _final_metrics(run, (*METRICS, "acc5") if rule.top5 else METRICS)
    summary |= {
        "mAP": mean_average_precision(probabilities(logits, rule.schema), real),
        "classes": source.num_classes,
        "mAP_classes": source.num_classes - len(absent),  # that the mean is over
        "images": len(real),
        "eval_skipped": skipped,  # unreadable images that the figures are without
        "images_with_labels": int(
            real.any(1).sum()
        ),  # that real_acc, F1 and coverage are means over
        **study.best,
        "f1_by_threshold_at_rho": at_rho.f1.item(),
        "coverage_by_threshold_at_rho": at_rho.coverage.item(),
        **trivial_f1(real),
        **_on_imagenet(run, model, source, rule),
        "generations": run.progress.epoch,
        "steps": run.progress.step,
        "skipped": run.progress.skipped,
        "offline_sample": is_sample,
    }
    if run.is_main:
        _write_study(run, study)
        draw_all(run, study, summary, source, outputs, rule, history, imitation_steps)
        _print_end(run, summary, rule)
        for line in averaged_over(real, source.class_names, rule.protocol):
            run.print(line)
        if skipped:
            whole = len(real) + skipped
            run.print(f"  all of these are {without_unreadable(skipped)} of the {whole}")
    return summary


def _final_metrics(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """NAME_final of the last evaluation, and the best real_f1 of all; None where there was none."""
    tests = [line for line in run.lines if line["split"] == "test"]
    last = tests[-1] if tests else {}
    found = {f"{name}_final": last.get(name) for name in names}
    all_f1 = [line["real_f1"] for line in tests if line["real_f1"] is not None]
    found["real_f1_best_oracle"] = max(all_f1, default=None)
    return found


def _on_imagenet(run: Run, model: nn.Module, source: Source, rule: Rule) -> dict[str, float]:
    """Top-1 and top-5 accuracy on ImageNet's validation set, of a run on WebVision."""
    batches = source.second_evaluation()
    if batches is None:
        return {}
    evaluated = evaluate(model, batches, source.num_classes, run.accelerator, run.poll)
    metrics = metrics_of(evaluated, rule)
    skipped = source.second_left_out + source.second_size - len(evaluated)
    return {
        "imagenet_acc": metrics["acc"],
        "imagenet_acc5": metrics["acc5"],
        "imagenet_eval_skipped": skipped,
    }


def _write_study(run: Run, study: Study) -> None:
    lines = [",".join(Study._fields)]
    for row in zip(*study, strict=True):
        lines.append(",".join(f"{value:.6f}" for value in row))
    atomic_write(run.folder / "thresholds.csv", ("\n".join(lines) + "\n").encode())


def draw_all(
    run: Run,
    study: Study,
    summary: dict[str, Any],
    source: Source,
    outputs: Outputs,
    rule: Rule,
    history: torch.Tensor,
    imitation_steps: int,
) -> None:
    """figures/: thresholds.png, curves.png, labels.png; of two generations or more growth.png."""
    title = f"{rule.schema}, mAP {summary['mAP']:.3f}"
    draw_thresholds(run.figure("thresholds"), study, rule.rho, title, summary)
    if run.progress.epoch:
        draw_curves(run.figure("curves"), run.lines, imitation_steps)

    shown = outputs.first(history.shape[1])
    if not len(shown.ids):
        return
    is_sample = summary["offline_sample"]
    draw_label_sets(run.figure("labels"), source, shown, rule, is_sample=is_sample)
    if len(history) >= 2:
        draw_growth(run.figure("growth"), source.class_names, shown, history[:, shown.ids])


def _print_end(run: Run, summary: dict[str, Any], rule: Rule) -> None:
    name = rule.schema
    if summary["offline_sample"]:
        name += " (offline sample)"

    def show(key: str) -> str:
        return decimals(summary[key])

    titles = {
        "acc_final": "acc",
        "real_acc_final": "real_acc",
        "real_f1_final": f"F1@{rule.rho:g}",
        "label_coverage_final": "coverage",
        "mAP": "mAP",
    }
    told = [f"{title} {show(key)}" for key, title in titles.items() if is_known(summary[key])]
    run.print(f"{name}: {'  '.join(told)}")
    run.print(
        f"  best F1 {show('best_f1')} at threshold {show('best_f1_threshold')}; "
        f"trivial answers: one right label {show('trivial_f1_one_right_label')}, "
        f"all labels {show('trivial_f1_all_labels')}"
    )


def averaged_over(real: torch.Tensor, class_names: Sequence[str], protocol: str) -> list[str]:
    """What the means leave out: classes without a positive (mAP), images without a label (F1)."""
    lines = []
    absent = classes_without_positive(real)
    if absent:
        shown = ", ".join(class_names[c] for c in absent[:CLASSES_NAMED])
        if len(absent) > CLASSES_NAMED:
            shown += f" and {len(absent) - CLASSES_NAMED} more"
        total = len(class_names)
        count = total - len(absent)
        lines.append(f"  mAP is over {count} of {total} classes; without a positive: {shown}")

    empty = int((~real.any(1)).sum())
    if empty:
        over = f"over the other {len(real) - empty}"
        if protocol == "unofficial":
            over = "divided by all images"
        lines.append(
            f"  {empty} of {len(real)} images have no label: real_acc, F1 and coverage are {over}"
        )
    return lines


# ---- exported label sets -------------------------------------------------------------------------


def export_label_sets(
    run: Run, model: nn.Module, source: Source, sets_of: Callable[[Outputs], Iterable[torch.Tensor]]
) -> None:
    """label_sets.json: {training image.

    [class index, ...]}, of the training images that can be read.

    `sets_of` gives the sets, bool (n,C), from the model's outputs under the evaluation transform.
    `data_labels.labels_by_name` reads the file of a folder set.
    """
    batches = source.relabelled()
    evaluated = evaluate(model, batches, source.num_classes, run.accelerator, run.poll)
    outputs = evaluated.whole
    sets = sets_of(outputs)
    if not run.is_main:
        return
    names = source.names_of_training_images()
    table = {}
    for place, row in zip(outputs.ids.tolist(), sets, strict=True):
        table[names[place]] = row.nonzero().flatten().tolist()
    path = run.folder / "label_sets.json"
    atomic_write(path, (json.dumps(table) + "\n").encode())
    run.print(f"label sets of {len(table)} training images: {path}")
