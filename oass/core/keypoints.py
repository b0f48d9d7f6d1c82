"""Keypoints on objects: `oass.method`, after a look at the arguments (ValueError)."""

import torch

from common.aliases import one_module
from common.domain import require_one_of
from oass import method
from oass.data_checks import (
    require_count,
    require_finite,
    require_in_range,
    require_labels,
    require_sizes,
)
from oass.method import Keypoints
from oass.options_flags import PUZZLES, RULES

one_module(__name__, "oass.core.keypoints")

STRATEGIES = PUZZLES


def upsample_cams(cams: torch.Tensor, size: int) -> torch.Tensor:
    """`oass.method.upsample_cams` of (P,G,G) or (B,C,G,G); ValueError for another rank or size."""
    require_count(size, "size", 1)
    if cams.dim() != 3:
        require_sizes(cams, (None, None, None, None), "cams")
    return method.upsample_cams(cams, size)


def topk_peaks(
    maps: torch.Tensor, k: int = 5, min_distance: int = 20, exclude_border: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`oass.method.topk_peaks`; ValueError for NaN, k or min_distance below 1."""
    require_sizes(maps, (None, None, None), "maps")
    require_finite(maps, "maps")
    require_count(k, "k", 1)
    require_count(min_distance, "min_distance", 1)
    return method.topk_peaks(maps, k, min_distance, exclude_border)


def positive_pairs(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`oass.method.positive_pairs`; ValueError for labels that are neither 0 nor 1."""
    require_labels(labels)
    return method.positive_pairs(labels)


def scaled_distances(image_size: int) -> tuple[int, int]:
    """`oass.method.scaled_distances`; ValueError below 1."""
    require_count(image_size, "image_size", 1)
    return method.scaled_distances(image_size)


def detect_keypoints(
    cams: torch.Tensor,
    labels: torch.Tensor,
    strategy: str,
    image_size: int = 512,
    *,
    k: int = 5,
    min_distance: int | None = None,
    radius: int | None = None,
    exclude_border: bool = True,
    rule: str = "paper",
    pairs: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Keypoints:
    """`oass.method.detect_keypoints`; ValueError for values that are none of its."""
    require_one_of(strategy, STRATEGIES, "strategy")
    require_one_of(rule, RULES, "rule")
    require_count(k, "k", 1)
    require_count(image_size, "image_size", cams.shape[-1])
    for name, distance in (("min_distance", min_distance), ("radius", radius)):
        if distance is not None:
            require_count(distance, name, 1)
    require_finite(cams, "cams")
    require_labels(labels)
    require_sizes(labels, tuple(cams.shape[:2]), "labels")
    if pairs is not None:
        require_in_range(pairs[0], 0, cams.shape[0] - 1, "pairs: image_index")
        require_in_range(pairs[1], 0, cams.shape[1] - 1, "pairs: class_index")
    return method.detect_keypoints(
        cams,
        labels,
        strategy,
        image_size,
        k=k,
        min_distance=min_distance,
        radius=radius,
        exclude_border=exclude_border,
        rule=rule,
        pairs=pairs,
    )
