"""--frozen_features: the backbone stays, its features are computed once, only the head trains."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from common.aliases import one_module
from common.errors import UserError
from common.frozen import View, computed, freeze, network_sha, sha_of_files
from common.frozen_batches import FeatureBatches
from common.images import CorruptImage
from common.loading import loader_processes
from csl.data import DataSet, labels_at
from csl.data_own import OwnPictures
from csl.data_pixels import Pixels
from csl.src.models.utils.factory import backbone_input, backbone_of

one_module(__name__, "csl.build_features")


def freeze_backbone(model: nn.Module) -> None:
    """Let all but the head of a network stay as it is, and let feature maps pass through.

    DomainError for a network whose feature map is not known.
    """
    backbone, channels = backbone_of(model)
    freeze(backbone, channels)


class Pictures:
    """What the backbone gets to see of a data set: the input of the deterministic view.

    A picture that cannot be decoded is an error, or NaN throughout with `skip_corrupt`.
    """

    def __init__(
        self, data: DataSet, model: nn.Module, pixels: Pixels, *, skip_corrupt: bool = False
    ) -> None:
        self.data = data
        self.model = model
        self.pixels = pixels
        self.numbers = pixels.to_numbers()
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> torch.Tensor:
        try:
            image, _ = self.data[row]
        except CorruptImage:
            if not self.skip_corrupt:
                raise
            image = torch.full((3, self.pixels.size, self.pixels.size), torch.nan)
        return backbone_input(self.model, self.numbers(image[None]))[0]


def features_of(
    data: DataSet,
    model: nn.Module,
    pixels: Pixels,
    *,
    workers: int = 0,
    skip_corrupt: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The averaged features (N,C,1,1) float32 of a data set, from the cache or computed now.

    Args:
        data: makes tensors of pictures without any draw.
        model: its backbone is frozen.
        workers: processes that read pictures.
        skip_corrupt: the features of pictures that cannot be decoded are NaN.
        poll: called before every batch.
    Raises:
        CorruptImage: a picture cannot be decoded; its path is named.
    """
    backbone, _ = backbone_of(model)
    device = next(model.parameters()).device
    pictures = Pictures(data, model, pixels, skip_corrupt=skip_corrupt)
    upright = isinstance(data, OwnPictures) and data.upright
    view = View(
        network_sha(backbone),
        f"squashed, {pixels.plain()}, upright {upright}",
        sha_of_files(data.paths()),
        pooled=True,
    )
    found = computed(
        backbone, pictures, view, device=device, workers=loader_processes(workers), poll=poll
    )

    broken = np.flatnonzero(np.isnan(found[:, 0, 0, 0])).tolist()
    if broken and not skip_corrupt:
        pictures[broken[0]]  # tells why
        raise UserError(f"{data.paths()[broken[0]]}: its features are not finite")
    return found


class FeatureLoader(FeatureBatches):
    """The batches of a loader of pictures, with features in their place; no worker, no decoding."""

    def __init__(
        self, data: DataSet, features: np.ndarray, batches: Iterable[Sequence[tuple[int, int]]]
    ) -> None:
        """`batches`: the lists of (epoch, row) that the loader of pictures walks."""
        super().__init__(features, batches, lambda rows: (labels_at(data, np.array(rows)),))


def feature_loaders(
    model: nn.Module, pixels: Pixels, loaders: Iterable[tuple[DataSet, Any]], **settings: Any
) -> list[FeatureLoader]:
    """The loaders of features in place of those of pictures; `settings`: of `features_of`."""
    found = []
    for data, loader in loaders:
        features = features_of(data, model, pixels, **settings)
        found.append(FeatureLoader(data, features, loader.batch_sampler))
    return found
