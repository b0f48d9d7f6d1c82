"""The networks by name, the prior start of their last bias, and the weight files they can start from."""

import math
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.domain import require_number, require_one_of

one_module(__name__, "mile.models")

# name -> classes; `-10` for the digits of multi-label MNIST
CLASSES = {"resnet18": 1000, "resnet50": 1000, "resnet18-10": 10, "small": 1000, "small-10": 10}


class SmallNet(nn.Sequential):
    """The samples' network: three blocks of convolution, batch norm and ReLU, 3x3 average pooling, linear."""

    def __init__(self, num_classes: int) -> None:
        blocks, channels = [], 3
        for width, stride in ((24, 2), (48, 1), (64, 2)):
            blocks += [
                nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        super().__init__(
            *blocks, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * channels, num_classes)
        )


def classes_of(name: str) -> int:
    """The number of classes that a model name stands for; 1000 for timm's names."""
    return CLASSES.get(name, 1000)


def build_model(name: str, num_classes: int | None = None, bias_init: str = "prior") -> nn.Module:
    """The network `name` from scratch, torchvision's key names for the ResNets.

    num_classes: default 1000, or 10 for the names that end in -10. bias_init="prior": the last bias starts at
    -ln C, so that every sigmoid starts at 1/(C+1); "default" leaves it. UserError for an unknown name, ValueError
    for another bias_init and for less than one class.
    """
    require_one_of(bias_init, ("prior", "default"), "bias_init")
    classes = classes_of(name) if num_classes is None else num_classes
    require_number(classes, "num_classes", 1)
    if name in ("small", "small-10"):
        model = SmallNet(classes)
    elif name in ("resnet18", "resnet18-10"):
        model = torchvision.models.resnet18(num_classes=classes)
    elif name == "resnet50":
        model = torchvision.models.resnet50(num_classes=classes)
    elif name in timm.list_models():
        model = timm.create_model(name, num_classes=classes)
    else:
        raise UserError(
            f"--model {name}: choose from {', '.join(CLASSES)} or a name of timm.list_models()"
        )
    if bias_init == "prior":
        start_at_prior(model, classes)
    return model


def start_at_prior(model: nn.Module, num_classes: int) -> None:
    """Set the last layer's bias to -ln C: p = sigmoid(-ln C) = 1/(C+1)."""
    last = [
        m
        for m in model.modules()
        if getattr(m, "bias", None) is not None and m.bias.shape == (num_classes,)
    ]
    last = [m for m in last if isinstance(m, (nn.Linear, nn.Conv2d))]
    if not last:
        raise UserError(
            f"{type(model).__name__} has no last layer with a bias; use --bias_init default"
        )
    nn.init.constant_(last[-1].bias, -math.log(num_classes))


def _require_weights(state: Any, path: str | Path) -> None:
    """UserError, which says what there is, where `state` is no dict of tensors by name."""
    expected = "expected weights by name, or those under state_dict"
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}; {expected}")
    others = [
        key
        for key, value in state.items()
        if not isinstance(key, str) or not isinstance(value, torch.Tensor)
    ]
    if others:
        shown = ", ".join(f"{key!r:.40} ({type(state[key]).__name__})" for key in others[:3])
        raise UserError(f"{path}: holds {shown}, no tensors; {expected}")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a weight file: a plain state dict (torchvision's, the unofficial code's), keys under `module.`, or the
    authors' checkpoint, a dict whose `state_dict` has the network under `backbone.module.` (its `teacher.` is left).

    UserError names the first keys and shapes that do not fit.
    """
    state = checkpoint.load(Path(path))
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if isinstance(state, dict) and isinstance(
        state.get("state"), dict
    ):  # checkpoints/last.pt of a run here
        learner = state["state"].get("learner")
        if not isinstance(learner, dict):
            raise UserError(f"{path}: a checkpoint without a learner, not one of MILe.py")
        state = {
            f"backbone.{k[8:]}": v for k, v in learner.items() if str(k).startswith("student.")
        }
    _require_weights(state, path)
    if any(key.startswith("backbone.") for key in state):
        state = {
            key[len("backbone.") :]: value
            for key, value in state.items()
            if key.startswith("backbone.")
        }
    checkpoint.load_into(model, state, path)
