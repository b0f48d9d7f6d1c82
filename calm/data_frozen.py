"""--frozen_features: the feature maps of a network that is not trained, in place of its pictures.

They are computed once, in the evaluation's view of each picture, and kept in the cache folder under
the hash of network, view and pictures (`common.frozen`). Loaders then give maps (B,D,h,w) where
they gave pictures; the network passes them through to its heads.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from calm.data import MEAN, STD, ImageLabelDataset, data_of, normalizer
from calm.network.any import input_of
from calm.network.head import AttributionNet
from common.aliases import one_module
from common.frozen import View, computed, freeze, network_sha, sha_of_files
from common.frozen_batches import FeatureBatches
from common.loading import loader_processes

one_module(__name__, "calm.data_frozen")


class Backbone(nn.Module):
    """A network without its two heads: images (B,3,H,W), also as bytes, to F (B,D,h,w)."""

    def __init__(self, model: AttributionNet) -> None:
        super().__init__()
        for name, part in model.body().items():
            self.add_module(name, part)
        self.extract = model.extract

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """F, as `AttributionNet.extract` makes it of normalised images."""
        images = images.contiguous(memory_format=torch.channels_last)
        return self.extract(normalizer(images.device)(images))


class Pictures(Dataset):
    """The pictures of a data set, (3,H,W), without labels and names."""

    def __init__(self, data: ImageLabelDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.data[index][0]


class FeatureLoader(FeatureBatches):
    """The batches of a loader of `get_data_loader`, with feature maps in place of the pictures.

    Order, labels and ids are the loader's, and `data_of` still gives the pictures.
    """

    def __init__(self, loader: DataLoader, features: np.ndarray) -> None:
        self.dataset = loader.dataset
        data = data_of(loader)
        self.ids = data.image_ids
        self.labels = torch.tensor([data.image_labels[image_id] for image_id in self.ids])
        super().__init__(features, loader.batch_sampler, self._beside)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def _beside(self, rows: list[int]) -> tuple[torch.Tensor, list[str]]:
        return self.labels[rows], [self.ids[row] for row in rows]


def with_features(
    loaders: Mapping[str, DataLoader], model: AttributionNet, args: Any, device: torch.device
) -> dict[str, DataLoader]:
    """The same loaders, with the features of a frozen network; computed where they are not known.

    A split of the same pictures in the same order as another shares its file.
    """
    backbone = freeze(Backbone(model), model.conv_last.in_channels)
    network = network_sha(backbone)
    found: dict[str, Any] = {}
    for split, loader in loaders.items():
        data = data_of(loader)
        view = View(network, view_in_words(model, args, data), sha_of_files(data.paths))
        features = computed(
            backbone,
            Pictures(data),
            view,
            device=device,
            workers=loader_processes(args.workers),
        )
        found[split] = FeatureLoader(loader, features)
    return found


def view_in_words(model: AttributionNet, args: Any, data: ImageLabelDataset) -> str:
    """All that F depends on besides the weights and the files: network and transform."""
    said = {
        "architecture": args.architecture,
        "large_feature_map": args.large_feature_map,
        "use_bn": args.use_bn,
        "network_input": input_of(model),
        "size": args.crop_size,
        "interpolation": model.interpolation,
        "upright": data.upright,
        "normalisation": [MEAN, STD],
    }
    return json.dumps(said, sort_keys=True)


def told_of_start(args: Any) -> Sequence[str]:
    """A line where a network is frozen that was never trained; none otherwise."""
    is_trained = args.pretrained or args.weights is not None or args.use_load_checkpoint
    if not args.frozen_features or is_trained or not args.is_train:
        return ()
    remedy = "start it from --pretrained, --weights or --load_checkpoint"
    return (f"--frozen_features: the weights of {args.architecture} are random; {remedy}",)
