"""The original's data_loaders.py: its names, which live in data.py and data_lists.py."""

from calm.data import ImageLabelDataset, ReadableBatches, get_data_loader, make_transforms
from calm.data_lists import (
    Attributes,
    configure_metadata,
    get_bounding_boxes,
    get_class_labels,
    get_image_ids,
    get_image_sizes,
    get_mask_paths,
)
from common.aliases import one_module

one_module(__name__, "calm.data_loaders")

__all__ = [
    "Attributes",
    "ImageLabelDataset",
    "ReadableBatches",
    "configure_metadata",
    "get_bounding_boxes",
    "get_class_labels",
    "get_data_loader",
    "get_image_ids",
    "get_image_sizes",
    "get_mask_paths",
    "make_transforms",
]
