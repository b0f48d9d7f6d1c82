"""Space-to-depth, squeeze-and-excitation, and the norm ABN.

ABN has an absolute weight and an activation.
"""

import torch
import torch.nn.functional as F
from torch import nn

from common.aliases import one_module
from common.cli import DomainError
from common.sync_bn import move_running_statistics, normalise_over_processes, world_size

one_module(__name__, "csl.src.models.tresnet.layers.general_layers")


class SpaceToDepth(nn.Module):
    """(B,C,H,W) -> (B,16*C,H/4,W/4).

    Channels ordered by row offset, column offset, input channel.
    """

    def __init__(self, block: int = 4) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """DomainError where height or width is no multiple of the block."""
        n = self.block
        batch, channels, height, width = x.shape
        if height % n or width % n:
            near = " or ".join(
                str(side // n * n + k) for side in sorted({height, width}) for k in (0, n)
            )
            raise DomainError(
                f"image size {height}x{width}: TResNet needs multiples of {n};"
                f" the nearest are {near}"
            )
        x = x.view(batch, channels, height // n, n, width // n, n).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(batch, channels * n * n, height // n, width // n)


class SpaceToDepthModule(SpaceToDepth):
    """`SpaceToDepth` of 4 under the released name; `remove_model_jit` changes nothing here."""

    def __init__(self, remove_model_jit: bool = False) -> None:
        super().__init__()


MOMENTUM = 0.1  # of the running statistics


class ABN(nn.BatchNorm2d):
    """Batch norm with gamma = |weight| + 1e-5, then leaky ReLU or nothing.

    It is InPlaceABN's function in plain torch.

    The derivative of |weight| at 0 is +1: the last norm of every residual branch starts at 0, where
    torch.abs has derivative 0 and the branch would never train. Running variance is the unbiased
    one, momentum 0.1. A batch with one value per channel (one image, a 1x1 map) has no variance:
    the running figures serve, unchanged. Where `is_synchronised` (common.sync_bn) the batch is that
    of all processes.
    """

    is_synchronised = False

    def __init__(self, channels: int, slope: float | None) -> None:
        """`slope` of the leaky ReLU; None: identity."""
        super().__init__(channels, eps=1e-5, momentum=MOMENTUM)
        self.slope = slope

    def gamma(self) -> torch.Tensor:
        """(C,) |weight| + 1e-5.

        The leaky ReLU of slope -1 is |x| with derivative -1 at 0; of -weight, |weight| with +1.
        """
        return F.leaky_relu(-self.weight, -1.0) + self.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) -> the same shape."""
        if self.is_synchronised and self.training and world_size() > 1:
            x, *statistics = normalise_over_processes(x, self.gamma(), self.bias, self.eps)
            move_running_statistics(self, *statistics)
            return self._activated(x)
        of_batch = self.training and x.numel() > x.shape[1]
        if of_batch:
            self.get_buffer("num_batches_tracked").add_(1)
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.gamma(),
            self.bias,
            of_batch,
            MOMENTUM,
            self.eps,
        )
        return self._activated(x)

    def _activated(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.slope is None else F.leaky_relu(x, self.slope, inplace=True)


class SEModule(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean of x)))), 1x1 convolutions."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) -> the same shape."""
        gate = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(gate), inplace=True)))
