"""The threshold study: what a choice of rho does to F1, beside what the ranking is worth without any threshold.

MILe moves probabilities, so its F1 at a given rho rises also where its ranking (mAP) does not. The curve over
all thresholds, mAP and two trivial answers tell the two apart. All on V, the images with a label.
"""

from typing import NamedTuple

import torch
from sklearn.metrics import average_precision_score

GRID = torch.arange(1, 100) / 100


class Study(NamedTuple):
    """Means over V at each threshold of the grid, each (99,) float64; A includes the top class."""

    rho: torch.Tensor
    f1: torch.Tensor
    precision: torch.Tensor
    recall: torch.Tensor
    coverage: torch.Tensor

    @property
    def best(self) -> int:
        """The place of the highest F1 (the lowest threshold on ties)."""
        return int(self.f1.argmax())


def probabilities(logits: torch.Tensor, schema: str) -> torch.Tensor:
    """p (n,C) float32: softmax of the logits or sigmoid, by the schema."""
    return logits.float().softmax(1) if schema == "softmax" else logits.float().sigmoid()


def threshold_study(p: torch.Tensor, real: torch.Tensor) -> Study:
    """The study of p (n,C) and the true sets (n,C) bool; A = {c: p_c > rho} and the top class.

    One pass: each entry falls between two thresholds; counting entries and hits from the top gives
    the set sizes at every threshold. For softmax too, whose set by protocol is the top class alone.
    """
    known = real.any(1)
    p, real = p[known], real[known]
    bins = torch.bucketize(p, GRID)  # how many thresholds the entry exceeds
    bins.scatter_(1, p.argmax(1, keepdim=True), len(GRID))

    def above(rows: torch.Tensor) -> torch.Tensor:
        """(n,99): how many entries of each image, with weights `rows` (n,C), exceed each threshold."""
        counts = torch.zeros(len(p), len(GRID) + 1, dtype=torch.float64)
        counts.scatter_add_(1, bins, rows.double())
        return counts.flip(1).cumsum(1).flip(1)[:, 1:]

    size, hits = above(torch.ones_like(p)), above(real)
    true_size = real.sum(1, keepdim=True)
    columns = (2 * hits / (size + true_size), hits / size, hits / true_size, size)
    return Study(GRID, *(column.mean(0) for column in columns))


def mean_average_precision(p: torch.Tensor, real: torch.Tensor) -> float:
    """Macro average precision on V, over the classes that have a positive (scikit-learn's definition)."""
    known = real.any(1)
    p, real = p[known], real[known]
    present = real.any(0)
    if not present.any():
        return float("nan")
    return float(average_precision_score(real[:, present].numpy(), p[:, present].numpy(), average="macro"))


def covering_rho(p: torch.Tensor, label: torch.Tensor, share: float) -> float:
    """The threshold above which p (n,C) holds the label y (n,) on `share` of the images.

    Kept between the class prior, 1 over the number of classes that occur, below which absent classes pass, and
    the median of each image's second highest p, above which hardly a set has a second label (spec a).
    """
    prior = 1 / len(label.unique())
    second = p.topk(min(2, p.shape[1]), 1).values[:, -1].median().item()
    of_y = p.gather(1, label[:, None])[:, 0]
    return min(max(of_y.quantile(1 - share).item(), prior), max(second, prior))


def trivial_f1(real: torch.Tensor) -> dict[str, float]:
    """real_f1 of two answers that need no network: one label that is surely right; every class that occurs."""
    sizes, occurring = real.sum(1)[real.any(1)].double(), int(real.any(0).sum())
    return {
        "trivial_f1_one_right_label": float((2 / (1 + sizes)).mean()),
        "trivial_f1_all_labels": float((2 * sizes / (occurring + sizes)).mean()),
    }
