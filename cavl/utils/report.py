"""What a run measures and shows: evaluation statistics, epoch line, curves, selected.csv, summary."""

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import nn

from cavl.utils.cam_pictures import draw_cams
from cavl.utils.datasets import PartialData
from cavl.utils.label_state import LabelState
from cavl.utils.options import MAP_MODELS
from cavl.utils.resident import EVAL_BATCH, Images, evaluate
from cavl.utils.utils_algo import evaluating, selection_accuracy, update_from_outputs
from common.cam import save_curves
from common.run import Run

Statistics = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def hits(labels: torch.Tensor) -> Statistics:
    """Statistics (B,1): prediction == label; labels (n,) int64. Ties go to the lowest class."""
    return lambda outputs, index: (outputs.argmax(1) == labels[index])[:, None]


def train_statistics(true_labels: torch.Tensor, candidates: torch.Tensor) -> Statistics:
    """Statistics (B,3) on training rows: hit of the true label (an oracle number), covered, approximated accuracy.

    Covered: the prediction lies in S. Approximated accuracy: p renormalised over S at the prediction, 0
    outside S. The last two need no true label (PLENCH).
    """

    def statistics(outputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        predicted, partial = outputs.argmax(1, keepdim=True), candidates[index]
        within = update_from_outputs(outputs, partial, "rc").gather(1, predicted)
        hit = predicted == true_labels[index, None]
        return torch.cat([hit.float(), partial.gather(1, predicted).float(), within], 1)

    return statistics


def log_start(
    run: Run,
    model: nn.Module,
    images: Images,
    candidates: torch.Tensor,
    true_labels: torch.Tensor,
    test_images: Images,
    test_labels: torch.Tensor,
) -> None:
    """Accuracies before the first step, as the reference prints them, but in eval mode (g7)."""
    candidates = candidates.to(images.device)
    tr = evaluate(model, images, train_statistics(true_labels, candidates), run.accelerator)[0]
    te = evaluate(model, test_images, hits(test_labels), run.accelerator)[0]
    run.log("start", train_accuracy=tr, test_accuracy=te, mean_candidates=candidates.sum(1).float().mean().item())
    run.print(f"before training: Tr Acc {tr:.4f}  Te Acc {te:.4f}")


def print_epoch(run: Run, epochs: int) -> None:
    """One line an epoch that greps well; the names are those of metrics.jsonl."""
    train, test = run.lines[-2], run.lines[-1]
    p, speed = run.progress, run.images_per_second() or 0.0
    left = (epochs - p.epoch - 1) * p.seconds / (p.epoch + 1) / 60
    disambiguation = train["disambiguation"]
    run.print(
        f"epoch {p.epoch + 1}/{epochs}  loss {train['loss']:.4f}  lr {train['lr']:.2g}  "
        f"Tr Acc {train['accuracy']:.4f}  Te Acc {test['accuracy']:.4f}  "
        f"disambiguation {'-' if disambiguation is None else f'{disambiguation:.4f}'}  "
        f"{speed:.0f} images/s  {left:.1f} min left"
    )


@torch.inference_mode()
def log_selection_curve(
    args: argparse.Namespace,
    run: Run,
    model: nn.Module,
    images: Images,
    candidates: torch.Tensor,
    true_labels: torch.Tensor,
) -> None:
    """How often CAV, logit, CAM area and CAM sum pick the true label inside S, on the first N training images."""
    n = min(args.selection_curve, len(images))
    if n == 0:
        return
    total: dict[str, float] = {}
    with evaluating(model):
        for index in torch.arange(n, device=images.device).split(EVAL_BATCH // 8):
            outputs, maps = _outputs_and_maps(args, model, images[index])
            rates = selection_accuracy(outputs, candidates[index], true_labels[index], maps, cav=args.cav)
            for rule, rate in rates.items():
                total[rule] = total.get(rule, 0.0) + rate.item() * len(index) / n
    run.log("selection", **total)


def _outputs_and_maps(args: argparse.Namespace, model: nn.Module, x: torch.Tensor) -> tuple:
    return model.class_activation_maps(x) if args.mo in MAP_MODELS else (model(x), None)


def write(
    args: argparse.Namespace,
    run: Run,
    data: PartialData,
    model: nn.Module,
    images: Images,
    labels: LabelState,
    true_labels: torch.Tensor,
) -> dict[str, float | None]:
    """Figures and selected.csv; returns the summary. All accuracies are fractions."""
    test, train = run.values("test", "accuracy"), run.values("train", "accuracy")
    last = test[-10:]
    summary = {
        "test_accuracy_last10_mean": sum(last) / len(last) if last else None,
        "test_accuracy_final": test[-1] if test else None,
        "test_accuracy_best_oracle": max(test, default=None),  # selected on the test set: optimistic
        "train_accuracy_final": train[-1] if train else None,
        "disambiguation": labels.disambiguation(true_labels),
        "covering_rate": (run.values("train", "covering_rate") or [None])[-1],
        "approximated_accuracy": (run.values("train", "approximated_accuracy") or [None])[-1],
        "mean_candidates": labels.candidates.sum(1).float().mean().item(),
        "epochs": len(test),
        "offline_sample": data.is_sample,
    }
    for rule in _rules(run):  # how often it picked the true label, with -selection_curve
        rates = run.values("selection", rule)
        summary |= {f"selection_{rule}_first": rates[0], f"selection_{rule}_final": rates[-1]}
    if run.is_main:
        if test:
            curves = {"test": test, "train (true labels)": train}
            curves |= {"disambiguation": run.values("train", "disambiguation")} if args.method != "cc" else {}
            title = f"{args.method} on {'the offline sample' if data.is_sample else args.ds}"
            save_curves(run.figure("curves"), curves, xlabel="epoch", ylabel="accuracy", title=title)
        rules = _rules(run)
        if rules:
            curves = {rule: run.values("selection", rule) for rule in rules}
            title = "which rule picks the true label inside S"
            save_curves(run.figure("selection"), curves, xlabel="epoch", ylabel="share of samples", title=title)
        export_selected(run, labels, true_labels)
        if args.cam_vis:
            draw_cams(args, run, model, images, labels.candidates, true_labels)
        if last:
            name, mean = args.method + " (offline sample)" * data.is_sample, summary["test_accuracy_last10_mean"]
            print(f"{name}: test accuracy, mean of the last {len(last)} epochs: {mean:.4f}")
    return summary


def _rules(run: Run) -> list[str]:
    lines = [line for line in run.lines if line["split"] == "selection"]
    return [k for k in lines[0] if k not in ("step", "epoch", "split")] if lines else []


def export_selected(run: Run, labels: LabelState, true_labels: torch.Tensor) -> None:
    """selected.csv: index, candidates, the label with the largest confidence, that confidence, the true label."""
    confidence = labels.confidence()
    value, selected = confidence.max(1)
    rows, classes = labels.candidates.nonzero(as_tuple=True)
    sizes = labels.candidates.sum(1).tolist()
    names = np.split(classes.cpu().numpy().astype(str), np.cumsum(sizes)[:-1])
    frame = {
        "index": range(len(selected)),
        "candidates": [" ".join(part) for part in names],
        "selected": selected.tolist(),
        "confidence": value.cpu().numpy().round(6),
        "true_label": true_labels.tolist(),
    }
    pd.DataFrame(frame).to_csv(run.folder / "selected.csv", index=False)
