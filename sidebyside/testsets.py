"""How far a difference would move on other test pictures: results/test_variance.csv.

Seeds vary the training; the pictures that both methods are tested on vary too. Where the value of
every picture is at hand (right or wrong, an average precision), the variance of the mean difference
over test sets drawn anew is estimated by the bootstrap, and widens the interval of that pair:

    python -m sidebyside.results test_variance csl --method CSL --against "Ignore, CE" \\
        --dataset COCO --setting "FPC 1000" --metric mAP --protocol "last epoch" CSL.npy IGNORE.npy

Each .npy file holds values (seeds, pictures), the same pictures in the same order in both, in the
unit of the metric, which is their mean over pictures.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.text import decimal, require_file
from sidebyside.verdict import variance_of_test_set

FILE = "test_variance.csv"
COLUMNS = (
    *("method", "dataset", "setting", "metric", "protocol"),
    *("against", "variance", "images", "draws"),
)
DRAWS = 2000

Key = tuple[str, ...]  # the first five columns of the one row, and the method of the other


def read_values(path: Path) -> np.ndarray:
    """(seeds, pictures) float64 of a .npy file; UserError where it holds something else."""
    try:
        values = np.load(require_file(path), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: no readable .npy file ({error})") from error
    is_table = isinstance(values, np.ndarray) and values.ndim == 2 and values.size > 0
    if not is_table or values.dtype.kind not in "biuf":
        raise UserError(f"{path}: expected numbers (seeds, pictures)")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: holds NaN or infinite values")
    return values


def variance_of_difference(better: np.ndarray, worse: np.ndarray, draws: int = DRAWS) -> float:
    """The variance over test sets of the mean difference (seeds and pictures) of two methods.

    UserError where they were tested on different numbers of pictures.
    """
    if better.shape[1] != worse.shape[1]:
        counts = f"{better.shape[1]} and {worse.shape[1]} pictures"
        raise UserError(f"{counts}: both methods must be tested on the same pictures")
    by_picture = better.mean(0) - worse.mean(0)
    images = len(by_picture)
    return variance_of_test_set(lambda drawn: float(by_picture[drawn].mean()), images, draws)


def known_variances(rows: Sequence[tuple[int, dict[str, str]]], path: Path) -> dict[Key, float]:
    """The variances by the two rows that they are of; UserError naming the line of a wrong cell."""
    found: dict[Key, float] = {}
    for number, cells in rows:
        where = f"{path}: line {number}"
        variance = decimal(cells["variance"], f"{where}: variance")
        if variance < 0:
            raise UserError(f"{where}: variance: expected no number below zero")
        key = tuple(cells[column] for column in COLUMNS[:6])
        if key in found:
            raise UserError(f"{where}: a second variance for {', '.join(key)}")
        found[key] = variance
    return found
