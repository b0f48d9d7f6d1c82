"""Any network of timm or torchvision under the two heads, through common.backbones."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from calm.network import ARCHITECTURES
from calm.network.head import AttributionNet
from calm.network.util import OURS, initialize_weights
from common.aliases import one_module
from common.backbones import FeatureNetwork, Report, StrideError, feature_network, load_weights
from common.cli import UserError

one_module(__name__, "calm.network.any")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DENSE, LARGE = 16, 8  # pixels a place, as the paper's networks have them


class AnyCam(AttributionNet):
    """The feature map of a network, normed at each place, under `conv_last` and `attention`.

    Images come normalised by ImageNet's mean and deviation, as all of CALM's do; where the network
    was trained with others, `extract` goes over to these.
    """

    merges_batch_norm = False

    def __init__(self, features: FeatureNetwork, num_classes: int, **process: str) -> None:
        super().__init__(**process)
        self.features = features
        self.interpolation = features.interpolation
        self.make_heads(features.channels, num_classes)
        initialize_weights([self.conv_last, self.attention[0]], "xavier")
        mean = torch.tensor(features.mean)
        std = torch.tensor(features.std)
        self.gain: torch.Tensor
        self.shift: torch.Tensor
        own_mean = torch.tensor(IMAGENET_MEAN)
        own_std = torch.tensor(IMAGENET_STD)
        self.is_imagenet = mean.equal(own_mean) and std.equal(own_std)
        for name, value in (("gain", own_std / std), ("shift", (own_mean - mean) / std)):
            self.register_buffer(name, value.view(1, 3, 1, 1), persistent=False)

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) to (B,D,h,w)."""
        if not self.is_imagenet:
            x = x * self.gain + self.shift
        return self.features(x)


def build_any(
    name: str,
    *,
    pretrained: bool,
    weights: str | Path | None,
    num_classes: int,
    large_feature_map: bool,
    image_size: int,
    **process: Any,
) -> AnyCam:
    """A network of timm or torchvision with CALM's heads.

    Its map has a place every 16 pixels where it can, else its own grid; every 8 with
    `large_feature_map`, UserError where it cannot.
    """
    features = _dense(name, large_feature_map, image_size, pretrained, weights)
    return AnyCam(features, num_classes, **process)


def _dense(
    name: str, is_large: bool, image_size: int, pretrained: bool, weights: str | Path | None
) -> FeatureNetwork:
    how: dict[str, Any] = {"image_size": image_size, "norm": "map"}
    how |= {"pretrained": pretrained and weights is None, "weights": weights}
    if is_large:
        try:
            return feature_network(name, stride=LARGE, **how)
        except StrideError as error:
            remedy = "leave out --large_feature_map, or take a ResNet or an EfficientNet"
            raise UserError(f"{name} has no map with a place every {LARGE} px; {remedy}") from error
    try:
        return feature_network(name, stride=DENSE, **how)
    except StrideError:
        return feature_network(name, **how)


def make_network(args: Any, classes: int, pretrained: bool, weights: str | None) -> AttributionNet:
    """The network of the flags: one of the paper's, else one of timm or torchvision.

    `weights` is a file for the backbone; what it held is printed.
    """
    how = {
        "pretrained": pretrained,
        "num_classes": classes,
        "large_feature_map": args.large_feature_map,
        "attribution_method": args.attribution_method,
        "prior_activation": args.prior_activation,
        "prior_gradient": args.prior_gradient,
    }
    name = args.architecture
    if name not in ARCHITECTURES:
        file = weights or (args.pretrained_path if pretrained else None)
        made = build_any(name, weights=file, image_size=args.crop_size, **how)
        if made.features.report is not None:
            print(made.features.report, flush=True)
        return made

    path = args.pretrained_path
    model = ARCHITECTURES[name](pretrained_path=path, use_bn=args.use_bn, **how)
    if weights is not None:
        print(load_backbone(model, weights), flush=True)
    return model


def load_backbone(model: nn.Module, file: str | Path) -> Report:
    """Fill the backbone of one of the paper's networks from a weight file; its heads stay."""
    heads = [name for name, _ in model.named_children() if f"{name}.".startswith(OURS)]
    return load_weights(model, file, head=[*heads, "fc", "classifier"])


def input_of(model: nn.Module) -> dict[str, Any] | None:
    """What a checkpoint says of a network of timm or torchvision: how it is made, and its input."""
    if not isinstance(model, AnyCam):
        return None
    return model.features.described()
