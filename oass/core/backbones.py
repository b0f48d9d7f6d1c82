"""The backbones phi: ResNet and ResNeSt at output stride 16, timm's, one for the sample."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from common import checkpoint
from common.aliases import one_module
from common.backbones import FeatureNetwork, StrideError, feature_network
from common.backbones_names import split_name
from common.cli import UserError
from common.download import connection_limits
from oass.data_transforms import IMAGENET_MEAN, IMAGENET_STD
from oass.options_flags import ARCHITECTURES, RESNETS

one_module(__name__, "oass.core.backbones")

# The name in timm of each of the original's ResNeSts.
IN_TIMM = {"resnest50": "50d", "resnest101": "101e", "resnest200": "200e", "resnest269": "269e"}


class TinyResNet(nn.Module):
    """A 3x3 stem and three basic blocks (32, 64, 64 channels; strides 2, 2, 1): G = S/8, K = 64.

    For the offline sample: 0.16 M parameters learn there in a minute what a ResNet-50 learns in
    hours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()
        self.layer1 = self._layer(16, 32)
        self.layer2 = self._layer(32, 64)
        self.layer3 = self._layer(64, 64, 1)
        self.layer4 = nn.Identity()

    @staticmethod
    def _layer(inputs: int, outputs: int, stride: int = 2) -> nn.Sequential:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
        return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut))


def build_backbone(
    name: str, pretrained: bool, image_size: int | None = None
) -> tuple[nn.Module, int]:
    """The network up to its last feature map, and the number K of that map's channels.

    No dilation in the ResNets: the last stage's stride becomes 1 (bit-identical to the released
    ones). Every other name is of timm or torchvision, `other_network`. UserError for an unknown
    name.
    """
    if name == "resnet_tiny":
        return TinyResNet(), 64
    if name in RESNETS:
        return _resnet(name, pretrained)
    if name in IN_TIMM:
        return _resnest(f"resnest{IN_TIMM[name]}", pretrained)
    network = other_network(name, pretrained, image_size)
    return network, network.channels


T = TypeVar("T")
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def normalisation_of(name: str) -> Normalisation:
    """Mean and deviation of pixels in [0,1] that the network's published weights were trained with.

    ImageNet's for the ResNets and ResNeSts, as released, and for torchvision's; else what timm says
    of that network.
    """
    source, rest = split_name(name)
    if name in ARCHITECTURES or source == "torchvision":
        return IMAGENET_MEAN, IMAGENET_STD
    import timm

    found = timm.get_pretrained_cfg(rest, allow_unregistered=True)
    if found is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(found.mean), tuple(found.std)


def _resnet(name: str, pretrained: bool) -> tuple[ResNet, int]:
    model = getattr(torchvision.models, name)(weights=None)
    channels = model.fc.in_features
    if pretrained:
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        state = _fetch(
            lambda: weights.get_state_dict(progress=False), weights.url.rsplit("/", 1)[1]
        )
        load_weights(model, state, name)
    model.fc = nn.Identity()
    first = model.layer4[0]
    strided = first.conv1 if isinstance(first, BasicBlock) else first.conv2
    strided.stride = (1, 1)
    first.downsample[0].stride = (1, 1)
    return model, channels


def load_weights(model: nn.Module, state: Mapping[str, torch.Tensor], source: object) -> None:
    """Load a backbone's weights, also of before torch 1.0; UserError names what differs.

    Those do not count their batches; only evaluation without momentum would use that count.
    """
    own = model.state_dict()
    counts = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    checkpoint.load_into(model, {**counts, **state}, source)


def _resnest(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    model = _timm(name, pretrained, output_stride=16)
    model.layer4[0].avd_last = nn.AvgPool2d(3, 1, padding=1)
    model.layer4[0].downsample[0] = nn.Identity()
    model.relu = model.act1
    return model, model.num_features


def other_network(name: str, pretrained: bool, image_size: int | None = None) -> FeatureNetwork:
    """Any network of timm or torchvision, at stride 16 where its family can have it.

    image_size: S; the network must take images of S and tiles of S/2 pixels. UserError in one line.
    """
    make = partial(feature_network, name, pretrained=pretrained, image_size=image_size, norm="map")
    try:
        try:
            network = make(stride=16)
        except StrideError:
            network = make()
        if image_size is not None:
            require_tiles(network, image_size)
    except UserError as error:
        raise UserError(f"--architecture {error}") from error
    return network


def require_tiles(network: FeatureNetwork, image_size: int) -> None:
    """UserError where a network does not take the puzzle's tiles, half the image's side."""
    side = image_size // 2
    try:
        cells = network.grid(side)
    except UserError as error:
        hint = "another --image_size or --architecture"
        problem = f"no tiles of {side}x{side} px ({error})"
        raise UserError(f"{network.name}: {problem}; {hint}") from error
    whole = network.grid(image_size)
    if whole[0] < 2 or cells[0] < 1:
        problem = f"{whole[0]} place at {image_size} px cannot be cut in four"
        raise UserError(f"{network.name}: a map of {problem}; a larger --image_size")


def _timm(name: str, pretrained: bool, **kwargs: int) -> Any:
    import timm

    if not timm.is_model(name):
        problem = f"--architecture timm:{name}: timm has no such model"
        similar = ", ".join(timm.list_models(f"{name[:6]}*")[:5])
        if similar:
            problem += f"; it has {similar}"
        raise UserError(problem)
    make: dict[str, Any] = {"num_classes": 0, "global_pool": "", **kwargs}
    if not pretrained:
        return timm.create_model(name, **make)
    return _fetch(lambda: timm.create_model(name, pretrained=True, **make), f"timm's {name}")


def _fetch(download: Callable[[], T], what: str) -> T:
    try:
        with connection_limits():
            return download()
    except (OSError, RuntimeError) as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise UserError(
            f"ImageNet weights {what} are not in {folder} and cannot be downloaded "
            f"({error}); put the file there, or give --weights PATH or --weights none"
        ) from error
