"""The network TResNet (Ridnik et al., WACV 2021).

It has the names, shapes and order of the official state dicts.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from common.aliases import one_module
from common.cli import DomainError
from csl.options_choices import SMALLEST
from csl.src.models.tresnet.layers.anti_aliasing import AntiAliasDownsampleLayer
from csl.src.models.tresnet.layers.avg_pool import FastAvgPool2d
from csl.src.models.tresnet.layers.general_layers import ABN, SEModule, SpaceToDepth

one_module(__name__, "csl.src.models.tresnet.tresnet")

SLOPE = 1e-3  # of the leaky ReLU inside blocks; 1e-2 in the stem


class Layout(NamedTuple):
    """Blocks of the four stages, width factor, and how many of the first stages use BasicBlock."""

    blocks: tuple[int, int, int, int]
    width: float
    basic_stages: int


LAYOUTS = {
    "tresnet_m": Layout((3, 4, 11, 3), 1.0, 2),
    "tresnet_l": Layout((4, 5, 18, 3), 1.2, 2),
    "tresnet_xl": Layout((4, 5, 24, 3), 1.3, 2),
    "tresnet_l_v2": Layout((3, 4, 23, 3), 1.0, 0),
    "tresnet_tiny": Layout((1, 1, 1, 1), 0.25, 2),  # ours, for the offline samples
}


def conv_abn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, slope: float | None = SLOPE
) -> nn.Sequential:
    """Convolution without bias, then ABN.

    With stride 2 both run at stride 1 and a blur follows (keys `0.*`).
    """
    unit = nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        ABN(outputs, slope),
    )
    if stride == 1:
        return unit
    return nn.Sequential(unit, AntiAliasDownsampleLayer())


class BasicBlock(nn.Module):
    """3x3, 3x3, squeeze-and-excitation, shortcut, ReLU."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int, use_se: bool, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = conv_abn(inputs, planes, 3, stride)
        self.conv2 = conv_abn(planes, planes, 3, slope=None)
        self.downsample = downsample
        self.se = SEModule(planes, max(planes // 4, 64)) if use_se else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) -> (B,planes,H/stride,W/stride)."""
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x)
        out = self.conv2(self.conv1(x))
        if self.se is not None:
            out = self.se(out)
        return F.relu(out + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, squeeze-and-excitation, 1x1, shortcut, ReLU."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int, use_se: bool, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = conv_abn(inputs, planes, 1)
        self.conv2 = conv_abn(planes, planes, 3, stride)
        self.conv3 = conv_abn(planes, planes * self.expansion, 1, slope=None)
        self.downsample = downsample
        self.se = SEModule(planes, max(planes * self.expansion // 8, 64)) if use_se else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) -> (B,4*planes,H/stride,W/stride)."""
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x)
        out = self.conv2(self.conv1(x))
        if self.se is not None:
            out = self.se(out)
        return F.relu(self.conv3(out) + shortcut, inplace=True)


class BottleneckHead(nn.Module):
    """Features -> 512 -> classes, no activation between: the head of the Open Images models."""

    def __init__(self, features: int, num_classes: int, hidden: int = 512) -> None:
        super().__init__()
        self.embedding_generator = nn.Sequential(nn.Linear(features, hidden))
        self.FC = nn.Linear(hidden, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,features) -> (B,num_classes)."""
        return self.FC(self.embedding_generator(x))


class bottleneck_head(BottleneckHead):  # noqa: N801 - the released name
    """`BottleneckHead` with the released name and arguments."""

    def __init__(self, num_features: int, num_classes: int, bottleneck_features: int = 200) -> None:
        super().__init__(num_features, num_classes, bottleneck_features)


class TResNet(nn.Module):
    """SpaceToDepth, stem, four stages, global average, linear head.

    `embeddings` keeps the pooled features.
    """

    def __init__(self, layout: Layout, num_classes: int, do_bottleneck_head: bool = False) -> None:
        super().__init__()
        self.inputs = self.planes = int(64 * layout.width)
        self.space_to_depth = SpaceToDepth()
        self.body = nn.Sequential()
        self.body.add_module("conv1", conv_abn(3 * 16, self.inputs, 3, slope=1e-2))
        for stage, count in enumerate(layout.blocks):
            block = BasicBlock if stage < layout.basic_stages else Bottleneck
            self.body.add_module(f"layer{stage + 1}", self._stage(block, stage, count))
        self.global_pool = FastAvgPool2d()
        self.num_features = self.inputs
        head = BottleneckHead if do_bottleneck_head else nn.Linear
        self.head = nn.Sequential()
        self.head.add_module("fc", head(self.num_features, num_classes))
        self.num_classes = num_classes
        self.embeddings: torch.Tensor | None = None
        self._initialise()

    def class_weights(self) -> torch.Tensor:
        """The weights (num_classes, features) of the pooled features in the logits."""
        head = self.head.get_submodule("fc")
        if isinstance(head, BottleneckHead):
            return head.FC.weight @ head.embedding_generator.get_parameter("0.weight")
        return head.get_parameter("weight")

    def _stage(
        self, block: type["BasicBlock | Bottleneck"], stage: int, count: int
    ) -> nn.Sequential:
        planes = self.planes * 2**stage
        stride = 1 if stage == 0 else 2
        outputs = planes * block.expansion
        use_se = stage < 3
        downsample = None
        if stride == 2:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            downsample = nn.Sequential(pool, conv_abn(self.inputs, outputs, 1, slope=None))
        elif self.inputs != outputs:
            downsample = nn.Sequential(conv_abn(self.inputs, outputs, 1, slope=None))
        blocks = [block(self.inputs, planes, stride, use_se, downsample)]
        self.inputs = outputs
        for _ in range(1, count):
            blocks.append(block(outputs, planes, 1, use_se, None))
        return nn.Sequential(*blocks)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
        for module in self.modules():  # the residual branches start at 0
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.get_parameter("conv2.1.weight"))
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.get_parameter("conv3.1.weight"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B,3,H,W) -> logits (B,num_classes).

        What went through the body before, (B,num_features,h,w), goes on from there.
        """
        if x.shape[1] != self.num_features:
            x = self.feature_map(x)
        self.embeddings = self.global_pool(x)
        return self.head(self.embeddings)

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B,3,H,W), H and W multiples of 4 from SMALLEST on -> (B,num_features,h,w).

        Else DomainError.
        """
        if min(x.shape[2:]) < SMALLEST:
            raise DomainError(
                f"image size {x.shape[2]}x{x.shape[3]}: TResNet needs at least {SMALLEST} pixels"
            )
        return self.body(self.space_to_depth(x))


def build_tresnet(name: str, num_classes: int, do_bottleneck_head: bool = False) -> TResNet:
    """The network of a name in LAYOUTS."""
    return TResNet(LAYOUTS[name], num_classes, do_bottleneck_head)


def _from_params(name: str, model_params: dict[str, Any]) -> TResNet:
    bottleneck = getattr(model_params.get("args"), "do_bottleneck_head", False)
    return build_tresnet(name, model_params["num_classes"], bottleneck)


def TResnetM(model_params: dict[str, Any]) -> TResNet:
    """TResNet-M; `model_params` as in the released code: "num_classes", "args"."""
    return _from_params("tresnet_m", model_params)


def TResnetL(model_params: dict[str, Any]) -> TResNet:
    """TResNet-L, width 1.2."""
    return _from_params("tresnet_l", model_params)


def TResnetXL(model_params: dict[str, Any]) -> TResNet:
    """TResNet-XL, width 1.3."""
    return _from_params("tresnet_xl", model_params)


def TResnetL_V2(model_params: dict[str, Any]) -> TResNet:
    """TResNet-L v2: all four stages Bottleneck, the network of ltresnet_v2_opim_87.34.pth."""
    return _from_params("tresnet_l_v2", model_params)
