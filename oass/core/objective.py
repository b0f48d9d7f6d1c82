"""The module that is trained: one call computes every loss of a step, so that DDP sees one forward pass."""

import argparse

import torch
from torch import nn

from common.aliases import one_module
from oass.core.losses import TileChunk, class_loss, object_aware_losses
from oass.core.networks import Classifier
from oass.core.terms import terms_of
from oass.tools.ai.torch_utils import shannon_entropy_loss

one_module(__name__, "oass.core.objective")

DEAD = 1e-5  # make_cam's epsilon: a map whose maximum is not above it is zero everywhere


class Objective(nn.Module):
    """The student with its losses. The teacher is no submodule: it has no gradient and is not averaged by DDP."""

    def __init__(
        self, student: Classifier, teacher: Classifier | None, args: argparse.Namespace
    ) -> None:
        super().__init__()
        self.student, self.strategy = student, args.strategy
        self._teacher = [teacher]
        self.terms = terms_of(args.strategy, args.p_loss, args.loss_option)
        self.options = {
            "re_loss": args.re_loss,
            "rule": args.keypoint_rule,
            "k": args.topk,
            "min_distance": args.min_distance,
            "radius": args.radius,
            "teacher_bn": args.teacher_bn,
            "tile_bn_stats": args.tile_bn_stats,
            "re_loss_option": args.re_loss_option,
            "level": args.level,
            "p_loss": args.p_loss,
            "p_target": args.p_target,
            "tile_chunk": TileChunk(args.tile_chunk),
        }

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, pairs: tuple[torch.Tensor, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """images (B,3,S,S), labels (B,C), their positive pairs: the losses of a step, unweighted, and dead_cam."""
        nothing = labels.new_zeros(())
        if self.terms.needs_tiles:
            out = object_aware_losses(
                self.student,
                self._teacher[0],
                images,
                labels,
                self.strategy,
                pairs=pairs,
                **self.options,
            )
            num_pairs = out["image_index"].numel()
        else:
            out, num_pairs = self._without_tiles(images, labels), 0
        losses = {
            name: out.get(name, nothing) for name in ("class_loss", "p_class_loss", "re_loss")
        }
        losses["conf_loss"] = (
            shannon_entropy_loss(out["tile_logits"]) if "conf" in self.terms.present else nothing
        )
        losses["dead_cam"] = dead_share(out["features"].detach(), labels)
        losses["num_pairs"] = labels.new_tensor(float(num_pairs))
        return losses

    def _without_tiles(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits, features = self.student(images, with_cam=True)
        pooled = features.mean((2, 3))
        found = {
            "class_loss": class_loss(pooled if self.strategy == "gap" else logits, labels).mean()
        }
        if "pcl" in self.terms.present:
            found["p_class_loss"] = class_loss(pooled, labels).mean()
        return {**found, "features": features}


def dead_share(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of the present classes whose normalised map is zero everywhere; such a map learns nothing.

    features F (B,C,G,G), labels (B,C); 0 without a present class.
    """
    dead = (features.amax((2, 3)) <= DEAD) * labels
    return dead.sum() / labels.sum().clamp_min(1)
