"""Mean average precision, and precision / recall / F at a threshold.

The labels may be complete or partial.

N rows (images), C classes. One rule for ties everywhere: among equal scores the later row ranks
first. Targets are 1, 0 or -1 and scores are numbers; anything else is a DomainError (a ValueError),
not a silent 0.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from common.aliases import one_module
from common.cli import DomainError
from common.domain import require_number
from common.metrics import precision_at_positives
from csl.data_errors import require_count
from csl.data_labels import require_labels
from csl.method import as_array

one_module(__name__, "csl.evaluate_metrics")

Array = np.ndarray | torch.Tensor
# So many at a time: what is made of a large matrix on the way is small beside it.
CLASSES = 64
ROWS = 4096


class AverageMeter:
    """Running figures of a value: val (latest), sum, cnt, avg, and ema with decay 0.99."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        self.val = 0.0
        self.sum = 0.0
        self.cnt = 0
        self.avg = 0.0
        self.ema = 0.0

    def update(self, val: float, n: int = 1) -> None:
        """Add a value that stands for n samples."""
        self.ema = val if self.cnt == 0 else 0.99 * self.ema + 0.01 * val
        self.val = val
        self.sum += val * n
        self.cnt += n
        if self.cnt:
            self.avg = self.sum / self.cnt


def average_precision(output: Array, target: Array) -> float:
    """Return the average precision (AP) of one class, in 0..1.

    It is the sum over positives of (positives so far / rank), divided by (number of positives +
    1e-8).

    output (N,) scores, target (N,): only 1 counts as positive. 0 without positives.
    """
    scores, targets = _pair(output, target, 1)
    return _average_precision(scores, targets == 1)


def mAP(targs: Array, preds: Array) -> float:
    """Mean AP in percent over all C classes; targs, preds (N,C).

    A class without positives counts 0, and -1 counts as negative: for partial labels use
    mAP_partial. 0 without preds; DomainError (a ValueError) names the shapes that do not belong
    together.
    """
    if np.size(as_array(preds)) == 0:
        return 0.0
    return 100 * float(np.mean(ap_per_class(targs, preds)))


def ap_per_class(targs: Array, preds: Array) -> np.ndarray:
    """AP in 0..1 of every class (C,) as `mAP` averages them."""
    scores, targets = _pair(preds, targs)
    ap: list[float] = []
    for start in range(0, scores.shape[1], CLASSES):
        of_classes = slice(start, start + CLASSES)
        columns = np.ascontiguousarray(scores[:, of_classes].T, _sorted_as(scores.dtype))
        positive = np.ascontiguousarray((targets[:, of_classes] == 1).T)
        ap += map(_average_precision, columns, positive)
    return np.array(ap, np.float64)


def AP_partial(targs: Array, preds: Array) -> tuple[np.ndarray, float, float, int, int, int]:
    """AP on annotated entries only: targs (N,C) in {-1 un-annotated, 0, 1}, preds (N,C).

    Returns (ap (C,) in 0..1 with -1 for excluded classes, their mean in percent, the mean weighted
    by the number of positives in percent, and the numbers of classes without labels, without
    negatives, without positives). A class is excluded for the first that holds of: no label, no
    positive, no negative. Without any class left: nan, with a warning. DomainError as in `mAP`.
    """
    scores, targets = _pair(preds, targs)
    positives = (targets == 1).sum(axis=0)
    negatives = (targets == 0).sum(axis=0)
    no_label = positives + negatives == 0
    no_positive = ~no_label & (positives == 0)
    no_negative = ~no_label & ~no_positive & (negatives == 0)
    counted = ~(no_label | no_positive | no_negative)
    ap = np.where(
        counted, [_average_precision(*column) for column in _annotated(scores, targets)], -1.0
    )
    if counted.any():
        plain = 100 * ap[counted].mean()
        weighted = 100 * np.average(ap[counted], weights=positives[counted])
    else:
        warnings.warn(
            "no class has both positive and negative labels: the mean AP is nan", stacklevel=2
        )
        plain = weighted = np.nan
    return (
        ap,
        float(plain),
        float(weighted),
        int(no_label.sum()),
        int(no_negative.sum()),
        int(no_positive.sum()),
    )


def mAP_partial(targs: Array, preds: Array) -> float:
    """Return the mean AP in percent for partial labels.

    It is taken over the classes with annotated positives and negatives, on annotated entries.
    """
    return AP_partial(targs, preds)[1]


class Rates(NamedTuple):
    """Precision, recall and their harmonic mean, each in [0, 1] and of one shape."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def precision_recall_f1(
    hits: np.ndarray,
    predicted: np.ndarray,
    positive: np.ndarray,
) -> Rates:
    """The rates of counts, elementwise in float64; all 0 where nothing was hit.

    Args:
        hits: how many were both predicted and positive, any shape.
        predicted, positive: how many were predicted, and how many are positive; of that shape.
    """
    hits = np.asarray(hits, np.float64)
    some = hits > 0
    zero = np.zeros_like(hits)
    precision = np.divide(hits, predicted, out=zero.copy(), where=some)
    recall = np.divide(hits, positive, out=zero.copy(), where=some)
    mean = np.divide(2 * precision * recall, precision + recall, out=zero.copy(), where=some)
    return Rates(precision, recall, mean)


def prf_metrics(targs: Array, preds: Array, thre: float = 0.8) -> dict[str, float]:
    """Precision, recall and F in percent at a threshold: predicted iff score > thre.

    Only 1 is positive.

    P_C, R_C, F_C: means over classes (each 0 where its true positives are 0; F_C is the mean of the
    classes' F). P_O, R_O, F_O: from counts summed over classes. Entries with target -1 count as
    negatives. DomainError as in `mAP`.
    """
    require_number(thre, "thre")
    scores, targets = _pair(preds, targs)
    counts = np.zeros((3, scores.shape[1]), np.int64)
    for start in range(0, len(scores), ROWS):
        predicted = scores[start : start + ROWS] > thre
        positive = targets[start : start + ROWS] == 1
        for count, chosen in zip(counts, (predicted & positive, predicted, positive), strict=True):
            count += chosen.sum(axis=0)
    of_classes = precision_recall_f1(*counts)
    overall = precision_recall_f1(*[count.sum(keepdims=True) for count in counts])

    found = {}
    for end, rates in (("C", of_classes), ("O", overall)):
        found[f"P_{end}"] = 100 * float(rates.precision.mean())
        found[f"R_{end}"] = 100 * float(rates.recall.mean())
        found[f"F_{end}"] = 100 * float(rates.f1.mean())
    return found


def conventional_f1(metrics: dict[str, float]) -> dict[str, float]:
    """Return CF1 and OF1 as other papers report them, from prf_metrics' result.

    CF1 = 2 * CP * CR / (CP + CR).
    """
    p = metrics["P_C"]
    r = metrics["R_C"]
    found = {"CF1": 0.0, "OF1": metrics["F_O"]}
    if p + r:
        found["CF1"] = 2 * p * r / (p + r)
    return found


def top_k_only(preds: Array, k: int = 3) -> np.ndarray:
    """Return scores (N,C) with all but the k largest of each row set to -1.

    They are for the top-3 variants of the F measures.
    """
    require_count(k, "k", 1)
    scores = _require_scores(as_array(preds))
    if k >= scores.shape[1]:
        return scores
    out = np.full_like(scores, -1)
    for start in range(0, len(scores), ROWS):
        rows = scores[start : start + ROWS]
        kept = np.argpartition(rows, -k, axis=1)[:, -k:]
        np.put_along_axis(out[start : start + ROWS], kept, np.take_along_axis(rows, kept, 1), 1)
    return out


def best_thresholds(targs: Array, preds: Array) -> np.ndarray:
    """Return for each class the threshold (C,) that maximises F on these rows.

    A class is predicted where `score > threshold`; this serves the calibration. Annotated entries
    only; inf for a class without positives.
    """
    scores, targets = _pair(preds, targs)
    thresholds = np.full(scores.shape[1], np.inf)
    for c in range(scores.shape[1]):
        rows = targets[:, c] != -1
        column = scores[rows, c].astype(_sorted_as(scores.dtype))
        order = np.argsort(-column, kind="stable")
        s = column[order]
        hits = np.cumsum(targets[rows, c][order] == 1)
        if len(hits) and hits[-1]:
            f = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
            f[:-1][s[:-1] == s[1:]] = -1  # a threshold cannot part equal scores
            best = int(f.argmax())
            below = s[best] - 1
            if best + 1 < len(s):
                below = s[best + 1]
            thresholds[c] = (s[best] + below) / 2
    return thresholds


def _pair(preds: Array, targs: Array, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets as arrays.

    DomainError unless both are (N,C), or (N,) where `dimensions` is 1.
    """
    scores = as_array(preds)
    targets = as_array(targs)
    if scores.shape != targets.shape or scores.ndim != dimensions:
        wanted = "(N,C)" if dimensions == 2 else "(N,)"
        shapes = f"targets {targets.shape} and scores {scores.shape}"
        raise DomainError(f"{shapes}: both must be {wanted}, of one shape")
    require_labels(targets, "targets")
    return _require_scores(scores), targets


def _require_scores(scores: np.ndarray) -> np.ndarray:
    """The scores; DomainError where some are nan, which no ranking and no threshold can place."""
    if np.isnan(scores).any():
        row = np.argwhere(np.isnan(scores))[0].tolist()
        raise DomainError(f"the scores contain nan, the first at {row}")
    return scores


def _annotated(scores: np.ndarray, targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and positives of each class's annotated entries, in the order of the rows."""
    for start in range(0, scores.shape[1], CLASSES):
        labels = np.ascontiguousarray(targets[:, start : start + CLASSES].T)
        for place, column in enumerate(labels, start):
            rows = np.flatnonzero(column >= 0)
            yield scores[rows, place].astype(_sorted_as(scores.dtype)), column[rows] == 1


def _sorted_as(kind: np.dtype) -> np.dtype:
    """As which scores of a kind are sorted: half precision as float32, which is faster."""
    return np.dtype(np.float32) if kind == np.float16 else kind


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """AP in 0..1 of one class, 0 without a positive: scores (n,), positive (n,) bool.

    As released, the sum is divided by the number of positives + 1e-8.
    """
    precision = precision_at_positives(scores, positive, "later")
    return float(precision.sum() / (len(precision) + 1e-8))
