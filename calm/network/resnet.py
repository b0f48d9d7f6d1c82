"""torchvision's ResNet with a dense last grid.

The stride is 16, or 8 with `large_feature_map`; layer4 never strides.
"""

from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import ResNet, resnet18, resnet50

from calm.network.head import AttributionNet
from calm.network.util import initialize_weights, load_imagenet
from common.aliases import one_module

one_module(__name__, "calm.network.resnet")

BACKBONES = {"resnet18": resnet18, "resnet50": resnet50}


class ResNetCam(AttributionNet):
    """conv1 bn1 layer1..4 conv_last attention; no fc, no dropout."""

    def __init__(
        self, name: str, num_classes: int, large_feature_map: bool, **process: str
    ) -> None:
        super().__init__(**process)
        backbone = _backbone(name)
        self.conv1 = backbone.conv1
        self.bn1 = backbone.bn1
        self.relu = backbone.relu
        self.maxpool = backbone.maxpool
        self.layer1 = backbone.layer1
        self.layer2 = backbone.layer2
        self.layer3 = backbone.layer3
        self.layer4 = backbone.layer4
        _remove_stride(self.layer4)
        if large_feature_map:
            _remove_stride(self.layer3)
        self.make_heads(backbone.fc.in_features, num_classes)
        initialize_weights(self.modules(), "xavier")

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,D,H/16,W/16), or H/8 with the large feature map."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _backbone(name: str) -> ResNet:
    """Return torchvision's network, each layer initialised once, in order.

    A seed gives the weights that it always gave.
    """
    device = torch.get_default_device()
    with torch.device("meta"):
        backbone = BACKBONES[name]()
    backbone.to_empty(device=device)
    for module in backbone.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    return backbone


def _remove_stride(stage: nn.Sequential) -> None:
    """Let the first block of a stage keep its grid."""
    for module in stage[0].modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def build_resnet(
    name: str, pretrained: bool, pretrained_path: str | None, **kwargs: Any
) -> ResNetCam:
    """A ResNet, its backbone started from ImageNet if `pretrained`; `use_bn` means nothing here."""
    kwargs.pop("use_bn", None)
    model = ResNetCam(name, **kwargs)
    if pretrained:
        load_imagenet(model, name, pretrained_path, drop=("fc.",))
    return model
