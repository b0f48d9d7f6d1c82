"""The networks by name, the start of their last bias, and the weight files that they can take."""

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from common import backbones, checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.domain import require_number, require_one_of
from mile.learning import under
from mile.method import prior_bias
from mile.models_backbones import Backbone

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
    """The number of classes that a model name stands for; 1000 for the names of libraries."""
    return CLASSES.get(name, 1000)


def build_model(
    name: str,
    num_classes: int | None = None,
    bias_init: str = "prior",
    *,
    image_size: int | None = None,
    published: bool = False,
) -> nn.Module:
    """The network `name`: one of `CLASSES`, else timm's, else torchvision's.

    The weights have torchvision's key names for the ResNets, for others those of their library.

    Args:
        num_classes: default 1000, or 10 for the names that end in -10.
        bias_init: "prior", the last bias starts at -ln C, so that every sigmoid starts at
            1/(C+1); "default" leaves it.
        image_size: of the input, pixels, for networks that are made for one size.
        published: start from the published weights of a network that is not among `CLASSES`.
    Raises:
        UserError: an unknown name, or a size that the network cannot take.
        ValueError: another bias_init, less than one class.
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
    else:
        model = Backbone(name, classes, image_size=image_size, published=published)
        if model.has_published_head:
            return model
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
    load_state(model, state, path)


def load_state(model: nn.Module, state: Any, path: str | Path) -> None:
    """As `load_weights`, of what the file holds."""
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


def start_from(model: nn.Module, path: str | Path) -> str:
    """Fill a network that is to be trained from a weight file of any origin; what was loaded.

    A classifier that does not fit stays as it was made, which the line says. UserError where the
    network itself does not fit.
    """
    if not isinstance(model, Backbone):
        try:
            load_weights(model, path)
            return f"{path}: loaded with the classifier"
        except UserError as error:
            problem = error
        last = _name_of_last_layer(model)
        try:
            return str(backbones.load_weights(model, path, head=[last]))
        except UserError:
            raise problem from None
    return str(backbones.load_weights(model, path))


def _name_of_last_layer(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return names[-1]


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
