"""The readers, under the original's names; they live in oass/data.py."""

from common.aliases import one_module
from oass.data import Iterator, VOC_Dataset_For_Classification, VOC_Dataset_For_Testing_CAM

one_module(__name__, "oass.core.datasets")

__all__ = ["Iterator", "VOC_Dataset_For_Classification", "VOC_Dataset_For_Testing_CAM"]
