"""The backbones phi: ResNet and ResNeSt at output stride 16, timm's, one for the sample."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from common import checkpoint
from common.aliases import one_module
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


def build_backbone(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    """The network up to its last feature map, and the number K of that map's channels.

    No dilation in the ResNets: the last stage's stride becomes 1 (bit-identical to the released
    ones). `timm:NAME` takes any convolutional model of timm. UserError for an unknown name.
    """
    if name == "resnet_tiny":
        return TinyResNet(), 64
    if name in RESNETS:
        return _resnet(name, pretrained)
    if name in IN_TIMM:
        return _resnest(f"resnest{IN_TIMM[name]}", pretrained)
    if name.startswith("timm:"):
        return _timm_features(name[5:], pretrained)
    raise UserError(f"--architecture {name}: choose from {', '.join(ARCHITECTURES)}, or timm:NAME")


T = TypeVar("T")
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def normalisation_of(name: str) -> Normalisation:
    """Mean and deviation of pixels in [0,1] that the network's published weights were trained with.

    ImageNet's for the ResNets and ResNeSts, as released; for `timm:NAME` what timm says of that
    network.
    """
    if not name.startswith("timm:"):
        return IMAGENET_MEAN, IMAGENET_STD
    import timm

    found = timm.get_pretrained_cfg(name[5:], allow_unregistered=True)
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


class _Features(nn.Module):
    """A timm model as one module; its stages are its own business."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B,3,S,S) to the last feature map."""
        return self.body.forward_features(x)


OTHER_FAMILY = (TypeError, ValueError, AssertionError, RuntimeError)  # what timm's builders raise


def _timm_features(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    try:
        model = _timm(name, pretrained, output_stride=16)
    except OTHER_FAMILY:  # no such stride in this family
        try:
            model = _timm(name, pretrained)
        except OTHER_FAMILY as error:
            reason = f"timm cannot make it without its head ({error})"
            raise UserError(
                f"--architecture timm:{name}: {reason}; choose a convolutional network"
            ) from error
    require_map(model, name)
    return _Features(model), model.num_features


@torch.no_grad()
def require_map(model: Any, name: str) -> None:
    """UserError where a timm model's last feature map is not (B,K,H,W), as in transformers."""
    size = (model.pretrained_cfg or {}).get("input_size", (3, 224, 224))
    was_training = model.training
    found = model.eval().forward_features(torch.zeros(1, *size))
    model.train(was_training)
    shape = tuple(getattr(found, "shape", ()))
    if len(shape) != 4 or shape[1] != model.num_features:
        expected = f"(images, {model.num_features} channels, rows, columns)"
        raise UserError(
            f"--architecture timm:{name}: its features have the shape {shape}, "
            f"expected {expected}; choose a convolutional network"
        )


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
