"""Partial-label data: initial confidences here; generators, loaders and the .mat reader in files beside this one."""

import torch

from cavl.utils.candidates import (
    candidate_set_size_probabilities,
    generate_flip_candidate_labels,
    generate_instance_dependent_candidate_labels,
    generate_uniform_cv_candidate_labels,
    generate_uniform_cv_candidate_labels_case,
    instance_dependent_flip_probability,
)
from cavl.utils.errors import DataError
from cavl.utils.loaders import (
    prepare_cv_datasets,
    prepare_train_loaders_for_uniform_cv_candidate_labels,
)
from cavl.utils.pll_mat import load_pll_mat, standardize_features
from common.aliases import one_module
from common.domain import require_candidates

one_module(__name__, "cavl.utils.utils_data")

__all__ = [
    "DataError",
    "candidate_set_size_probabilities",
    "generate_flip_candidate_labels",
    "generate_instance_dependent_candidate_labels",
    "generate_uniform_cv_candidate_labels",
    "generate_uniform_cv_candidate_labels_case",
    "initial_confidence",
    "instance_dependent_flip_probability",
    "load_pll_mat",
    "prepare_cv_datasets",
    "prepare_train_loaders_for_uniform_cv_candidate_labels",
    "standardize_features",
]


def initial_confidence(partialY: torch.Tensor) -> torch.Tensor:
    """Return the table C that weighs every candidate equally: rows of partialY divided by their sums.

    partialY: (n, K) of 0/1. Returns (n, K), float. Other values are a ValueError, as is a row without
    candidate, which names the first such rows (the released code goes on with NaN).
    """
    require_candidates(partialY.cpu(), "partialY")
    partialY = partialY if partialY.is_floating_point() else partialY.float()
    return partialY / partialY.sum(dim=1, keepdim=True)
