"""Loaders whose order comes from (seed, epoch) and whose augmentation comes from (seed, epoch, sample index).

So results depend neither on the number of workers nor on where a run was interrupted.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset, default_collate

from common.images_read import CorruptImage


def seed_of(*parts: int) -> int:
    """A 63-bit seed from integers, the same on every machine."""
    text = ",".join(str(int(p)) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation (n,) int64 of an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(seed, epoch)))


class EpochSampler:
    """A batch sampler that yields lists of (epoch, index), and can start inside an epoch.

    Every process walks the same permutation. A global batch is `batch_size` rows for each process; the
    last one, where it is short, is split as evenly as possible, without padding (`drop_last` leaves it
    out; so is one with fewer rows than processes).
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
    ) -> None:
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        whole, rest = divmod(n, batch_size * world)
        self.batches = whole + int(rest >= world and not drop_last)
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch and its first batch (`run.progress.epoch`, `run.progress.batch`)."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return max(0, self.batches - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, size = epoch_order(self.n, self.seed, self.epoch), self.batch_size * self.world
        for b in range(self.start, self.batches):
            rows = order[b * size : (b + 1) * size].tensor_split(self.world)[self.rank]
            yield [(self.epoch, int(i)) for i in rows]


class Seeded(Dataset):
    """Item (epoch, index) of `dataset`, drawn with random, numpy and torch seeded for it and restored after.

    Returns (index, item); item is None where `skip_corrupt` and the file could not be decoded.
    """

    def __init__(
        self, dataset: Sequence[Any] | Dataset, seed: int, *, skip_corrupt: bool = False
    ) -> None:
        self.dataset, self.seed, self.skip_corrupt = dataset, seed, skip_corrupt

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Any]:
        epoch, index = key
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        seed = seed_of(self.seed, epoch, index)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - augmentations of libraries draw from the global stream
        torch.default_generator.manual_seed(
            seed
        )  # torch.manual_seed also visits the GPUs: 30 times slower
        try:
            return index, self.dataset[index]
        except CorruptImage:
            if not self.skip_corrupt:
                raise
            return index, None
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_rng_state(states[2])


class Batch(NamedTuple):
    """A batch: what the data set gives, collated; the sample indices (B,) int64; how many were skipped."""

    data: Any
    index: torch.Tensor
    skipped: int


class _Collate:
    def __init__(self, collate: Callable[[list], Any]) -> None:
        self.collate = collate

    def __call__(self, pairs: list[tuple[int, Any]]) -> Batch:
        kept = [(index, item) for index, item in pairs if item is not None]
        data = self.collate([item for _, item in kept]) if kept else None
        return Batch(
            data,
            torch.tensor([index for index, _ in kept], dtype=torch.int64),
            len(pairs) - len(kept),
        )


def _in_a_group_of_its_own(_worker: int) -> None:
    """Of a loader worker: a signal to the process group (torchrun, timeout, Slurm) is for the run, which ends it."""
    os.setpgid(0, 0)


def loader_processes(wanted: int) -> int:
    """`wanted`, but no more than the CPU cores that this process may use."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
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
) -> DataLoader:
    """A loader of `Batch`es over this process's share; call `loader.batch_sampler.set_epoch` each epoch.

    It has a generator of its own: a DataLoader draws a number each time it is walked, from the global stream
    unless told otherwise, and a run resumed inside an epoch walks it once more.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    sampler = EpochSampler(
        len(dataset), batch_size, seed=seed, rank=rank, world=world, drop_last=drop_last
    )
    return DataLoader(
        Seeded(dataset, seed, skip_corrupt=skip_corrupt),
        batch_sampler=sampler,
        collate_fn=_Collate(collate),
        num_workers=loader_processes(workers),
        worker_init_fn=_in_a_group_of_its_own,
        persistent_workers=workers > 0,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),
    )


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

    `skip_corrupt` leaves unreadable images out: `Batch.skipped` counts them, `Batch.index` names the others, and
    `Batch.data` is None where nothing in the batch could be read. What is measured then is not the whole set:
    say so beside it.
    """
    mine = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    batches = [[(0, i) for i in mine[k : k + batch_size]] for k in range(0, len(mine), batch_size)]
    return DataLoader(
        Seeded(dataset, 0, skip_corrupt=skip_corrupt),
        batch_sampler=batches,
        collate_fn=_Collate(collate),
        num_workers=loader_processes(workers),
        worker_init_fn=_in_a_group_of_its_own,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),
    )


def gather_in_order(
    index: torch.Tensor, *rows: torch.Tensor, accelerator: Accelerator
) -> list[torch.Tensor]:
    """Rows of all processes, on the CPU, sorted by sample index, each sample once; the index comes first."""
    parts = [[t.detach().cpu() for t in (index, *rows)]]
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    whole = [torch.cat(column) for column in zip(*parts, strict=True)]
    order = whole[0].argsort()
    return [t[order] for t in whole]
