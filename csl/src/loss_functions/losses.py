"""The asymmetric loss for complete labels, under the released code's names.

See csl/baselines/asl.py.
"""

from typing import Any

import torch
from torch import nn

from common.aliases import one_module
from common.domain import require_number, require_one_of
from csl.baselines.asl import asymmetric_loss, single_label_asymmetric_loss

one_module(__name__, "csl.src.loss_functions.losses")

__all__ = ["ASLSingleLabel", "AsymmetricLoss", "AsymmetricLossOptimized"]


class AsymmetricLoss(nn.Module):
    """`asymmetric_loss` of logits (B, C) and targets (B, C) in {0, 1}, a scalar sum.

    `disable_torch_grad_focal_loss` leaves the focusing factor without a gradient.
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = True,
    ) -> None:
        """DomainError (a ValueError): a gamma below 0, clip or eps outside 0..1.

        None may be NaN.
        """
        super().__init__()
        require_number(gamma_neg, "gamma_neg", 0)
        require_number(gamma_pos, "gamma_pos", 0)
        require_number(clip or 0, "clip", 0, 1, open_high=True)
        require_number(eps, "eps", 0, 1, open_high=True)
        self.settings: dict[str, Any] = {
            "gamma_neg": gamma_neg,
            "gamma_pos": gamma_pos,
            "clip": clip,
            "eps": eps,
            "focus_gradient": not disable_torch_grad_focal_loss,
        }

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss; ValueError as in `asymmetric_loss`."""
        return asymmetric_loss(x, y, **self.settings)


class AsymmetricLossOptimized(AsymmetricLoss):
    """The same loss; by default the gradient goes through the focusing factor."""

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = False,
    ) -> None:
        super().__init__(gamma_neg, gamma_pos, clip, eps, disable_torch_grad_focal_loss)


class ASLSingleLabel(nn.Module):
    """`single_label_asymmetric_loss` of logits (B, C) and class indices (B,)."""

    def __init__(
        self,
        gamma_pos: float = 0,
        gamma_neg: float = 4,
        eps: float = 0.1,
        reduction: str | None = "mean",
    ) -> None:
        """DomainError (a ValueError): a gamma below 0, eps outside 0..1, an unknown reduction."""
        super().__init__()
        require_number(gamma_pos, "gamma_pos", 0)
        require_number(gamma_neg, "gamma_neg", 0)
        require_number(eps, "eps", 0, 1)
        require_one_of(reduction or "none", ("mean", "none"), "reduction")
        self.settings = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "eps": eps}
        self.reduction = reduction

    def forward(self, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean loss, a scalar, or (B,) where the reduction is not "mean".

        ValueError as there.
        """
        loss = single_label_asymmetric_loss(inputs, target, **self.settings)
        return loss.mean() if self.reduction == "mean" else loss
