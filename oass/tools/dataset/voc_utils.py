"""What VOC defines, under the original's file name; it lives in oass/data_voc.py."""

import numpy as np

from common.aliases import one_module
from oass.data_voc import CLASS_DIC, CLASS_NAMES, META, read_mask

one_module(__name__, "oass.tools.dataset.voc_utils")

__all__ = ["CLASS_DIC", "CLASS_NAMES", "META", "color_map", "get_color_map_dic", "read_mask"]


def color_map(N: int = 256) -> np.ndarray:
    """VOC's palette (N,3) uint8: the bits of an index, three at a time, from the highest down."""
    index = np.arange(N)
    colours = np.zeros((N, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = (index >> (3 * place + channel)) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colours


def get_color_map_dic() -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """The colour of each name, the palette (256,3), and the names: background, then the classes."""
    names = ["background", *CLASS_NAMES]
    palette = color_map()
    return dict(zip(names, palette, strict=False)), palette, names
