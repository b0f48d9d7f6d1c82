"""Training on features: a backbone that stays, computed once (`--frozen_features`)."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.utils.data import Dataset

from cavl.build_named import MlpNetwork, NamedNetwork
from cavl.cifar_models.class_activation import ClassActivationNetwork
from cavl.data import PartialData
from cavl.data_pictures import PictureFiles, ResizedPictures
from cavl.data_resident import Images
from common.aliases import one_module
from common.frozen import View, computed, freeze, network_sha, sha_of_arrays, sha_of_files
from common.stages import Still, keep_still

one_module(__name__, "cavl.build_frozen")


class _FrozenMaps(Still):
    """What `freeze_backbone` puts before the class of one of this paper's own networks."""

    frozen_channels: int

    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] == self.frozen_channels:
            return x
        with torch.no_grad():
            return super().feature_maps(x)  # type: ignore[misc]


class _Trunk(nn.Module):
    """A network of this paper up to its feature maps: a copy, without the last layer."""

    def __init__(self, model: ClassActivationNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(model)
        for name, layer in list(self.network.named_children()):
            if layer is self.network.classifier:
                setattr(self.network, name, nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.feature_maps(x)


def freeze_backbone(model: nn.Module) -> nn.Module:
    """Freeze all of a network but its head; return what makes features of pictures.

    The network then takes pictures (B,C,H,W), and maps (B,c,h,w) or their averages (B,c,1,1).
    Its state dict keeps its names. ValueError for a network without feature maps.
    """
    if isinstance(model, NamedNetwork):
        features = model.classifier_network.features
        return freeze(features, features.channels)
    if isinstance(model, MlpNetwork):
        return freeze(model.features, model.features.channels)
    if not isinstance(model, ClassActivationNetwork):
        raise ValueError(f"{type(model).__name__} has no feature maps")

    channels = model.classifier.in_features
    trunk = freeze(_Trunk(model), channels)
    keep_still(model, _FrozenMaps, "Frozen")
    model.frozen_channels = channels  # type: ignore[assignment]
    model.classifier.requires_grad_(True)
    return trunk


class _Inputs(Dataset):
    """All network inputs of a part, by number; grey ones in three colours where `coloured`."""

    def __init__(
        self,
        pictures: torch.Tensor | PictureFiles,
        data: PartialData,
        *,
        coloured: bool,
    ) -> None:
        cpu = torch.device("cpu")
        self.images = Images(pictures, cpu, mean=data.mean, std=data.std, limit_gb=0)
        self.coloured = coloured

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[torch.Tensor]:
        inputs = self.images[torch.tensor(rows)]
        if self.coloured and inputs.shape[1] == 1:
            inputs = inputs.expand(-1, 3, -1, -1)
        return list(inputs)


def with_features(
    data: PartialData,
    model: nn.Module,
    *,
    pooled: bool,
    device: torch.device,
    poll: Callable[[], None],
) -> PartialData:
    """The data with features in the place of their pictures; freezes the network's backbone.

    pooled: averages (n,c,1,1) instead of maps (n,c,h,w). They lie in the cache, computed once;
    `poll` is called before each batch of that, and may end the program.
    """
    backbone = freeze_backbone(model)
    sha = network_sha(backbone)
    coloured = not isinstance(model, ClassActivationNetwork) or isinstance(model, NamedNetwork)
    parts = []
    for pictures in (data.train_x, data.test_x):
        view = View(sha, _transform(pictures, data), _content(pictures), pooled)
        inputs = _Inputs(pictures, data, coloured=coloured)
        found = computed(backbone, inputs, view, device=device, poll=poll)
        with warnings.catch_warnings():  # the file is mapped read-only, and only read
            warnings.simplefilter("ignore", UserWarning)
            parts.append(torch.from_numpy(found))
    return replace(data, train_x=parts[0], test_x=parts[1], mean=None, std=None)


def _transform(pictures: torch.Tensor | PictureFiles, data: PartialData) -> str:
    """All that happens to a picture before the network, in words."""
    size = "x".join(map(str, pictures.shape[1:]))
    return f"squashed to {size}, {data.interpolation}, mean {data.mean}, std {data.std}"


def _content(pictures: torch.Tensor | PictureFiles) -> str:
    if isinstance(pictures, ResizedPictures):
        return sha_of_arrays(pictures.pixels.numpy())
    if isinstance(pictures, PictureFiles):
        return f"{sha_of_files(pictures.paths)}{'' if pictures.upright else ', as stored'}"
    return sha_of_arrays(pictures.numpy())
