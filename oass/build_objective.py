"""The module that is trained: one call computes every loss of a step, so that DDP sees one pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from common.aliases import one_module
from common.cli import UserError
from common.precision import has_float64, with_float64
from oass import fast
from oass.core.networks import Classifier
from oass.data_frozen import Features
from oass.method import (
    Keypoints,
    class_loss,
    detect_keypoints,
    make_cam,
    mean_class_loss,
    merge_at_keypoints,
    pair_targets,
    puzzle_losses,
    tile_at_keypoints,
)
from oass.options_check import Terms
from oass.tools.ai.torch_utils import shannon_entropy_loss

one_module(__name__, "oass.build_objective")

DEAD = 1e-5  # make_cam's epsilon: a map whose maximum is not above it is zero everywhere
Pairs = tuple[torch.Tensor, torch.Tensor]
TileMaps = Callable[[nn.Module, torch.Tensor], torch.Tensor]
Look = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class PuzzleOptions:
    """How the puzzle is cut and what its losses compare (the flags of these names).

    strategy, rule, k, min_distance, radius: where to cut, `oass.method.detect_keypoints`.
    re_loss, re_loss_option, level: of L_re, `oass.method.puzzle_losses`.
    p_loss: L_pcl looks at the tiles' maps of the "teacher" (without gradient) or the "student", or
    at the maps of the "full" image (README, deviations: p_loss).
    p_target: with "student" the labels of the "image", or "onehot".
    """

    strategy: str
    rule: str = "paper"
    k: int = 5
    min_distance: int | None = None
    radius: int | None = None
    re_loss: str = "L1_Loss"
    re_loss_option: str = "masking"
    level: str = "feature"
    p_loss: str = "teacher"
    p_target: str = "image"


class TilePass:
    """Class maps of tiles, (network, tiles) to (P,4,C,h,h); in parts where memory is short.

    Args:
        mode: whose statistics the tiles see, `oass.fast.tile_statistics`.
        pairs_at_once: so many in one forward pass; None: all. Halved for good where the memory does
            not suffice.
        update_statistics: the tiles move the running statistics.
    Raises:
        UserError: out of memory also with half the pairs.
    """

    def __init__(
        self, mode: str = "group", pairs_at_once: int | None = None, update_statistics: bool = False
    ) -> None:
        self.mode = mode
        self.pairs_at_once = pairs_at_once
        self.update_statistics = update_statistics

    def __call__(self, network: nn.Module, tiles: torch.Tensor) -> torch.Tensor:
        size = min(self.pairs_at_once or len(tiles), len(tiles))
        found = self._maps(network, tiles, size)
        if found is not None:
            return found

        torch.cuda.empty_cache()
        half = max(1, size // 2)
        found = self._maps(network, tiles, half)
        if found is None:
            less = "a smaller --image_size or --architecture"
            at_once = "1 pair"
            if half > 1:
                less = "--tile_chunk 1"
                at_once = f"{half} pairs"
            problem = f"out of memory in the tile pass, also with {at_once} at once"
            raise UserError(f"{problem}; {less}")
        problem = f"out of memory in the tile pass with {size} pairs at once"
        print(f"{problem}; from here on as --tile_chunk {half}", flush=True)
        self.pairs_at_once = half
        return found

    def _maps(self, network: nn.Module, tiles: torch.Tensor, pairs: int) -> torch.Tensor | None:
        """The maps; None where the memory does not suffice."""
        try:
            return fast.tile_class_maps(
                network,
                tiles,
                mode=self.mode,
                update_statistics=self.update_statistics,
                pairs_at_once=pairs,
            )
        except torch.OutOfMemoryError:
            return None


def cut_points(
    features: torch.Tensor,
    labels: torch.Tensor,
    image_size: int,
    options: PuzzleOptions,
    pairs: Pairs | None = None,
) -> Keypoints:
    """Where to cut: keypoints of the normalised maps; uniform (PuzzleCAM): every image's centre."""
    if options.strategy == "uniform":
        image_index = torch.arange(len(labels), device=labels.device)
        centre = torch.full((len(labels), 2), image_size // 2, device=labels.device)
        return Keypoints(centre, image_index, torch.full_like(image_index, -1))
    found = detect_keypoints(
        with_float64(make_cam(features.detach())),
        with_float64(labels),
        options.strategy,
        image_size,
        k=options.k,
        min_distance=options.min_distance,
        radius=options.radius,
        rule=options.rule,
        pairs=pairs if has_float64(labels.device) else None,
    )
    return Keypoints(*(part.to(labels.device) for part in found))


def glued_maps(
    network: nn.Module,
    images: torch.Tensor,
    points: Keypoints,
    grid_size: int,
    tile_maps: TileMaps,
) -> torch.Tensor:
    """R (P,C,G,G): images (B,3,S,S) cut at the keypoints, the tiles' class maps, glued together."""
    tiles = tile_at_keypoints(images, points.image_index, points.keypoints)
    maps = tile_maps(network, tiles)
    return merge_at_keypoints(maps, points.keypoints, images.shape[-1], grid_size)


def object_aware_losses(
    student: nn.Module,
    teacher: nn.Module | None,
    images: torch.Tensor,
    labels: torch.Tensor,
    options: PuzzleOptions,
    tile_maps: TileMaps,
    pairs: Pairs | None = None,
    cut_from: torch.Tensor | None = None,
    look: Look | None = None,
) -> dict[str, torch.Tensor]:
    """The losses of a step: the student on images (B,3,S,S), then the class maps of all 4P tiles.

    Without a teacher the student computes the tiles, with gradient (`max`); else the teacher does,
    without one. `pairs` as for `detect_keypoints`. `cut_from`: what is cut at the centre instead of
    the images, features of the tiles side by side. `look`: what is called for the student on the
    whole images, itself by default.

    Returns:
        class_loss (L_cl), p_class_loss (L_pcl), re_loss (L_re), keypoints, image_index,
        class_index, logits, features (F), merged (R), tile_logits (GAP of R, or of the student's).
    """
    logits, features = (student if look is None else look)(images, with_cam=True)
    grid_size = features.shape[-1]
    if cut_from is not None:
        images = cut_from
    points = cut_points(features, labels, images.shape[-1], options, pairs)
    if teacher is None:
        merged = glued_maps(student, images, points, grid_size, tile_maps)
    else:
        with torch.no_grad():
            merged = glued_maps(teacher, images, points, grid_size, tile_maps)

    p_class_loss, re_loss = puzzle_losses(
        features,
        merged,
        labels,
        points.image_index,
        points.class_index,
        options.re_loss,
        option=options.re_loss_option,
        level=options.level,
    )
    tile_logits = merged.mean((2, 3))
    if options.p_loss == "student" and teacher is not None:
        own = glued_maps(student, images, points, grid_size, tile_maps)
        tile_logits = own.mean((2, 3))
        targets = labels[points.image_index]
        if options.p_target == "onehot":
            targets = pair_targets(labels, points.image_index, points.class_index)
        p_class_loss = mean_class_loss(tile_logits, targets)
    if options.p_loss == "full":
        p_class_loss = mean_class_loss(features.mean((2, 3)), labels)

    return {
        "class_loss": class_loss(logits, labels).mean(),
        "p_class_loss": p_class_loss,
        "re_loss": re_loss,
        **points._asdict(),
        "logits": logits,
        "features": features,
        "merged": merged,
        "tile_logits": tile_logits,
    }


class Objective(nn.Module):
    """The student with its losses. The teacher is no submodule: DDP shall not average it.

    `look`: the student as it is called on whole images, compiled perhaps; by default itself.
    """

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier | None,
        *,
        options: PuzzleOptions,
        terms: Terms,
        tile_maps: TileMaps,
        look: Look | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self._teacher = [teacher]
        self._look = [student if look is None else look]  # its weights are the student's
        self.options = options
        self.terms = terms
        self.tile_maps = tile_maps

    def forward(
        self, shown: torch.Tensor | Features, labels: torch.Tensor, pairs: Pairs
    ) -> dict[str, torch.Tensor]:
        """The losses of a step, unweighted, num_pairs, and dead_cam (`dead_share`), by name.

        Images (B,3,S,S) or what a frozen backbone computed of them, labels (B,C), and their
        positive pairs.
        """
        images: Any = shown
        cut_from = None
        if isinstance(shown, Features):
            images = shown.maps
            cut_from = shown.tiles
        nothing = labels.new_zeros(())
        num_pairs = 0
        if self.terms.needs_tiles:
            out = object_aware_losses(
                self.student,
                self._teacher[0],
                images,
                labels,
                self.options,
                self.tile_maps,
                pairs,
                cut_from,
                self._look[0],
            )
            num_pairs = out["image_index"].numel()
        else:
            out = self._without_tiles(images, labels)

        names = ("class_loss", "p_class_loss", "re_loss")
        losses = {name: out.get(name, nothing) for name in names}
        losses["conf_loss"] = nothing
        if "conf" in self.terms.present:
            losses["conf_loss"] = shannon_entropy_loss(out["tile_logits"])
        losses["dead_cam"] = dead_share(out["features"].detach(), labels)
        losses["num_pairs"] = labels.new_full((), float(num_pairs))
        return losses

    def _without_tiles(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The baselines: class-specific instances alone (none), or pooled class maps (gap)."""
        logits, features = self._look[0](images, with_cam=True)
        pooled = features.mean((2, 3))
        if self.options.strategy == "gap":
            logits = pooled
        found = {"class_loss": class_loss(logits, labels).mean(), "features": features}
        if "pcl" in self.terms.present:
            found["p_class_loss"] = class_loss(pooled, labels).mean()
        return found


def dead_share(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of the present classes whose normalised map is zero everywhere: it learns nothing.

    features F (B,C,G,G), labels (B,C); 0 without a present class.
    """
    dead = (features.amax((2, 3)) <= DEAD) * labels
    return dead.sum() / labels.sum().clamp_min(1)
