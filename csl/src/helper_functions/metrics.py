"""Mean average precision for complete and for partial labels, and precision / recall / F at a threshold.

N rows (images), C classes. One rule for ties everywhere: among equal scores the later row ranks first. Targets are 1,
0 or -1 and scores are numbers; anything else is a SettingsError (a ValueError), not a silent 0.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from common.aliases import one_module
from csl.src.domain import as_array, require_count, require_labels, require_number
from csl.src.errors import SettingsError

one_module(__name__, "csl.src.helper_functions.metrics")

Array = np.ndarray | torch.Tensor
MANY = 100  # scores that several rows of a class share, above which sorting the rows is faster than looking each up


class AverageMeter:
    """Running figures of a value: val (latest), sum, cnt, avg, and ema with decay 0.99."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        self.val, self.sum, self.cnt, self.avg, self.ema = 0.0, 0.0, 0, 0.0, 0.0

    def update(self, val: float, n: int = 1) -> None:
        """Add a value that stands for n samples."""
        self.ema = val if self.cnt == 0 else 0.99 * self.ema + 0.01 * val
        self.val, self.sum, self.cnt = val, self.sum + val * n, self.cnt + n
        self.avg = self.sum / self.cnt if self.cnt else 0.0


def average_precision(output: Array, target: Array) -> float:
    """AP in 0..1 of one class: sum over positives of (positives so far / rank) / (number of positives + 1e-8).

    output (N,) scores, target (N,): only 1 counts as positive. 0 without positives.
    """
    scores, targets = _pair(output, target, 1)
    return _average_precision(scores, targets == 1)


def mAP(targs: Array, preds: Array) -> float:
    """Mean AP in percent over all C classes; targs, preds (N,C).

    A class without positives counts 0, and -1 counts as negative: for partial labels use mAP_partial. 0 without
    preds; SettingsError (a ValueError) names the shapes that do not belong together.
    """
    if np.size(as_array(preds)) == 0:
        return 0.0
    return 100 * float(np.mean(ap_per_class(targs, preds)))


def ap_per_class(targs: Array, preds: Array) -> np.ndarray:
    """AP in 0..1 of every class (C,) as `mAP` averages them."""
    scores, targets = _pair(preds, targs)
    scores, positive = np.ascontiguousarray(scores.T), np.ascontiguousarray((targets == 1).T)
    return np.array(
        [_average_precision(s, p) for s, p in zip(scores, positive, strict=True)], np.float64
    )


def AP_partial(targs: Array, preds: Array) -> tuple[np.ndarray, float, float, int, int, int]:
    """AP on annotated entries only: targs (N,C) in {-1 un-annotated, 0, 1}, preds (N,C).

    Returns (ap (C,) in 0..1 with -1 for excluded classes, their mean in percent, the mean weighted by the
    number of positives in percent, and the numbers of classes without labels, without negatives, without
    positives). A class is excluded for the first that holds of: no label, no positive, no negative. Without
    any class left: nan, with a warning. SettingsError as in `mAP`.
    """
    scores, targets = _pair(preds, targs)
    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
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
    """Mean AP in percent over the classes with annotated positives and negatives, on annotated entries."""
    return AP_partial(targs, preds)[1]


def prf_metrics(targs: Array, preds: Array, thre: float = 0.8) -> dict[str, float]:
    """Precision, recall and F in percent at a threshold: predicted iff score > thre; only 1 is positive.

    P_C, R_C, F_C: means over classes (each 0 where its true positives are 0; F_C is the mean of the classes' F).
    P_O, R_O, F_O: from counts summed over classes. Entries with target -1 count as negatives. SettingsError as in
    `mAP`.
    """
    require_number(thre, "thre")
    scores, targets = _pair(preds, targs)
    predicted = scores > thre
    positive = targets == 1
    tp = (predicted & positive).sum(0).astype(np.float64)
    sums = predicted.sum(0), positive.sum(0)

    def rates(hits: np.ndarray, found: np.ndarray, real: np.ndarray) -> list[np.ndarray]:
        some = hits > 0
        p, r = (
            np.divide(hits, total, out=np.zeros_like(hits), where=some) for total in (found, real)
        )
        return [p, r, np.divide(2 * p * r, p + r, out=np.zeros_like(hits), where=some)]

    per_class = [100 * float(values.mean()) for values in rates(tp, *sums)]
    overall = [
        100 * float(value[0])
        for value in rates(tp.sum(keepdims=True), *(s.sum(keepdims=True) for s in sums))
    ]
    return dict(zip(("P_C", "R_C", "F_C", "P_O", "R_O", "F_O"), per_class + overall, strict=True))


def conventional_f1(metrics: dict[str, float]) -> dict[str, float]:
    """CF1 and OF1 as other papers report them, from prf_metrics' result: CF1 = 2 * CP * CR / (CP + CR)."""
    p, r = metrics["P_C"], metrics["R_C"]
    return {"CF1": 2 * p * r / (p + r) if p + r else 0.0, "OF1": metrics["F_O"]}


def top_k_only(preds: Array, k: int = 3) -> np.ndarray:
    """Scores (N,C) with all but the k largest of each row set to -1: for the top-3 variants of the F measures."""
    require_count(k, "k", 1)
    scores = _require_scores(as_array(preds))
    if k >= scores.shape[1]:
        return scores
    kept, out = np.argpartition(scores, -k, axis=1)[:, -k:], np.full_like(scores, -1)
    np.put_along_axis(out, kept, np.take_along_axis(scores, kept, 1), 1)
    return out


def best_thresholds(targs: Array, preds: Array) -> np.ndarray:
    """Per class the threshold (C,) that maximises F on these rows (`score > threshold`), for calibration.

    Annotated entries only; inf for a class without positives.
    """
    scores, targets = _pair(preds, targs)
    thresholds = np.full(scores.shape[1], np.inf)
    for c in range(scores.shape[1]):
        rows = targets[:, c] != -1
        order = np.argsort(-scores[rows, c], kind="stable")
        s, hits = scores[rows, c][order], np.cumsum(targets[rows, c][order] == 1)
        if len(hits) and hits[-1]:
            f = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
            f[:-1][s[:-1] == s[1:]] = -1  # a threshold cannot part equal scores
            best = int(f.argmax())
            below = s[best + 1] if best + 1 < len(s) else s[best] - 1
            thresholds[c] = (s[best] + below) / 2
    return thresholds


def _pair(preds: Array, targs: Array, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets as arrays; SettingsError unless both are (N,C), or (N,) where `dimensions` is 1."""
    scores = as_array(preds)
    targets = as_array(targs)
    if scores.shape != targets.shape or scores.ndim != dimensions:
        wanted = "(N,C)" if dimensions == 2 else "(N,)"
        raise SettingsError(
            f"targets {targets.shape} and scores {scores.shape}: both must be {wanted}, of one shape"
        )
    require_labels(targets, "targets")
    return _require_scores(scores), targets


def _require_scores(scores: np.ndarray) -> np.ndarray:
    """The scores; SettingsError where some are nan, which no ranking and no threshold can place."""
    if np.isnan(scores).any():
        row = np.argwhere(np.isnan(scores))[0].tolist()
        raise SettingsError(f"the scores contain nan, the first at {row}")
    return scores


def _annotated(scores: np.ndarray, targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and positives of each class's annotated entries, in the order of the rows."""
    classes, rows = np.nonzero(np.ascontiguousarray(targets.T) >= 0)
    ends = np.cumsum(np.bincount(classes, minlength=scores.shape[1]))[:-1]
    columns = scores[rows, classes], targets[rows, classes] == 1
    yield from zip(*(np.split(values, ends) for values in columns), strict=True)


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """AP in 0..1 of one class: scores (n,), positive (n,) bool."""
    ranks = _ranks(scores, positive)
    return float((np.arange(1, len(ranks) + 1) / ranks).sum() / (len(ranks) + 1e-8))


def _ranks(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The ranks of the positives, from 1, ascending: the values are sorted, which is faster than to sort an index.

    Only where others share a positive's score do the rows matter.
    """
    if not positive.any():
        return np.zeros(0)
    ordered, mine = np.sort(scores), np.sort(scores[positive])[::-1]
    upto = np.searchsorted(ordered, mine, side="right")
    ranks = len(scores) - upto + 1  # of the first with this score
    shared = np.unique(mine[(upto > 1) & (ordered[upto - 2] == mine)])
    if len(shared) > MANY:
        return np.flatnonzero(positive[np.argsort(scores, kind="stable")[::-1]]) + 1
    for score in shared:
        rows = np.flatnonzero(scores == score)[::-1]
        ranks[mine == score] += np.flatnonzero(positive[rows])
    return ranks
