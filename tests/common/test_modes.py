"""Evaluation mode inside a block, each submodule's own mode after it."""

import pytest
from torch import nn

from common.modes import evaluating


def frozen_norm() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.train()
    model[1].eval()
    return model


def test_every_submodule_gets_its_own_mode_back():
    model = frozen_norm()
    other = nn.Dropout()
    with evaluating(model, other):
        assert not any(module.training for module in (*model.modules(), other))
    assert [module.training for module in model.modules()] == [True, True, False]
    assert other.training


def test_an_error_inside_leaves_the_modes_as_they_were():
    model = frozen_norm()
    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, True, False]
