"""What the builders of common.backbones hand over: a network without its head, and its facts.

Shapes: B batch, C channels, N tokens, h w map, H W image.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from common.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class StrideError(UserError):
    """The network has another stride than was asked for, and cannot have that one."""


@dataclass
class Linear:
    """A published classifier: weight (K,C), bias (K,) or none."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass
class Facts:
    """What is known of a network without its head.

    Args:
        features: from (network, images) to (B,C,h,w), (B,h,w,C) or tokens (B,N,C).
        is_last: the channels come last (B,h,w,C).
        prefix_tokens: how many of N are no places (class, distillation, register tokens).
        image_size: (H, W) where the network takes that size only.
        native_size: (H, W) that its published weights were trained at.
        multiple: H and W must be multiples of it.
        norm: the name in the network of a layer norm behind the pooling; None where none is.
        head_fits: the published classifier is linear on the (normed) average of the map.
        head_names: what the published classifier is called in weight files.
        published: that classifier, where weights were fetched and head_fits.
        convert: from a state dict of an original to the names and sizes of the network.
    """

    features: Callable[[Any, torch.Tensor], torch.Tensor]
    is_last: bool = False
    prefix_tokens: int = 0
    image_size: tuple[int, int] | None = None
    native_size: tuple[int, int] = (224, 224)
    multiple: int = 1
    norm: str | None = None
    head_fits: bool = True
    head_names: tuple[str, ...] = ()
    published: Linear | None = None
    convert: Callable[[dict[str, torch.Tensor], Any], Any] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop_pct: float = 0.875


Built = tuple[nn.Module, Facts]


def as_map(features: Any, facts: Facts, image: torch.Size) -> torch.Tensor:
    """Features as a map (B,C,h,w): tokens on their grid without prefix tokens, channels second.

    The N places lie in rows of an h x w grid with the proportions of the image. ValueError where
    the features are no map.
    """
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) == 4:
        return features.permute(0, 3, 1, 2) if facts.is_last else features
    if len(shape) != 3:
        what = shape or f"a {type(features).__name__}"
        raise ValueError(f"its features are {what}, not one map or one list of tokens")

    tokens = features[:, facts.prefix_tokens :]
    count = shape[1] - facts.prefix_tokens
    height, width = image[-2:]
    rows = round((count * height / width) ** 0.5)
    columns = count // max(rows, 1)
    if rows * columns != count:
        raise ValueError(f"its {count} tokens are no grid for an image of {height}x{width} px")
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def probe(network: nn.Module, size: tuple[int, int]) -> tuple[tuple[int, ...], list[str]]:
    """The shape of the map of one image (H, W), and the parameters that it does not depend on.

    On the meta device, where nothing is computed; a network that cannot run there runs for real.
    No random number is drawn. What the network raises for this size comes through.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        has_recurrence = any(isinstance(module, nn.RNNBase) for module in network.modules())
        if not has_recurrence:  # minutes on the meta device
            try:
                return _probed(network, size, torch.device("meta"))
            except Exception:  # a network that looks at values; or this size, as shows below
                pass
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        return _probed(network, size, device)
    finally:
        for module, mode in modes:
            module.training = mode


def _probed(
    network: nn.Module, size: tuple[int, int], device: torch.device
) -> tuple[tuple[int, ...], list[str]]:
    parameters = {}
    for name, parameter in network.named_parameters():
        parameters[name] = (
            parameter.detach().to(device).requires_grad_(parameter.is_floating_point())
        )
    buffers = {name: buffer.to(device) for name, buffer in network.named_buffers()}
    image = torch.zeros(1, 3, *size, device=device)
    with torch.enable_grad():
        found = torch.func.functional_call(network, (parameters, buffers), (image,))
        if not found.requires_grad:
            return tuple(found.shape), []
        gradients = torch.autograd.grad(found.sum(), list(parameters.values()), allow_unused=True)
    unused = [name for name, g in zip(parameters, gradients, strict=True) if g is None]
    return tuple(found.shape), unused


# The parts behind the feature map, which `forward_features` never calls.
_BEHIND = {
    *("head", "head_dist", "heads", "classifier", "fc", "aux_head", "last_linear"),
    *("conv_head", "norm_head", "attn_pool", "fc_norm", "pre_logits"),
}


def remove_heads(module: nn.Module, unused: Iterable[str], keep: str | None) -> None:
    """Take out the parts behind the map, so that every parameter left has a gradient.

    unused: names of parameters without one. keep: the name of a part that stays. What the network
    runs through although the map does not depend on it stays too, and is not trained.
    """
    for name in unused:
        if keep is not None and name.startswith(f"{keep}."):
            continue
        top = name.split(".")[0]
        is_behind = top in _BEHIND and isinstance(getattr(module, top, None), nn.Module)
        if is_behind and not (keep or "").startswith(f"{top}."):
            setattr(module, top, nn.Identity())
        elif _has(module, name):
            module.get_parameter(name).requires_grad_(False)


def _has(module: nn.Module, name: str) -> bool:
    try:
        module.get_parameter(name)
        return True
    except AttributeError:  # it went with its part
        return False
