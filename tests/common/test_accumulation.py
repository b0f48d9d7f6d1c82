"""A step in parts: as few as can be, as equal as can be, and a look ahead that leaves no trace."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.accumulation import (
    equal_parts,
    looking_ahead,
    micro_batches,
    parts_of,
    parts_together,
    smallest_part,
)
from common.loading import EpochSampler


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


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accum", [2, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_part_has_the_same_rows_in_any_number_of_processes(size, accum, world):
    """The parts of one process are those of several together, also of a short last batch."""
    accelerator = SimpleNamespace(num_processes=world)
    batch = size * accum * world
    for n in range(batch + world, 2 * batch + 1):  # a whole batch, and one with a row for each
        cuts = []
        for rank in range(world):
            how = {"seed": 0, "rank": rank, "world": world, "parts": accum}
            steps = []
            for number, rows in enumerate(EpochSampler(n, size * accum, **how)):
                of_all = min(batch, n - number * batch)
                parts = parts_together(len(rows), size, accelerator, of_all=of_all)
                steps.append([rows[part.rows] for part in parts])
            cuts.append(steps)

        for number, rows in enumerate(EpochSampler(n, batch, seed=0)):
            of_each = [steps[number] for steps in cuts]
            count = len(of_each[0])
            assert all(len(parts) == count for parts in of_each)
            assert all(len(part) > 0 for parts in of_each for part in parts)
            wanted = parts_of(len(rows), size * world)
            if size > 1 or world == 1:  # else a process may have no row in a part
                assert count == len(wanted)
            if count == len(wanted):
                for place, part in enumerate(wanted):
                    together = sum((parts[place] for parts in of_each), [])
                    assert together == rows[part.rows]
            smallest = min(len(part) for parts in of_each for part in parts)
            assert smallest_part(len(rows), size, world) == smallest


def test_processes_that_lack_rows_have_as_many_parts_as_the_others():
    accelerator = SimpleNamespace(
        num_processes=2, device="cpu", gather=lambda rows: torch.tensor([rows.item(), 2])
    )
    parts = parts_together(6, 2, accelerator, of_all=12, may_lack=True)
    assert [part.size for part in parts] == [3, 3]


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
