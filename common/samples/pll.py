"""The partial-label sample: one lost.mat in the layout of M.-L. Zhang's collection.

`data` is float64 (n, d), dense; `target` and `partial_target` are float64 sparse csc (K, n).
"""

from pathlib import Path

import numpy as np
from scipy.io import savemat
from scipy.sparse import csc_matrix

from common.samples.canvas import digit_images

NUM_ROWS = 600
NUM_CLASSES = 11  # ten digits, and a last class that only is a false candidate, as in Lost
NOISE = 0.2  # of the pixel range 0..1
SET_SIZES = {1: 0.1, 2: 0.6, 3: 0.3}  # mean 2.2, as in Lost
# Per digit the look-alike that mostly stands beside it.
COMPANION = (6, 7, 1, 8, 9, 3, 0, 4, 3, 4)
P_COMPANION = 0.6


def draw_pll(folder: Path, rng: np.random.Generator) -> dict[str, int]:
    """Noisy 8x8 digits with candidate sets in which a look-alike class accompanies each class.

    Averaging over the candidates therefore confuses the pairs; classes are unequally frequent, as
    in Lost.
    """
    labels, features = _rows(rng)
    candidates = np.zeros((NUM_ROWS, NUM_CLASSES))
    for row, label in enumerate(labels):
        candidates[row, _candidates(int(label), rng)] = 1
    target = np.eye(NUM_CLASSES)[labels]
    path = folder / "lost.mat"
    contents = {
        "data": features,
        "partial_target": csc_matrix(candidates.T),
        "target": csc_matrix(target.T),
    }
    savemat(path, contents, do_compression=True)
    _fix_header(path)
    return {"rows": NUM_ROWS, "features": features.shape[1], "classes": NUM_CLASSES}


def _rows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) int64, features (n, 64) float64; standardising must bear a constant column."""
    images, labels = digit_images(8)
    frequency = 1 / (np.arange(10) + 4)  # the most frequent class about three times the rarest
    weight = frequency[labels] / np.bincount(labels)[labels]
    rows = rng.choice(len(labels), NUM_ROWS, replace=False, p=weight / weight.sum())
    features = images[rows].reshape(NUM_ROWS, -1).astype(np.float64)
    features += NOISE * rng.standard_normal(features.shape)
    features[:, 0] = 1.0
    return labels[rows], features


def _candidates(label: int, rng: np.random.Generator) -> list[int]:
    """The true label, mostly its companion, and others at random."""
    size = rng.choice(list(SET_SIZES), p=list(SET_SIZES.values()))
    others = [c for c in rng.permutation(NUM_CLASSES).tolist() if c != label]
    if rng.random() < P_COMPANION:
        # A stable sort: the companion first, the rest as drawn.
        others.sort(key=lambda c: c != COMPANION[label])
    return [label, *others[: size - 1]]


def _fix_header(path: Path) -> None:
    # savemat writes the time into the first 116 bytes, free text; without it two draws are equal.
    with path.open("r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file, offline sample".ljust(116))
