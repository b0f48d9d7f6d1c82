"""The learning rate in runs of 1 to 12 epochs."""

import math

import pytest
import torch

from cavl.build import set_learning_rate

EPOCHS = range(1, 13)


@pytest.mark.parametrize("epochs", EPOCHS)
@pytest.mark.parametrize("schedule", ["none", "cosine"])
def test_every_schedule_is_positive_and_never_above_its_start(epochs, schedule):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    how = {"lr": 0.1, "schedule": schedule, "epochs": epochs}
    used = [set_learning_rate(optimizer, epoch, **how) for epoch in range(epochs)]
    assert used[0] == 0.1 and used == sorted(used, reverse=True) and used[-1] > 0
    assert optimizer.param_groups[0]["lr"] == used[-1]
    if schedule == "cosine":
        by_hand = [0.05 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
        assert used == pytest.approx(by_hand)
