"""Five convolutions, receptive field 27 pixels, stride 4: the sample's network."""

import torch
from torch import nn

from calm.network.head import AttributionNet
from calm.network.util import initialize_weights
from common.aliases import one_module

one_module(__name__, "calm.network.small")

WIDTHS = (24, 32, 48, 64, 96)
STRIDES = (2, 1, 2, 1, 1)  # receptive field 3, 7, 11, 19, 27 pixels


class SmallCam(AttributionNet):
    """A local receptive field lets a map point at a part of the bird."""

    def __init__(self, num_classes: int, **process: str) -> None:
        super().__init__(**process)
        layers: list[nn.Module] = []
        inputs = 3
        for width, stride in zip(WIDTHS, STRIDES, strict=True):
            layers += [
                nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            inputs = width
        self.features = nn.Sequential(*layers)
        self.make_heads(inputs, num_classes)
        initialize_weights(self.modules(), "he")

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,96,H/4,W/4)."""
        return self.features(x)
