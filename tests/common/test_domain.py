"""What the public functions of the methods refuse, and where they do not look."""

import numpy as np
import pytest
import torch

from common.cli import UserError
from common.domain import (
    DomainError,
    is_readable,
    require_candidates,
    require_indices,
    require_number,
    require_shape,
    require_weights,
)

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.uint8,
    torch.int64,
    torch.bool,
]


def test_the_error_is_a_value_error_and_one_line_for_a_user():
    assert issubclass(DomainError, ValueError) and issubclass(DomainError, UserError)


@pytest.mark.parametrize("dtype", DTYPES)
def test_candidate_matrices_of_any_type_are_taken(dtype):
    require_candidates(torch.eye(3).to(dtype), "sets")
    with pytest.raises(ValueError, match="sets: 2 rows have no candidate; first: 1, 3"):
        require_candidates(torch.tensor([[1, 0], [0, 0], [1, 1], [0, 0]]).to(dtype), "sets")
    require_candidates(torch.zeros(2, 3).to(dtype), "sets", allow_empty_rows=True)


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, float("nan"), float("inf")])
def test_a_value_that_is_not_0_or_1_is_named(value):
    sets = torch.eye(3)
    sets[1, 2] = value
    with pytest.raises(ValueError, match=f"sets: {value} in row 1, class 2; expected 0 or 1"):
        require_candidates(sets, "sets")


@pytest.mark.parametrize(("labels", "named"), [([0, 3], "3 at 1"), ([-1, 0], "-1 at 0")])
def test_a_label_that_is_no_class_is_named(labels, named):
    require_indices(torch.tensor([0, 2]), 3, "labels")
    require_indices(torch.tensor([0.0, 2.0]), 3, "labels")  # the released code passes floats
    require_indices(torch.tensor([], dtype=torch.int64), 3, "labels")
    with pytest.raises(ValueError, match=f"labels: {named}; expected whole numbers from 0 to 2"):
        require_indices(torch.tensor(labels), 3, "labels")


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_a_label_that_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match="expected whole numbers"):
        require_indices(torch.tensor([0.0, value]), 3, "labels")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_weight_is_finite_and_not_negative(value):
    require_weights(torch.tensor([0.0, 2.5]), "weights")
    with pytest.raises(ValueError, match="finite weights, none negative"):
        require_weights(torch.tensor([1.0, value]), "weights")


def test_shapes_are_not_broadcast():
    require_shape(torch.zeros(2, 3), (2, 3), "sets")
    with pytest.raises(ValueError, match=r"sets: shape \(3,\), expected \(2, 3\)"):
        require_shape(torch.zeros(3), (2, 3), "sets")


@pytest.mark.parametrize("value", [0, 1, 25, -1, float("nan"), float("inf"), "0.5", None])
def test_a_number_outside_an_open_interval_is_refused(value):
    with pytest.raises(ValueError, match="rho .*: expected a finite number above 0 and below 1"):
        require_number(value, "rho", 0, 1, open_low=True, open_high=True)


def test_a_number_at_a_closed_end_is_taken():
    for value in (0, 1, 0.5, np.float32(0.25), np.int64(1)):
        require_number(value, "rho", 0, 1)


def test_values_are_not_read_under_a_transform_or_a_compiler():
    seen = []

    def look(x):
        seen.append(is_readable(x))
        require_indices(x.long() - 5, 3, "labels")
        return x.sum()

    torch.func.vmap(look)(torch.zeros(2, 3))
    torch.func.grad(look)(torch.zeros(3))
    torch.compile(look, backend="eager", fullgraph=True)(torch.zeros(3))
    assert seen[:2] == [False, False] and True not in seen
    assert is_readable(torch.zeros(3)) and not is_readable(torch.zeros(3, device="meta"))
