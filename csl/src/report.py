"""What a run says and leaves behind: warnings, epoch lines, prior tables, per-class figures, pictures, weights."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.cam import class_activation_map, normalize_scoremap, overlay, resize_maps
from common.plots import save_curves, save_grid
from common.run import Run
from common.text import write_csv
from csl.src.evaluation import Scored, evaluating, uncounted_classes
from csl.src.helper_functions.classes import listed
from csl.src.helper_functions.coco_simulation import plot_class_freq, save_partial_labels
from csl.src.helper_functions.get_data import DataSet, names_without_positives, targets_of
from csl.src.helper_functions.metrics import AP_partial, ap_per_class
from csl.src.loss_functions.partial_asymmetric_loss import (
    PartialSelectiveLoss,
    frequent_classes,
    mode_of,
)
from csl.src.loss_functions.prior import ComputePrior
from csl.src.models.tresnet.tresnet import TResNet
from csl.src.models.utils.checkpoint import official
from csl.src.pixels import Pixels
from csl.src.selection import DropStatistics

one_module(__name__, "csl.src.report")

OTHERS = "mAP_classes_with_positives"
LARGE = 50_000_000  # entries of a label matrix above which nothing that needs it whole is drawn


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def describe_labels(args: argparse.Namespace, run: Run, train: DataSet) -> str | None:
    """Save simulated labels and the class-frequency figure; warn of labels that make a mode useless.

    Returns the SHA-256 of the partial labels, None where they were not simulated.
    """
    if len(train) * len(train.classes) > LARGE or not run.is_main:
        return None
    targets, names = targets_of(train), list(train.classes.values())
    mode = mode_of(args)
    if mode in ("selective", "ignore", "ignore_normalize_classes") and not (targets == -1).any():
        warn(
            f"--partial_loss_mode {mode}: all labels are annotated, the mode has no effect (--simulate_partial_type)"
        )
    if mode.startswith("ignore"):
        never = [name for name, column in zip(names, (targets == -1).all(0), strict=True) if column]
        if never:
            warn(
                f"{len(never)} classes have no annotation at all and never learn: {', '.join(never[:5])}"
            )
        empty = int((targets == -1).all(1).sum())
        if empty:
            warn(f"{empty} images have no annotated label: their loss is 0")
    plot_class_freq(targets, names, run.figure("class_frequency"))
    if train.complete is not None:
        return save_partial_labels(run.folder / "partial_labels.npz", train.targets_all, names)
    return None


def describe_prior(
    args: argparse.Namespace, run: Run, criterion: PartialSelectiveLoss, names: list[str]
) -> None:
    """Print which classes the prior drops; warn where it drops none, or over half of them."""
    if mode_of(args) != "selective" or criterion.prior_classes is None:
        return
    if not args.prior_threshold:
        if run.is_main:
            warn("--prior_threshold 0: the prior is not used")
        return
    above = frequent_classes(criterion.prior_classes, args.prior_threshold).tolist()
    dropped = [name for name, is_above in zip(names, above, strict=True) if is_above]
    run.print(
        f"prior above {args.prior_threshold:g}: {len(dropped)} of {len(names)} classes are dropped where un-annotated"
        f"{': ' + ', '.join(dropped) if dropped else ''}"
    )
    if len(dropped) > len(names) / 2 and run.is_main:
        warn(
            "the prior drops over half of the classes: close to --partial_loss_mode ignore; raise --prior_threshold"
        )


def describe_uncounted(
    names: Sequence[str], targets: np.ndarray, mean: float | None = None
) -> str | None:
    """Which classes of test labels (N,C) count 0 in the mAP, or not at all where labels are partial; None for none.

    mean: the mAP over the classes that have a positive, told beside it.
    """
    _, cannot = uncounted_classes(targets)
    if not cannot.any():
        return None
    shown = listed([name for name, is_out in zip(names, cannot, strict=True) if is_out])
    count = f"{cannot.sum()} of {len(names)} classes"
    if (targets == -1).any():
        return f"{count} are not in the mAP, they have no positive or no negative label: {shown}"
    others = (
        ""
        if mean is None
        else f"; over the other {len(names) - cannot.sum()} the mAP is {mean:.2f}"
    )
    return f"{count} have no positive and count 0 in the mAP, as released: {shown}{others}"


def prior_table(run: Run, prior: ComputePrior, train: DataSet, count: int = 10) -> dict[str, float]:
    """Print the top ten of the estimated prior beside the true and the annotated frequencies.

    Returns the rank correlation with the true frequencies where they are known (simulated labels), else {}.
    """
    mean = prior.avg_pred_train
    if mean is None or not run.is_main:
        return {}
    estimate, names = mean.cpu().numpy(), list(train.classes.values())

    def top(values: np.ndarray) -> str:
        return ", ".join(names[i] for i in np.argsort(-values, kind="stable")[:count])

    run.print(f"top {count} by the estimated prior: {top(estimate)}")
    if train.complete is None:
        return {}
    true = (train.complete == 1).mean(0)
    annotated = (targets_of(train) == 1).mean(0)
    run.print(f"top {count} by the complete labels: {top(true)}")
    found = {"prior_rank_correlation": float(spearmanr(estimate, true).statistic)}
    naive = float(spearmanr(annotated, true).statistic) if np.ptp(annotated) > 0 else None
    told = "constant" if naive is None else f"{naive:.2f}"
    run.print(
        f"rank correlation with them: estimate {found['prior_rank_correlation']:.2f}, annotated counts {told}"
    )
    return found


def print_epoch(run: Run, epochs: int, score: float, targets: np.ndarray) -> None:
    """One line an epoch that greps well; the names are those of metrics.jsonl. targets: of the test set (N,C)."""
    train = next(line for line in reversed(run.lines) if line["split"] == "train")
    test = next(line for line in reversed(run.lines) if line["split"] == "test")
    p, speed = run.progress, run.images_per_second() or 0.0
    left = (epochs - p.epoch - 1) * p.seconds / (p.epoch + 1) / 60

    def told(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    best = max([score, p.best or 0.0])
    partial = ""
    if "classes_counted_ema" in test:
        wrong = [told(test[f"mAP_unannotated_as_negative_{name}"]) for name in ("model", "ema")]
        partial = f"(annotated labels, {test['classes_counted_ema']} classes; un-annotated as negative {' '.join(wrong)})  "
    elif "mAP_classes_with_positives_ema" in test:
        empty = int(uncounted_classes(targets)[0].sum())
        partial = f"({empty} of {targets.shape[1]} classes have no positive and count 0)  "
    partial += told_skipped(test)
    run.print(
        f"epoch {p.epoch + 1}/{epochs}  loss {told(train['loss'])}  lr {train['lr']:.2g}  "
        f"mAP model {told(test['mAP_model'])}  mAP ema {told(test['mAP_ema'])}  best {told(best)}  {partial}"
        f"{speed:.0f} images/s  {left:.1f} min left"
    )


def told_skipped(metrics: Mapping[str, Any]) -> str:
    """What stands beside numbers that are measured without unreadable images; empty where there were none."""
    skipped = metrics.get("eval_skipped")
    return f"(eval_skipped {skipped:.0f})  " if skipped else ""


def export_best(run: Run, states: dict[str, dict], info: dict[str, Any]) -> None:
    """checkpoints/best_model.pth and best_ema.pth in the published files' form, each at its own best epoch."""
    for name, state in states.items():
        values = run.values("test", f"mAP_{name}")
        known = [v for v in values if v is not None]
        if run.is_main and values[-1] is not None and values[-1] >= max(known):
            path = run.folder / "checkpoints" / f"best_{name}.pth"
            checkpoint.save(path, official(state, mAP=values[-1], epoch=len(values), **info))


def write(
    args: argparse.Namespace,
    run: Run,
    train: DataSet,
    val: DataSet,
    ema_model: nn.Module,
    last: Scored | None,
    prior: ComputePrior,
    drops: DropStatistics,
    pixels: Pixels,
) -> dict[str, Any]:
    """Figures, per_class.csv and the summary. All figures of merit in percent; best ones are chosen on the test set."""
    model, ema = run.values("test", "mAP_model"), run.values("test", "mAP_ema")
    summary: dict[str, Any] = {
        "mAP_ema_final": ema[-1] if ema else None,
        "mAP_model_final": model[-1] if model else None,
        "mAP_ema_best_on_test": max((v for v in ema if v is not None), default=None),
        "mAP_model_best_on_test": max((v for v in model if v is not None), default=None),
        "mAP_released_max": max((v for v in [*model, *ema] if v is not None), default=None),
        "epochs": len(ema),
        "classes": len(train.classes),
        "offline_sample": args._found.is_sample,
        **prior_table(run, prior, train),
        **drops.summary(),
    }
    test = [line for line in run.lines if line["split"] == "test"]
    if test:
        skip = ("step", "epoch", "split", "mAP_ema", "mAP_model", "eval_skipped")
        summary |= {f"{name}_final": value for name, value in test[-1].items() if name not in skip}
    summary["eval_skipped"] = test[-1].get("eval_skipped", 0) if test else val.unreadable
    summary["classes_without_positives"] = len(names_without_positives(val))
    if run.is_main and last is not None:
        targets = last.targets
        scores = last.scores[1]
        told = describe_uncounted(
            list(val.classes.values()), targets, summary.get(f"{OTHERS}_ema_final")
        )
        if told:
            run.print(told)
        write_classes(run.folder / "per_class.csv", train, targets, scores, prior, drops)
        label = "offline sample" if args._found.is_sample else args._found.name
        save_curves(
            run.figure("curves"),
            {"model": model, "averaged model": ema},
            xlabel="epoch",
            ylabel="mAP (%)",
            title=f"{mode_of(args)} on {label}",
        )
        draw_examples(run, ema_model, val, last, pixels)
    return summary


def write_classes(
    path: Path,
    train: DataSet,
    targets: np.ndarray,
    scores: np.ndarray,
    prior: ComputePrior,
    drops: DropStatistics,
) -> None:
    """A row a class: AP of the averaged model in percent, annotated labels, prior, what the loss dropped."""
    names = list(train.classes.values())
    ap = AP_partial(targets, scores)[0] if (targets == -1).any() else ap_per_class(targets, scores)
    columns: dict[str, Any] = {
        "class": names,
        "AP": [f"{100 * a:.2f}" if a >= 0 else "" for a in ap],
    }
    columns["test_positives"] = (targets == 1).sum(0).tolist()
    if len(train) * len(names) <= LARGE:
        labels = targets_of(train)
        columns["annotated_positives"] = (labels == 1).sum(0).tolist()
        columns["annotated_negatives"] = (labels == 0).sum(0).tolist()
        if train.complete is not None:
            columns["all_positives"] = (train.complete == 1).sum(0).tolist()
    if prior.avg_pred_train is not None:
        columns["prior"] = [f"{p:.4f}" for p in prior.avg_pred_train.tolist()]
    columns |= drops.columns()
    write_csv(path, [list(columns), *zip(*columns.values(), strict=True)])


@torch.inference_mode()
def draw_examples(
    run: Run, model: nn.Module, val: DataSet, scored: Scored, pixels: Pixels, count: int = 6
) -> None:
    """figures/examples.png: test pictures with the averaged model's three best classes and their activation maps.

    Probabilities stand above; a * marks a class that is there.
    """
    rows, titles = [], []
    names = list(val.classes.values())
    for scores, i in zip(scored.scores[1], scored.index[:count].tolist(), strict=False):
        image, target = val[i]
        target = (
            torch.from_numpy(val.index.rows([target])[0]) if isinstance(target, int) else target
        )
        picture = pixels.picture(image)
        top = np.argsort(-scores, kind="stable")[:3].tolist()
        maps = _maps(model, image) if isinstance(model, TResNet) else None
        there = [names[c] for c in np.flatnonzero(target.numpy() == 1)[:4]]
        row, title = (
            [picture],
            ["\n".join(", ".join(there[k : k + 2]) for k in range(0, len(there), 2))],
        )
        for c in top:
            shown = (
                picture if maps is None else overlay(picture, normalize_scoremap(maps[c], "max"))
            )
            row.append(shown)
            title.append(f"{names[c]}{'*' if target[c] == 1 else ''} {scores[c]:.2f}")
        rows.append(row)
        titles.append(title)
    if rows:
        save_grid(
            run.figure("examples"),
            rows,
            titles,
            suptitle="test pictures, best classes (* is there)",
        )


def _maps(model: TResNet, image: torch.Tensor) -> np.ndarray:
    """Class activation maps (C,H,W) of one image (3,H,W)."""
    parameter = next(model.parameters())
    with evaluating(model):
        features = model.body(model.space_to_depth(image[None].to(parameter)))
    head = model.head.fc
    weight = (
        head.weight
        if isinstance(head, nn.Linear)
        else head.FC.weight @ head.embedding_generator[0].weight
    )
    maps = resize_maps(class_activation_map(features, weight), tuple(image.shape[1:]))
    return maps[0].float().cpu().numpy()
