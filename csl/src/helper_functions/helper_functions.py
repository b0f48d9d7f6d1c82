"""The helpers under the names of the released code; each lives in a room of its own."""

from common.aliases import one_module
from csl.build_optimizer import ModelEma, add_weight_decay
from csl.data_augment import CutoutPIL, RandAugment
from csl.data_coco import CocoDetection, LVISDetection
from csl.evaluate_metrics import (
    AP_partial,
    AverageMeter,
    average_precision,
    mAP,
    mAP_partial,
    prf_metrics,
)

one_module(__name__, "csl.src.helper_functions.helper_functions")

__all__ = [
    "AP_partial",
    "AverageMeter",
    "CocoDetection",
    "CutoutPIL",
    "LVISDetection",
    "ModelEma",
    "RandAugment",
    "add_weight_decay",
    "average_precision",
    "mAP",
    "mAP_partial",
    "prf_metrics",
]
