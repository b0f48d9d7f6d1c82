"""Networks whose backbone is not trained, `--frozen_features`: what is fixed and what is learned.

Backbone and classifier of a frozen network are one module as before, with the same names in its
weights. It answers a picture, and a row of features that were computed of one, with the same
logits.
"""

from typing import NamedTuple

import torch
import torchvision
from torch import nn

from common.aliases import one_module
from common.errors import DomainError
from common.frozen import freeze
from mile.models import SmallNet
from mile.models_backbones import Backbone

one_module(__name__, "mile.models_frozen")

RESNETS = {"resnet18": "torchvision/resnet18", "resnet50": "torchvision/resnet50"}


class Body(NamedTuple):
    """The part of a network that is computed once.

    Args:
        network: pictures (B,3,S,S) to a map (B,C,h,w), frozen.
        pooled: whether the classifier reads the average over the places alone.
    """

    network: nn.Module
    pooled: bool


class FrozenSmallNet(SmallNet):
    """SmallNet of which the last layer alone is trained; made by `with_frozen_body`.

    Its body gives the 3x3 places that the last layer reads.
    """

    parts: tuple[nn.Module, nn.Module, nn.Module]  # body, flattening, last layer

    def train(self, mode: bool = True) -> "FrozenSmallNet":
        """Nothing that is trained has two modes; the batch norms stay as they are."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B,3,S,S), or features (B,64,3,3), to logits (B,C)."""
        body, flatten, last = self.parts
        return last(flatten(body(images)))


def with_frozen_body(model: nn.Module, name: str) -> nn.Module:
    """The network `name` with all but its classifier fixed; weights, names and outputs stay.

    The ResNets of torchvision come back as another object, the others as they are.
    """
    if isinstance(model, torchvision.models.ResNet):
        model = _as_backbone(model, name)
    if isinstance(model, Backbone):
        freeze(model.features, model.features.channels)
        return model
    if isinstance(model, SmallNet):
        return _frozen_small(model)
    raise DomainError(f"{type(model).__name__}: no network of mile.models.build_model")


def body_of(model: nn.Module) -> Body:
    """The frozen part of what `with_frozen_body` made."""
    if isinstance(model, FrozenSmallNet):
        return Body(model.parts[0], pooled=False)
    if isinstance(model, Backbone):
        return Body(model.features, pooled=True)
    raise DomainError(f"{type(model).__name__}: its body is not frozen")


def _as_backbone(model: torchvision.models.ResNet, name: str) -> Backbone:
    """The same ResNet as a map and a classifier; no random number is taken for it."""
    with torch.random.fork_rng(devices=[]):
        backbone = Backbone(RESNETS[name.removesuffix("-10")], model.fc.out_features)
    backbone.load_state_dict(model.state_dict())
    return backbone


def _frozen_small(model: SmallNet) -> FrozenSmallNet:
    *body, flatten, last = list(model)
    assert isinstance(last, nn.Linear)
    model.__class__ = FrozenSmallNet
    assert isinstance(model, FrozenSmallNet)
    channels = last.in_features // 9
    model.parts = (freeze(nn.Sequential(*body), channels), flatten, last)
    model.train(False)
    return model
