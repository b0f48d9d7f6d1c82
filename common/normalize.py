"""Pictures travel as bytes; where the network is, they become normalised numbers."""

from collections.abc import Sequence

import torch
from torch import nn


class Normalize(nn.Module):
    """uint8 pictures (B,3,h,w) on any device to float32: (x / 255 - mean) / std by channel.

    The operations and their order are those of torchvision v2: `ToDtype(scale)`, `Normalize`. So
    on a CPU the numbers are the same to the last bit. A batch crosses to the device at a quarter of
    the size, and four operations serve all its pictures. Pictures that are numbers already are
    returned as they are. Mean and deviation are kept on the module's device, and in no checkpoint.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B,3,h,w) float32, in the memory format that came."""
        if images.dtype != torch.uint8:
            return images
        numbers = images.to(torch.float32)
        return numbers.mul_(1 / 255).sub_(self.mean).div_(self.std)
