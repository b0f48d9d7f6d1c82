"""Read the real-world partial-label sets (Lost, MSRCv2, BirdSong, ...).

They are MATLAB files of M.-L. Zhang's layout:

data            (n, d)          features
partial_target  (K, n), sparse  candidates, 0/1
target          (K, n), sparse  true label, one 1 per column

As many samples as classes: the true labels say which way round the matrices are, one 1 for each
sample.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cavl.data_mat import read_matrices
from common.aliases import one_module
from common.domain import DomainError

one_module(__name__, "cavl.data_pll")

KEYS = ("data", "partial_target", "target")
OTHER_KEYS = ("features", "p_labels", "logitlabels")


def load_pll_mat(
    path: str | Path, standardize: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read one .mat set: X (n, d) float32, partialY (n, K) float32 of 0/1, y (n,) int64.

    Accepts the keys data, partial_target, target or features, p_labels, logitlabels; sparse or
    dense; label matrices that are (K, n), or (n, K) where that can be told apart. standardize: see
    standardize_features, over all rows. K counts the rows of the label matrix, also classes without
    a sample. True labels outside the candidates are allowed (noisy partial labels) and reported
    with their number in one warning.
    """
    X, partialY, y = read_pll_mat(Path(path))
    count = int((partialY.gather(1, y[:, None]) == 0).sum())
    if count:
        warnings.warn(
            f"{path}: the true label of {count} of {len(y)} samples is not among their candidates",
            stacklevel=2,
        )
    return (standardize_features(X) if standardize else X).float(), partialY, y


def read_pll_mat(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `load_pll_mat` reads, without its warning and standardisation; X is float64."""
    content = read_matrices(path)
    features_key, candidates_key, labels_key = _find_keys(path, content)
    X = _dense(path, features_key, content[features_key])
    is_number = np.abs(X) <= np.finfo(np.float32).max  # not so for NaN
    if not is_number.all():
        raise DomainError(
            f"{path}: key '{features_key}' holds NaN or infinite values, or some beyond float32"
        )
    n = len(X)
    target = _label_matrix(path, labels_key, content[labels_key], n)
    partialY = _label_matrix(path, candidates_key, content[candidates_key], n)
    if target.shape == partialY.shape == (n, n) and _is_samples_first(path, labels_key, target.T):
        target = np.ascontiguousarray(target.T)
        partialY = np.ascontiguousarray(partialY.T)
    if partialY.shape != target.shape:
        raise DomainError(
            f"{path}: sizes disagree: '{candidates_key}' has {partialY.shape[1]} classes, "
            f"'{labels_key}' has {target.shape[1]}"
        )
    _check_rows(path, candidates_key, partialY.sum(1) < 1, "without a candidate")
    _check_rows(path, labels_key, target.sum(1) != 1, "with no or several true labels")
    return (
        torch.from_numpy(X),
        torch.from_numpy(partialY).float(),
        torch.from_numpy(target.argmax(1)).long(),
    )


def standardize_features(X: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
    """Shift and scale each column to zero mean and unit population standard deviation.

    X: (n, d). reference: (m, d) rows that mean and deviation are taken from (the training fold);
    default X. A column that is constant in the reference becomes 0, not NaN.
    """
    reference = X if reference is None else reference
    deviation, mean = torch.std_mean(reference.double(), dim=0, correction=0)
    # By the range, because rounding leaves a constant column a deviation of about 1e-17.
    is_constant = reference.amax(0) == reference.amin(0)
    standardized = (X.double() - mean) / deviation.masked_fill(is_constant, 1.0)
    return standardized.masked_fill(is_constant, 0.0).to(X.dtype)


def _find_keys(path: Path, content: dict) -> tuple[str, ...]:
    for keys in (KEYS, OTHER_KEYS):
        if all(key in content for key in keys):
            return keys
    keys = max((KEYS, OTHER_KEYS), key=lambda keys: sum(key in content for key in keys))
    missing = ", ".join(f"'{key}'" for key in keys if key not in content)
    present = ", ".join(sorted(key for key in content if not key.startswith("__"))) or "nothing"
    raise DomainError(f"{path}: key {missing} missing; the file holds {present}")


def _dense(path: Path, key: str, value: Any) -> np.ndarray:
    """Return a stored matrix as dense float64 (rows, columns)."""
    from scipy.sparse import issparse

    if issparse(value):
        try:
            value = value.toarray()
        except (ValueError, MemoryError) as error:
            raise DomainError(f"{path}: key '{key}' is far too large, {value.shape}") from error
    value = np.asarray(value)
    if value.ndim != 2 or value.size == 0 or value.dtype.kind not in "biuf":
        raise DomainError(
            f"{path}: key '{key}' is not a matrix of numbers: {value.dtype} {value.shape}"
        )
    return value.astype(np.float64, copy=False)


def _label_matrix(path: Path, key: str, value: object, n: int) -> np.ndarray:
    """Return a 0/1 label matrix, stored as (K, n), as (n, K).

    One whose first size alone is n is (n, K) already.
    """
    matrix = _dense(path, key, value)
    if n not in matrix.shape:
        raise DomainError(f"{path}: sizes disagree: key '{key}' is {matrix.shape} for {n} samples")
    if matrix.shape[1] == n:
        matrix = matrix.T
    if not np.isin(matrix, (0.0, 1.0)).all():
        raise DomainError(f"{path}: key '{key}' holds values other than 0 and 1")
    return np.ascontiguousarray(matrix)


def _is_samples_first(path: Path, key: str, target: np.ndarray) -> bool:
    """Tell whether a square matrix of true labels, as stored, has a sample in each row.

    It has where one 1 stands in each row, but not in each column.

    Where rows and columns hold one 1 each, both readings are possible: the documented one, a class
    in each row, is taken, and a warning says so.
    """
    one_a_column = (target.sum(0) == 1).all()
    one_a_row = (target.sum(1) == 1).all()
    if one_a_column and one_a_row:
        n = len(target)
        warnings.warn(
            f"{path}: {n} samples and {n} classes, and key '{key}' has one 1 in each row and each "
            "column; label matrices are read as (K, n), a class in each row",
            stacklevel=4,
        )
    return bool(one_a_row and not one_a_column)


def _check_rows(path: Path, key: str, is_bad: np.ndarray, what: str) -> None:
    if is_bad.any():
        first = ", ".join(str(i) for i in np.flatnonzero(is_bad)[:5])
        raise DomainError(f"{path}: key '{key}' has {is_bad.sum()} rows {what}; first: {first}")
