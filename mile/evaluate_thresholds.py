"""The threshold study: what rho does to F1, beside what the ranking is worth without a threshold.

MILe moves probabilities, so its F1 at a given rho rises also where its ranking (mAP) does not. The
curve over all thresholds, mAP and two trivial answers tell the two apart.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from common.aliases import one_module
from common.domain import require_number, require_shape
from mile import fast
from mile.method import RealScores, probabilities, real_means, real_scores, set_f1
from mile.method_checks import require_between

one_module(__name__, "mile.evaluate_thresholds")

GRID = [k / 100 for k in range(1, 100)]


class Study(NamedTuple):
    """The metrics at each of T thresholds rho, each (T,) float64.

    NaN where no image has a label.
    """

    rho: torch.Tensor
    f1: torch.Tensor
    precision: torch.Tensor
    recall: torch.Tensor
    coverage: torch.Tensor

    @property
    def best(self) -> dict[str, float]:
        """best_f1 (the lowest threshold on ties), best_f1_threshold, best_f1_coverage; or NaN."""
        place = int(self.f1.argmax())
        largest = self.f1[place].item()
        threshold = math.nan if math.isnan(largest) else self.rho[place].item()
        return {
            "best_f1": largest,
            "best_f1_threshold": threshold,
            "best_f1_coverage": self.coverage[place].item(),
        }


def threshold_study(
    logits: torch.Tensor,
    real: torch.Tensor,
    schema: str = "MILe",
    protocol: str = "authors",
    grid: Iterable[float] = GRID,
) -> Study:
    """The study of logits (n,C) and the true sets (n,C) bool at the thresholds of `grid`.

    For softmax too the set is {c: p_c > rho} and the top class, where the authors' protocol has the
    top class alone.
    """
    p = probabilities(logits, schema)
    top = fast.argmax(logits)
    rows = []
    for rho in grid:
        require_number(rho, "rho", 0, 1, open_low=True, open_high=True)
        predicted = fast.set_at(p, rho, top, protocol)
        scores = real_scores(fast.overlap_of(predicted, real, top), top == top)
        means = real_means(RealScores(*torch.stack(scores).sum(1).tolist()), protocol)
        rows.append([rho, means.real_f1, means.precision, means.recall, means.label_coverage])
    return Study(*torch.tensor(rows, dtype=torch.float64).T)


def mean_average_precision(p: torch.Tensor, real: torch.Tensor) -> float:
    """The mean of the average precisions of the classes that have a positive, on V.

    NaN without one.

    p (n,C) in [0,1], real (n,C) bool; ValueError for p outside and for other shapes.
    """
    from sklearn.metrics import average_precision_score  # a second and a half

    require_shape(real, p.shape, "real")
    require_between(p, 1, "p", "values from 0 to 1")
    known = real.any(1)
    scores = p[known]
    positive = real[known]
    present = positive.any(0)
    if not present.any():
        return math.nan
    # common.metrics.average_precision differs in the sixteenth digit, which published runs show.
    score = average_precision_score(positive[:, present].numpy(), scores[:, present].numpy())
    return float(score)


def classes_without_positive(real: torch.Tensor) -> list[int]:
    """The classes that no image of real (n,C) bool has; mAP leaves them out of its mean."""
    return (~real.any(0)).nonzero().flatten().tolist()


def trivial_f1(real: torch.Tensor) -> dict[str, float]:
    """real_f1 of two answers that need no network: one label that is right, all that occur."""
    sizes = real.sum(1)[real.any(1)].double()
    one = torch.ones_like(sizes)
    occurring = one * int(real.any(0).sum())
    return {
        "trivial_f1_one_right_label": float(set_f1(one, one, sizes).mean()),
        "trivial_f1_all_labels": float(set_f1(sizes, occurring, sizes).mean()),
    }
