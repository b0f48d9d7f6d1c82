"""Inception v3 up to Mixed_6e with a dense grid, then two 3x3 layers and the heads."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionC

from calm.network.head import AttributionNet
from calm.network.util import initialize_weights, load_imagenet
from common.aliases import one_module

one_module(__name__, "calm.network.inception")


class DenseInceptionB(nn.Module):
    """Mixed_6a with stride 1: both convolution branches and the pool keep the grid."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(inputs, 384, kernel_size=3, padding=1)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, kernel_size=1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,288,h,w) to (B,768,h,w)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 1, 1)], 1)


def dense_layer(inputs: int, outputs: int, use_bn: bool) -> nn.Sequential:
    """3x3 convolution with bias, [batch norm], ReLU."""
    norm = [nn.BatchNorm2d(outputs)] if use_bn else []
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU(inplace=False))


class InceptionCam(AttributionNet):
    """torchvision's blocks and names up to Mixed_6e, A3_1b, A3_2b, conv_last, attention."""

    def __init__(
        self, num_classes: int, large_feature_map: bool, use_bn: bool, **process: str
    ) -> None:
        super().__init__(**process)
        self.large_feature_map = large_feature_map
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, kernel_size=3, stride=2, padding=1)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b = InceptionA(192, pool_features=32)
        self.Mixed_5c = InceptionA(256, pool_features=64)
        self.Mixed_5d = InceptionA(288, pool_features=64)
        self.Mixed_6a = DenseInceptionB(288)
        self.Mixed_6b = InceptionC(768, channels_7x7=128)
        self.Mixed_6c = InceptionC(768, channels_7x7=160)
        self.Mixed_6d = InceptionC(768, channels_7x7=160)
        self.Mixed_6e = InceptionC(768, channels_7x7=192)
        self.A3_1b = dense_layer(768, 1024, use_bn)
        self.A3_2b = dense_layer(1024, 1024, use_bn)
        self.make_heads(1024, num_classes)
        initialize_weights(self.modules(), "xavier")

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,1024,h,w): 14x14 at 224, or 28x28 with the large feature map."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        if not self.large_feature_map:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.A3_2b(self.A3_1b(x))


def build_inception_v3(
    pretrained: bool, pretrained_path: str | None, **kwargs: Any
) -> InceptionCam:
    """Inception v3, everything below A3_1b started from ImageNet if `pretrained`."""
    model = InceptionCam(**kwargs)
    if pretrained:
        load_imagenet(
            model, "inception_v3_google", pretrained_path, drop=("fc.", "Mixed_7", "AuxLogits")
        )
    return model
