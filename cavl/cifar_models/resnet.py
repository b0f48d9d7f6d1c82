"""ResNet for 32x32 images: three stages of 16, 32, 64 maps (He et al., CVPR 2016, section 4.2)."""

import torch
import torch.nn.functional as F
from torch import nn

from cavl.cifar_models.class_activation import ClassActivationNetwork, conv, init_he_fan_out
from common.aliases import one_module

one_module(__name__, "cavl.cifar_models.resnet")


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        conv(in_channels, out_channels, 1, stride),
        nn.BatchNorm2d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions, four times as many maps out, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + shortcut)


class ResNet(ClassActivationNetwork):
    """(B, in_channels, H, W) -> logits (B, num_classes), with (depth - 2) / 6 blocks in each stage.

    Basic blocks below depth 44, bottlenecks from 44 on (the same number of blocks, so more layers
    than the depth says).
    """

    def __init__(self, depth: int = 32, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth {depth} is not 6n + 2 (8, 14, 20, 26, 32, 44, 56, 110, ...)")
        num_blocks = (depth - 2) // 6
        block = Bottleneck if depth >= 44 else BasicBlock

        self.conv1 = conv(in_channels, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(block, 16, 16, num_blocks, stride=1)
        self.layer2 = self._stage(block, 16 * block.expansion, 32, num_blocks, stride=2)
        self.layer3 = self._stage(block, 32 * block.expansion, 64, num_blocks, stride=2)
        self.fc = nn.Linear(64 * block.expansion, num_classes)
        init_he_fan_out(self)

    @staticmethod
    def _stage(
        block: type[BasicBlock] | type[Bottleneck],
        in_channels: int,
        width: int,
        num_blocks: int,
        stride: int,
    ) -> nn.Sequential:
        first = block(in_channels, width, stride)
        return nn.Sequential(
            first, *(block(width * block.expansion, width) for _ in range(num_blocks - 1))
        )

    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(h)))


def resnet(depth: int = 32, num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """Build a ResNet for 32x32 images (other sizes work)."""
    return ResNet(depth, num_classes, in_channels)
