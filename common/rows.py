"""Rows that come in batches: in one array from the first batch on, and gathered from all processes.

A list of batches that is joined at its end holds everything twice, three times once it is sorted.
"""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

GATHERED_BYTES = 2**26  # of each process at a time


class Rows:
    """Rows that come in batches, each written to its place in one array on the CPU."""

    def __init__(self, expected: int = 0, kind: torch.dtype | None = None) -> None:
        """expected: how many come; where more do, the array is made anew, twice as long.

        kind: as which they are kept; None: as they come.
        """
        self.expected = expected
        self.kind = kind
        self.count = 0
        self._values: torch.Tensor | None = None

    def add(self, part: torch.Tensor) -> None:
        """Append the rows of a batch (b,...), of any device."""
        count = self.count + len(part)
        if self._values is None:
            self._values = self._made(max(count, self.expected), part)
        elif count > len(self._values):
            longer = self._made(max(count, 2 * len(self._values)), part)
            longer[: self.count] = self._values[: self.count]
            self._values = longer
        self._values[self.count : count] = part
        self.count = count

    def whole(self) -> torch.Tensor:
        """All rows so far (n,...), a view; (0,) where none came."""
        if self._values is None:
            return torch.zeros(0, dtype=self.kind or torch.float32)
        return self._values[: self.count]

    def _made(self, count: int, like: torch.Tensor) -> torch.Tensor:
        return torch.empty((count, *like.shape[1:]), dtype=self.kind or like.dtype)


def expected_rows(loader: Any) -> int:
    """How many samples this process's loader walks, where it has its batches listed; else 0."""
    batches = getattr(loader, "batch_sampler", None)
    if not isinstance(batches, list):
        return 0
    return sum(map(len, batches))


def gather_in_order(
    index: torch.Tensor, *rows: torch.Tensor, accelerator: Accelerator
) -> list[torch.Tensor]:
    """Index and rows of all processes, on the CPU, sorted by index, each sample once.

    Of one process whose index rises already, what was given and no copy. Of several, the rows go
    around a piece at a time, right to their places: beside its own a process holds the whole once.
    """
    own = [values.detach().cpu() for values in (index, *rows)]
    if accelerator.num_processes == 1:
        if (own[0].diff() > 0).all():
            return own
        order = own[0].argsort()
        return [values[order] for values in own]

    indices = gather_object([own[0].clone()])
    whole = torch.cat(indices)
    order = whole.argsort()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    places = place.split([len(part) for part in indices])
    return [whole[order], *_gathered(own[1:], places)]


def _gathered(own: list[torch.Tensor], places: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The rows of all processes; places: where those of each process belong."""
    total = sum(map(len, places))
    kinds = gather_object([[(tuple(values.shape[1:]), values.dtype) for values in own]])
    of_first = next((kind for kind, at in zip(kinds, places, strict=True) if len(at)), kinds[0])
    found = [torch.empty((total, *shape), dtype=kind) for shape, kind in of_first]
    row_bytes = sum(values[:1].nbytes for values in found)
    step = max(1, GATHERED_BYTES // max(1, row_bytes))
    for start in range(0, max(map(len, places)), step):
        # Cloned: a view would send all that it is a part of.
        piece = [values[start : start + step].clone() for values in own]
        for at, parts in zip(places, gather_object([piece]), strict=True):
            rows = at[start : start + step]
            for column, values in zip(found, parts, strict=True):
                if len(rows):
                    column[rows] = values
    return found
