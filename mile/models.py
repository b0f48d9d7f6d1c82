"""The networks by name, the start of their last bias, and the weight files that they can take."""

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
from mile.learning import under
from mile.method import prior_bias

one_module(__name__, "mile.models")

# name -> classes; `-10` for the digits of multi-label MNIST
CLASSES = {"resnet18": 1000, "resnet50": 1000, "resnet18-10": 10, "small": 1000, "small-10": 10}


class SmallNet(nn.Sequential):
    """The samples' network.

    Three blocks of convolution, batch norm and ReLU, 3x3 average pooling, linear.
    """

    def __init__(self, num_classes: int) -> None:
        blocks: list[nn.Module] = []
        channels = 3
        for width, stride in ((24, 2), (48, 1), (64, 2)):
            blocks.append(nn.Conv2d(channels, width, 3, stride, 1, bias=False))
            blocks.append(nn.BatchNorm2d(width))
            blocks.append(nn.ReLU())
            channels = width
        last = nn.Linear(9 * channels, num_classes)
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(3), nn.Flatten(), last)


def classes_of(name: str) -> int:
    """The number of classes that a model name stands for; 1000 for timm's names."""
    return CLASSES.get(name, 1000)


def build_model(name: str, num_classes: int | None = None, bias_init: str = "prior") -> nn.Module:
    """The network `name` from scratch, torchvision's key names for the ResNets.

    num_classes: default 1000, or 10 for the names that end in -10. bias_init="prior": the last bias
    starts at
    -ln C, so that every sigmoid starts at 1/(C+1); "default" leaves it. UserError for an unknown
    name, ValueError for another bias_init and for less than one class.
    """
    require_one_of(bias_init, ("prior", "default"), "bias_init")
    classes = classes_of(name) if num_classes is None else num_classes
    require_number(classes, "num_classes", 1)
    model: nn.Module
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
    """Set the last layer's bias to its start at the class prior, method.prior_bias."""
    last: nn.Linear | nn.Conv2d | None = None
    for module in model.modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)):
            continue
        if module.bias is not None and module.bias.shape == (num_classes,):
            last = module
    if last is None or last.bias is None:
        raise UserError(
            f"{type(model).__name__} has no last layer with a bias; use --bias_init default"
        )
    nn.init.constant_(last.bias, prior_bias(num_classes))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a weight file of one of four kinds.

    A plain state dict (torchvision's, the unofficial code's); keys under `module.`; the authors'
    checkpoint, a dict whose `state_dict` has the network under `backbone.module.` (its `teacher.`
    is not read); checkpoints/last.pt of a run here. UserError names the first keys and shapes that
    do not fit.
    """
    state = checkpoint.load(Path(path))
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]

    start = "backbone."
    if isinstance(state, dict) and isinstance(state.get("state"), dict):
        start = "student."
        state = state["state"].get("learner")
        if not isinstance(state, dict):
            raise UserError(f"{path}: a checkpoint without a learner, not one of MILe.py")
        state = under(start, state)
    _require_weights(state, path)
    if start == "backbone." and any(key.startswith(start) for key in state):
        state = under(start, state)
    checkpoint.load_into(model, state, path)


def _require_weights(state: Any, path: str | Path) -> None:
    """UserError, which says what there is, where `state` is no dict of tensors by name."""
    expected = "expected weights by name, or those under state_dict"
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}; {expected}")
    others = []
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            others.append(f"{key!r:.40} ({type(value).__name__})")
    if others:
        shown = ", ".join(others[:3])
        raise UserError(f"{path}: holds {shown}, no tensors; {expected}")
