"""Scores of a test set, and the metrics that fit its labels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.checkpoint import unwrap
from common.cli import UserError
from common.loading import Batch, Seeded
from common.modes import evaluating
from common.precision import without_autocast
from common.rows import Rows, expected_rows, gather_in_order
from csl.data_pixels import ToNumbers
from csl.evaluate_metrics import (
    AP_partial,
    ap_per_class,
    best_thresholds,
    conventional_f1,
    mAP,
    prf_metrics,
    top_k_only,
)

one_module(__name__, "csl.evaluate")


class Forward:
    """How images become probabilities (B,C) float32: `forward(model, images)`.

    autocast: None for float32; else the networks compute in this kind of number (`eval_kind`).
    """

    def __init__(self, autocast: torch.dtype | None = None) -> None:
        self.autocast = autocast

    def __call__(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        kind = images.device.type
        if self.autocast is None:
            logits = model(images)
        else:
            with torch.autocast(kind, dtype=self.autocast):
                logits = model(images)
        return logits.float().sigmoid()


def eval_kind(is_wanted: bool, accelerator: Accelerator) -> torch.dtype | None:
    """What --eval_autocast computes in: bfloat16, with a precision of fp16 that; None without."""
    if not is_wanted:
        return None
    return torch.float16 if accelerator.mixed_precision == "fp16" else torch.bfloat16


class Scored(NamedTuple):
    """What models say of a test set. Row i is of sample index[i]; unreadable images have none."""

    scores: list[np.ndarray]  # of every model: probabilities (N,C), float32 or float16
    targets: np.ndarray  # (N,C) int8
    index: np.ndarray  # type: ignore[assignment]  # (N,) int64, ascending; not tuple.index


@torch.inference_mode()
def predict(
    models: Sequence[nn.Module],
    loader: Iterable,
    accelerator: Accelerator,
    *,
    numbers: nn.Module | None = None,
    poll: Callable[[], None] | None = None,
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return every model's probabilities (N,C) float32, and the targets (N,C) int8.

    Each sample comes once, in order.
    """
    found = predict_rows(models, loader, accelerator, numbers=numbers, poll=poll, forward=forward)
    return found.scores, found.targets


@torch.inference_mode()
def predict_rows(
    models: Sequence[nn.Module],
    loader: Iterable,
    accelerator: Accelerator,
    *,
    numbers: nn.Module | None = None,
    poll: Callable[[], None] | None = None,
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
    half: bool = False,
) -> Scored:
    """The same, and which samples they are.

    All models see the same decoded batch, in float32, and compute in float32, also where one is
    trained under autocast (but see `Forward`). Batches are `common.data.Batch`es, or plain pairs
    (images, targets). `numbers` makes uint8 pictures the networks' input, without it they become
    0..1; `poll` is called after every batch; `forward(model, images)` stands for another way to the
    probabilities (test-time augmentation); `half` keeps them in float16, in half the memory.
    UserError: no image can be read.
    """
    forward = forward or Forward()
    numbers = numbers or ToNumbers()
    models = list(map(unwrap, models))
    expected = expected_rows(loader)
    indices = Rows(expected, torch.int64)
    targets = Rows(expected, torch.int8)
    kind = torch.float16 if half else torch.float32
    scores = [Rows(expected, kind) for _ in models]
    seen = 0
    with evaluating(*models), without_autocast(*models):
        for batch in loader:
            if not isinstance(batch, Batch):
                batch = Batch(batch, torch.arange(seen, seen + len(batch[1])), 0)
            if batch.data is None:  # nothing in it could be decoded
                continue
            images, labels = batch.data
            seen += len(labels)
            images = numbers(images.to(accelerator.device, non_blocking=True))
            for model, of_model in zip(models, scores, strict=True):
                of_model.add(forward(model, images))
            indices.add(batch.index)
            targets.add(labels)
            if poll is not None and accelerator.num_processes == 1:
                poll()
    index, labels, *probabilities = gather_in_order(
        indices.whole(),
        targets.whole(),
        *[of_model.whole() for of_model in scores],
        accelerator=accelerator,
    )
    if not len(index):
        raise UserError("no test image can be read: nothing can be scored")
    return Scored([p.numpy() for p in probabilities], labels.numpy(), index.numpy())


def count_skipped(data: Any, scored: Scored) -> int:
    """How many images of a test set the scores are without, because they cannot be read.

    `data` knows those that were left out at the start (`unreadable`); others turn out while they
    are decoded.
    """
    return getattr(data, "unreadable", 0) + len(data) - len(scored.index)


def metrics_of(targets: np.ndarray, scores: np.ndarray, thre: float = 0.8) -> dict[str, float]:
    """mAP and its companions in percent: targets (N,C) in {-1, 0, 1}, scores (N,C) in 0..1.

    Complete labels: mAP over all classes, CF1 and OF1 at the threshold; where some classes have no
    positive, which counts 0 in the mAP as released, also the mAP over the others. With un-annotated
    entries (-1): mAP on annotated labels only (AP_partial), its positives-weighted mean, the number
    of classes counted, and, for comparison with others' numbers, the mAP that takes un-annotated
    entries as negatives.
    """
    if (targets == -1).any():
        ap, mean, weighted, *_ = AP_partial(targets, scores)
        return {
            "mAP": mean,
            "mAP_weighted": weighted,
            "classes_counted": int((ap >= 0).sum()),
            "mAP_unannotated_as_negative": mAP(targets, scores),
        }
    metrics = {"mAP": mAP(targets, scores), **conventional_f1(prf_metrics(targets, scores, thre))}
    has_positive = (targets == 1).any(0)
    if has_positive.any() and not has_positive.all():
        ap = ap_per_class(targets, scores)[has_positive]
        metrics["mAP_classes_with_positives"] = 100 * float(np.mean(ap))
    return metrics


def rates_of(
    targets: np.ndarray, scores: np.ndarray, thre: float, *, calibrate: bool = False
) -> dict[str, float]:
    """Return precision, recall and F in percent, in several variants.

    They are taken at the threshold, of the three best of each image, and calibrated.

    calibrate: also with the best threshold per class, chosen on these very rows.
    """
    rates = prf_metrics(targets, scores, thre)
    top3 = conventional_f1(prf_metrics(targets, top_k_only(scores), thre))
    rates |= renamed(top3, "top3")
    if calibrate:
        above = (scores > best_thresholds(targets, scores)).astype(scores.dtype)
        calibrated = conventional_f1(prf_metrics(targets, above, 0.5))
        rates |= renamed(calibrated, "calibrated")
    return rates


def renamed(values: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """The same values, each name with _suffix behind it."""
    return {f"{name}_{suffix}": value for name, value in values.items()}


def uncounted_classes(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which classes (C,) bool have no positive, and which cannot be scored on annotated labels.

    Of complete labels the second is the first; of partial ones (-1) also a class without a negative
    cannot.
    """
    no_positive = ~(targets == 1).any(0)
    if not (targets == -1).any():
        return no_positive, no_positive
    return no_positive, no_positive | ~(targets == 0).any(0)


def score_both(
    model: nn.Module,
    ema_model: nn.Module,
    loader: Iterable,
    accelerator: Accelerator,
    poll: Callable[[], None] | None = None,
    numbers: nn.Module | None = None,
    forward: Forward | None = None,
    half: bool = False,
) -> tuple[dict[str, float], Scored]:
    """Metrics of the model and of the averaged model, each under its own name.

    What they were computed from.

    Where the data set knows all labels besides the partial ones, `mAP_complete` measures on them.
    `eval_skipped` counts the unreadable images that all are measured without; it is absent where
    there are none. `half` as in `predict_rows`.
    """
    models = [model, ema_model]
    scored = predict_rows(
        models, loader, accelerator, numbers=numbers, poll=poll, forward=forward, half=half
    )
    seeded = getattr(loader, "dataset", None)
    data = seeded.dataset if isinstance(seeded, Seeded) else None
    complete = getattr(data, "complete", None)
    metrics: dict[str, float] = {}
    for name, values in zip(("model", "ema"), scored.scores, strict=True):
        metrics |= renamed(metrics_of(scored.targets, values), name)
        if complete is not None:
            metrics[f"mAP_complete_{name}"] = mAP(complete[scored.index], values)
    skipped = 0 if data is None else count_skipped(data, scored)
    if skipped:
        metrics["eval_skipped"] = skipped
    return metrics, scored


def best_of(metrics: dict[str, float], which: str) -> float:
    """Return the mAP of the averaged model ("ema") or of the model ("model").

    "max" gives the larger of the two, as released.
    """
    if which == "max":
        return max(metrics["mAP_model"], metrics["mAP_ema"])
    return metrics[f"mAP_{which}"]
