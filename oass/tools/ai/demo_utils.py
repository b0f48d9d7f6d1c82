"""Pictures of tensors and masks; `colormap` lives in oass/figures.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.aliases import one_module
from oass.figures import colormap

one_module(__name__, "oass.tools.ai.demo_utils")

__all__ = ["colormap", "decode_from_colormap", "denormalize", "transpose"]
VOID = 255


def transpose(image: np.ndarray) -> np.ndarray:
    """(C,H,W) to (H,W,C)."""
    return image.transpose(1, 2, 0)


def denormalize(
    image: np.ndarray,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: Any = np.uint8,
    tp: bool = True,
) -> np.ndarray:
    """The pixels of a normalised image: times std, plus mean; with uint8 times 255.

    tp: the image is (C,H,W), else (H,W,C). Values outside 0..255 are clipped. The argument stays as
    it is.
    """
    if tp:
        image = transpose(image)
    if mean is not None:
        image = image * np.asarray(1 if std is None else std) + np.asarray(mean)
    if dtype == np.uint8:
        return (image * 255).round().clip(0, 255).astype(np.uint8)
    return image


def decode_from_colormap(data: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """A mask (H,W) of indices in their colours (n,3), (H,W,3); 255, void, is white."""
    is_void = data == VOID
    image = np.asarray(colors)[np.where(is_void, 0, data)]
    image[is_void] = VOID
    return image
