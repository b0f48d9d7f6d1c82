"""DenseNet-BC for 32x32 images, depth 22 (Huang et al., CVPR 2017)."""

import torch
import torch.nn.functional as F
from torch import nn

from cavl.cifar_models.class_activation import ClassActivationNetwork, conv, init_he_fan_out
from common.aliases import one_module

one_module(__name__, "cavl.cifar_models.densenet")

DEPTH = 22
GROWTH_RATE = 12
BOTTLENECK_FACTOR = 4
COMPRESSION_RATE = 2


class DenseLayer(nn.Module):
    """BN-ReLU-1x1, BN-ReLU-3x3; the new maps are appended to the input."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        width = GROWTH_RATE * BOTTLENECK_FACTOR
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, GROWTH_RATE, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(h)))], dim=1)


class Transition(nn.Module):
    """BN-ReLU-1x1 to fewer maps, then 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(ClassActivationNetwork):
    """(B, in_channels, H, W) -> logits (B, num_classes): three dense blocks, two transitions."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        num_layers = (DEPTH - 4) // 6
        channels = 2 * GROWTH_RATE
        self.conv1 = conv(in_channels, channels, 3)
        for i in (1, 2, 3):
            layers = [DenseLayer(channels + j * GROWTH_RATE) for j in range(num_layers)]
            setattr(self, f"dense{i}", nn.Sequential(*layers))
            channels += num_layers * GROWTH_RATE
            if i < 3:
                setattr(self, f"trans{i}", Transition(channels, channels // COMPRESSION_RATE))
                channels //= COMPRESSION_RATE
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        init_he_fan_out(self)

    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(x)
        for name in ("dense1", "trans1", "dense2", "trans2", "dense3"):
            h = self.get_submodule(name)(h)
        return F.relu(self.bn(h))


def densenet(num_classes: int = 10, in_channels: int = 3) -> DenseNet:
    """Build a DenseNet-22 for 32x32 images (other sizes work)."""
    return DenseNet(num_classes, in_channels)
