"""The learning rate and the start of selection in runs of 1 to 12 epochs."""

import math

import pytest
import torch

from cavl.build import set_learning_rate
from cavl.data_labels import Warmup

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


@pytest.mark.parametrize("epochs", EPOCHS)
def test_a_warm_up_ends_once_and_stays_over(epochs):
    for length in (0, 1, epochs - 1):
        over = [Warmup(length).is_over(epoch) for epoch in range(epochs)]
        assert over == [epoch >= length for epoch in range(epochs)]

    warmup = Warmup("auto")
    over = []
    for rate in [0.2, 0.5, 0.5, 0.4, *[0.9] * 8][:epochs]:
        over.append(warmup.is_over(len(over)))
        warmup.observe(rate)
    assert over == [epoch >= 3 for epoch in range(epochs)]  # the third rate has not risen
