"""Down-sampling behind a blur, so that a shift of the input shifts the output (Zhang, ICML 2019)."""

import torch
import torch.nn.functional as F
from torch import nn


class AntiAliasDownsampleLayer(nn.Module):
    """Depthwise [1,2,1] x [1,2,1] / 16 with stride 2 and reflected borders; no state."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) -> (B,C,ceil(H/2),ceil(W/2))."""
        line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype, device=x.device)
        kernel = (line[:, None] * line / 16).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])
