"""Average precision in the released definition and three others, and the mask IoU of maps."""

import numpy as np
import torch

Scores = np.ndarray | torch.Tensor


def average_precision(scores: Scores, labels: Scores) -> Scores:
    """AP of each class: the mean over its positives of the precision at their rank, (C,) float64.

    scores, labels (N,C) of any dtype and device, labels 0/1. Not interpolated, no 11 points. Ties keep the data's
    order (stable sort). NaN for a class without positives. NumPy in, NumPy out; a tensor in, a tensor on the CPU out.
    """
    hits, precision = _ranked(scores, labels)
    with np.errstate(invalid="ignore"):
        ap = (precision * hits).sum(0) / hits.sum(0)
    return torch.from_numpy(ap) if isinstance(scores, torch.Tensor) else ap


def _ranked(scores: Scores, labels: Scores) -> tuple[np.ndarray, np.ndarray]:
    """The labels of each class in falling order of its scores, and the precision at every rank, (N,C) float64."""
    order = np.argsort(-_float64(scores), axis=0, kind="stable")
    hits = np.take_along_axis(_float64(labels), order, 0)
    return hits, hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]


def _float64(values: Scores) -> np.ndarray:
    """On the host and in float64: exact for all that is shorter, and negation does not wrap."""
    return values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else np.asarray(values, float)


def mean_average_precision(scores: Scores, labels: Scores) -> float:
    """The mean over the classes that have positives, a fraction; NaN if none has."""
    return mean_of_defined(average_precision(scores, labels))


def mean_of_defined(ap: Scores) -> float:
    """The mean of what is not NaN; NaN if nothing is."""
    ap = np.asarray(ap)
    defined = ap[~np.isnan(ap)]
    return float(defined.mean()) if defined.size else float("nan")


def average_precision_voc2010(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AP of VOC 2010 and later: the area under the precision's monotone envelope, (C,) float64; NaN as above."""
    hits, precision = _ranked(scores, labels)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    with np.errstate(invalid="ignore"):
        return (envelope * hits).sum(0) / hits.sum(0)


def average_precision_ties(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """scikit-learn's AP, where tied scores share one threshold, (C,) float64; NaN as above."""
    from sklearn.metrics import average_precision_score

    return np.array(
        [average_precision_score(y, s) if y.any() else np.nan for s, y in zip(scores.T, labels.T, strict=True)]
    )


def average_precision_ignoring(scores: np.ndarray, labels: np.ndarray, ignore: np.ndarray) -> np.ndarray:
    """`average_precision` of each class over the images that `ignore` (N,C) bool does not leave out."""
    columns = []
    for c in range(scores.shape[1]):
        keep = ~ignore[:, c]
        columns.append(average_precision(scores[keep, c : c + 1], labels[keep, c : c + 1])[0])
    return np.array(columns)


class Calculator_For_mIoU:
    """Confusion counts of label images, summed over `add`; index 0 is the background, 255 is ignored."""

    def __init__(self, class_names: list[str]) -> None:
        self.class_names = ["background", *class_names]
        self.classes = len(self.class_names)
        self.confusion = np.zeros((self.classes, self.classes), np.int64)

    def add(self, pred_mask: np.ndarray, gt_mask: np.ndarray) -> None:
        """Count one pair of label images of equal shape."""
        valid = gt_mask < self.classes
        joint = gt_mask[valid].astype(np.int64) * self.classes + pred_mask[valid]
        self.confusion += np.bincount(joint, minlength=self.classes**2).reshape(self.classes, self.classes)

    def iou(self) -> np.ndarray:
        """IoU of each class, background first, (C+1,) float64; NaN for one that occurs nowhere."""
        hit = np.diag(self.confusion).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return hit / (self.confusion.sum(0) + self.confusion.sum(1) - hit)

    def get(self) -> tuple[float, float]:
        """Mean IoU in per cent, with the background and over the foreground classes alone."""
        iou = self.iou()
        return 100 * mean_of_defined(iou), 100 * mean_of_defined(iou[1:])
