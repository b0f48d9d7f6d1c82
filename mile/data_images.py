"""How a picture becomes the network's input.

Cropping, resizing, and the normalisation of ImageNet.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from common.aliases import one_module

one_module(__name__, "mile.data_images")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LONG = 16  # sides in a ratio up to here are resized whole

Transform = Callable[[Image.Image], torch.Tensor]


class Statistics(NamedTuple):
    """Mean and deviation of the channels, of values from 0 to 1, and how pictures are resized.

    A network that was published with weights has its own; ours and torchvision's have ImageNet's.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"


IMAGENET = Statistics()


def short_side(protocol: str, model: str) -> int:
    """The side to which pictures are resized before a crop of 224 pixels.

    232 for the unofficial resnet50.
    """
    return 232 if protocol == "unofficial" and model == "resnet50" else 256


def train_transform(
    size: int, *, normalized: bool = False, interpolation: str = "bilinear"
) -> Transform:
    """Image -> (3,S,S): random resized crop and flip. uint8 0..255; `normalized`: float32."""
    mode = v2.InterpolationMode(interpolation)
    crop = v2.RandomResizedCrop(size, interpolation=mode, antialias=True)
    steps = [crop, v2.RandomHorizontalFlip()]
    return _compose(steps, normalized)


def eval_transform(
    size: int, short: int = 256, *, normalized: bool = False, interpolation: str = "bilinear"
) -> Transform:
    """Image -> (3,S,S): the shorter side to short/224 of S, antialiased; the centre.

    uint8 0..255, to be normalised on the device; `normalized`: float32. Of very long pictures the
    middle part is resized.
    """
    mode = v2.InterpolationMode(interpolation)
    resize = v2.Resize(round(size * short / 224), interpolation=mode, antialias=True)
    return _compose([_middle_of_long, resize, v2.CenterCrop(size)], normalized)


def _middle_of_long(image: Image.Image) -> Image.Image:
    """The middle of a picture whose long side is more than LONG times the other.

    Others as they are.

    The centre crop keeps a square, and 9000x2 pixels would first become 1,152,000x256.
    """
    short = min(image.size)
    long = max(image.size)
    if long <= LONG * short:
        return image

    kept = LONG * short + (long - LONG * short) % 2  # the centre stays between the same pixels
    start = (long - kept) // 2
    if image.width == long:
        return image.crop((start, 0, start + kept, short))
    return image.crop((0, start, short, start + kept))


def _compose(steps: list[Callable], normalized: bool) -> Transform:
    if not normalized:
        return v2.Compose([*steps, _pixels])
    as_numbers = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return v2.Compose([*steps, v2.PILToTensor(), *as_numbers])


def _pixels(image: Image.Image) -> torch.Tensor:
    """A picture as uint8 (3,S,S), laid out in memory as it was: pixel by pixel."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def stack_pictures(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """B pictures uint8 (3,S,S) as (B,3,S,S), channels last: as they lie, and as networks read."""
    shape = (len(pictures), *pictures[0].shape)
    batch = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
    return torch.stack(list(pictures), out=batch)


def normalize(pixels: torch.Tensor, statistics: Statistics = IMAGENET) -> torch.Tensor:
    """Pixels 0..255, (K,S,S) grey or (K,3,S,S), as the network's input (K,3,S,S) float32.

    (x/255 - mean) / std, as one affine map of each channel.
    """
    x = pixels.float()
    offset, scale = _affine_map(x.device, statistics.mean, statistics.std)
    if x.ndim == 4:
        return torch.addcmul(offset, x, scale)

    # A broadcast of one channel to three takes twice as long on a CPU as three writes.
    out = x.new_empty(len(x), 3, *x.shape[1:])
    for c, std in enumerate(statistics.std):
        torch.add(offset[c], x, alpha=1 / (255 * std), out=out[:, c])
    return out


@functools.cache
def _affine_map(
    device: torch.device, means: tuple[float, ...], deviations: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Offset and scale (3,1,1) of the channels, kept on the device."""
    offset = []
    scale = []
    for mean, std in zip(means, deviations, strict=True):
        offset.append(-mean / std)
        scale.append(1 / (255 * std))
    with torch.inference_mode(False):
        on_device = torch.tensor([offset, scale], device=device).view(2, 3, 1, 1)
    return on_device[0], on_device[1]
