"""The names of clovaai/wsolevaluation's evaluation.py.

They live in evaluate_boxes.py and evaluate_masks.py.
"""

from calm.evaluate_boxes import (
    BoxEvaluator,
    LocalizationEvaluator,
    calculate_multiple_iou,
    check_box_convention,
    compute_bboxes_from_scoremaps,
    resize_bbox,
    wsol_scoremap,
)
from calm.evaluate_masks import MaskEvaluator, get_mask, load_mask_image
from common.aliases import one_module

one_module(__name__, "calm.evaluation")

__all__ = [
    "BoxEvaluator",
    "LocalizationEvaluator",
    "MaskEvaluator",
    "calculate_multiple_iou",
    "check_box_convention",
    "compute_bboxes_from_scoremaps",
    "get_mask",
    "load_mask_image",
    "resize_bbox",
    "wsol_scoremap",
]
