"""Average precision: the counting that the papers share.

What an absent class counts, how classes are averaged and which images take part differs between
the papers and stays with each of them. What a tie counts is an argument here.
"""

from typing import Literal

import numpy as np

Ties = Literal["earlier", "later", "shared"]
# Above this many shared scores, sorting the rows is faster than looking each score up.
MANY_SHARED = 100


def ranks_of_positives(scores: np.ndarray, positive: np.ndarray, ties: Ties) -> np.ndarray:
    """The rank of each positive among all scores of one class, from 1; (P,) int64, ascending.

    Args:
        scores: (n,), no NaN.
        positive: (n,) bool, P of them true.
        ties: which of equal scores ranks first: the "earlier" row or the "later" one; with "shared"
            all of them have the last rank of their group, as they pass a threshold together.
    """
    if not positive.any():
        return np.zeros(0, np.int64)

    # The values are sorted, which is faster than sorting an index: rows matter only in ties.
    ordered = np.sort(scores)
    of_positives = np.sort(scores[positive])[::-1]
    if ties == "shared":
        return len(scores) - np.searchsorted(ordered, of_positives, side="left")

    not_above = np.searchsorted(ordered, of_positives, side="right")
    ranks = len(scores) - not_above + 1  # of the first row with this score
    is_shared = (not_above > 1) & (ordered[not_above - 2] == of_positives)
    shared = np.unique(of_positives[is_shared])

    if len(shared) > MANY_SHARED:
        return np.flatnonzero(positive[_falling(scores, ties)]) + 1
    for score in shared:
        rows = np.flatnonzero(scores == score)
        if ties == "later":
            rows = rows[::-1]
        ranks[of_positives == score] += np.flatnonzero(positive[rows])
    return ranks


def _falling(scores: np.ndarray, ties: Ties) -> np.ndarray:
    """The rows in falling order of their scores, (n,) int64."""
    if ties == "later":
        return np.argsort(scores, kind="stable")[::-1]
    rising = np.argsort(scores[::-1], kind="stable")[::-1]
    return len(scores) - 1 - rising


def precision_at_positives(scores: np.ndarray, positive: np.ndarray, ties: Ties) -> np.ndarray:
    """The precision at the rank of each positive of one class, by rising rank; (P,) float64.

    The mean over them is the average precision; arguments as in `ranks_of_positives`.
    """
    ranks = ranks_of_positives(scores, positive, ties)
    hits = np.arange(1, len(ranks) + 1)
    if ties == "shared":
        # The positives of a group pass together.
        hits = np.searchsorted(ranks, ranks, side="right")
    return hits / ranks


def average_precision(scores: np.ndarray, positive: np.ndarray, ties: Ties) -> float:
    """The average precision of one class in [0, 1], not interpolated; NaN without a positive.

        AP = 1 / P * sum over the positives of  (positives down to its rank) / rank

    Arguments as in `ranks_of_positives`; with ties "shared" it is scikit-learn's
    `average_precision_score`.
    """
    precision = precision_at_positives(scores, positive, ties)
    if not len(precision):
        return float("nan")
    return float(precision.mean())
