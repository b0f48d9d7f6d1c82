"""The helpers under the names that the released code gives them; each lives in a module of its own."""

from common.aliases import one_module
from csl.src.helper_functions.augment import CutoutPIL, RandAugment
from csl.src.helper_functions.coco import CocoDetection, LVISDetection
from csl.src.helper_functions.ema import ModelEma, add_weight_decay
from csl.src.helper_functions.metrics import (
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
