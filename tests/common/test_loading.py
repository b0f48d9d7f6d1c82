"""Order from (seed, epoch), augmentation from (seed, epoch, index), whatever the workers."""

import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from common import checkpoint
from common.errors import UserError
from common.images import CorruptImage
from common.loading import (
    Batch,
    EpochSampler,
    Seeded,
    epoch_order,
    eval_loader,
    gather_in_order,
    is_empty,
    loader_processes,
    seed_of,
    train_loader,
)
from tests.equality import same


def process(rank: int = 0, world: int = 1) -> SimpleNamespace:
    """What a loader asks an Accelerator."""
    return SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))


class Noisy(torch.utils.data.Dataset):
    """Items that draw from all three global generators; some cannot be decoded."""

    def __init__(self, n: int, corrupt: tuple[int, ...] = ()) -> None:
        self.n, self.corrupt = n, corrupt

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        if index in self.corrupt:
            raise CorruptImage(f"{index}.png: unreadable image")
        drawn = [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002
        return index, torch.tensor(drawn, dtype=torch.float64)


def walk(sampler: EpochSampler, epoch: int, start: int = 0) -> list[list[int]]:
    """The indices of the batches of an epoch."""
    sampler.set_epoch(epoch, start)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(e == epoch for batch in batches for e, _ in batch)
    return [[i for _, i in batch] for batch in batches]


# --- seeds and order ---


def test_seeds_are_fixed_distinct_and_63_bits():
    seeds = {seed_of(a, b) for a in range(-1, 30) for b in range(30)}
    assert len(seeds) == 31 * 30 and all(0 <= s < 2**63 for s in seeds)
    assert seed_of(0, 0) == 411788715114236230  # on every machine
    assert seed_of(1, 23) != seed_of(12, 3)
    assert seed_of(np.int64(1), 2) == seed_of(1, 2)


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    torch.manual_seed(1)
    one = epoch_order(50, 3, 4)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(epoch_order(50, 3, 4), one)
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(one.tolist()) == list(range(50))
    others = [epoch_order(50, 3, 5), epoch_order(50, 4, 4), epoch_order(50, 4, 3)]
    assert not any(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_can_start_at_any_batch(start, drop_last):
    sampler = EpochSampler(23, 5, seed=0, drop_last=drop_last)
    whole = walk(sampler, 2)
    assert len(whole) == (4 if drop_last else 5)
    assert walk(sampler, 2, start) == whole[start:]
    assert walk(EpochSampler(23, 5, seed=0, drop_last=drop_last), 2) == whole
    assert walk(sampler, 3) != whole


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_shards_cover_every_sample_once_without_padding(world, drop_last):
    for n in range(1, 42):
        for batch in (1, 2, 5, 16):
            ranks = [
                walk(EpochSampler(n, batch, seed=1, rank=r, world=world, drop_last=drop_last), 0)
                for r in range(world)
            ]
            assert (
                len({len(batches) for batches in ranks}) == 1
            )  # nobody waits for a step that others do not take
            rest = n % (batch * world)
            left_out = rest if drop_last or rest < world else 0
            seen = [i for batches in ranks for b in batches for i in b]
            order = epoch_order(n, 1, 0).tolist()
            assert sorted(seen) == sorted(order[: n - left_out])
            for step in zip(*ranks, strict=True):
                sizes = [len(b) for b in step]
                assert 1 <= min(sizes) and max(sizes) - min(sizes) <= 1 and max(sizes) <= batch


@pytest.mark.parametrize("world", [2, 3])
def test_a_global_batch_is_the_batch_of_one_process(world):
    one = walk(EpochSampler(41, 6 * world, seed=5), 1)
    many = [walk(EpochSampler(41, 6, seed=5, rank=r, world=world), 1) for r in range(world)]
    assert [sum(parts, []) for parts in zip(*many, strict=True)] == one


# --- augmentation ---


def test_items_depend_on_seed_epoch_and_index_and_move_no_global_state():
    data, before = Seeded(Noisy(5), seed=1), checkpoint.random_state()
    first = data[0, 3]
    assert same(checkpoint.random_state(), before)
    random.seed(9), np.random.seed(9), torch.manual_seed(9)  # noqa: NPY002
    assert same(data[0, 3], first)
    others = [data[1, 3], data[0, 4], Seeded(Noisy(5), seed=2)[0, 3]]
    assert not any(torch.equal(first[1][1], other[1][1]) for other in others)
    assert len(set(first[1][1].tolist())) == 3


def test_global_states_are_restored_after_an_error_too():
    before = checkpoint.random_state()
    with pytest.raises(CorruptImage):
        Seeded(Noisy(5, corrupt=(2,)), seed=1)[0, 2]
    assert same(checkpoint.random_state(), before)


def test_a_batch_holds_the_items_and_keeps_the_streams_once(monkeypatch):
    kept = []
    monkeypatch.setattr(random, "getstate", lambda get=random.getstate: kept.append(1) or get())
    data = Seeded(Noisy(6, corrupt=(2,)), seed=1, skip_corrupt=True)
    before = checkpoint.random_state()
    kept.clear()
    keys = [(3, 4), (0, 2), (3, 0), (5, 4)]
    batch = data.__getitems__(keys)
    assert len(kept) == 1
    assert same(checkpoint.random_state(), before)
    assert same(batch, [data[key] for key in keys]) and batch[1] == (2, None)


def test_global_states_are_restored_after_an_error_in_a_batch():
    before = checkpoint.random_state()
    with pytest.raises(CorruptImage):
        Seeded(Noisy(5, corrupt=(2,)), seed=1).__getitems__([(0, 1), (0, 2)])
    assert same(checkpoint.random_state(), before)


def collected(workers: int) -> tuple[list, list]:
    """Two epochs; then the second from its batch 2 on."""
    loader = train_loader(Noisy(13), 3, seed=4, accelerator=process(), workers=workers)
    epochs = []
    for epoch, start in ((0, 0), (1, 0), (1, 2)):
        loader.batch_sampler.set_epoch(epoch, start)
        epochs.append([(data, index, skipped) for data, index, skipped in loader])
    return epochs[0] + epochs[1], epochs[2]


def test_batches_do_not_depend_on_workers_or_on_a_resume():
    whole, resumed = collected(0)
    assert len(whole) == 10 and same(resumed, whole[7:])
    assert not torch.equal(whole[0][0][1], whole[5][0][1])
    assert same(collected(2), (whole, resumed))


def test_no_more_loader_processes_than_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7})
    assert [loader_processes(n) for n in (0, 2, 3, 8)] == [0, 2, 3, 3]
    made = (train_loader(Noisy(4), 2, seed=0, accelerator=process(), workers=8),)
    made += (eval_loader(Noisy(4), 2, accelerator=process(), workers=8),)
    assert [loader.num_workers for loader in made] == [3, 3]


def test_walking_a_loader_leaves_the_global_generators_alone():
    """A resumed run walks its loader once more than the uninterrupted one."""
    loaders = [
        train_loader(Noisy(6), 2, seed=0, accelerator=process()),
        eval_loader(Noisy(6), 2, accelerator=process()),
    ]
    before = checkpoint.random_state()
    for loader in loaders:
        assert len(list(loader)) == 3
    assert same(checkpoint.random_state(), before)


# --- unreadable images ---


def test_training_skips_and_counts_when_asked_to():
    loader = train_loader(
        Noisy(10, corrupt=(1, 4, 5)), 4, seed=0, accelerator=process(), skip_corrupt=True
    )
    batches = list(loader)
    assert sum(b.skipped for b in batches) == 3
    assert sorted(i for b in batches for i in b.index.tolist()) == [0, 2, 3, 6, 7, 8, 9]
    assert all(torch.equal(b.data[0], b.index) for b in batches)  # index and item stay together


def test_a_batch_without_a_readable_image_is_empty():
    loader = train_loader(
        Noisy(2, corrupt=(0, 1)), 2, seed=0, accelerator=process(), skip_corrupt=True
    )
    (batch,) = loader
    assert batch.data is None and batch.skipped == 2
    assert batch.index.shape == (0,) and batch.index.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_skips_and_counts_when_asked_to(world, workers):
    data, batches = Noisy(10, corrupt=(1, 4, 5, 6, 8)), []
    for rank in range(world):
        loader = eval_loader(
            data, 2, accelerator=process(rank, world), workers=workers, skip_corrupt=True
        )
        batches += list(loader)
    assert sum(b.skipped for b in batches) == 5
    assert sorted(i for b in batches for i in b.index.tolist()) == [0, 2, 3, 7, 9]
    assert all(torch.equal(b.data[0], b.index) for b in batches if b.data is not None)
    assert any(b.data is None and b.skipped == 2 and b.index.shape == (0,) for b in batches)


def test_what_is_skipped_does_not_change_the_rest():
    loaders = [
        eval_loader(Noisy(6, corrupt=corrupt), 2, accelerator=process(), skip_corrupt=True)
        for corrupt in ((), (2,))
    ]
    whole, rest = (
        {int(i): b.data[1][k] for b in loader for k, i in enumerate(b.index)} for loader in loaders
    )
    assert sorted(rest) == [0, 1, 3, 4, 5] and all(torch.equal(rest[i], whole[i]) for i in rest)


def test_without_the_flag_an_unreadable_image_is_an_error_everywhere():
    for loader in (
        train_loader(Noisy(4, corrupt=(2,)), 2, seed=0, accelerator=process()),
        eval_loader(Noisy(4, corrupt=(2,)), 2, accelerator=process()),
    ):
        with pytest.raises(CorruptImage, match="2.png: unreadable image"):
            list(loader)


# --- evaluation ---


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_counts_each_sample_once_whatever_the_sizes(world):
    for n in range(1, 42):
        for batch in range(1, 17):
            loaders = [
                eval_loader(range(n), batch, accelerator=process(r, world)) for r in range(world)
            ]
            keys = [[key for rows in loader.batch_sampler for key in rows] for loader in loaders]
            assert sorted(i for rank in keys for _, i in rank) == list(range(n))
            assert all(rank == sorted(rank) for rank in keys)
            assert all(
                1 <= len(rows) <= batch for loader in loaders for rows in loader.batch_sampler
            )


@pytest.mark.parametrize("n, batch", [(1, 1), (1, 16), (7, 3), (41, 16)])
def test_evaluation_delivers_what_its_sampler_says(n, batch):
    seen = [b for r in range(3) for b in eval_loader(range(n), batch, accelerator=process(r, 3))]
    assert sorted(i for b in seen for i in b.index.tolist()) == list(range(n))
    assert all(torch.equal(b.data, b.index) and b.skipped == 0 for b in seen)


def test_evaluation_draws_the_same_each_time():
    loader = eval_loader(Noisy(5), 2, accelerator=process())
    first = [b.data for b in loader]
    torch.manual_seed(77)
    assert same([b.data for b in loader], first)


class Workers(torch.utils.data.Dataset):
    """Items that name the process they were made in."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return os.getpid()


def test_workers_stay_from_one_evaluation_to_the_next(monkeypatch):
    monkeypatch.setattr("common.loading.loader_processes", lambda wanted: wanted)
    loader = eval_loader(Workers(), 1, accelerator=process(), workers=2)
    walks = [{int(batch.data[0]) for batch in loader} for _ in range(3)]
    assert len(walks[0]) == 2 and os.getpid() not in walks[0]
    assert walks[1] == walks[2] == walks[0]


def test_an_evaluation_that_was_left_early_starts_anew():
    loader = eval_loader(range(9), 2, accelerator=process(), workers=2)
    for batch in loader:
        assert batch.index.tolist() == [0, 1]
        break
    assert [batch.index.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


def test_rows_come_sorted_by_sample():
    index = torch.tensor([4, 0, 3, 1, 2])
    rows = torch.arange(5)[index][:, None] * torch.ones(1, 2)
    ids, values, squares = gather_in_order(index, rows, index**2, accelerator=Accelerator(cpu=True))
    assert ids.tolist() == [0, 1, 2, 3, 4]
    assert values[:, 1].tolist() == [0, 1, 2, 3, 4] and squares.tolist() == [0, 1, 4, 9, 16]


def test_a_batch_without_pictures_is_left_out_by_one_process_and_stops_several():
    empty = Batch(None, torch.zeros(0, dtype=torch.int64), 4)
    full = Batch(torch.zeros(4), torch.arange(4), 0)
    assert is_empty(empty, 1)
    assert not is_empty(full, 1)
    assert not is_empty(full, 2)
    with pytest.raises(UserError, match="no image of a process's whole batch can be read"):
        is_empty(empty, 2)
