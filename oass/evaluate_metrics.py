"""Average precision in the released definition and three others, and the mask IoU of maps."""

from collections.abc import Callable
from typing import overload

import numpy as np
import torch

from common import metrics
from common.aliases import one_module
from oass.data import VOID
from oass.data_checks import require_labels

one_module(__name__, "oass.evaluate_metrics")

Array = np.ndarray | torch.Tensor


@overload
def average_precision(scores: torch.Tensor, labels: Array) -> torch.Tensor: ...
@overload
def average_precision(scores: np.ndarray, labels: Array) -> np.ndarray: ...
def average_precision(scores: Array, labels: Array) -> Array:
    """AP of each class: the mean over its positives of the precision at their rank, (C,) float64.

    scores, labels (N,C) of any dtype and device, labels 0/1. Not interpolated, no 11 points. Ties
    keep the data's order. NaN for a class without positives. NumPy in, NumPy out; a tensor in, a
    tensor on the CPU out. ValueError for scores that are NaN, labels that are neither 0 nor 1, and
    shapes that differ.
    """
    values, truth = _checked(scores, labels)
    ap = _each_class(lambda s, y: metrics.average_precision(s, y, "earlier"), values, truth)
    return torch.from_numpy(ap) if isinstance(scores, torch.Tensor) else ap


def _each_class(
    definition: Callable[[np.ndarray, np.ndarray], float], values: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """A definition of AP, of one class's scores and positives, for every column; (C,) float64."""
    found = [definition(s, y) for s, y in zip(values.T, truth.T > 0, strict=True)]
    return np.array(found, np.float64)


def _checked(scores: Array, labels: Array) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64, (N,C); ValueError where they are no scores and no labels."""
    values = _float64(scores)
    truth = _float64(labels)
    if values.ndim != 2 or values.shape != truth.shape:
        raise ValueError(f"scores {values.shape} and labels {truth.shape}: expected (N,C) both")
    require_labels(truth)
    if np.isnan(values).any():
        place = np.argwhere(np.isnan(values))[0].tolist()
        raise ValueError(f"scores: NaN at {place} has no rank")
    return values, truth


def _float64(values: Array) -> np.ndarray:
    """On the host and in float64: exact for all that is shorter."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, float)


def mean_average_precision(scores: Array, labels: Array) -> float:
    """The mean over the classes that have positives, a fraction; NaN if none has."""
    return mean_of_defined(average_precision(scores, labels))


def mean_of_defined(ap: np.ndarray | torch.Tensor) -> float:
    """The mean of what is not NaN; NaN if nothing is."""
    ap = np.asarray(ap)
    defined = ap[~np.isnan(ap)]
    if not defined.size:
        return float("nan")
    return float(defined.mean())


def average_precision_voc2010(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AP of VOC 2010 and later: the area under the precision's monotone envelope, (C,) float64."""

    def definition(values: np.ndarray, positive: np.ndarray) -> float:
        precision = metrics.precision_at_positives(values, positive, "earlier")
        if not len(precision):
            return float("nan")
        envelope = np.maximum.accumulate(precision[::-1])
        return float(envelope.mean())

    return _each_class(definition, *_checked(scores, labels))


def average_precision_ties(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """scikit-learn's AP, where tied scores share one threshold, (C,) float64; NaN as above."""
    values, truth = _checked(scores, labels)
    return _each_class(lambda s, y: metrics.average_precision(s, y, "shared"), values, truth)


def average_precision_ignoring(
    scores: np.ndarray,
    labels: np.ndarray,
    ignore: np.ndarray,
    definition: Callable[[np.ndarray, np.ndarray], np.ndarray] = average_precision,
) -> np.ndarray:
    """The AP (C,) of each class over the images that `ignore` (N,C) bool does not leave out."""
    ignore = np.asarray(ignore, bool)
    if ignore.shape != scores.shape:
        raise ValueError(f"ignore {ignore.shape}: expected the shape of the scores, {scores.shape}")
    columns = []
    for c in range(scores.shape[1]):
        keep = ~ignore[:, c]
        columns.append(definition(scores[keep, c : c + 1], labels[keep, c : c + 1])[0])
    return np.array(columns)


class Calculator_For_mIoU:
    """Confusion counts of label images, summed; 0 is the background, 255 is ignored."""

    def __init__(self, class_names: list[str]) -> None:
        self.class_names = ["background", *class_names]
        self.classes = len(self.class_names)
        self.confusion = np.zeros((self.classes, self.classes), np.int64)

    def add(self, pred_mask: np.ndarray, gt_mask: np.ndarray) -> None:
        """Count one pair of label images of equal shape.

        ValueError for a truth that is no class, nor 255 (void), for a prediction that is none, and
        other shapes.
        """
        if pred_mask.shape != gt_mask.shape:
            raise ValueError(
                f"pred_mask {pred_mask.shape} and gt_mask {gt_mask.shape}: expected equal shapes"
            )
        known = (gt_mask >= 0) & (gt_mask < self.classes)
        strange = ~known & (gt_mask != VOID)
        if strange.any():
            known_ones = f"none of {self.classes} classes, nor {VOID} (void)"
            raise ValueError(f"gt_mask: {gt_mask[strange][0]} is {known_ones}")
        if ((pred_mask < 0) | (pred_mask >= self.classes)).any():
            raise ValueError(f"pred_mask: holds values outside 0 .. {self.classes - 1}")
        joint = gt_mask[known].astype(np.int64) * self.classes + pred_mask[known]
        self.confusion += np.bincount(joint, minlength=self.classes**2).reshape(
            self.classes, self.classes
        )

    def iou(self) -> np.ndarray:
        """IoU of each class, background first, (C+1,) float64; NaN for one that occurs nowhere."""
        hit = np.diag(self.confusion).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return hit / (self.confusion.sum(0) + self.confusion.sum(1) - hit)

    def get(self) -> tuple[float, float]:
        """Mean IoU in per cent, with the background and over the foreground classes alone."""
        iou = self.iou()
        return 100 * mean_of_defined(iou), 100 * mean_of_defined(iou[1:])
