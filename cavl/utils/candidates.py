"""Candidate-set generators: which labels S_i each sample is offered (specs: uniform, flips, instance-dependent).

Every generator returns a float32 matrix (n, K) of 0/1 whose true-label column is 1. Without `generator`
it reads NumPy's global stream in the order of the released code, so that `np.random.seed(s)` repeats its
matrices bit by bit; with a `np.random.Generator` it is fully vectorised.
"""

from math import comb
from typing import Literal

import numpy as np
import torch

from cavl.utils.errors import DataError
from common.aliases import one_module
from common.domain import require_number, require_weights

one_module(__name__, "cavl.utils.candidates")

Labels = torch.Tensor | np.ndarray
Law = Literal["released", "exact"]

# P(class at circular distance d from the true one joins), for the class-dependent flips of the earlier release.
FLIP_CASES = {
    "01": {1: 0.5},
    "02": {1: 0.1, 9: 0.1},
    "03": {d: 0.7 for d in range(1, 10)},
    "04": {1: 0.5, 9: 0.5, 2: 0.3, 8: 0.3, 3: 0.1, 7: 0.1},
}


def candidate_set_size_probabilities(num_classes: int, law: Law = "released") -> list[float]:
    """Return P(|S| = s) for s = 1..K-1, in float64.

    "released": comb(K, s) / (2^K - 2), all proper subsets counted, also those without the true label
    (mean size K/2). "exact": comb(K-1, s-1) / (2^(K-1) - 1), the proper subsets that hold it.
    Python integers: the released code's int64 2^K is 0 from K = 64 on, and every set then has K-1 labels.
    """
    K = num_classes
    if K < 2:
        raise DataError(f"candidate sets need at least 2 classes, not {K}")
    if law == "released":
        return [comb(K, s) / (2**K - 2) for s in range(1, K)]
    if law == "exact":
        return [comb(K - 1, s - 1) / (2 ** (K - 1) - 1) for s in range(1, K)]
    raise DataError(f"law {law!r} is unknown; use 'released' or 'exact'")


def generate_uniform_cv_candidate_labels(
    dataname: object,
    train_labels: Labels,
    *,
    law: Law = "released",
    num_classes: int | None = None,
    generator: np.random.Generator | None = None,
) -> torch.Tensor:
    """Draw uniformly sampled candidate sets (USS): a size s, then s-1 false labels without replacement.

    dataname: ignored (the released main.py passes the images here). train_labels: (n,) int64.
    law: distribution of s, see candidate_set_size_probabilities. num_classes: K where a class may be
    absent; without it K = max + 1 and labels that start at 1 are shifted by one.
    Returns (n, K) float32 of 0/1. With K = 2 every set is {y}: ordinary supervised learning.
    """
    labels, K = _check_labels(train_labels, num_classes)
    probabilities = candidate_set_size_probabilities(K, law)
    if generator is None:
        return torch.from_numpy(_uniform_sets_from_global_stream(labels, K, law, probabilities))

    cumulated = np.cumsum(probabilities)
    sizes = 1 + np.searchsorted(cumulated, generator.random(len(labels)))
    keys = generator.random((len(labels), K))
    keys[np.arange(len(labels)), labels] = -1.0
    return torch.from_numpy(_smallest_per_row(keys, np.minimum(sizes, K - 1)))


def generate_uniform_cv_candidate_labels_case(
    dataname: object,
    train_labels: Labels,
    partial_type: str = "03",
    *,
    generator: np.random.Generator | None = None,
) -> torch.Tensor:
    """Draw class-dependent candidate sets: label k != y joins with probability Q[y, k] (earlier release).

    Q is circulant in d = (k - y) mod 10, see FLIP_CASES. train_labels: (n,) int64 of exactly 10 classes.
    Returns (n, 10) float32 of 0/1. Sets of one label and full sets are kept.
    """
    if partial_type not in FLIP_CASES:
        raise DataError(
            f"partial_type {partial_type!r} is unknown; use one of {', '.join(FLIP_CASES)}"
        )
    labels, K = _check_labels(train_labels, None)
    if K != 10:
        raise DataError(f"the flip matrices are for 10 classes, the labels have {K}")
    by_distance = np.array([FLIP_CASES[partial_type].get(d, 0.0) for d in range(10)])
    distance = (np.arange(10)[None, :] - labels[:, None]) % 10
    return _bernoulli_sets(by_distance[distance], labels, generator)


def generate_flip_candidate_labels(
    train_labels: Labels,
    q: float,
    *,
    num_classes: int | None = None,
    generator: np.random.Generator | None = None,
    at_least_one_false: bool = False,
) -> torch.Tensor:
    """Draw flipped candidate sets (FPS): each false label joins independently with probability q in [0, 1).

    train_labels: (n,) int64. Returns (n, K) float32 of 0/1. Sets of one label are kept, unless
    at_least_one_false: then they get one false label, uniformly (the habit of palm-ml/POP).
    """
    if not 0 <= q < 1:
        raise DataError(f"q is {q}, but a flip probability has 0 <= q < 1")
    labels, K = _check_labels(train_labels, num_classes)
    sets = _bernoulli_sets(np.full((len(labels), K), q), labels, generator)
    if at_least_one_false:
        single = np.flatnonzero(sets.sum(1).numpy() == 1)
        # A uniform draw from the K-1 false labels is a step of 1..K-1 around the circle of classes.
        step = 1 + (_uniform(len(single), generator) * (K - 1)).astype(np.int64)
        sets[single, (labels[single] + step) % K] = 1.0
    return sets


def instance_dependent_flip_probability(
    probs: torch.Tensor | np.ndarray, train_labels: Labels, rate: float = 0.4
) -> torch.Tensor:
    """Return each label's chance to join the candidate set, from a clean-trained model (rule of VALEN and POP).

    P[i, k] = min(1, rate * probs[i, k] / mean_k(probs[i, :] with column y_i set to 0)); P[i, y_i] = 0.
    probs: (n, K) softmax outputs. train_labels: (n,). rate: 0.4 for 10 classes, 0.04 for CIFAR-100.
    Returns (n, K) in the dtype of probs. The mean runs over all K columns, the zero included; a row that
    is certain of its label gives 0, not NaN.
    """
    require_number(rate, "rate", 0, open_low=True)
    probs = torch.as_tensor(probs)
    require_weights(probs, "probs")
    labels, K = _check_labels(train_labels, probs.shape[1])
    if len(labels) != len(probs):
        raise DataError(f"probs has {len(probs)} rows for {len(labels)} labels")
    false = probs.clone()
    false[torch.arange(len(labels)), torch.from_numpy(labels)] = 0.0
    mean = false.mean(1, keepdim=True).clamp_min(torch.finfo(false.dtype).tiny)
    return (false / mean * rate).clamp(max=1.0)


def generate_instance_dependent_candidate_labels(
    probs: torch.Tensor | np.ndarray,
    train_labels: Labels,
    rate: float = 0.4,
    *,
    generator: np.random.Generator | None = None,
) -> torch.Tensor:
    """Draw candidate sets that a clean-trained model finds confusing: Bernoulli of the flip probability.

    Arguments as in instance_dependent_flip_probability. Returns (n, K) float32 of 0/1.
    """
    flip_probability = instance_dependent_flip_probability(probs, train_labels, rate).cpu()
    labels, _ = _check_labels(train_labels, flip_probability.shape[1])
    return _bernoulli_sets(flip_probability.double().numpy(), labels, generator)


def _check_labels(train_labels: Labels, num_classes: int | None) -> tuple[np.ndarray, int]:
    """Return labels as (n,) int64 in 0..K-1, and K; labels that start at 1 are shifted unless K is given."""
    given = torch.as_tensor(train_labels).detach().cpu().numpy()
    if given.ndim != 1 or given.size == 0:
        raise DataError(f"labels must be a non-empty vector, not of shape {given.shape}")
    is_whole = np.isfinite(given) & (given == np.floor(given))
    if not is_whole.all():
        raise DataError(f"labels must be whole numbers, not {given[~is_whole][0]}")
    labels = given.astype(np.int64)
    low, high = int(labels.min()), int(labels.max())
    if num_classes is None:
        if low not in (0, 1):
            raise DataError(f"labels start at {low}; expected 0 (or 1), or give num_classes")
        labels, num_classes = labels - low, high - low + 1
    elif low < 0 or high >= num_classes:
        raise DataError(f"labels run from {low} to {high}, outside 0..{num_classes - 1}")
    if num_classes < 2:
        raise DataError(f"candidate sets need at least 2 classes, not {num_classes}")
    return labels, num_classes


def _uniform(shape: int | tuple[int, ...], generator: np.random.Generator | None) -> np.ndarray:
    if generator is None:
        return np.random.uniform(0.0, 1.0, shape)  # noqa: NPY002 (the released code's stream)
    return generator.random(shape)


def _bernoulli_sets(
    probability: np.ndarray, labels: np.ndarray, generator: np.random.Generator | None
) -> torch.Tensor:
    """Draw each entry with its probability (n, K), then switch the true label on."""
    sets = (_uniform(probability.shape, generator) < probability).astype(np.float32)
    sets[np.arange(len(labels)), labels] = 1.0
    return torch.from_numpy(sets)


def _smallest_per_row(keys: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Mark the sizes[i] smallest entries of row i: (n, K) float32 of 0/1."""
    kth = np.take_along_axis(np.sort(keys, axis=1), sizes[:, None] - 1, axis=1)
    return (keys <= kth).astype(np.float32)


def _uniform_sets_from_global_stream(
    labels: np.ndarray, num_classes: int, law: Law, probabilities: list[float]
) -> np.ndarray:
    """Uniform sets that spend NumPy's global stream exactly as the released code does."""
    n, K = len(labels), num_classes
    u = np.random.uniform(0, 1, n).astype(np.float32)  # noqa: NPY002 (the released code's stream)
    thresholds = np.cumsum(_float32_probabilities(K, law, probabilities), dtype=np.float32)
    sizes = 1 + np.minimum(np.searchsorted(thresholds, u, side="left"), K - 2)

    permutations = np.empty((n, K), dtype=np.int64)
    for row in permutations:
        row[:] = np.random.permutation(K)  # noqa: NPY002
    is_false = permutations != labels[:, None]
    is_chosen = is_false & (np.cumsum(is_false, axis=1) < sizes[:, None])

    sets = np.zeros((n, K), dtype=np.float32)
    np.put_along_axis(sets, permutations, is_chosen.astype(np.float32), axis=1)
    sets[np.arange(n), labels] = 1.0
    return sets


def _float32_probabilities(K: int, law: Law, probabilities: list[float]) -> np.ndarray:
    """P(|S| = s) rounded as the released code rounds it: numerator and denominator to float32, then divided."""
    if law != "released" or K >= 64:
        return np.array(probabilities, dtype=np.float32)
    counts = np.array([float(comb(K, s)) for s in range(1, K)], dtype=np.float32)
    return counts / np.float32(2**K - 2)
