"""One optimiser step over several micro-batches, `--grad_accum`.

A loader gives the rows of a whole step, and the step cuts them:

    for part in micro_batches(parts_of(len(images), size), accelerator, network):
        loss = criterion(network(images[part.rows]), labels[part.rows])     # a mean over the part
        backward(accelerator, part.weigh(loss))
    optimizer.step()

So an epoch's order, checkpoints, --max_steps, signals and --resume know whole steps only, and the
gradient is that of one large batch. Without --grad_accum there is one part, with all rows.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn


class Part(NamedTuple):
    """A micro-batch: its rows of the step's, and its share of them, in (0, 1]."""

    rows: slice
    share: float

    @property
    def size(self) -> int:
        """How many rows it has."""
        return self.rows.stop - self.rows.start

    def weigh(self, mean: torch.Tensor) -> torch.Tensor:
        """A mean over the part as its share of the mean over the step; alone it stays as it is."""
        if self.share == 1:
            return mean
        return mean * self.share


def parts_of(rows: int, size: int) -> list[Part]:
    """The rows of a step in as few parts of at most `size` as there can be, see `equal_parts`.

    Of 9 rows in parts of at most 4 that is 3, 3 and 3: no part has a single row, which batch norm
    may not take, unless there is no other way.

    >>> [part.size for part in parts_of(9, 4)]
    [3, 3, 3]
    """
    return equal_parts(rows, -(-rows // size))


def equal_parts(rows: int, count: int) -> list[Part]:
    """The rows of a step in `count` parts, as equal as can be; fewer where there are fewer rows."""
    count = max(1, min(rows, count))
    least, larger = divmod(rows, count)
    parts = []
    start = 0
    for number in range(count):
        stop = start + least + (number < larger)
        share = 1.0 if count == 1 else (stop - start) / rows
        parts.append(Part(slice(start, stop), share))
        start = stop
    return parts


def parts_in_step(rows: int, size: int, processes: int = 1) -> int:
    """Into how many parts a step of `rows` rows of all processes is cut, the same in each of them.

    As few as there can be with at most `size` rows for each process; fewer where a process would
    have no row in some.
    """
    return max(1, min(-(-rows // (size * processes)), rows // processes))


def smallest_part(rows: int, size: int, processes: int = 1) -> int:
    """How many rows of a process the smallest part of a step of `rows` rows has."""
    return rows // (parts_in_step(rows, size, processes) * processes)


def parts_together(
    rows: int, size: int, accelerator: Accelerator, *, of_all: int, may_lack: bool = False
) -> list[Part]:
    """The rows of this process, `parts_of`, in as many parts as all other processes have.

    For networks and losses in which each part exchanges something with the other processes.

    Args:
        of_all: how many rows the step has in all processes, before any is left out.
        may_lack: rows may have been left out here or elsewhere (--skip_corrupt).
    """
    processes = accelerator.num_processes
    if processes == 1:
        return parts_of(rows, size)
    count = parts_in_step(of_all, size, processes)
    if may_lack:
        count = possible_parts(rows, count, accelerator)
    return equal_parts(rows, count)


def possible_parts(rows: int, count: int, accelerator: Accelerator) -> int:
    """`count` parts, or as many as the process with the fewest rows can have; all call it."""
    if count == 1 or accelerator.num_processes == 1:
        return count
    of_each = accelerator.gather(torch.tensor([rows], device=accelerator.device))
    return min(count, int(of_each.min()))


def micro_batches(
    parts: Sequence[Part], accelerator: Accelerator | None = None, network: Any = None
) -> Iterator[Part]:
    """The parts of a step of this process; forward and backward belong inside the loop.

    Several processes exchange gradients with the last part alone, so each may have another number
    of parts; not where network or loss exchange something in each part, see `parts_together`.

    Args:
        accelerator, network: as it was prepared; without them there is one process.
    """
    *others, last = parts
    for part in others:
        waiting: Any = contextlib.nullcontext()
        if accelerator is not None:
            waiting = accelerator.no_sync(network)
        with waiting:
            yield part
    yield last


@contextlib.contextmanager
def looking_ahead(model: nn.Module) -> Iterator[None]:
    """Forward passes that leave no trace: no gradient; buffers and random streams as before.

    For what a method decides on all rows of a step before their gradients are computed. The passes
    that follow see the same batch statistics and draw the same numbers.
    """
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    devices = {value.device for value in model.parameters() if value.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        try:
            yield
        finally:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
