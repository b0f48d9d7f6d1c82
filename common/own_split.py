"""Which pictures are for training and which for validation, where the data do not say it.

The order in which pictures are taken is that of a hash of seed and id: the same on every machine,
whatever order the files are listed in, and a picture more moves few others.
"""

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np

from common.errors import UserError


def shuffled(ids: Sequence[str], seed: int) -> np.ndarray:
    """Row numbers (N,) int64 in the order of a hash of seed and id."""
    digests = []
    for row, name in enumerate(ids):
        text = f"{seed}\0{unicodedata.normalize('NFC', name)}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        digests.append((digest, row))
    return np.array([row for _, row in sorted(digests)], np.int64)


def draw_val(
    ids: Sequence[str],
    labels: np.ndarray,
    matrix: np.ndarray,
    *,
    seed: int,
    share: float,
    is_single: bool,
) -> np.ndarray:
    """Which rows (N,) bool are for validation: about a share of every class.

    A class with two pictures or more has at least one in each part, one with a single picture is in
    training. For several labels the rarest classes choose first (as in iterative stratification,
    Sechidis et al. 2011), and pictures without a positive label are shared out at the end.
    UserError where nothing is left for one of the parts.
    """
    if len(ids) < 2:
        raise UserError(f"{len(ids)} picture: too few for a training and a validation part")
    order = shuffled(ids, seed)
    if is_single:
        groups = [order[labels[order] == label] for label in np.unique(labels)]
        is_val = np.zeros(len(ids), bool)
        for members in groups:
            is_val[members[: _wanted(len(members), share)]] = True
    else:
        is_val = _rarest_first(order, matrix, share)

    if not is_val.any():
        problem = "no class has two pictures that could be shared out to training and validation"
        raise UserError(f"{problem}; add pictures, or name the parts (train/ and val/, a split)")
    return is_val


def _wanted(count: int, share: float) -> int:
    """How many of `count` pictures of a class are for validation."""
    if count < 2:
        return 0
    nearest = int(np.floor(share * count + 0.5))
    return min(max(nearest, 1), count - 1)


def _rarest_first(order: np.ndarray, matrix: np.ndarray, share: float) -> np.ndarray:
    counts = (matrix == 1).sum(axis=0)
    is_val = np.zeros(len(order), bool)
    is_free = np.ones(len(order), bool)
    present = np.flatnonzero(counts)
    rarest_first = present[np.argsort(counts[present], kind="stable")]
    for column in rarest_first.tolist():
        members = order[matrix[order, column] == 1]
        free = members[is_free[members]]
        already = int(is_val[members].sum())
        take = max(_wanted(len(members), share) - already, 0)
        is_val[free[:take]] = True
        is_free[free] = False

    left = order[is_free[order]]
    is_val[left[: _wanted(len(left), share)]] = True
    for column in rarest_first.tolist():  # training knows every class
        members = order[matrix[order, column] == 1]
        if is_val[members].all():
            is_val[members[0]] = False
    return is_val
