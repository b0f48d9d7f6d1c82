"""Ranking against a literal count, in the presence of ties, and the edges of the metrics."""

import re

import numpy as np
import pytest
import torch

from common import metrics
from csl.evaluate_metrics import (
    AP_partial,
    average_precision,
    best_thresholds,
    mAP,
    mAP_partial,
    precision_recall_f1,
    prf_metrics,
    top_k_only,
)


def literal(scores, positive):
    """Positives so far / rank at each positive; among equal scores the later row ranks first."""
    rows = sorted(range(len(scores)), key=lambda i: (-scores[i], -i))
    hits, total = 0, 0.0
    for rank, i in enumerate(rows, 1):
        if positive[i]:
            hits += 1
            total += hits / rank
    return total / (hits + 1e-8)


@pytest.mark.parametrize("levels", [2, 7, 60, 10_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_and_the_two_ways_to_resolve_them(levels, dtype, monkeypatch):
    rng = np.random.default_rng(levels)
    scores = (rng.integers(-levels, levels, (300, 6)) / levels).astype(dtype)
    targets = rng.integers(-1, 2, (300, 6))
    targets[:, 4], targets[:, 5] = 0, 1
    expected = [literal(scores[:, c], targets[:, c] == 1) for c in range(6)]
    annotated = [targets[:, c] >= 0 for c in range(4)]
    partial = [literal(scores[rows, c], targets[rows, c] == 1) for c, rows in enumerate(annotated)]
    for many in (metrics.MANY_SHARED, 0):
        monkeypatch.setattr(metrics, "MANY_SHARED", many)
        found = [average_precision(scores[:, c], targets[:, c]) for c in range(6)]
        assert found == pytest.approx(expected, abs=1e-12) and found[4] == 0
        assert mAP(targets, scores) == pytest.approx(100 * np.mean(expected))
        assert AP_partial(targets, scores)[0].tolist() == pytest.approx(
            [*partial, -1, -1], abs=1e-12
        )


def test_signed_zeros_are_equal_and_half_precision_is_read():
    assert average_precision(np.array([0.0, -0.0], np.float32), np.array([1, 0])) == pytest.approx(
        0.5
    )
    assert average_precision(np.array([0.0, -0.0], np.float32), np.array([0, 1])) == pytest.approx(
        1
    )
    scores, targets = torch.rand(50, 3).bfloat16(), torch.randint(0, 2, (50, 3))
    assert mAP(targets, scores) == mAP(targets.numpy(), scores.float().numpy())


def test_one_row_no_class_left_and_nan():
    assert average_precision(np.array([0.3]), np.array([1])) == pytest.approx(1)
    with pytest.warns(UserWarning, match="nan"):
        assert np.isnan(mAP_partial(np.array([[1, -1]]), np.array([[0.2, 0.4]])))
    with pytest.raises(ValueError, match="nan"):
        mAP(np.ones((2, 1)), np.array([[0.1], [np.nan]]))


@pytest.mark.parametrize("metric", [mAP, AP_partial, prf_metrics, best_thresholds])
@pytest.mark.parametrize("shape", [(3, 2), (4, 3), (4,)])
def test_shapes_that_do_not_belong_together(metric, shape):
    with pytest.raises(ValueError, match=rf"targets \(4, 2\) and scores {re.escape(str(shape))}"):
        metric(np.ones((4, 2)), np.zeros(shape))
    with pytest.raises(ValueError, match=r"both must be \(N,\)"):
        average_precision(np.zeros(3), np.zeros(4))


METRICS = [mAP, AP_partial, mAP_partial, prf_metrics, best_thresholds]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [0.9, float("nan"), 2, -2, float("inf")])
def test_targets_that_are_no_labels(metric, value):
    targets = np.tile([0.0, 1.0], (4, 1))
    targets[3, 0] = value
    with pytest.raises(ValueError, match=r"targets: .* at \[3, 0\] is no label; labels are 1"):
        metric(targets, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="is no label"):
        metric(torch.from_numpy(targets), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="is no label"):
        average_precision(np.zeros(4), targets[:, 0])


@pytest.mark.parametrize("metric", METRICS)
def test_scores_that_are_nan(metric):
    targets, scores = np.tile([0, 1], (4, 1)), np.zeros((4, 2))
    targets[0] = 1, 0
    metric(targets, scores)
    scores[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"nan, the first at \[1, 1\]"):
        metric(targets, scores)


def test_thresholds_and_counts_outside_their_range():
    scores = np.array([[0.1, 0.5, 0.3]])
    for value in (float("nan"), float("inf"), "high", None):
        with pytest.raises(ValueError, match="thre"):
            prf_metrics(np.array([[1, 0, 0]]), scores, value)
    for value in (0, -1, 1.5):
        with pytest.raises(ValueError, match="k .*: must be a whole number from 1 on"):
            top_k_only(scores, value)
    with pytest.raises(ValueError, match="nan"):
        top_k_only(np.array([[np.nan, 0.1, 0.2, 0.3]]))


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.int64, np.float32])
def test_labels_of_any_kind_of_number(kind):
    targets, scores = (
        np.array([[1, 0], [0, 1], [1, 1]]),
        np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.4]]),
    )
    assert mAP(targets.astype(kind), scores) == mAP(targets, scores)
    assert mAP(torch.from_numpy(targets.astype(kind)), torch.from_numpy(scores)) == mAP(
        targets, scores
    )


def test_rates_of_counts():
    rates = precision_recall_f1(np.array([2, 0]), np.array([4, 0]), np.array([2, 3]))
    assert rates.precision.tolist() == [0.5, 0.0]
    assert rates.recall.tolist() == [1.0, 0.0]
    assert rates.f1.tolist() == pytest.approx([2 / 3, 0.0])
