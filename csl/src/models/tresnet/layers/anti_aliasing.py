"""Down-sampling behind a blur (Zhang, ICML 2019).

With it a shift of the input shifts the output.
"""

import torch
import torch.nn.functional as F
from torch import nn

from common.aliases import one_module

one_module(__name__, "csl.src.models.tresnet.layers.anti_aliasing")


def blur_kernel(like: torch.Tensor, channels: int) -> torch.Tensor:
    """Return the blur [1,2,1] x [1,2,1] / 16 for every channel, (channels,1,3,3).

    It has the dtype and device of `like`.
    """
    line = torch.tensor([1.0, 2.0, 1.0], dtype=like.dtype, device=like.device)
    return (line[:, None] * line / 16).expand(channels, 1, 3, 3)


class AntiAliasDownsampleLayer(nn.Module):
    """Depthwise blur with stride 2 and reflected borders; nothing in the state dict."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        kernel = blur_kernel(torch.ones(()), 1)
        self.register_buffer("kernel", kernel.contiguous(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) -> (B,C,ceil(H/2),ceil(W/2))."""
        channels = x.shape[1]
        return F.conv2d(
            F.pad(x, (1, 1, 1, 1), mode="reflect"),
            self.kernel.to(x.dtype).expand(channels, 1, 3, 3),
            stride=2,
            groups=channels,
        )
