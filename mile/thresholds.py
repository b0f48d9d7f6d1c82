"""The threshold study: what a choice of rho does to F1, beside what the ranking is worth without any threshold.

MILe moves probabilities, so its F1 at a given rho rises also where its ranking (mAP) does not. The curve over
all thresholds, mAP and two trivial answers tell the two apart.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from sklearn.metrics import average_precision_score

from common.aliases import one_module
from common.domain import require_indices, require_shape, require_shares, require_threshold
from mile import rows
from mile.utils import RealMetrics, probabilities, set_at

one_module(__name__, "mile.thresholds")

GRID = [k / 100 for k in range(1, 100)]


class Study(NamedTuple):
    """RealMetrics at each of T thresholds rho, each (T,) float64; NaN where no image has a label."""

    rho: torch.Tensor
    f1: torch.Tensor
    precision: torch.Tensor
    recall: torch.Tensor
    coverage: torch.Tensor

    METRICS = ("real_f1", "precision", "recall", "label_coverage")

    @property
    def best(self) -> dict[str, float]:
        """best_f1 (the lowest threshold on ties), best_f1_threshold, best_f1_coverage; NaN where undefined."""
        place = int(self.f1.argmax())
        f1, coverage = self.f1[place].item(), self.coverage[place].item()
        threshold = float("nan") if math.isnan(f1) else self.rho[place].item()
        return {"best_f1": f1, "best_f1_threshold": threshold, "best_f1_coverage": coverage}


def threshold_study(
    logits: torch.Tensor,
    real: torch.Tensor,
    schema: str = "MILe",
    protocol: str = "authors",
    grid: Iterable[float] = GRID,
) -> Study:
    """The study of logits (n,C) and the true sets (n,C) bool at the thresholds of `grid`, by the protocol.

    For softmax too the set is {c: p_c > rho} and the top class, where the authors' protocol has the top class alone.
    """
    p, top = probabilities(logits, schema), rows.argmax(logits)
    columns: list[list[float]] = []
    for rho in grid:
        metrics = RealMetrics(p.shape[1], schema, rho, protocol)
        metrics.add(set_at(p, rho, top, protocol), top, top, real)
        found = metrics.compute()
        columns.append([rho, *(found[name] for name in Study.METRICS)])
    return Study(*torch.tensor(columns, dtype=torch.float64).T)


def mean_average_precision(p: torch.Tensor, real: torch.Tensor) -> float:
    """Macro average precision on V, over the classes that have a positive (scikit-learn's definition).

    p (n,C) in [0,1], real (n,C) bool; ValueError for p outside and for other shapes.
    """
    require_shape(real, p.shape, "real")
    require_shares(p, "p")
    known = real.any(1)
    p, real = p[known], real[known]
    present = real.any(0)
    if not present.any():
        return float("nan")
    return float(
        average_precision_score(real[:, present].numpy(), p[:, present].numpy(), average="macro")
    )


def classes_without_positive(real: torch.Tensor) -> list[int]:
    """The classes that no image of real (n,C) bool has; mAP leaves them out of its mean."""
    return (~real.any(0)).nonzero().flatten().tolist()


def covering_rho(p: torch.Tensor, label: torch.Tensor, share: float) -> float:
    """The threshold above which p (n,C) holds the label y (n,) on `share` of the images.

    Kept between the class prior 1/C, below which absent classes pass, and the median of each image's second
    highest p, above which hardly a set has a second label. ValueError for a share outside (0, 1), p outside [0, 1]
    and a label that is no class.
    """
    require_threshold(share, "share")
    require_shares(p, "p")
    require_indices(label, p.shape[1], "label")
    prior = 1 / p.shape[1]
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
