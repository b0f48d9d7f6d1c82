"""VGG16 without its last pool, then conv6 and the heads.

With `large_feature_map` it is without pool 4 too.
"""

import re
from functools import partial
from typing import Any

import torch
from torch import nn

from calm.network.head import AttributionNet
from calm.network.util import initialize_weights, load_imagenet
from common.aliases import one_module

one_module(__name__, "calm.network.vgg")

CHANNELS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


def make_features(use_bn: bool, large_feature_map: bool) -> nn.Sequential:
    """Return the convolutions under torchvision's indices.

    The large variant leaves out the fourth pool.
    """
    layers: list[nn.Module] = []
    inputs = 3
    pools = 0
    for entry in CHANNELS:
        if isinstance(entry, str):  # M, a pool
            pools += 1
            if pools < 4 or not large_feature_map:
                layers.append(nn.MaxPool2d(2, 2))
            continue
        layers.append(nn.Conv2d(inputs, entry, 3, padding=1))
        if use_bn:
            layers.append(nn.BatchNorm2d(entry))
        layers.append(nn.ReLU(inplace=True))
        inputs = entry
    return nn.Sequential(*layers)


class VggCam(AttributionNet):
    """VGG16 with a convolution conv6 and the two heads.

    It is features, conv6 (512 to 1024), [bn6], ReLU, conv_last, attention; the grid is 14x14 or
    28x28 at 224.
    """

    def __init__(
        self, num_classes: int, large_feature_map: bool, use_bn: bool, **process: str
    ) -> None:
        super().__init__(**process)
        self.features = make_features(use_bn, large_feature_map)
        self.conv6 = nn.Conv2d(512, 1024, 3, padding=1)
        self.bn6 = nn.BatchNorm2d(1024) if use_bn else None
        self.relu = nn.ReLU(inplace=False)
        self.make_heads(1024, num_classes)
        initialize_weights(self.modules(), "he")

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,1024,H/16,W/16), or H/8 with the large feature map."""
        x = self.conv6(self.features(x))
        if self.bn6 is not None:
            x = self.bn6(x)
        return self.relu(x)


def reindex_features(state_dict: dict[str, torch.Tensor], pool: int) -> dict[str, torch.Tensor]:
    """Move the names of `features.N...` down by one behind layer `pool`.

    All five batch-norm entries move.
    """

    def moved(match: re.Match) -> str:
        index = int(match.group(1))
        return f"features.{index - (index > pool)}."

    return {re.sub(r"^features\.(\d+)\.", moved, key): value for key, value in state_dict.items()}


def build_vgg16(pretrained: bool, pretrained_path: str | None, **kwargs: Any) -> VggCam:
    """vgg16 or vgg16_bn (`use_bn`), its features started from ImageNet if `pretrained`."""
    model = VggCam(**kwargs)
    if pretrained:
        name = "vgg16"
        fourth_pool = 23
        if kwargs["use_bn"]:
            name = "vgg16_bn"
            fourth_pool = 33
        rename = None
        if kwargs["large_feature_map"]:
            rename = partial(reindex_features, pool=fourth_pool)
        load_imagenet(model, name, pretrained_path, drop=("classifier.",), rename=rename)
    return model
