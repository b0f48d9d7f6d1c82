"""Networks of torchvision without their heads, for common.backbones."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from common.backbones_body import Built, Facts, StrideError
from common.backbones_names import nearest
from common.download import OFFLINE, connection_limits
from common.errors import UserError


@dataclass(frozen=True)
class Family:
    """How a family's feature map is computed and what its head is.

    Args:
        parts: the children that the image goes through, in order.
        head: the name of the linear classifier on the average of the map; "" where the head is no
            such one.
        dropped: other parts behind the map.
        norm: of a layer norm between pooling and classifier.
        is_last: the map's channels come last.
        size: the name of the argument by which the network is made for one image size.
    """

    parts: tuple[str, ...] = ("features",)
    head: str = ""
    dropped: tuple[str, ...] = ("classifier",)
    norm: str | None = None
    is_last: bool = False
    size: str | None = None


_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_GOOGLENET = (
    *("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3"),
    *("inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4"),
    *("inception5a", "inception5b"),
)
_INCEPTION = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1"),
    *("Conv2d_4a_3x3", "maxpool2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b"),
    *("Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
_SHUFFLENET = ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")

FAMILIES = {
    "AlexNet": Family(),
    "ConvNeXt": Family(head="classifier.2", norm="classifier.0", dropped=()),
    "DenseNet": Family(head="classifier"),
    "EfficientNet": Family(head="classifier.1"),
    "GoogLeNet": Family(_GOOGLENET, head="fc", dropped=("fc",)),
    "Inception3": Family(_INCEPTION, head="fc", dropped=("fc",)),
    "MNASNet": Family(("layers",), head="classifier.1"),
    "MaxVit": Family(("stem", "blocks"), size="input_size"),
    "MobileNetV2": Family(head="classifier.1"),
    "MobileNetV3": Family(),
    "RegNet": Family(("stem", "trunk_output"), head="fc", dropped=("fc",)),
    "ResNet": Family(_RESNET, head="fc", dropped=("fc",)),
    "ShuffleNetV2": Family(_SHUFFLENET, head="fc", dropped=("fc",)),
    "SqueezeNet": Family(),
    "SwinTransformer": Family(("features", "norm"), head="head", dropped=("head",), is_last=True),
    "VGG": Family(),
    "VisionTransformer": Family(dropped=("heads",), size="image_size"),
}
# What the classifiers are called in weight files.
_HEADS = ("fc", "classifier", "head", "heads", "AuxLogits", "aux1", "aux2")


def names() -> list[str]:
    """All classifiers of torchvision."""
    return torchvision.models.list_models(module=torchvision.models)


def has(name: str) -> bool:
    """Whether torchvision has a network of this name, with the name of published weights or not."""
    return name.partition(".")[0] in names()


def build(
    name: str, *, pretrained: bool, image_size: tuple[int, int] | None, stride: int | None
) -> Built:
    """The network. NAME.IMAGENET1K_V2 names its published weights; IMAGENET1K_V1 without.

    With `pretrained` the caller loads `fetch(name)`. UserError in one line.
    """
    model, family, made_for = _made(name, image_size, stride)
    preset = _weights_of(name).transforms()
    native = preset.crop_size[0]
    is_fixed = family.size is not None
    is_vit = isinstance(model, torchvision.models.VisionTransformer)
    has_relu = isinstance(model, torchvision.models.DenseNet)
    features: Callable[[Any, torch.Tensor], torch.Tensor] = _tokens
    if not is_vit:
        features = partial(_in_order, parts=family.parts, relu=has_relu)
    for part in family.dropped:
        setattr(model, part, nn.Identity())
    if family.norm is not None:
        model.get_submodule(family.head.split(".")[0])[-1] = nn.Identity()

    return model, Facts(
        features=features,
        is_last=family.is_last,
        prefix_tokens=int(is_vit),
        image_size=(made_for, made_for) if is_fixed else None,
        native_size=(made_for, made_for) if is_fixed else (native, native),
        norm=family.norm,
        head_fits=bool(family.head),
        head_names=(family.head, *_HEADS) if family.head else _HEADS,
        convert=_resize_positions,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        crop_pct=round(native / preset.resize_size[0], 4),
    )


def fetch(name: str) -> dict[str, torch.Tensor]:
    """The published weights, from torch's cache or downloaded; UserError where neither."""
    weights = _weights_of(name)
    file = weights.url.rpartition("/")[2]
    place = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        if os.environ.get(OFFLINE) and not (place / file).is_file():
            raise OSError(f"{OFFLINE} is set")
        with connection_limits():
            return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib, ssl, sockets, a wrong hash
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"torchvision/{name}: {file} is not in {place} and cannot be downloaded "
            f"({lines[0]:.120}); give a weight file, or train from scratch"
        ) from error


def _weights_of(name: str) -> Any:
    """The published weights that the name's second part names; by default the first version's."""
    architecture, _, tag = name.partition(".")
    known = torchvision.models.get_model_weights(architecture)
    members = known.__members__
    if tag:
        if tag not in members:
            near = ", ".join(nearest(tag, members) or members)
            raise UserError(
                f"torchvision/{name}: no published weights are called {tag}; there are {near}"
            )
        return members[tag]
    return members.get("IMAGENET1K_V1") or known.DEFAULT


def _made(
    name: str, image_size: tuple[int, int] | None, stride: int | None
) -> tuple[Any, Family, int]:
    """The network on the CPU, its family, and the side of the images that it is made for."""
    architecture = name.partition(".")[0]
    builder = torchvision.models.get_model_builder(architecture)
    arguments: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        arguments = {"aux_logits": False, "transform_input": True, "init_weights": True}

    side = 224
    is_fixed = architecture.startswith(("vit_", "maxvit"))
    if is_fixed:
        side = _square(name, image_size or (224, 224))
        is_vit = architecture.startswith("vit_")
        arguments["image_size" if is_vit else "input_size"] = side if is_vit else (side, side)
    dilated = {8: [False, True, True], 16: [False, False, True]}.get(stride or 32)
    if dilated and architecture.startswith(("resnet", "resnext", "wide_resnet")):
        arguments["replace_stride_with_dilation"] = dilated
    try:
        model = builder(weights=None, **arguments)
    except (NotImplementedError, ValueError) as error:
        if "Dilation" in str(error):
            other = f"stride 32 is what it has; timm/{architecture} takes a stride"
            problem = "its blocks cannot be dilated"
            raise StrideError(f"torchvision/{name}: {problem}; {other}") from error
        raise UserError(f"torchvision/{name}: torchvision cannot make it ({error})") from error
    return model, FAMILIES[type(model).__name__], side


def _square(name: str, size: tuple[int, int]) -> int:
    if size[0] != size[1]:
        problem = f"is made for square images, not {size[0]}x{size[1]} px"
        raise UserError(f"torchvision/{name}: {problem}")
    return size[0]


def _in_order(
    model: Any, images: torch.Tensor, *, parts: tuple[str, ...], relu: bool = False
) -> torch.Tensor:
    x = images
    if getattr(model, "transform_input", False):
        x = model._transform_input(x)
    for name in parts:
        part = getattr(model, name)
        if isinstance(part, nn.ModuleList):
            for block in part:
                x = block(x)
        else:
            x = part(x)
    return F.relu(x) if relu else x


def _tokens(model: Any, images: torch.Tensor) -> torch.Tensor:
    """The class token and the places (B,1+N,C) behind a vision transformer's last norm."""
    places = model._process_input(images)
    token = model.class_token.expand(len(images), -1, -1)
    return model.encoder(torch.cat([token, places], 1))


def _resize_positions(state: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """A vision transformer's position embedding (1,1+N,C) at the size that `model` has."""
    name = "encoder.pos_embedding"
    own = model.state_dict().get(name)
    given = state.get(name)
    if own is None or given is None or own.shape == given.shape:
        return state
    old = round((given.shape[1] - 1) ** 0.5)
    new = round((own.shape[1] - 1) ** 0.5)
    places = given[:, 1:].transpose(1, 2).unflatten(2, (old, old))
    resized = F.interpolate(places, size=(new, new), mode="bicubic", align_corners=True)
    tokens = torch.cat([given[:, :1], resized.flatten(2).transpose(1, 2)], 1)
    return {**state, name: tokens}
