"""The losses: `oass.method` after a look at the arguments (ValueError), and a whole step's."""

from typing import Any

import torch
from torch import nn

from common.aliases import one_module
from common.domain import require_number, require_one_of, require_shape
from oass import method
from oass.build_objective import PuzzleOptions, TilePass
from oass.build_objective import object_aware_losses as losses_of_a_step
from oass.data_checks import require_count, require_in_range, require_labels
from oass.method import RE_LOSSES
from oass.options_flags import (
    LEVELS,
    P_LOSSES,
    P_TARGETS,
    PUZZLES,
    RE_LOSS_OPTIONS,
    RULES,
    TILE_MODES,
)

one_module(__name__, "oass.core.losses")


def class_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`oass.method.class_loss`; ValueError for targets that are neither 0 nor 1."""
    require_labels(targets, "targets")
    return method.class_loss(logits, targets)


def re_loss_weight(
    alpha_re: float, alpha_schedule_re: float, iteration: int, max_iteration: int
) -> float:
    """`oass.method.re_loss_weight`; ValueError for negative numbers, NaN, no iteration at all."""
    require_number(alpha_re, "alpha_re", 0)
    require_number(alpha_schedule_re, "alpha_schedule_re", 0)
    require_number(iteration, "iteration", 0)
    require_count(max_iteration, "max_iteration", 1)
    return method.re_loss_weight(alpha_re, alpha_schedule_re, iteration, max_iteration)


def pair_targets(
    labels: torch.Tensor, image_index: torch.Tensor, class_index: torch.Tensor
) -> torch.Tensor:
    """`oass.method.pair_targets`; ValueError for other labels, and indices outside them."""
    require_labels(labels)
    require_shape(class_index, image_index.shape, "class_index")
    require_in_range(image_index, 0, labels.shape[0] - 1, "image_index")
    require_in_range(class_index, -1, labels.shape[1] - 1, "class_index")
    return method.pair_targets(labels, image_index, class_index)


def reconstruction_loss(
    full: torch.Tensor,
    merged: torch.Tensor,
    mask: torch.Tensor,
    re_loss: str = "L1_Loss",
    option: str = "masking",
) -> torch.Tensor:
    """`oass.method.reconstruction_loss`; ValueError for another name, shape or mask."""
    require_one_of(re_loss, tuple(RE_LOSSES), "re_loss")
    require_one_of(option, RE_LOSS_OPTIONS, "option")
    require_shape(merged, full.shape, "merged")
    require_shape(mask, full.shape[:2], "mask")
    require_labels(mask, "mask")
    return method.reconstruction_loss(full, merged, mask, re_loss, option)


def puzzle_losses(
    features: torch.Tensor,
    merged: torch.Tensor,
    labels: torch.Tensor,
    image_index: torch.Tensor,
    class_index: torch.Tensor,
    re_loss: str = "L1_Loss",
) -> tuple[torch.Tensor, torch.Tensor]:
    """`oass.method.puzzle_losses`; ValueError for values and shapes that do not fit together."""
    require_one_of(re_loss, tuple(RE_LOSSES), "re_loss")
    require_shape(labels, features.shape[:2], "labels")
    require_shape(image_index, (len(merged),), "image_index")
    require_shape(class_index, (len(merged),), "class_index")
    require_labels(labels)
    require_in_range(image_index, 0, labels.shape[0] - 1, "image_index")
    require_in_range(class_index, -1, labels.shape[1] - 1, "class_index")
    return method.puzzle_losses(features, merged, labels, image_index, class_index, re_loss)


def object_aware_losses(
    model: nn.Module,
    teacher: nn.Module | None,
    images: torch.Tensor,
    labels: torch.Tensor,
    strategy: str,
    *,
    teacher_bn: str = "group",
    tile_bn_stats: bool = False,
    tile_chunk: int | None = None,
    pairs: tuple[torch.Tensor, torch.Tensor] | None = None,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """What training calls, of oass/build_objective.py, with the options as keywords.

    options: the fields of `PuzzleOptions`. ValueError for labels that are neither 0 nor 1, names
    that are none of the choices, k below 1.
    """
    chosen = PuzzleOptions(strategy=strategy, **options)
    require_one_of(strategy, (*PUZZLES, "uniform"), "strategy")
    require_one_of(teacher_bn, TILE_MODES, "teacher_bn")
    require_one_of(chosen.rule, RULES, "rule")
    require_one_of(chosen.re_loss, tuple(RE_LOSSES), "re_loss")
    require_one_of(chosen.re_loss_option, RE_LOSS_OPTIONS, "re_loss_option")
    require_one_of(chosen.level, LEVELS, "level")
    require_one_of(chosen.p_loss, P_LOSSES, "p_loss")
    require_one_of(chosen.p_target, P_TARGETS, "p_target")
    require_count(chosen.k, "k", 1)
    require_labels(labels)
    tile_maps = TilePass(teacher_bn, tile_chunk, tile_bn_stats and teacher is None)
    return losses_of_a_step(model, teacher, images, labels, chosen, tile_maps, pairs)
