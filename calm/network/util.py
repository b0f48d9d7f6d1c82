"""Weights of the networks: initialisation, and ImageNet's.

Checkpoints are read in build_checkpoint.py.
"""

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.hub import get_dir, load_state_dict_from_url
from torch.nn.utils.fusion import fuse_conv_bn_eval

from calm.build_checkpoint import load_checkpoint  # noqa: F401
from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.download import connection_limits

one_module(__name__, "calm.network.util")

IMAGENET = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-19c8e357.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "inception_v3_google": "inception_v3_google-1a9a5a14.pth",
}
URL = "https://download.pytorch.org/models/"
OURS = ("conv_last.", "attention.", "conv6.", "bn6.", "A3_")  # what ImageNet's weights have not


def remove_layer(state_dict: dict[str, torch.Tensor], keyword: str) -> dict[str, torch.Tensor]:
    """Delete the entries whose name contains `keyword`, in place, and return the dict."""
    for key in [key for key in state_dict if keyword in key]:
        state_dict.pop(key)
    return state_dict


def initialize_weights(modules: Iterable[nn.Module], init_mode: str) -> None:
    """Set the weights of a network to their initial values.

    Convolutions: "he" (kaiming normal, fan out) or "xavier" (uniform); batch norm 1 and 0; biases
    0.
    """
    if init_mode not in ("he", "xavier"):
        raise ValueError(f"init_mode {init_mode!r}: choose from he, xavier")
    for module in modules:
        if isinstance(module, nn.Conv2d):
            if init_mode == "he":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def load_imagenet(
    model: nn.Module,
    name: str,
    path: str | None,
    drop: tuple[str, ...],
    rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
) -> None:
    """Start the backbone from torchvision's V1 weights.

    They come from `path` (file or folder), torch's cache, or the network. UserError says which file
    to place where, and --pretrained=False, when none of them gives it.
    """
    file = IMAGENET[name]
    state = _imagenet_state(file, path)
    for keyword in drop:
        remove_layer(state, keyword)
    if rename is not None:
        state = rename(state)
    result = model.load_state_dict(state, strict=False)

    wrong = []
    for key in result.missing_keys:
        if not key.startswith(OURS) and not key.endswith("num_batches_tracked"):
            wrong.append(key)
    wrong += result.unexpected_keys
    if wrong:
        raise UserError(f"{file}: does not fit {name}: {', '.join(wrong[:3])}")


def _imagenet_state(file: str, path: str | None) -> dict[str, torch.Tensor]:
    """Return the entries of a file of torchvision's weights.

    It lies in `path` or in torch's cache, or is fetched into the cache.
    """
    places = [Path(get_dir()) / "checkpoints" / file]
    if path:
        places = [Path(path), Path(path) / file]
    for place in places:
        if place.is_file():
            return checkpoint.load(place)
    try:
        if path:
            raise OSError("no such file")
        with connection_limits():
            return load_state_dict_from_url(
                URL + file, map_location="cpu", check_hash=True, weights_only=True
            )
    except (OSError, RuntimeError) as error:
        tried = ", ".join(map(str, places))
        raise UserError(
            f"ImageNet weights {file} are not in {tried} and cannot be fetched ({error}); "
            "place the file there, or train from scratch with --pretrained=False"
        ) from error


def without_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of a network for evaluation, each BatchNorm merged into the convolution before it.

    A convolution is followed by the BatchNorm that stands next to it in its module. Logits are
    equal but for rounding. A network whose modules do not stand in this order stays as it is.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    if not getattr(network, "merges_batch_norm", True):
        return copied
    for module in list(copied.modules()):
        children = list(module.named_children())
        for (name, layer), (next_name, norm) in pairwise(children):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, next_name, nn.Identity())
    return copied
