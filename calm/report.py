"""What a run says and keeps.

That is lines, reports, curves and the original's checkpoint file; the tables are in
report_tables.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from calm.options_names import BESIDE_STATE_DICT
from calm.report_logger import PythonLogger, Reporter
from common import checkpoint
from common.aliases import one_module
from common.plots import save_curves
from common.run import Run

one_module(__name__, "calm.report")

CHECKPOINT_NAME = "{}_checkpoint.pth.tar"
COMPARED = (  # settings of a network that change its numbers
    *("architecture", "attribution_method", "large_feature_map", "use_bn"),
    *("prior_activation", "crop_size"),
)


class PerformanceMeter:
    """One metric over the epochs: its values, the best one and its epoch (from 1)."""

    def __init__(self, split: str, higher_is_better: bool = True) -> None:
        self.split = split
        self.higher_is_better = higher_is_better
        self.value_per_epoch: list[float] = []
        self.best_value: float | None = None
        self.best_epoch: int | None = None

    @property
    def current_value(self) -> float | None:
        """The last value."""
        return self.value_per_epoch[-1] if self.value_per_epoch else None

    def update(self, new_value: float) -> None:
        """Append a value."""
        self.value_per_epoch.append(new_value)
        best = max if self.higher_is_better else min
        self.best_value = best(self.value_per_epoch)
        self.best_epoch = self.value_per_epoch.index(self.best_value) + 1


# ---- lines ---------------------------------------------------------------------------


def told_of_input(network_input: Mapping[str, Any] | None) -> str:
    """How images are resized and normalised; `network_input` is that of timm or torchvision."""
    if network_input is None:
        return "bilinear, ImageNet's mean and deviation"
    return f"{network_input['interpolation']}, the network's own mean and deviation"


def comparable(settings: Mapping[str, Any], trained: Mapping[str, Any], classes: int) -> str:
    """Return one line on what a number depends on besides the images.

    It says where this differs from the training's.

    Args:
        settings: of the evaluation, by name.
        trained: what the checkpoint says of its training, by name.
        classes: how many the network has.
    """
    method = settings["attribution_method"]
    head = "" if method == "CAM" else f", {settings['prior_activation']} prior"
    side = settings["crop_size"]
    text = (
        f"evaluated as {method} on {settings['architecture']}{head}, {classes} classes, "
        f"{side} x {side} pixels, {told_of_input(settings.get('network_input'))}"
    )
    other = []
    for name in COMPARED:
        if name in trained and trained[name] != settings[name]:
            other.append(f"{name} {settings[name]} (trained: {trained[name]})")
    if not other:
        return text
    return f"{text}; not as it was trained: {', '.join(other)}"


def told_of_idle_flags(idle: Mapping[str, str]) -> str:
    """A line that names the given flags without an effect in this script."""
    told = [f"--{flag} {reason}" for flag, reason in idle.items()]
    return f"without an effect here: {'; '.join(told)}"


def told_of_skipped(scores: Mapping[str, float | None]) -> str:
    """Return the text behind a number that was measured without some images.

    It is empty where none is missing.
    """
    missing = scores.get("eval_skipped")
    if not missing:
        return ""
    return f", eval_skipped {missing:.0f}: unreadable images are left out of this number"


def describe_batch(
    image_ids: Sequence[str], out: Mapping[str, torch.Tensor], shown: int = 4
) -> str:
    """Images with the largest or undefined losses: their loss and the sum of their attention."""
    loss = out["loss"].detach().float()
    worst = torch.where(loss.isfinite(), loss, torch.inf).argsort(descending=True)[:shown]
    told = []
    for row in worst.tolist():
        text = f"{image_ids[row]}: loss {loss[row].item():.4g}"
        if "attention" in out:
            text += f", attention sums to {out['attention'][row].item():.4g}"
        told.append(text)
    return "; ".join(told)


# ---- a training run ------------------------------------------------------------------


def log_epoch(
    run: Run, epoch: int, *, loss: float | None, accuracy: float, rate: float, count_skipped: bool
) -> None:
    """Log an epoch's training loss, accuracy (percent) and rate.

    Also logged is how many images it skipped.
    """
    skipped = {}
    if count_skipped:
        count = run.progress.skipped - sum(run.values("train", "skipped"))
        skipped = {"skipped": count}
        run.print(f"epoch {epoch}: {count} unreadable training images skipped")
    run.log("train", loss=loss, accuracy=accuracy, lr=rate, **skipped)


def log_scores(
    run: Run, logger: PythonLogger | None, epoch: int, split: str, scores: Mapping[str, float]
) -> None:
    """Log a split's scores and write them as reports/EPOCH_SPLIT.json."""
    run.log(split, **scores)
    if not run.is_main or logger is None:
        return
    named = {f"{split}/{name}": value for name, value in scores.items()}
    logger.log_dict(named, epoch)
    reporter = Reporter(run.folder / "reports", f"{epoch}_{split}")
    for name, value in named.items():
        reporter.add(name, value)
    reporter.write()


def logged(run: Run, split: str) -> dict[str, float]:
    """The scores of a split that were logged last."""
    for line in reversed(run.lines):
        if line["split"] == split:
            return {k: v for k, v in line.items() if k not in ("step", "epoch", "split")}
    return {}


def summary_of(
    run: Run, scores: Mapping[str, float], count_skipped: bool
) -> dict[str, float | None]:
    """Return what summary.json says at the end.

    That is the test scores, the best val accuracy, and the number of skipped images.
    """
    summary: dict[str, float | None] = {}
    for name, value in scores.items():
        if name != "eval_skipped":
            summary[f"test_{name}"] = value
    summary["best_val"] = run.progress.best
    if count_skipped:
        summary["skipped"] = run.progress.skipped
        summary["eval_skipped"] = scores.get("eval_skipped")
    return summary


def print_epoch(run: Run, epoch: int, epochs: int) -> None:
    """One line of the epoch that was logged last."""
    train, val = run.lines[-2:]
    speed = run.images_per_second() or 0
    run.print(
        f"epoch {epoch}/{epochs}: loss {train['loss'] or 0:.4f}, "
        f"train {train['accuracy']:.2f}, val {val['accuracy']:.2f} "
        f"(nll {val['nll']:.3f}, prior entropy {val['prior_entropy']:.2f}), "
        f"lr {train['lr']:.4g}, {speed:.1f} images/s{told_of_skipped(val)}"
    )


def save_accuracy(run: Run, performance: Mapping[str, PerformanceMeter]) -> None:
    """figures/accuracy.png: the accuracy of each split over the epochs."""
    curves = {}
    for split, meter in performance.items():
        if len(meter.value_per_epoch) > 1:
            curves[split] = meter.value_per_epoch
    if curves:
        figure = run.figure("accuracy")
        save_curves(figure, curves, xlabel="epoch", ylabel="accuracy (percent)")


def save_original_checkpoint(
    path: Path, settings: Mapping[str, Any], epoch: int, state: Mapping[str, torch.Tensor]
) -> None:
    """A checkpoint in the original's form, with what it must say of its network."""
    beside = {}
    for name in BESIDE_STATE_DICT:
        if settings.get(name) is not None:
            beside[name] = settings[name]
    checkpoint.save(path, {**beside, "epoch": epoch, "state_dict": state})
