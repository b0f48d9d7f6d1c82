"""What a run writes besides its metrics: output.txt, the summary, exported label sets (figures: figures.py)."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from common.checkpoint import atomic_write
from common.run import Run
from mile.config import setting
from mile.evaluation import all_logits, evaluate
from mile.figures import SHOWN, draw_curves, draw_label_sets, draw_thresholds
from mile.learning import pseudo_labels
from mile.sources import Source
from mile.thresholds import Study, mean_average_precision, probabilities, threshold_study, trivial_f1

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
    names = (*METRICS, "acc5") if conf.dataset == "webvision" else METRICS
    summary = {f"{name}_final": tests[-1][name] if tests else None for name in names}
    summary |= {
        "real_f1_best_oracle": max((line["real_f1"] for line in tests if line["real_f1"] is not None), default=None),
        "mAP": mean_average_precision(p, real),
        "best_f1": study.f1[best].item(),
        "best_f1_threshold": study.rho[best].item(),
        "best_f1_coverage": study.coverage[best].item(),
        "f1_by_threshold_at_rho": study.f1[_place(study, rho)].item(),
        "coverage_by_threshold_at_rho": study.coverage[_place(study, rho)].item(),
        **trivial_f1(real),
        **_on_imagenet(run, model, source, conf),
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


def _on_imagenet(run: Run, model: nn.Module, source: Source, conf: Any) -> dict[str, float]:
    """Top-1 and top-5 accuracy on ImageNet's validation set, of a run on WebVision."""
    batches = source.second_evaluation()
    if batches is None:
        return {}
    metrics = evaluate(model, batches, source.num_classes, conf, run.accelerator)
    return {f"imagenet_{name}": metrics[name] for name in ("acc", "acc5")}


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


def export_label_sets(run: Run, model: nn.Module, source: Source, conf: Any) -> None:
    """label_sets.json: {training image: label set at rho under the evaluation transform}, as a multi-label file."""
    logits, _, _ = all_logits(model, source.relabelled(), source.num_classes, run.accelerator)
    sets = pseudo_labels(logits, conf.rho, conf.threshold_on).bool()
    if run.is_main:
        names: Iterable[str] = source.names_of_training_images()
        table = {name: row.nonzero().flatten().tolist() for name, row in zip(names, sets, strict=True)}
        atomic_write(run.folder / "label_sets.json", (json.dumps(table) + "\n").encode())
        run.print(f"label sets of {len(table)} training images: {run.folder / 'label_sets.json'}")
