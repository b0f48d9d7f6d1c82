"""get_data, with the call of the released code: loaders of pairs (images, targets)."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from common.aliases import one_module
from csl.build import loaders_of

one_module(__name__, "csl.src.helper_functions.get_data")

__all__ = ["get_data"]


class Pairs:
    """A loader that yields (images, targets), as the released training loop unpacks them.

    `loader` is ours, whose batches also tell the indices of their samples. What else is asked for
    (`dataset`, `batch_size`, `batch_sampler`) is the loader's own.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self.loader:
            images, targets = batch.data
            yield images, targets

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not made yet: a copy asks before __init__
            raise AttributeError(name)
        return getattr(self.loader, name)


def get_data(args: Any, accelerator: Accelerator | None = None) -> tuple[Pairs, Pairs]:
    """The training and the test loader of the released code's namespace.

    `loader.dataset.classes` is the dict index -> name. They yield images (B,3,S,S) float32 and
    targets (B,C) int8; with a simulation asked for, the training labels are partial.
    """
    train_loader, val_loader = loaders_of(args, accelerator or Accelerator())
    return Pairs(train_loader), Pairs(val_loader)
