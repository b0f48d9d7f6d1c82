"""Batches of computed features, in the order and with the labels that pictures would have."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from common.loading import Batch


class FeatureBatches:
    """The `Batch`es of a loader of pictures, with features in their place; nothing is decoded.

    Args:
        features: (N,C,h,w) float32, NaN for a picture that cannot be read: it is left out of its
            batch, and counted there. A batch is read from the file at once.
        batches: the lists of (epoch, row) that the loader of pictures walks.
        beside: from rows to what stands beside the pictures of a batch, labels and so on.
    """

    def __init__(
        self,
        features: np.ndarray,
        batches: Iterable[Sequence[tuple[int, int]]],
        beside: Callable[[list[int]], tuple[Any, ...]],
    ) -> None:
        self.features = features
        self.batch_sampler = batches
        self.beside = beside

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batch_sampler:
            drawn = np.array([row for _, row in keys], np.int64)
            values = self.features[drawn]
            is_readable = ~np.isnan(values[:, 0, 0, 0])
            rows = drawn
            if not is_readable.all():
                rows = drawn[is_readable]
                values = values[is_readable]
            data = None
            if len(rows):
                data = (torch.from_numpy(values), *self.beside(rows.tolist()))
            yield Batch(data, torch.from_numpy(rows), len(drawn) - len(rows))
