"""get_data, with the call of the released code."""

from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from common.aliases import one_module
from csl.build import build_loaders
from csl.data_locate import locate_data

one_module(__name__, "csl.src.helper_functions.get_data")

__all__ = ["get_data"]


def get_data(args: Any, accelerator: Accelerator | None = None) -> tuple[DataLoader, DataLoader]:
    """The training and the test loader of `args`.

    `loader.dataset.classes` is the dict index -> name.

    Batches are `common.loading.Batch`es whose data is (images (B,3,S,S) float32, targets (B,C)
    int8). With a simulation asked for, the training labels are partial.
    """
    found = locate_data(
        args.data,
        is_given=True,
        dataset=getattr(args, "dataset", "auto"),
        debug_mode=getattr(args, "debug_mode", "auto"),
        metadata=getattr(args, "metadata", None),
        sample=getattr(args, "sample", False),
    )
    loaded = build_loaders(args, found, accelerator or Accelerator(), as_numbers=True)
    return loaded.train_loader, loaded.val_loader
