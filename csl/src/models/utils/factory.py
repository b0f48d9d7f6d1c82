"""create_model: a network by its name, and the normalisation of its input.

The paper's own networks come first (TResNets), then any name of timm or torchvision, whose feature
map is averaged and gets one linear layer: class activation maps exist for every one of them.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from common.aliases import one_module
from common.backbones import CamClassifier, FeatureNetwork, feature_network
from common.cam import class_activation_map
from common.cli import DomainError
from common.errors import UserError
from csl.data_errors import require_count
from csl.data_pixels import INTERPOLATIONS, Statistics, statistics_of
from csl.options_choices import NETWORKS, canonical_name
from csl.src.models.tresnet.tresnet import TResNet, build_tresnet

one_module(__name__, "csl.src.models.utils.factory")

__all__ = [
    "CamNetwork",
    "Input",
    "activation_maps",
    "backbone_input",
    "backbone_of",
    "build_network",
    "canonical_name",
    "create_model",
    "input_of",
    "input_statistics",
    "published_body",
    "statistics_of_model",
]

# timm's names of the published weights of our TResNets: ImageNet-21k, where there are such.
PUBLISHED = {
    "tresnet_m": "timm/tresnet_m.miil_in21k",
    "tresnet_l": "timm/tresnet_l.miil_in1k",
    "tresnet_xl": "timm/tresnet_xl.miil_in1k",
    "tresnet_l_v2": "timm/tresnet_v2_l.miil_in21k",
}


class Input(NamedTuple):
    """What the weights of a network were trained with; None: values as they are in 0..1."""

    statistics: Statistics | None = None
    interpolation: str = "bilinear"


class CamNetwork(CamClassifier):
    """A network of timm or torchvision: its feature map, the average, one linear layer."""

    def __init__(self, features: FeatureNetwork, num_classes: int) -> None:
        super().__init__(features, num_classes)
        self.num_classes = num_classes


def create_model(args: Any) -> nn.Module:
    """Return the network that the namespace `args` describes.

    It is `build_network` of args.model_name, args.num_classes and, where they are there,
    args.do_bottleneck_head and args.image_size.
    """
    return build_network(
        args.model_name,
        args.num_classes,
        bottleneck=getattr(args, "do_bottleneck_head", False),
        image_size=getattr(args, "image_size", None),
    )


def build_network(
    name: str,
    num_classes: int,
    *,
    bottleneck: bool = False,
    image_size: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """The network of a name with a number of outputs and, if asked, a bottleneck head.

    image_size: for networks that are made for one size. pretrained: published weights from the
    cache or the hub; those of TResNets are `published_body`.
    DomainError: an unknown name, a bottleneck head on another network than TResNet, a size that
    the network cannot take.
    """
    name = canonical_name(name)
    require_count(num_classes, "num_classes", 1)
    if name in NETWORKS:
        return build_tresnet(name, num_classes, bottleneck)
    if bottleneck:
        raise DomainError(f"model {name}: only TResNets have a bottleneck head")
    return CamNetwork(_features(name, image_size, pretrained), num_classes)


def _features(name: str, image_size: int | None, pretrained: bool = False) -> FeatureNetwork:
    try:
        return feature_network(name, image_size=image_size, pretrained=pretrained)
    except DomainError:
        raise
    except UserError as error:
        raise DomainError(f"model {error}") from error


def published_body(name: str) -> dict[str, torch.Tensor]:
    """The published weights of a TResNet under timm's names, without the classifier."""
    name = canonical_name(name)
    if name not in PUBLISHED:
        raise DomainError(f"--pretrained: there are no published weights of {name}")
    return _features(PUBLISHED[name], None, pretrained=True).body.state_dict()


@lru_cache
def input_of(model_name: str | None, image_size: int | None = None) -> Input:
    """What the configuration of a network says about its input; TResNets have none.

    DomainError: an unknown name, a size that the network cannot take.
    """
    if model_name is None or canonical_name(model_name) in NETWORKS:
        return Input()
    name = canonical_name(model_name)
    with torch.random.fork_rng(devices=[]):
        network = _features(name, image_size)
    return _input_of(network)


def _input_of(network: FeatureNetwork) -> Input:
    interpolation = network.interpolation
    if interpolation not in INTERPOLATIONS:
        interpolation = "bilinear"
    return Input(statistics_of(network.mean, network.std, network.name), interpolation)


def input_statistics(model_name: str | None) -> Statistics | None:
    """Mean and deviation that the weights of a network were trained with, as `input_of`."""
    return input_of(model_name).statistics


def statistics_of_model(model: nn.Module) -> Statistics | None:
    """The same of a network that is there: timm's keep their configuration, TResNet has none."""
    if isinstance(model, CamNetwork):
        return _input_of(model.features).statistics
    found = getattr(model, "pretrained_cfg", None) or {}
    return statistics_of(found.get("mean"), found.get("std"), type(model).__name__)


def activation_maps(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Class activation maps (B,C,h,w) of images (B,3,H,W); C classes, negative values too.

    DomainError for a network of neither kind.
    """
    if isinstance(model, CamNetwork):
        return model.maps(images)
    if not isinstance(model, TResNet):
        raise DomainError(f"{type(model).__name__}: no class activation maps of it are known")
    features = model.body(model.space_to_depth(images))
    return class_activation_map(features, model.class_weights(), relu=False)


def backbone_of(model: nn.Module) -> tuple[nn.Module, int]:
    """The part of a network that makes its feature map, and the C channels of the map.

    DomainError for a network of neither kind.
    """
    if isinstance(model, CamNetwork):
        return model.features, model.features.channels
    if isinstance(model, TResNet):
        return model.body, model.num_features
    raise DomainError(f"{type(model).__name__}: no feature map of it is known")


def backbone_input(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images (B,3,H,W) as the network's `backbone_of` takes them."""
    if isinstance(model, TResNet):
        return model.space_to_depth(images)
    return images
