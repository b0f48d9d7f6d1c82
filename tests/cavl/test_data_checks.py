"""Which candidate sets and weights are refused."""

import pytest
import torch

from cavl.data_checks import require_candidates, require_weights

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.uint8,
    torch.int64,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_candidate_matrices_of_any_type_are_taken(dtype):
    require_candidates(torch.eye(3).to(dtype), "sets")
    with pytest.raises(ValueError, match="sets: 2 rows have no candidate; first: 1, 3"):
        require_candidates(torch.tensor([[1, 0], [0, 0], [1, 1], [0, 0]]).to(dtype), "sets")


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, float("nan"), float("inf")])
def test_a_value_that_is_not_0_or_1_is_named(value):
    sets = torch.eye(3)
    sets[1, 2] = value
    with pytest.raises(ValueError, match=f"sets: {value} in row 1, class 2; expected 0 or 1"):
        require_candidates(sets, "sets")


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_weight_is_finite_and_not_negative(value):
    require_weights(torch.tensor([0.0, 2.5]), "weights")
    with pytest.raises(ValueError, match="finite weights, none negative"):
        require_weights(torch.tensor([1.0, value]), "weights")
