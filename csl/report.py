"""What a run says and leaves behind.

That is warnings, epoch lines, prior tables, per-class figures and weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.estimate import FirstSteps
from common.plots import save_curves
from common.run import Run
from common.text import write_csv
from csl.build_loss import SelectiveLoss
from csl.data import DataSet, LabelledImages, names_without_positives, targets_of
from csl.data_classes import listed
from csl.data_errors import say
from csl.data_partial import save_partial_labels
from csl.data_pixels import Pixels
from csl.data_prior import ComputePrior
from csl.evaluate import Scored, renamed, uncounted_classes
from csl.evaluate_drops import DropStatistics
from csl.evaluate_metrics import AP_partial, ap_per_class
from csl.figures import draw_examples, plot_class_freq
from csl.method import UNKNOWN, frequent_classes
from csl.src.models.utils.checkpoint import official

one_module(__name__, "csl.report")

OTHERS = "mAP_classes_with_positives"
LARGE = 50_000_000  # entries of a label matrix above which nothing that needs it whole is drawn


def first_steps(
    run: Run, model: nn.Module, *, pictures: int, rows: int, epochs: int, is_due: bool
) -> FirstSteps:
    """What tells, after the first steps, how long a run of `rows` pictures a step will take.

    A checkpoint holds the weights four times: the model, its average, Adam's two moments.
    """
    weights = sum(value.nbytes for value in model.state_dict().values())
    return FirstSteps(
        run,
        steps=4,
        pictures=pictures,
        batch_size=rows,
        epochs=epochs,
        checkpoint_bytes=4 * weights,
        is_due=is_due,
    )


def warn(message: str) -> None:
    """One line on stderr."""
    say(f"warning: {message}")


def chosen(names: Sequence[str], is_chosen: np.ndarray) -> list[str]:
    """The names at the places that are true; is_chosen (C,) bool."""
    return [names[place] for place in np.flatnonzero(is_chosen).tolist()]


# --- before the first step ---


def describe_labels(run: Run, train: DataSet, mode: str) -> str | None:
    """Save simulated labels; warn of labels that make a mode useless.

    Returns the SHA-256 of the partial labels, None where they were not simulated.
    """
    if len(train) * len(train.classes) > LARGE or not run.is_main:
        return None
    targets = targets_of(train)
    names = list(train.classes.values())
    is_unknown = targets == UNKNOWN
    if mode not in ("none", "negative") and not is_unknown.any():
        told = "all labels are annotated, the mode has no effect (--simulate_partial_type)"
        warn(f"--partial_loss_mode {mode}: {told}")
    if mode.startswith("ignore"):
        never = chosen(names, is_unknown.all(axis=0))
        if never:
            shown = ", ".join(never[:5])
            warn(f"{len(never)} classes have no annotation at all and never learn: {shown}")
        empty = int(is_unknown.all(axis=1).sum())
        if empty:
            warn(f"{empty} images have no annotated label: their loss is 0")
    if train.complete is not None and isinstance(train, LabelledImages):
        return save_partial_labels(run.folder / "partial_labels.npz", train.targets_all, names)
    return None


def draw_frequencies(run: Run, train: DataSet) -> None:
    """figures/class_frequency.png; at the end, as matplotlib takes a second to start."""
    if len(train) * len(train.classes) > LARGE or not run.is_main:
        return
    names = list(train.classes.values())
    plot_class_freq(targets_of(train), names, run.figure("class_frequency"))


def describe_prior(run: Run, criterion: SelectiveLoss, names: Sequence[str]) -> None:
    """Print which classes the prior drops; warn where it drops none, or over half of them."""
    threshold = criterion.prior_threshold
    if criterion.mode != "selective" or criterion.prior_classes is None:
        return
    if not threshold:
        if run.is_main:
            warn("--prior_threshold 0: the prior is not used")
        return
    above = frequent_classes(criterion.prior_classes, threshold)
    dropped = chosen(names, above.cpu().numpy())
    count = f"{len(dropped)} of {len(names)} classes are dropped where un-annotated"
    shown = f": {', '.join(dropped)}" if dropped else ""
    run.print(f"prior above {threshold:g}: {count}{shown}")
    if len(dropped) > len(names) / 2 and run.is_main:
        told = "close to --partial_loss_mode ignore; raise --prior_threshold"
        warn(f"the prior drops over half of the classes: {told}")


def describe_uncounted(
    names: Sequence[str], targets: np.ndarray, mean: float | None = None
) -> str | None:
    """Say which classes of test labels (N,C) count 0 in the mAP.

    Where labels are partial, such classes do not count at all. None where there are none. mean: the
    mAP over the classes that have a positive, told beside it.
    """
    _, cannot = uncounted_classes(targets)
    if not cannot.any():
        return None
    shown = listed(chosen(names, cannot))
    count = f"{cannot.sum()} of {len(names)} classes"
    if (targets == UNKNOWN).any():
        return f"{count} are not in the mAP, they have no positive or no negative label: {shown}"
    told = f"{count} have no positive and count 0 in the mAP, as released: {shown}"
    if mean is not None:
        told += f"; over the other {len(names) - cannot.sum()} the mAP is {mean:.2f}"
    return told


# --- after every epoch ---


def print_epoch(run: Run, epochs: int, score: float, targets: np.ndarray) -> None:
    """One line an epoch that greps well; the names are those of metrics.jsonl.

    targets: of the test set (N,C).
    """
    train = lines_of(run, "train")[-1]
    test = lines_of(run, "test")[-1]
    progress = run.progress
    speed = run.images_per_second() or 0.0
    done = progress.epoch + 1
    left = (epochs - done) * progress.seconds / done / 60
    best = max(score, progress.best or 0.0)
    run.print(
        f"epoch {done}/{epochs}  loss {_told(train['loss'])}  lr {train['lr']:.2g}  "
        f"mAP model {_told(test['mAP_model'])}  mAP ema {_told(test['mAP_ema'])}  "
        f"best {_told(best)}  {_told_partial(test, targets)}{told_skipped(test)}"
        f"{speed:.0f} images/s  {left:.1f} min left"
    )


def lines_of(run: Run, split: str) -> list[dict[str, Any]]:
    """The metrics of a split so far, a line an epoch."""
    return [line for line in run.lines if line["split"] == split]


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _told_partial(test: Mapping[str, Any], targets: np.ndarray) -> str:
    """What the mAP counts, where not every label or class has its part in it."""
    if "classes_counted_ema" in test:
        model = _told(test["mAP_unannotated_as_negative_model"])
        ema = _told(test["mAP_unannotated_as_negative_ema"])
        counted = f"annotated labels, {test['classes_counted_ema']} classes"
        return f"({counted}; un-annotated as negative {model} {ema})  "
    if f"{OTHERS}_ema" in test:
        no_positive, _ = uncounted_classes(targets)
        count = f"{no_positive.sum()} of {targets.shape[1]} classes"
        return f"({count} have no positive and count 0)  "
    return ""


def told_skipped(metrics: Mapping[str, Any]) -> str:
    """What stands beside numbers that are measured without unreadable images; empty without any."""
    skipped = metrics.get("eval_skipped")
    return f"(eval_skipped {skipped:.0f})  " if skipped else ""


def export_best(run: Run, states: Mapping[str, dict], info: Mapping[str, Any]) -> None:
    """Write checkpoints/best_model.pth and best_ema.pth, each at its best epoch.

    They have the form of published files.
    """
    for name, state in states.items():
        values = run.values("test", f"mAP_{name}")
        last = values[-1]
        if run.is_main and last is not None and last == _largest(values):
            path = run.folder / "checkpoints" / f"best_{name}.pth"
            checkpoint.save(path, official(state, mAP=last, epoch=len(values), **info))


def _largest(values: Sequence[float | None]) -> float | None:
    """The largest value that is defined, None where none is."""
    return max((value for value in values if value is not None), default=None)


# --- at the end ---


def summarize(
    run: Run,
    train: DataSet,
    val: DataSet,
    prior: ComputePrior,
    drops: DropStatistics,
) -> dict[str, Any]:
    """The summary of a run; all figures of merit in percent, best ones chosen on the test set.

    Prints the table of the prior.
    """
    model = run.values("test", "mAP_model")
    ema = run.values("test", "mAP_ema")
    summary: dict[str, Any] = {
        "mAP_ema_final": ema[-1] if ema else None,
        "mAP_model_final": model[-1] if model else None,
        "mAP_ema_best_on_test": _largest(ema),
        "mAP_model_best_on_test": _largest(model),
        "mAP_released_max": _largest([*model, *ema]),
        "epochs": len(ema),
        "classes": len(train.classes),
    }
    summary |= prior_table(run, prior, train)
    summary |= drops.summary()
    summary["eval_skipped"] = val.unreadable
    test = lines_of(run, "test")
    if test:
        named = ("step", "epoch", "split", "mAP_ema", "mAP_model", "eval_skipped")
        others = {name: value for name, value in test[-1].items() if name not in named}
        summary |= renamed(others, "final")
        summary["eval_skipped"] = test[-1].get("eval_skipped", 0)
    summary["classes_without_positives"] = len(names_without_positives(val))
    return summary


def prior_table(run: Run, prior: ComputePrior, train: DataSet, count: int = 10) -> dict[str, float]:
    """Print the top ten of the estimated prior beside the true and the annotated frequencies.

    Returns the rank correlation with the true frequencies where they are known (simulated labels).
    """
    mean = prior.avg_pred_train
    if mean is None or not run.is_main:
        return {}
    estimate = mean.cpu().numpy()
    names = list(train.classes.values())

    def top(values: np.ndarray) -> str:
        order = np.argsort(-values, kind="stable")
        return ", ".join(names[place] for place in order[:count].tolist())

    run.print(f"top {count} by the estimated prior: {top(estimate)}")
    if train.complete is None:
        return {}
    from scipy.stats import spearmanr  # a second

    true = (train.complete == 1).mean(axis=0)
    annotated = (targets_of(train) == 1).mean(axis=0)
    run.print(f"top {count} by the complete labels: {top(true)}")
    correlation = float(spearmanr(estimate, true).statistic)
    told = "constant"
    if np.ptp(annotated) > 0:
        told = f"{spearmanr(annotated, true).statistic:.2f}"
    both = f"estimate {correlation:.2f}, annotated counts {told}"
    run.print(f"rank correlation with them: {both}")
    return {"prior_rank_correlation": correlation}


def write_results(
    run: Run,
    train: DataSet,
    val: DataSet,
    ema_model: nn.Module,
    scored: Scored,
    prior: ComputePrior,
    drops: DropStatistics,
    *,
    pixels: Pixels,
    title: str,
    mean_of_others: float | None = None,
) -> None:
    """per_class.csv, the curves, examples; says which classes count 0 in the mAP.

    Args:
        scored: the test set by the last model and its average.
        title: of the curves.
        mean_of_others: the averaged model's mAP over the classes that have a positive.
    """
    targets = scored.targets
    told = describe_uncounted(list(val.classes.values()), targets, mean_of_others)
    if told:
        run.print(told)
    write_classes(run.folder / "per_class.csv", train, targets, scored.scores[1], prior, drops)
    curves = {
        "model": run.values("test", "mAP_model"),
        "averaged model": run.values("test", "mAP_ema"),
    }
    path = run.figure("curves")
    save_curves(path, curves, xlabel="epoch", ylabel="mAP (%)", title=title)
    draw_examples(run.figure("examples"), ema_model, val, scored, pixels)


def write_classes(
    path: Path,
    train: DataSet,
    targets: np.ndarray,
    scores: np.ndarray,
    prior: ComputePrior,
    drops: DropStatistics,
) -> None:
    """Write a table with a row for each class.

    It holds the AP of the averaged model in percent, annotated labels, prior, and what was dropped.
    """
    names = list(train.classes.values())
    if (targets == UNKNOWN).any():
        ap, *_ = AP_partial(targets, scores)
    else:
        ap = ap_per_class(targets, scores)
    columns: dict[str, Any] = {
        "class": names,
        "AP": [f"{100 * value:.2f}" if value >= 0 else "" for value in ap],
        "test_positives": (targets == 1).sum(axis=0).tolist(),
    }
    if len(train) * len(names) <= LARGE:
        labels = targets_of(train)
        columns["annotated_positives"] = (labels == 1).sum(axis=0).tolist()
        columns["annotated_negatives"] = (labels == 0).sum(axis=0).tolist()
        if train.complete is not None:
            columns["all_positives"] = (train.complete == 1).sum(axis=0).tolist()
    if prior.avg_pred_train is not None:
        columns["prior"] = [f"{value:.4f}" for value in prior.avg_pred_train.tolist()]
    columns |= drops.columns()
    write_csv(path, [list(columns), *zip(*columns.values(), strict=True)])


def print_scores(run: Run, summary: Mapping[str, Any]) -> None:
    """The lines of validate.py: the mAP, and precision, recall and F at the threshold."""
    without = told_skipped(summary)
    names = ("P_C", "R_C", "F_C", "P_O", "R_O", "F_O")
    rates = "  ".join(f"{name} {summary[name]:.2f}" for name in names)
    if "classes_counted" not in summary:
        run.print(f"{without}mAP: {summary['mAP']:.2f}  {rates}")
        return
    counted = f"{summary['classes_counted']} of {summary['classes']} classes"
    wrong = f"mAP {summary['mAP_unannotated_as_negative']:.2f}"
    run.print(f"{without}mAP (annotated labels only, {counted}): {summary['mAP']:.2f}")
    run.print(f"{without}un-annotated as negative: {wrong}  {rates}")
