"""The transforms, under the original's names; they live in oass/data_transforms.py."""

from common.aliases import one_module
from oass.data_transforms import (
    Normalize,
    Normalize_For_Segmentation,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResize,
    Top_Left_Crop,
    Top_Left_Crop_For_Segmentation,
    Transpose,
    Transpose_For_Segmentation,
)

one_module(__name__, "oass.tools.ai.augment_utils")

__all__ = [
    "Normalize",
    "Normalize_For_Segmentation",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResize",
    "Top_Left_Crop",
    "Top_Left_Crop_For_Segmentation",
    "Transpose",
    "Transpose_For_Segmentation",
]
