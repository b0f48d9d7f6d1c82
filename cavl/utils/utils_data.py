"""The released data functions, by their names: candidate sets, loaders, the .mat reader."""

from cavl.data_candidates import (
    generate_flip_candidate_labels,
    generate_instance_dependent_candidate_labels,
    generate_uniform_cv_candidate_labels,
    generate_uniform_cv_candidate_labels_case,
    instance_dependent_flip_probability,
)
from cavl.data_loaders import (
    prepare_cv_datasets,
    prepare_train_loaders_for_uniform_cv_candidate_labels,
)
from cavl.data_pll import load_pll_mat
from cavl.method import initial_confidence
from common.aliases import one_module

one_module(__name__, "cavl.utils.utils_data")

__all__ = [
    "generate_flip_candidate_labels",
    "generate_instance_dependent_candidate_labels",
    "generate_uniform_cv_candidate_labels",
    "generate_uniform_cv_candidate_labels_case",
    "initial_confidence",
    "instance_dependent_flip_probability",
    "load_pll_mat",
    "prepare_cv_datasets",
    "prepare_train_loaders_for_uniform_cv_candidate_labels",
]
