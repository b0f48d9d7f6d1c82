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
from cavl.utils.resident import EVAL_BATCH, Images, evaluate, predict
from cavl.utils.utils_algo import approximated_hit, evaluating, is_covered, selection_accuracy
from common import checkpoint
from common.aliases import one_module
from common.plots import save_curves
from common.run import Run

one_module(__name__, "cavl.utils.report")

Statistics = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
STATISTICS = (
    "accuracy",
    "covering_rate",
    "approximated_accuracy",
)  # the last two need no true label (PLENCH)


def statistics_of(
    labels: torch.Tensor, candidates: torch.Tensor | None, device: torch.device
) -> Statistics:
    """Statistics (B,3), the columns of STATISTICS; (B,1), hits alone, without candidates. labels (n,), sets (n,K).

    Accuracy uses the hidden true labels: prediction == label, ties to the lowest class.
    """

    labels, candidates = labels.to(device), None if candidates is None else candidates.to(device)

    def statistics(outputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        columns = [outputs.argmax(1) == labels[index]]
        if candidates is not None:
            partial = candidates[index]
            columns += [is_covered(outputs, partial), approximated_hit(outputs, partial)]
        return torch.stack([column.float() for column in columns], 1)

    return statistics


def measure(model: nn.Module, images: Images, statistics: Statistics, run: Run) -> dict[str, float]:
    """Means of `statistics` over all images, by name: accuracy, and with candidate sets the other two.

    A signal ends the program between two batches.
    """
    means = evaluate(model, images, statistics, run.accelerator, after_batch=run.poll)
    return dict(zip(STATISTICS, means, strict=False))


def log_start(
    run: Run, train_accuracy: float, test_accuracy: float, candidates: torch.Tensor
) -> None:
    """Accuracies before the first step, as the reference prints them, but in eval mode (g7)."""
    size = candidates.sum(1).float().mean().item()
    run.log(
        "start", train_accuracy=train_accuracy, test_accuracy=test_accuracy, mean_candidates=size
    )
    run.print(f"before training: Tr Acc {train_accuracy:.4f}  Te Acc {test_accuracy:.4f}")


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
            rule_of_the_run = {"cav": args.cav, "mask": args.mask}
            rates = selection_accuracy(
                outputs, candidates[index], true_labels[index], maps, **rule_of_the_run
            )
            for rule, rate in rates.items():
                total[rule] = total.get(rule, 0.0) + rate.item() * len(index) / n
            run.poll()
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
        "test_accuracy_final": _last(run, "test", "accuracy"),
        "test_accuracy_best_oracle": max(
            test, default=None
        ),  # selected on the test set: optimistic
        "train_accuracy_final": _last(run, "train", "accuracy"),
        "disambiguation": labels.disambiguation(true_labels),
        "covering_rate": _last(run, "train", "covering_rate"),
        "approximated_accuracy": _last(run, "train", "approximated_accuracy"),
        "test_covering_rate": _last(
            run, "test", "covering_rate"
        ),  # null without candidate sets of the test part
        "test_approximated_accuracy": _last(run, "test", "approximated_accuracy"),
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
            curves |= (
                {"disambiguation": run.values("train", "disambiguation")}
                if args.method != "cc"
                else {}
            )
            title = f"{args.method} on {'the offline sample' if data.is_sample else args.ds}"
            save_curves(
                run.figure("curves"), curves, xlabel="epoch", ylabel="accuracy", title=title
            )
        rules = _rules(run)
        if rules:
            curves = {rule: run.values("selection", rule) for rule in rules}
            title = "which rule picks the true label inside S"
            save_curves(
                run.figure("selection"),
                curves,
                xlabel="epoch",
                ylabel="share of samples",
                title=title,
            )
        export_selected(
            run, labels.belief(lambda: predict(model, images)), labels.candidates, true_labels
        )
        if args.cam_vis:
            draw_cams(args, run, model, images, labels.candidates, true_labels)
        if last:
            name, mean = (
                args.method + " (offline sample)" * data.is_sample,
                summary["test_accuracy_last10_mean"],
            )
            print(f"{name}: test accuracy, mean of the last {len(last)} epochs: {mean:.4f}")
    return summary


def _last(run: Run, split: str, metric: str) -> float | None:
    return (run.values(split, metric) or [None])[-1]


def _rules(run: Run) -> list[str]:
    lines = [line for line in run.lines if line["split"] == "selection"]
    return [k for k in lines[0] if k not in ("step", "epoch", "split")] if lines else []


def export_selected(
    run: Run, belief: torch.Tensor, candidates: torch.Tensor, true_labels: torch.Tensor
) -> None:
    """selected.csv: index, candidates, the label with the largest belief (n,K), that belief, the true label."""
    value, selected = belief.max(1)
    rows, classes = candidates.nonzero(as_tuple=True)
    sizes = candidates.sum(1).tolist()
    names = np.split(classes.cpu().numpy().astype(str), np.cumsum(sizes)[:-1])
    frame = {
        "index": range(len(selected)),
        "candidates": [" ".join(part) for part in names],
        "selected": selected.tolist(),
        "confidence": value.cpu().numpy().round(6),
        "true_label": true_labels.tolist(),
    }
    table = pd.DataFrame(frame)
    checkpoint.atomic_save(
        run.folder / "selected.csv", lambda temporary: table.to_csv(temporary, index=False)
    )
