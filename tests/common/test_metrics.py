"""Average precision and F1 against plain loops and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from common.metrics import average_precision, ranks_of_positives


def draw(seed: int, count: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a few levels, so that many are tied, and positives."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, count) / levels
    positive = rng.random(count) < 0.4
    positive[0] = True
    return scores, positive


def plain_ranks(scores: np.ndarray, positive: np.ndarray, ties: str) -> list[int]:
    """By sorting (score, row) pairs one by one."""
    sign = {"earlier": 1, "later": -1}[ties]
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], sign * row))
    return [rank for rank, row in enumerate(order, start=1) if positive[row]]


@pytest.mark.parametrize("levels", [3, 40, 2000])
@pytest.mark.parametrize("ties", ["earlier", "later"])
def test_ranks_are_those_of_sorted_rows(ties, levels):
    for seed in range(5):
        scores, positive = draw(seed, 1500, levels)
        found = ranks_of_positives(scores, positive, ties)
        assert found.tolist() == plain_ranks(scores, positive, ties)


@pytest.mark.parametrize("levels", [2, 7, 1000])
def test_shared_ties_are_those_of_scikit_learn(levels):
    for seed in range(5):
        scores, positive = draw(seed, 200, levels)
        expected = average_precision_score(positive, scores)
        assert average_precision(scores, positive, "shared") == pytest.approx(expected, abs=1e-15)


def test_a_tie_counts_as_the_argument_says():
    scores = np.array([0.5, 0.5, 0.1])
    positive = np.array([True, False, False])
    assert average_precision(scores, positive, "earlier") == 1.0
    assert average_precision(scores, positive, "later") == 0.5
    assert average_precision(scores, positive, "shared") == 0.5


def test_without_a_positive_it_is_undefined():
    for ties in ("earlier", "later", "shared"):
        assert math.isnan(average_precision(np.array([0.1, 0.2]), np.zeros(2, bool), ties))
        assert math.isnan(average_precision(np.zeros(0), np.zeros(0, bool), ties))
