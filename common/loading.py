"""Loaders whose order comes from (seed, epoch), whose augmentation from (seed, epoch, index).

So results depend neither on the number of workers nor on where a run was interrupted.
"""

import contextlib
import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, default_collate

from common.accumulation import parts_in_step
from common.errors import UserError
from common.images import CorruptImage
from common.rows import gather_in_order  # noqa: F401


def seed_of(*parts: int) -> int:
    """A 63-bit seed from integers, the same on every machine."""
    text = ",".join(map(str, map(int, parts))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation (n,) int64 of an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(seed, epoch)))


class EpochSampler:
    """A batch sampler that yields lists of (epoch, index), and can start inside an epoch.

    Every process walks the same permutation. A global batch is `batch_size` rows for each process;
    the last one, where it is short, is split as evenly as possible, without padding (`drop_last`
    leaves it out; so is one with fewer rows than processes). A batch of several `parts` is cut into
    these first, a short one into fewer, so that a part has the same rows in any number of
    processes.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        parts: int = 1,
    ) -> None:
        self.parts = parts
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        whole, rest = divmod(n, batch_size * world)
        self.batches = whole + int(rest >= world and not drop_last)
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch and its first batch (`run.progress.epoch`, `run.progress.batch`)."""
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        return max(0, self.batches - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.n, self.seed, self.epoch)
        size = self.batch_size * self.world
        for number in range(self.start, self.batches):
            whole = order[number * size : (number + 1) * size]
            parts = self.parts
            if len(whole) < size:
                of_part = -(-self.batch_size // self.parts)
                parts = parts_in_step(len(whole), of_part, self.world)
            mine = share_of(whole, self.rank, self.world, parts)
            yield [(self.epoch, index) for index in mine.tolist()]


def share_of(rows: torch.Tensor, rank: int, world: int, parts: int = 1) -> torch.Tensor:
    """A process's share of the rows of a step: of each of its parts, one after the other."""
    if parts == 1:
        return rows.tensor_split(world)[rank]
    return torch.cat([part.tensor_split(world)[rank] for part in rows.tensor_split(parts)])


@contextlib.contextmanager
def _streams_kept() -> Iterator[None]:
    """Python's, NumPy's and torch's global streams are afterwards as they were before."""
    of_python = random.getstate()
    of_numpy = np.random.get_state()  # noqa: NPY002
    of_torch = torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)


def _seed_streams(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - augmentations of libraries draw from it
    # torch.manual_seed also visits the GPUs: 30 times slower.
    torch.default_generator.manual_seed(seed)


class Seeded(Dataset):
    """Item (epoch, index) of `dataset`, drawn with the global streams seeded for it.

    Returns (index, item); item is None where `skip_corrupt` and the file could not be decoded.
    """

    def __init__(self, dataset: Any, seed: int, *, skip_corrupt: bool = False) -> None:
        self.dataset = dataset
        self.seed = seed
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[tuple[int, Any]]:
        """A batch, as a DataLoader asks for it.

        Keeping the streams costs 0.1 ms, most of it NumPy's, seeding a tenth of that: they are kept
        once for the whole batch.
        """
        with _streams_kept():
            return [self._drawn(epoch, index) for epoch, index in keys]

    def _drawn(self, epoch: int, index: int) -> tuple[int, Any]:
        _seed_streams(seed_of(self.seed, epoch, index))
        try:
            return index, self.dataset[index]
        except CorruptImage:
            if not self.skip_corrupt:
                raise
            return index, None


class Batch(NamedTuple):
    """What the data set gives, collated; the sample indices (B,) int64; how many were skipped."""

    data: Any
    index: torch.Tensor  # type: ignore[assignment]  # tuple has a method of this name
    skipped: int


def is_empty(batch: Batch, processes: int) -> bool:
    """Whether nothing of a batch could be decoded, so that its step is left out.

    UserError where there are several processes: the others would wait for this one's gradients.
    """
    if batch.data is None and processes > 1:
        raise UserError(
            "no image of a process's whole batch can be read: check the data, or use one process"
        )
    return batch.data is None


def _collated(collate: Callable[[list], Any], pairs: Sequence[tuple[int, Any]]) -> Batch:
    kept = [pair for pair in pairs if pair[1] is not None]
    skipped = len(pairs) - len(kept)
    index = torch.tensor([pair[0] for pair in kept], dtype=torch.int64)
    data = collate([pair[1] for pair in kept]) if kept else None
    return Batch(data, index, skipped)


def _in_a_group_of_its_own(_worker: int) -> None:
    """Of a loader worker: a signal to the process group (torchrun, timeout) is for the run.

    So is SIGUSR1 to every process of a job (Slurm's).
    """
    if hasattr(os, "setpgid"):  # not on Windows, where a signal is for one process
        os.setpgid(0, 0)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def loader_processes(wanted: int) -> int:
    """`wanted`, but no more than the CPU cores that this process may use."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return min(wanted, cores)


def train_loader(
    dataset: Any,
    batch_size: int,
    *,
    seed: int,
    accelerator: Accelerator,
    workers: int = 0,
    drop_last: bool = False,
    skip_corrupt: bool = False,
    collate: Callable[[list], Any] = default_collate,
    parts: int = 1,
) -> DataLoader:
    """A loader of `Batch`es over this process's share; `parts` as of `EpochSampler`.

    Call `loader.batch_sampler.set_epoch` each epoch.
    """
    sampler = EpochSampler(
        len(dataset),
        batch_size,
        seed=seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        drop_last=drop_last,
        parts=parts,
    )
    seeded = Seeded(dataset, seed, skip_corrupt=skip_corrupt)
    return _loader(seeded, sampler, accelerator, workers, collate)


def eval_loader(
    dataset: Any,
    batch_size: int,
    *,
    accelerator: Accelerator,
    workers: int = 0,
    skip_corrupt: bool = False,
    collate: Callable[[list], Any] = default_collate,
) -> DataLoader:
    """A loader of `Batch`es over every world-th sample, in order, each once, without padding.

    `skip_corrupt` leaves unreadable images out: `Batch.skipped` counts them, `Batch.index` names
    the others, and `Batch.data` is None where nothing in the batch could be read. What is measured
    then is not the whole set: say so beside it. The workers stay for the next walk, with the data
    set as it was in the first: a data set that changes needs a new loader.
    """
    mine = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    keys = [(0, index) for index in mine]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    seeded = Seeded(dataset, 0, skip_corrupt=skip_corrupt)
    return _loader(seeded, batches, accelerator, workers, collate)


def _loader(
    dataset: Seeded,
    batches: Any,
    accelerator: Accelerator,
    workers: int,
    collate: Callable[[list], Any],
) -> DataLoader:
    processes = loader_processes(workers)
    # Walking a DataLoader draws a number from its generator, else from the global stream, and a run
    # that is resumed inside an epoch walks it once more.
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(_collated, collate),
        num_workers=processes,
        worker_init_fn=_in_a_group_of_its_own,
        persistent_workers=processes > 0,  # starting them takes longer than a small evaluation
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),
    )
