"""What the public functions of the methods refuse, and where they do not look."""

import numpy as np
import pytest
import torch

from common.cli import UserError
from common.domain import (
    DomainError,
    is_readable,
    require_indices,
    require_number,
    require_shape,
)


def test_the_error_is_a_value_error_and_one_line_for_a_user():
    assert issubclass(DomainError, ValueError) and issubclass(DomainError, UserError)


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
