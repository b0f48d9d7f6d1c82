"""Networks of timm and torchvision with a linear layer after pooling, and class activation maps.

A map M_k(place) says how much a place speaks for class k: its sum (or average) over the places is
the logit but for a constant a class.

Shapes: B images, C channels, K classes, h w the places of a map, S the side of an image.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import nn

from common.aliases import one_module
from common.backbones import CamClassifier, feature_network, source_of
from common.backbones_names import TIMM
from common.backbones_search import Target
from common.cam import class_activation_map
from common.cli import UserError
from common.download import connection_limits
from mile.data_images import Statistics

one_module(__name__, "mile.models_backbones")

OWN_HEAD = "cam_head"  # where the published classifier is not linear after pooling
INSIDE = "features.body."


class Backbone(CamClassifier):
    """A network by name, average pooling, a linear layer.

    Its weights have the names of timm (torchvision), classifier included, so that files go both
    ways. Where the published classifier is not linear after pooling (ViTs that read their class
    token, MobileNetV3) that is left out, and ours is called cam_head.

    Args:
        name: as `common.backbones.feature_network` takes it.
        num_classes: K.
        image_size: S; None for the network's own.
        published: start from published weights (the hub, 15 s for a connection).
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        image_size: int | None = None,
        published: bool = False,
    ) -> None:
        features = feature_network(name, image_size=image_size, pretrained=published)
        self.head_name = OWN_HEAD
        if features.head_fits:
            self.head_name = features.weight_target().head[0]
        super().__init__(features, num_classes)
        self.has_published_head = published and features.head_fits and features.published is None
        self.register_state_dict_post_hook(_with_names_of_the_library)
        self.register_load_state_dict_pre_hook(_with_own_names)

    @property
    def class_name(self) -> str:
        """The class of the network itself: "EfficientNet"."""
        return type(self.features.body).__name__

    @property
    def statistics(self) -> Statistics:
        """What its inputs are normalised with, and how they are resized."""
        return statistics_of(self.features)

    def weight_target(self) -> Target:
        """What common.backbones.load_weights fills."""
        target = super().weight_target()
        target.published = (*target.published, self.head_name)
        target.head = (*target.head, self.head_name)
        return target


def statistics_of(features: Any) -> Statistics:
    """The statistics of a feature network; interpolation bilinear where it has another kind."""
    mode = features.interpolation
    if mode not in ("nearest", "bilinear", "bicubic"):
        mode = "bilinear"
    return Statistics(tuple(features.mean), tuple(features.std), mode)


def _with_names_of_the_library(
    module: Backbone, state: dict[str, Any], prefix: str, local_metadata: Any
) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        name = key[len(prefix) :]
        if name.startswith(INSIDE):
            name = name[len(INSIDE) :]
        elif name.startswith("head."):
            name = f"{module.head_name}{name[len('head') :]}"
        state[prefix + name] = state.pop(key)  # the order stays


def _with_own_names(module: Backbone, state: dict[str, Any], prefix: str, *_: Any) -> None:
    start = f"{module.head_name}."
    for key in [key for key in state if key.startswith(prefix)]:
        name = key[len(prefix) :]
        if name.startswith(start) and name[len(start) :] in ("weight", "bias"):
            name = f"head.{name[len(start) :]}"
        else:
            name = INSIDE + name
        state[prefix + name] = state.pop(key)


# ---- networks with the classifier of their library -----------------------------------------------


def whole_network(
    name: str, num_classes: int, image_size: int | None = None, *, published: bool = False
) -> nn.Module:
    """A network with its library's own classifier, whatever that is: for weights made with it."""
    source, rest = source_of(name)
    if source != TIMM:
        weights = "DEFAULT" if published else None
        if published:
            return torchvision.models.get_model(rest, weights=weights)
        return torchvision.models.get_model(rest, num_classes=num_classes)
    import timm

    try:
        return timm.create_model(
            rest, pretrained=published, num_classes=num_classes, img_size=image_size
        )
    except TypeError:  # networks that take any size have no such setting
        return timm.create_model(rest, pretrained=published, num_classes=num_classes)


def published_whole(name: str, num_classes: int, image_size: int | None) -> nn.Module:
    """`whole_network` with published weights; UserError where they cannot be had."""
    try:
        with connection_limits():
            return whole_network(name, num_classes, image_size, published=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        problem = f"--pretrained imagenet: download failed ({reason})"
        raise UserError(f"{problem}; give a weight file instead") from error


def names_head(saved: Any, head_name: str) -> bool:
    """Whether a weight file, however it is wrapped, has a classifier of this name."""
    if not isinstance(saved, Mapping):
        return False
    for key, value in saved.items():
        if isinstance(value, Mapping) and names_head(value, head_name):
            return True
        if str(key).endswith(f"{head_name}.weight") and isinstance(value, torch.Tensor):
            return True
    return False


# ---- maps ----------------------------------------------------------------------------------------


def has_maps(model: nn.Module) -> bool:
    """Whether `logits_and_maps` takes the network."""
    return isinstance(model, (CamClassifier, torchvision.models.ResNet)) or _is_small(model)


def logits_and_maps(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B,K) and class activation maps (B,K,h,w) of images (B,3,S,S), in one pass.

    UserError for a network whose classifier is not linear after pooling.
    """
    if isinstance(model, CamClassifier):
        return model.forward_with_maps(images)
    if isinstance(model, torchvision.models.ResNet):
        return _of_resnet(model, images)
    if _is_small(model):
        return _of_small(model, images)
    raise UserError(f"{type(model).__name__}: its classifier is not linear after pooling: no maps")


def _of_resnet(
    model: torchvision.models.ResNet, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    for block in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = block(x)
    logits = model.fc(x.mean((2, 3)))
    return logits, class_activation_map(x, model.fc.weight, relu=False)


def _is_small(model: nn.Module) -> bool:
    is_chain = isinstance(model, nn.Sequential) and len(model) > 3
    return is_chain and isinstance(model[-3], nn.AdaptiveAvgPool2d)  # type: ignore[index]


def _of_small(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SmallNet's linear layer reads 3x3 places: each has weights of its own, M (B,K,3,3)."""
    assert isinstance(model, nn.Sequential)
    last: Any = model[-1]
    x = images
    for layer in list(model)[:-2]:
        x = layer(x)
    batch, channels, height, width = x.shape
    weight = last.weight.view(-1, channels, height, width)
    maps = torch.einsum("bchw,kchw->bkhw", x, weight)
    return last(x.flatten(1)), maps


def as_plain(statistics: Statistics) -> dict[str, Any]:
    """Statistics for a checkpoint."""
    return {
        "mean": list(statistics.mean),
        "std": list(statistics.std),
        "interpolation": statistics.interpolation,
    }


def from_plain(said: Mapping[str, Any]) -> Statistics:
    """The statistics that a checkpoint says."""
    mean = tuple(float(value) for value in said["mean"])
    std = tuple(float(value) for value in said["std"])
    return Statistics(mean, std, str(said["interpolation"]))
