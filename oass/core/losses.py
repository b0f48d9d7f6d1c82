"""The training objective: classification of the whole image, and the puzzle cut at keypoints (section a).

Shapes: B images, P pairs (image, keypoint), C classes, G cells of the class map, S pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from common.aliases import one_module
from common.cli import UserError
from oass.core.batch_norm import TILES, tile_statistics
from oass.core.csi import instance_moments, update_running_statistics
from oass.core.domain import (
    is_readable,
    labels_or_nan,
    require_choice,
    require_count,
    require_in_range,
    require_labels,
    require_number,
    require_shape,
)
from oass.core.keypoints import STRATEGIES, Keypoints, detect_keypoints
from oass.core.options import BASELINES, P_LOSSES, P_TARGETS, TILE_MODES
from oass.core.puzzle_utils import merge_at_keypoints, tile_at_keypoints
from oass.tools.ai.torch_utils import L1_Loss, L2_Loss, make_cam

one_module(__name__, "oass.core.losses")

RE_LOSSES: dict[str, Callable] = {"L1_Loss": L1_Loss, "L2_Loss": L2_Loss}
RE_LOSS_OPTIONS = ("none", "masking", "selection")
LEVELS = ("feature", "cam")


def class_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """B(z, t) = -(1/C) sum_c [t log sigma(z) + (1-t) log(1 - sigma(z))] of each row, (N,C) to (N,).

    Targets are 0 or 1: any other is a ValueError on the CPU; where values cannot be looked at (a GPU, torch.compile,
    torch.func) the loss of its row is NaN.
    """
    if is_readable(targets):
        require_labels(targets, "targets")
    else:
        targets = labels_or_nan(targets)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def re_loss_weight(
    alpha_re: float, alpha_schedule_re: float, iteration: int, max_iteration: int
) -> float:
    """alpha_re(i) = min(alpha_re * i / (i_max * schedule), alpha_re); schedule 0 means alpha_re at once.

    ValueError for a negative weight, schedule or iteration, NaN, and less than one iteration in all.
    """
    require_number(alpha_re, "alpha_re", 0)
    require_number(alpha_schedule_re, "alpha_schedule_re", 0)
    require_number(iteration, "iteration", 0)
    require_count(max_iteration, "max_iteration", 1)
    ramp = max_iteration * alpha_schedule_re
    return min(alpha_re * iteration / ramp, alpha_re) if ramp > 0 else alpha_re


def pair_targets(
    labels: torch.Tensor, image_index: torch.Tensor, class_index: torch.Tensor
) -> torch.Tensor:
    """The target t_p and mask m_p of every pair, (P,C): the image's labels, or one-hot where it has a class.

    labels (B,C), 0 or 1; image_index (P,) in 0 .. B-1; class_index (P,) in -1 .. C-1. ValueError for others.
    """
    B, C = labels.shape
    require_labels(labels)
    require_shape(class_index, tuple(image_index.shape), "class_index")
    require_in_range(image_index, 0, B - 1, "image_index")
    require_in_range(class_index, -1, C - 1, "class_index")
    own_class = torch.zeros_like(labels[image_index]).scatter_(
        1, class_index.clamp_min(0)[:, None], 1
    )
    return torch.where((class_index < 0)[:, None], labels[image_index], own_class)


def reconstruction_loss(
    full: torch.Tensor,
    merged: torch.Tensor,
    mask: torch.Tensor,
    re_loss: str = "L1_Loss",
    option: str = "masking",
) -> torch.Tensor:
    """L_re = (1/P) sum_p mean over classes and pixels of |F - R| m_p (L2_Loss: squared); 0 for P = 0.

    full, merged (P,C,G,G), mask (P,C), 0 or 1. option "none" leaves the mask out, "selection" takes the mean over
    the mask's classes only. ValueError for another name, shape or mask.
    """
    require_choice(re_loss, tuple(RE_LOSSES), "re_loss")
    require_choice(option, RE_LOSS_OPTIONS, "option")
    require_shape(merged, tuple(full.shape), "merged")
    require_shape(mask, tuple(full.shape[:2]), "mask")
    require_labels(mask, "mask")
    per_class = RE_LOSSES[re_loss](full, merged).mean((2, 3))
    if option != "none":
        per_class = per_class * mask
    if option == "selection":
        per_pair = per_class.sum(1) / mask.sum(1).clamp_min(1)
    else:
        per_pair = per_class.mean(1)
    return per_pair.sum() / max(len(full), 1)


def puzzle_losses(
    features: torch.Tensor,
    merged: torch.Tensor,
    labels: torch.Tensor,
    image_index: torch.Tensor,
    class_index: torch.Tensor,
    re_loss: str = "L1_Loss",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(L_pcl, L_re): the classification loss of GAP(R) and the reconstruction loss, scalars.

    features F (B,C,G,G); merged R (P,C,G,G); labels (B,C). Per-class pairs have one-hot targets and compare
    their own channel only; class_index -1 (`max`) takes all labels of the image. P = 0: both 0. ValueError for
    values and shapes that do not belong together (`pair_targets`, `reconstruction_loss`).
    """
    require_shape(labels, tuple(features.shape[:2]), "labels")
    require_shape(image_index, (len(merged),), "image_index")
    targets = pair_targets(labels, image_index, class_index)
    p_class_loss = class_loss(merged.mean((2, 3)), targets).sum() / max(len(merged), 1)
    return p_class_loss, reconstruction_loss(features[image_index], merged, targets, re_loss)


@dataclass
class TileChunk:
    """How many pairs one tile pass takes, None: all; lowered for good where the memory does not suffice."""

    pairs: int | None = None


def tile_class_maps(
    network: nn.Module,
    tiles: torch.Tensor,
    *,
    mode: str = "group",
    update_statistics: bool = False,
    chunk: int | TileChunk | None = None,
) -> torch.Tensor:
    """Class maps of all tiles (P,4,c,ps,ps) in one forward (or `chunk` pairs at a time), (P,4,C,h,h) float32.

    Without the instance head. `update_statistics` moves the running statistics pair by pair, those of the
    instance head included, as the released `max` does. Out of memory: once more with half the pairs, which a
    TileChunk then keeps; UserError where that is still too much.
    """
    P = len(tiles)
    if P == 0:
        h = tiles.shape[-1] // 2
        return tiles.new_zeros((0, TILES, network.num_classes, h, h))
    chunk = chunk if isinstance(chunk, TileChunk) else TileChunk(chunk)

    def maps(pairs: int) -> torch.Tensor | None:
        try:
            parts = [
                _maps_of(network, part.flatten(0, 1), mode, update_statistics)
                for part in tiles.split(pairs)
            ]
            return torch.cat(parts).unflatten(0, (P, TILES))
        except torch.OutOfMemoryError:
            return None

    size = min(chunk.pairs or P, P)
    if (found := maps(size)) is not None:
        return found
    torch.cuda.empty_cache()
    half = max(1, size // 2)
    if (found := maps(half)) is None:
        less = "--tile_chunk 1" if half > 1 else "a smaller --image_size or --architecture"
        raise UserError(
            f"out of memory in the tile pass, also with {half} pair{'s' * (half > 1)} at once; {less}"
        )
    print(
        f"out of memory in the tile pass with {size} pairs at once; from here on as --tile_chunk {half}",
        flush=True,
    )
    chunk.pairs = half
    return found


def _maps_of(network: nn.Module, tiles: torch.Tensor, mode: str, update: bool) -> torch.Tensor:
    tiles = tiles.contiguous(memory_format=torch.channels_last)  # the faster layout
    with tile_statistics(network.model, mode, update):
        X = network.feature_map(tiles)
        maps = network.classifier(X)
    if update:
        with torch.no_grad(), torch.autocast(tiles.device.type, enabled=False):
            for x, cams in zip(
                X.float().split(TILES), make_cam(maps.float()).split(TILES), strict=True
            ):
                v, second, count = instance_moments(x, cams)
                mean = v.mean(0)
                update_running_statistics(
                    network.BN, mean, (second - mean.square()).clamp_min(0), count
                )
    return maps.float()


def cut_points(
    features: torch.Tensor, labels: torch.Tensor, strategy: str, image_size: int, **options: Any
) -> Keypoints:
    """Where to cut: `detect_keypoints` on the normalised maps, or the centre of every image (`uniform`, PuzzleCAM)."""
    if strategy != "uniform":
        return detect_keypoints(
            make_cam(features.detach()), labels, strategy, image_size, **options
        )
    image_index = torch.arange(len(labels), device=labels.device)
    centre = torch.full((len(labels), 2), image_size // 2, device=labels.device)
    return Keypoints(centre, image_index, torch.full_like(image_index, -1))


def object_aware_losses(
    model: nn.Module,
    teacher: nn.Module | None,
    images: torch.Tensor,
    labels: torch.Tensor,
    strategy: str,
    *,
    re_loss: str = "L1_Loss",
    rule: str = "paper",
    k: int = 5,
    min_distance: int | None = None,
    radius: int | None = None,
    teacher_bn: str = "group",
    tile_bn_stats: bool = False,
    re_loss_option: str = "masking",
    level: str = "feature",
    p_loss: str = "teacher",
    p_target: str = "image",
    tile_chunk: int | TileChunk | None = None,
    pairs: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """One student forward on images (B,3,S,S), one forward of the class maps on all 4P tiles, and the losses.

    teacher None: the student computes the tiles, with gradient (`max`); else the teacher does, without a
    graph, and L_pcl is a constant (D4) unless `p_loss` is "student" (another tile pass, with gradient). p_loss
    "full": L_pcl of GAP of F, on the whole image. Returns class_loss (L_cl), p_class_loss (L_pcl), re_loss (L_re),
    keypoints, image_index, class_index, logits, features (F), merged (R), tile_logits (GAP of the tiles' maps).
    ValueError for labels that are neither 0 nor 1 (on the CPU), names that are none of the choices, k below 1.
    """
    require_choice(strategy, (*STRATEGIES, *BASELINES), "strategy")
    require_choice(teacher_bn, TILE_MODES, "teacher_bn")
    require_choice(level, LEVELS, "level")
    require_choice(p_loss, P_LOSSES, "p_loss")
    require_choice(p_target, P_TARGETS, "p_target")
    require_labels(labels)
    require_shape(labels, (len(images), None), "labels")

    logits, features = model(images, with_cam=True)
    rules = {"rule": rule, "k": k, "min_distance": min_distance, "radius": radius, "pairs": pairs}
    points = cut_points(features, labels, strategy, images.shape[-1], **rules)
    tiles = tile_at_keypoints(images, points.image_index, points.keypoints)

    def puzzle(network: nn.Module, update: bool = False) -> torch.Tensor:
        maps = tile_class_maps(
            network, tiles, mode=teacher_bn, update_statistics=update, chunk=tile_chunk
        )
        return merge_at_keypoints(maps, points.keypoints, images.shape[-1], features.shape[-1])

    if teacher is None:
        merged = puzzle(model, tile_bn_stats)
    else:
        with torch.no_grad():
            merged = puzzle(teacher)
    mask = pair_targets(labels, points.image_index, points.class_index)

    tile_logits = merged.mean((2, 3))
    targets = mask
    if p_loss == "student" and teacher is not None:
        tile_logits = puzzle(model).mean((2, 3))
        if p_target == "image":
            targets = labels[points.image_index]
    p_logits = tile_logits
    if p_loss == "full":
        p_logits = features.mean((2, 3))
        targets = labels

    full = features
    glued = merged
    if level == "cam":
        full = make_cam(features)
        glued = make_cam(merged)
    return {
        "class_loss": class_loss(logits, labels).mean(),
        "p_class_loss": class_loss(p_logits, targets).sum() / max(len(p_logits), 1),
        "re_loss": reconstruction_loss(
            full[points.image_index], glued, mask, re_loss, re_loss_option
        ),
        **points._asdict(),
        **{"logits": logits, "features": features, "merged": merged, "tile_logits": tile_logits},
    }
