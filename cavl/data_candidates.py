"""Candidate sets: read from a file, or drawn by the calls of the released code.

The generators check the labels and draw by the laws of method.py. They return a float32 matrix (n,
K) of 0 and 1. Without `generator` they read NumPy's global stream in the order of the released
code, so that `np.random.seed(s)` repeats its matrices bit by bit. Labels are (n,) whole numbers
from 0 on; without `num_classes` K is the largest + 1, and labels that start at 1 are shifted by
one. A value outside of its domain is a DomainError, a ValueError.
"""

from math import comb
from pathlib import Path

import numpy as np
import torch

from cavl import method
from cavl.data_checks import require_weights
from cavl.data_sets import Sets, sizes_of
from cavl.method import FLIP_CASES, Law, RandomStream, candidate_set_size_probabilities
from common.aliases import one_module
from common.cli import UserError
from common.domain import DomainError, require_number
from common.text import require_file

one_module(__name__, "cavl.data_candidates")

Labels = torch.Tensor | np.ndarray

# ---- read from a file ----------------------------------------------------------------------------


def read_candidates(path: Path, num_samples: int, num_classes: int) -> torch.Tensor:
    """A matrix (n, K) uint8 of 0 and 1 from an .npy file, or an .npz file that holds one array.

    UserError for another shape, other values, a row without a candidate, and a file that cannot be
    read.
    """
    matrix = _only_array(path)
    expected = (num_samples, num_classes)
    if matrix.shape != expected:
        raise UserError(f"-partial_file {path}: shape {matrix.shape}, expected {expected}")
    if matrix.dtype.kind not in "biuf":
        raise UserError(
            f"-partial_file {path}: an array of {matrix.dtype}, expected numbers 0 and 1"
        )
    wrong = np.argwhere(~np.isin(matrix, (0, 1)))
    if len(wrong):
        found = f"{len(wrong)} values not 0 or 1, the first at {wrong[:3].tolist()}"
        raise UserError(f"-partial_file {path}: {found}")
    candidates = torch.from_numpy(matrix.astype(np.uint8))
    require_no_empty_row(candidates, f"-partial_file {path}")
    return candidates


def require_no_empty_row(candidates: Sets, source: str) -> None:
    """UserError where a sample has no candidate; `source` says whose sets these are."""
    empty = (sizes_of(candidates) == 0).nonzero().flatten()
    if len(empty):
        first = empty[:5].tolist()
        raise UserError(f"{source}: {len(empty)} samples have no candidate, the first are {first}")


def _only_array(path: Path) -> np.ndarray:
    """The array of an .npy file, or the only one of an .npz file."""
    path = require_file(path)
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            names = content.files
            arrays = [content[name] for name in names[:1]]
    except Exception as error:  # numpy raises many kinds for a damaged file
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else error
        problem = f"-partial_file {path}: cannot be read as .npy or .npz ({reason})"
        raise UserError(problem) from error
    if len(names) != 1:
        found = ", ".join(names[:5]) or "none"
        raise UserError(
            f"-partial_file {path}: expected a single array, it holds {len(names)}: {found}"
        )
    return arrays[0]


# ---- the calls of the released code --------------------------------------------------------------


def generate_uniform_cv_candidate_labels(
    dataname: object,
    train_labels: Labels,
    *,
    law: Law = "released",
    num_classes: int | None = None,
    generator: np.random.Generator | None = None,
) -> torch.Tensor:
    """Uniformly sampled sets, see `method.draw_uniform_sets`.

    dataname is ignored: the released main.py passes the images in its place.
    """
    labels, K = _check_labels(train_labels, num_classes)
    if generator is None:
        return _uniform_sets_of_the_release(labels, K, law)
    return method.draw_uniform_sets(labels, K, generator, law)


def generate_uniform_cv_candidate_labels_case(
    dataname: object,
    train_labels: Labels,
    partial_type: str = "03",
    *,
    generator: np.random.Generator | None = None,
) -> torch.Tensor:
    """Class-dependent flips of an earlier release, for labels of exactly 10 classes.

    dataname is ignored.
    """
    if partial_type not in FLIP_CASES:
        known = ", ".join(FLIP_CASES)
        raise DomainError(f"partial_type {partial_type!r} is unknown; use one of {known}")
    labels, K = _check_labels(train_labels, None)
    if K != 10:
        raise DomainError(f"the flip matrices are for 10 classes, the labels have {K}")
    probability = method.class_dependent_flip_probability(labels, partial_type)
    return method.draw_flipped_sets(labels, K, probability, _stream(generator))


def generate_flip_candidate_labels(
    train_labels: Labels,
    q: float,
    *,
    num_classes: int | None = None,
    generator: np.random.Generator | None = None,
    at_least_one_false: bool = False,
) -> torch.Tensor:
    """Flipped sets: each false label joins with probability q, 0 <= q < 1.

    at_least_one_false: a set of one label gets a false one, each equally likely (the habit of
    palm-ml/POP).
    """
    if not 0 <= q < 1:
        raise DomainError(f"q is {q}, but a flip probability has 0 <= q < 1")
    labels, K = _check_labels(train_labels, num_classes)
    stream = _stream(generator)
    sets = method.draw_flipped_sets(labels, K, q, stream)
    if at_least_one_false:
        single = np.flatnonzero(sets.sum(1).numpy() == 1)
        # A uniform draw from the K-1 false labels: a step of 1 to K-1 around the circle of classes.
        step = 1 + (stream.random((len(single),)) * (K - 1)).astype(np.int64)
        sets[single, (labels[single] + step) % K] = 1.0
    return sets


def instance_dependent_flip_probability(
    probs: Labels, train_labels: Labels, rate: float = 0.4
) -> torch.Tensor:
    """`method.instance_dependent_flip_probability` of probs (n, K); every argument is checked."""
    require_number(rate, "rate", 0, open_low=True)
    probs = torch.as_tensor(probs)
    require_weights(probs, "probs")
    labels, _ = _check_labels(train_labels, probs.shape[1])
    if len(labels) != len(probs):
        raise DomainError(f"probs has {len(probs)} rows for {len(labels)} labels")
    on_device = torch.from_numpy(labels).to(probs.device)
    return method.instance_dependent_flip_probability(probs, on_device, rate)


def generate_instance_dependent_candidate_labels(
    probs: Labels,
    train_labels: Labels,
    rate: float = 0.4,
    *,
    generator: np.random.Generator | None = None,
) -> torch.Tensor:
    """Sets that a network trained on true labels finds confusing, from its probabilities (n, K)."""
    probability = instance_dependent_flip_probability(probs, train_labels, rate).cpu()
    labels, K = _check_labels(train_labels, probability.shape[1])
    return method.draw_flipped_sets(labels, K, probability.double().numpy(), _stream(generator))


def _check_labels(train_labels: Labels, num_classes: int | None) -> tuple[np.ndarray, int]:
    """Labels (n,) int64 from 0 to K-1, and K; shifted where they start at 1 and K is not given."""
    given = torch.as_tensor(train_labels).detach().cpu().numpy()
    if given.ndim != 1 or given.size == 0:
        raise DomainError(f"labels must be a non-empty vector, not of shape {given.shape}")
    is_whole = np.isfinite(given) & (given == np.floor(given))
    if not is_whole.all():
        raise DomainError(f"labels must be whole numbers, not {given[~is_whole][0]}")
    labels = given.astype(np.int64)
    low = int(labels.min())
    high = int(labels.max())
    if num_classes is None:
        if low not in (0, 1):
            raise DomainError(f"labels start at {low}; expected 0 (or 1), or give num_classes")
        labels = labels - low
        num_classes = high - low + 1
    elif low < 0 or high >= num_classes:
        raise DomainError(f"labels run from {low} to {high}, outside 0..{num_classes - 1}")
    if num_classes < 2:
        raise DomainError(f"candidate sets need at least 2 classes, not {num_classes}")
    return labels, num_classes


def _stream(generator: np.random.Generator | None) -> RandomStream:
    """The generator, or NumPy's global stream, which `random` reads as the released code does."""
    return np.random if generator is None else generator


def _uniform_sets_of_the_release(labels: np.ndarray, num_classes: int, law: Law) -> torch.Tensor:
    """Uniform sets (n, K) float32 that spend NumPy's global stream as the released code does.

    A number for each sample, which the cumulated probabilities of the sizes (in float32) turn into
    its size; then a permutation of the classes for each sample, of which the first false ones join.
    """
    n = len(labels)
    K = num_classes
    thresholds = np.cumsum(_float32_probabilities(K, law), dtype=np.float32)
    u = np.random.uniform(0, 1, n).astype(np.float32)  # noqa: NPY002 (the released code's stream)
    sizes = 1 + np.minimum(np.searchsorted(thresholds, u, side="left"), K - 2)

    permutations = np.empty((n, K), dtype=np.int64)
    for row in permutations:
        row[:] = np.random.permutation(K)  # noqa: NPY002
    is_false = permutations != labels[:, None]
    is_chosen = is_false & (np.cumsum(is_false, axis=1) < sizes[:, None])

    sets = np.zeros((n, K), dtype=np.float32)
    np.put_along_axis(sets, permutations, is_chosen.astype(np.float32), axis=1)
    sets[np.arange(n), labels] = 1.0
    return torch.from_numpy(sets)


def _float32_probabilities(K: int, law: Law) -> np.ndarray:
    """Return P(|S| = s), rounded as the released code rounds it.

    Numerator and denominator are rounded to float32 and then divided.
    """
    if law != "released" or K >= 64:
        return np.array(candidate_set_size_probabilities(K, law), dtype=np.float32)
    counts = np.array([float(comb(K, size)) for size in range(1, K)], dtype=np.float32)
    return counts / np.float32(2**K - 2)
