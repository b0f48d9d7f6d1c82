"""How a picture becomes the input of a network: size, resampling, normalisation of its colours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode

from common.aliases import one_module
from common.cli import DomainError

one_module(__name__, "csl.data_pixels")

INTERPOLATIONS = ("bilinear", "bicubic")
LARGEST = 16384  # pixels a side

Colours = tuple[float, float, float]


class Statistics(NamedTuple):
    """Mean and deviation of each colour, of values in 0..1, that weights were trained with."""

    mean: Colours
    std: Colours


class Pixels(NamedTuple):
    """A picture squashed to size x size pixels, values in 0..1, normalised colour by colour.

    `statistics` None: values stay in 0..1, as for TResNet.
    """

    size: int
    interpolation: str = "bilinear"
    statistics: Statistics | None = None

    def resize(self, image: Image.Image) -> Image.Image:
        """The picture at size x size, anti-aliased, whatever its shape was."""
        mode = InterpolationMode(self.interpolation)
        return T.functional.resize(image, [self.size, self.size], mode)

    def tensor(self, image: Image.Image | np.ndarray) -> torch.Tensor:
        """RGB picture or (H,W,3) uint8 -> (3,H,W) float32, normalised."""
        values = T.functional.to_tensor(image)
        if self.statistics is None:
            return values
        return T.functional.normalize(values, *self.statistics)

    def whole(self, image: Image.Image | np.ndarray) -> torch.Tensor:
        """RGB picture or (H,W,3) uint8 -> (3,H,W) uint8, from which `to_numbers` goes on."""
        return torch.from_numpy(np.array(image).transpose(2, 0, 1))

    def to_numbers(self) -> "ToNumbers":
        """What makes a batch of whole numbers the input of the network, wherever the batch is."""
        return ToNumbers(self.statistics)

    def picture(self, values: torch.Tensor) -> np.ndarray:
        """(3,H,W) as `tensor` makes it -> (H,W,3) uint8, to be looked at."""
        if self.statistics is not None:
            mean = values.new_tensor(self.statistics.mean)[:, None, None]
            std = values.new_tensor(self.statistics.std)[:, None, None]
            values = values * std + mean
        return (values.permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)

    def __str__(self) -> str:
        if self.statistics is None:
            normalised = "not normalised"
        else:
            mean = ", ".join(map("{:.3g}".format, self.statistics.mean))
            std = ", ".join(map("{:.3g}".format, self.statistics.std))
            normalised = f"normalised by mean {mean} and deviation {std}"
        return f"{self.size} pixels, {self.interpolation}, {normalised}"

    def plain(self) -> dict[str, Any]:
        """The entries of a checkpoint: image_size, interpolation, mean, std (None for neither)."""
        mean, std = self.statistics or (None, None)
        return {
            "image_size": self.size,
            "interpolation": self.interpolation,
            "mean": None if mean is None else list(mean),
            "std": None if std is None else list(std),
        }


def stack_pictures(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pictures (3,H,W) as one batch (B,3,H,W).

    Those of `Pixels.whole` lie in memory with the channels last, and so does their batch.
    """
    if images[0].dtype != torch.uint8:
        return torch.stack(list(images))
    rows = np.stack([image.numpy().transpose(1, 2, 0) for image in images])
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


class ToNumbers(nn.Module):
    """uint8 pictures (B,3,H,W) on any device -> float32, each as `Pixels.tensor` makes it.

    To the last bit on a CPU. So a batch reaches the device at a quarter of the size. What is
    floating already is returned as it is. The figures are kept on the module's device, and in no
    state dict.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.is_normalising = statistics is not None
        if statistics is not None:
            for name, values in statistics._asdict().items():
                self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) float32, in the memory format that came."""
        if images.dtype != torch.uint8:
            return images
        numbers = images.to(torch.float32).div_(255)
        if self.is_normalising:
            numbers.sub_(self.mean).div_(self.std)
        return numbers


def statistics_of(mean: Any, std: Any, source: object) -> Statistics | None:
    """Statistics from what a configuration or a checkpoint holds.

    None for none, and for mean 0 and deviation 1. DomainError names `source` where they are not
    three numbers each, or a deviation is not above 0.
    """
    if mean is None and std is None:
        return None
    try:
        found = Statistics(_three(mean), _three(std))
        is_usable = all(map(math.isfinite, found.mean))
        is_usable = is_usable and all(0 < value < math.inf for value in found.std)
    except (TypeError, ValueError):
        is_usable = False
    if not is_usable:
        told = f"mean {mean!r} and std {std!r} are not three numbers each, std above 0"
        raise DomainError(f"{source}: {told}")
    if found == Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        return None
    return found


def _three(values: Any) -> Colours:
    """Three numbers; ValueError or TypeError for anything else."""
    red, green, blue = values
    return float(red), float(green), float(blue)


def recorded_size(info: Mapping[str, Any], source: object) -> int | None:
    """`image_size` of a checkpoint, None where it has none; DomainError for an unusable one."""
    size = info.get("image_size")
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST:
        raise DomainError(f"{source}: image_size {size!r} is no number of pixels")
    return size


def recorded_interpolation(info: Mapping[str, Any], source: object) -> str | None:
    """`interpolation` of a checkpoint, None where it has none; DomainError for an unknown one."""
    name = info.get("interpolation")
    if name is not None and name not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        raise DomainError(f"{source}: interpolation {name!r} is not one of {known}")
    return name
