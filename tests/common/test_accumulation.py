"""A step in parts: as few as can be, as equal as can be, and a look ahead that leaves no trace."""

import pytest
import torch
from torch import nn

from common.accumulation import (
    equal_parts,
    looking_ahead,
    micro_batches,
    parts_of,
    smallest_part,
)


@pytest.mark.parametrize(
    ("rows", "size", "sizes"),
    [(8, 8, [8]), (16, 8, [8, 8]), (9, 8, [5, 4]), (9, 4, [3, 3, 3]), (1, 8, [1]), (3, 1, [1] * 3)],
)
def test_parts_are_few_and_equal(rows, size, sizes):
    parts = parts_of(rows, size)
    assert [part.size for part in parts] == sizes
    assert smallest_part(rows, size) == sizes[-1]
    taken = [row for part in parts for row in range(rows)[part.rows]]
    assert taken == list(range(rows))
    assert sum(part.share for part in parts) == pytest.approx(1)


def test_there_are_no_more_parts_than_rows():
    assert [part.size for part in equal_parts(2, 4)] == [1, 1]


def test_a_single_part_leaves_the_loss_as_it_is():
    loss = torch.tensor(2.0)
    assert parts_of(8, 8)[0].weigh(loss) is loss
    assert parts_of(8, 4)[0].weigh(loss) == 1


def test_gradients_wait_for_the_last_part():
    seen = []

    class Waits:
        def __enter__(self):
            seen.append("wait")

        def __exit__(self, *error):
            seen.append("go on")

    class Accelerator:
        def no_sync(self, network):
            assert network == "network"
            return Waits()

    for part in micro_batches(parts_of(6, 2), Accelerator(), "network"):
        seen.append(part.rows.start)
    assert seen == ["wait", 0, "go on", "wait", 2, "go on", 4]


def test_a_look_ahead_leaves_no_trace():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    x = torch.rand(5, 3)
    buffers = [buffer.clone() for buffer in network.buffers()]
    with looking_ahead(network):
        seen = network(x)
    assert not seen.requires_grad
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        assert torch.equal(buffer, before)
    assert torch.equal(network(x), seen)  # the same numbers are drawn
