"""float64 where the device has it: Apple's GPUs (mps) do not, and sums then come to the CPU."""

import torch


def has_float64(device: torch.device) -> bool:
    """Whether tensors on the device can be float64."""
    return device.type != "mps"


def with_float64(x: torch.Tensor) -> torch.Tensor:
    """The tensor where float64 can be: as it is, or on the CPU."""
    return x if has_float64(x.device) else x.cpu()


def doubled(x: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on its device where that can be, else on the CPU."""
    return with_float64(x).double()
