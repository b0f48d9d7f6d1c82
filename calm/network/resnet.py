"""ResNet with a dense last grid: stride 16, or 8 with `large_feature_map`; layer4 never strides."""

import torch
from torch import nn

from calm.network.head import AttributionNet
from calm.network.util import initialize_weights, load_imagenet
from common.aliases import one_module

one_module(__name__, "calm.network.resnet")

STAGES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


class Block(nn.Module):
    """A residual block: 3x3, 3x3 (`expansion` 1), or 1x1, 3x3, 1x1 (`expansion` 4) with the stride on the 3x3."""

    def __init__(self, inputs: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        outputs = width * expansion
        if expansion == 1:
            plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
        else:
            plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        self.depth = len(plan)
        for n, (a, b, kernel, step) in enumerate(plan, 1):
            self.add_module(f"conv{n}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{n}", nn.BatchNorm2d(b))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,inputs,h,w) to (B,width*expansion,h',w')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for n in range(1, self.depth + 1):
            x = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(x))
            x = self.relu(x) if n < self.depth else x
        return self.relu(x + shortcut)


class ResNetCam(AttributionNet):
    """conv1 bn1 layer1..4 conv_last attention; no fc, no dropout."""

    def __init__(
        self, name: str, num_classes: int, large_feature_map: bool, **process: str
    ) -> None:
        super().__init__(**process)
        expansion = 4 if name == "resnet50" else 1
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        strides, inputs = (1, 2, 1 if large_feature_map else 2, 1), 64
        for n, (count, stride) in enumerate(zip(STAGES[name], strides, strict=True), 1):
            width = 64 * 2 ** (n - 1)
            blocks = [Block(inputs, width, stride, expansion)]
            inputs = width * expansion
            blocks += [Block(inputs, width, 1, expansion) for _ in range(count - 1)]
            self.add_module(f"layer{n}", nn.Sequential(*blocks))
        self.make_heads(inputs, num_classes)
        initialize_weights(self.modules(), "xavier")

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,D,H/16,W/16), or H/8 with the large feature map."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def build_resnet(
    name: str, pretrained: bool, pretrained_path: str | None, **kwargs: object
) -> ResNetCam:
    """A ResNet, its backbone started from ImageNet if `pretrained`; `use_bn` means nothing here."""
    kwargs.pop("use_bn", None)
    model = ResNetCam(name, **kwargs)
    if pretrained:
        load_imagenet(model, name, pretrained_path, drop=("fc.",))
    return model
