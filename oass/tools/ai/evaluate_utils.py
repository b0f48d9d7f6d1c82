"""Average precision and mask IoU; they live in oass/evaluate_metrics.py."""

from common.aliases import one_module
from oass.evaluate_metrics import (
    Calculator_For_mIoU,
    average_precision,
    mean_average_precision,
)

one_module(__name__, "oass.tools.ai.evaluate_utils")

__all__ = ["Calculator_For_mIoU", "average_precision", "mean_average_precision"]
