"""The threshold study, mean average precision, trivial answers."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mile.evaluate import (
    mean_average_precision,
    threshold_study,
    trivial_f1,
)
from mile.utils import RealMetrics


@pytest.mark.parametrize("protocol", ["authors", "unofficial"])
def test_threshold_study_equals_the_metric_at_every_threshold(protocol):
    g = torch.Generator().manual_seed(2)
    logits, real = 2 * torch.randn(40, 6, generator=g), torch.rand(40, 6, generator=g) < 0.3
    study = threshold_study(logits, real, "MILe", protocol)
    assert study.rho.tolist() == [k / 100 for k in range(1, 100)]
    for place in (0, 24, 49, 98):
        metrics = RealMetrics(6, rho=float(study.rho[place]), protocol=protocol)
        metrics.update(logits, torch.zeros(40, dtype=torch.int64), real)
        found = metrics.compute()
        ours = (study.f1[place], study.precision[place], study.recall[place], study.coverage[place])
        assert [v.item() for v in ours] == [
            found[name] for name in ("real_f1", "precision", "recall", "label_coverage")
        ]
    best = study.best
    assert best["best_f1"] == study.f1.max() and best["best_f1_threshold"] in study.rho.tolist()


def test_the_study_of_softmax_is_by_threshold_too():
    p = torch.tensor([[0.6, 0.3, 0.1]])
    study = threshold_study(
        p.log(), torch.tensor([[True, True, False]]), "softmax", grid=[0.05, 0.2, 0.7]
    )
    assert study.coverage.tolist() == [3, 2, 1] and study.f1.tolist() == pytest.approx(
        [0.8, 1, 2 / 3]
    )
    assert study.best == {"best_f1": 1, "best_f1_threshold": 0.2, "best_f1_coverage": 2}


def test_map_skips_classes_without_positive_and_images_without_label():
    p = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, 0.4], [0.1, 0.9, 0.3]])
    real = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()
    expected = np.mean(
        [average_precision_score([1, 0], [0.9, 0.8]), average_precision_score([0, 1], [0.1, 0.2])]
    )
    assert mean_average_precision(p, real) == pytest.approx(expected)


def test_trivial_answers():
    real = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    found = trivial_f1(real)  # three classes occur
    assert found["trivial_f1_one_right_label"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert found["trivial_f1_all_labels"] == pytest.approx((4 / 5 + 2 / 4 + 4 / 5) / 3)
