"""The networks of a run: from scratch, from start weights, or as they were trained."""

from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.backbones_weights import read
from common.cli import UserError
from common.download import connection_limits
from common.sync_bn import synchronised
from mile.models import CLASSES, build_model, load_state, start_at_prior, start_from
from mile.models_backbones import Backbone, names_head, published_whole, whole_network
from mile.models_frozen import with_frozen_body

one_module(__name__, "mile.build_networks")


def build_network(
    name: str,
    num_classes: int,
    accelerator: Accelerator,
    *,
    bias_init: str,
    pretrained: str,
    image_size: int | None = None,
    is_trained: bool = False,
    is_frozen: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> nn.Module:
    """The network on the device, from scratch or from `pretrained`, a weight file or imagenet.

    is_trained: the weights are evaluated as they are; else a classifier that does not fit is left
    out, which `say` is told. is_frozen: all but the classifier stays as it is.
    """
    if pretrained and is_trained:
        model = _trained_network(name, num_classes, bias_init, pretrained, image_size)
    elif pretrained == "imagenet" and name not in CLASSES:
        model = build_model(name, num_classes, bias_init, image_size=image_size, published=True)
    else:
        model = build_model(name, num_classes, bias_init, image_size=image_size)
        if pretrained == "imagenet":
            _load_published(model, name, num_classes, bias_init)
        elif pretrained:
            say(start_from(model, pretrained))
    if is_frozen:
        model = with_frozen_body(model, name)
    elif accelerator.num_processes > 1:
        model = synchronised(model, accelerator)
    # channels_last is a quarter faster, on a CPU too.
    return model.to(accelerator.device).to(memory_format=torch.channels_last)


def _trained_network(
    name: str, num_classes: int, bias_init: str, pretrained: str, image_size: int | None
) -> nn.Module:
    """The network of weights that are to be evaluated, its classifier included.

    Published weights of some networks of timm have a classifier that is not linear after pooling.
    """
    model = build_model(name, num_classes, bias_init, image_size=image_size)
    if pretrained == "imagenet":
        if not isinstance(model, Backbone):
            _load_published(model, name, num_classes, bias_init)
            return model
        if model.features.head_fits:
            return build_model(name, num_classes, bias_init, image_size=image_size, published=True)
        return published_whole(name, num_classes, image_size)

    saved = read(Path(pretrained))
    if isinstance(model, Backbone) and not names_head(saved, model.head_name):
        model = whole_network(name, num_classes, image_size)
    load_state(model, saved, pretrained)
    return model


def _load_published(model: nn.Module, name: str, num_classes: int, bias_init: str) -> None:
    """torchvision's ImageNet weights of resnet18 and resnet50.

    The last layer only where 1,000 classes fit.
    """
    if name not in ("resnet18", "resnet50"):
        raise UserError(
            f"--pretrained imagenet: there are no published weights of {name}; give a file"
        )
    try:
        with connection_limits():
            published = torchvision.models.get_model(name, weights="IMAGENET1K_V1")
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"--pretrained imagenet: download failed ({error}); give a weight file instead"
        ) from error

    theirs = published.state_dict()
    own = model.state_dict()
    for key, value in own.items():
        if key in theirs and theirs[key].shape == value.shape:
            own[key] = theirs[key]
    model.load_state_dict(own)
    if num_classes != 1000 and bias_init == "prior":
        start_at_prior(model, num_classes)
