"""The running mean: weighted, exact after a save and load."""

import math

import pytest
import torch
from accelerate import Accelerator

from common import checkpoint
from common.meter import Meter


@pytest.fixture
def meter() -> Meter:
    return Meter(Accelerator(cpu=True))


def test_it_weighs_means_by_their_counts_and_starts_again(meter):
    meter.add(torch.tensor(1.0), 3)
    meter.add(torch.tensor(5.0), 1)
    assert meter.compute() == 2.0
    assert meter.compute() is None
    meter.add(torch.tensor(7.0), 2)
    assert meter.compute() == 7.0


def test_without_samples_there_is_no_mean(meter):
    assert meter.compute() is None


def test_it_keeps_no_graph_and_sums_in_double_precision(meter):
    loss = torch.tensor(0.1, requires_grad=True)
    for _ in range(1000):
        meter.add(loss * 1, 1)
    assert not meter.sums.requires_grad
    assert math.isclose(meter.compute(), float(torch.tensor(0.1)), rel_tol=1e-12)


def test_what_was_added_before_a_state_came_does_not_count(meter):
    state = Meter(meter.accelerator).state_dict()
    meter.add(torch.tensor(0.5), 3)
    meter.load_state_dict(state)
    meter.add(torch.tensor(4.0), 1)
    assert meter.compute() == 4.0


def test_a_mean_of_many_samples_is_weighed_in_double_precision(meter):
    """A third times 16777217 has no float32."""
    third = torch.tensor(1 / 3)
    meter.add(third, 16777217)
    assert meter.totals().tolist() == [float(third) * 16777217, 16777217]


def test_its_state_survives_a_checkpoint(meter, tmp_path):
    meter.add(torch.tensor(0.3), 7)
    checkpoint.save(tmp_path / "a.pt", checkpoint.collect({"loss": meter}))
    other = Meter(meter.accelerator)
    checkpoint.restore({"loss": other}, checkpoint.load(tmp_path / "a.pt"), "a.pt")
    for one in (meter, other):
        one.add(torch.tensor(0.9), 2)
    assert other.compute() == meter.compute()
