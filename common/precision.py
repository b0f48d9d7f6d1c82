"""float64 where the device has it: Apple's GPUs (mps) do not, and sums then come to the CPU.

And float32 where a network was prepared for less.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def has_float64(device: torch.device) -> bool:
    """Whether tensors on the device can be float64."""
    return device.type != "mps"


def with_float64(x: torch.Tensor) -> torch.Tensor:
    """The tensor where float64 can be: as it is, or on the CPU."""
    return x if has_float64(x.device) else x.cpu()


def doubled(x: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on its device where that can be, else on the CPU."""
    return with_float64(x).double()


@contextlib.contextmanager
def without_autocast(*models: nn.Module) -> Iterator[None]:
    """Networks compute in the precision of their weights inside the block, prepared or not.

    accelerate's prepare replaces the forward of a network, where precision is mixed, by one under
    autocast. A copy that was made before, such as an average, has its own.
    """
    prepared = {}
    for model in models:
        own = vars(model)
        # A network inside of a compiled one has the note, but not the forward.
        if "forward" in own and "_original_forward" in own:
            prepared[model] = own["forward"]
            model.forward = own["_original_forward"]
    try:
        yield
    finally:
        for model, forward in prepared.items():
            model.forward = forward
