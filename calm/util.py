"""The names of the original's util.py.

They live in evaluate_maps.py, evaluate_erasing.py and report_logger.py.
"""

from typing import Any

import numpy as np
import torch

from calm.build import string_contains_any
from calm.evaluate_erasing import get_baseline, get_topk_to_zero_mask, random_mask_generator
from calm.evaluate_maps import (
    GaussianSmoothing,
    check_scoremap_validity,
    compute_padding,
    get_score_map,
    get_threshold_list,
    resize_scoremap,
    resize_scoremaps,
    smoothing,
    t2n,
)
from calm.options_names import GRADIENT_SETTINGS
from calm.report_logger import Logger, Reporter
from common.aliases import one_module
from common.cam import normalize_scoremap

one_module(__name__, "calm.util")

__all__ = [
    "GaussianSmoothing",
    "Logger",
    "Reporter",
    "check_scoremap_validity",
    "compute_padding",
    "get_baseline",
    "get_score_map",
    "get_scoremaps",
    "get_threshold_list",
    "get_topk_to_zero_mask",
    "normalize_scoremap",
    "random_mask_generator",
    "resize_scoremap",
    "resize_scoremaps",
    "smoothing",
    "string_contains_any",
    "t2n",
]


def get_scoremaps(
    tester: Any, inputs: torch.Tensor, targets: torch.Tensor, dataset_name: str = "CUB"
) -> np.ndarray:
    """Return the maps of `targets` on `inputs`: float32 (B,h,w) or (B,H,W).

    They are made with tester.model and the flags tester.args.
    """
    args = tester.args
    settings = {name: getattr(args, name) for name in GRADIENT_SETTINGS if hasattr(args, name)}
    maps = get_score_map(args.score_map_process, args.score_map_method)(
        model=tester.model,
        images=inputs,
        targets=targets,
        num_classes=_count_classes(tester, dataset_name),
        superclass=getattr(tester, "superclass", None),
        **settings,
    )
    return t2n(smoothing(maps, getattr(args, "smoothing_ksize", 1))).astype(np.float32)


def _count_classes(tester: Any, dataset_name: str) -> int | None:
    """The network's own number (a sample has few); else the data set's official one."""
    last = getattr(tester.model, "conv_last", None)
    if last is not None:
        return last.out_channels
    return getattr(tester, "_NUM_CLASSES_MAPPING", {}).get(dataset_name)
