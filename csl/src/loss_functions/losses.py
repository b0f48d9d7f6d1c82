"""The asymmetric loss (ASL, Ridnik et al., ICCV 2021) for complete labels: the baselines of CSL."""

import torch
import torch.nn.functional as F
from torch import nn

from common.aliases import one_module
from csl.src.domain import COMPLETE, is_readable, require_labels, require_number
from csl.src.errors import SettingsError

one_module(__name__, "csl.src.loss_functions.losses")

REDUCTIONS = ("mean", "none", None)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32: log and powers of it round to 0 and overflow; float32 and float64 as they are."""
    return x if x.dtype == torch.float64 else x.float()


class AsymmetricLoss(nn.Module):
    """L = - sum of (1 - pt)^gamma * log(max(pt, eps)), pt = p on positives, q = min(1 - p + clip, 1) on negatives.

    gamma = gamma_pos on positives, gamma_neg on negatives; `disable_torch_grad_focal_loss` detaches the
    focusing factor.
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = True,
    ) -> None:
        """SettingsError (a ValueError): a gamma below 0, clip outside 0..1, eps outside 0..1; none may be NaN."""
        super().__init__()
        require_number(gamma_neg, "gamma_neg", 0)
        require_number(gamma_pos, "gamma_pos", 0)
        require_number(clip or 0, "clip", 0, 1, below_high=True)
        require_number(eps, "eps", 0, 1, below_high=True)
        self.gamma_neg, self.gamma_pos, self.clip, self.eps = gamma_neg, gamma_pos, clip, eps
        self.disable_torch_grad_focal_loss = disable_torch_grad_focal_loss

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar sum: logits x (B,C) of any float dtype, targets y (B,C) in {0, 1}.

        SettingsError (a ValueError): shapes that differ, and, in eager mode on the CPU, other targets. Elsewhere
        other targets make the loss NaN.
        """
        if x.shape != y.shape:
            raise SettingsError(
                f"logits {tuple(x.shape)} and targets {tuple(y.shape)}: both must be of one shape"
            )
        if is_readable(y):
            require_labels(y, "targets", COMPLETE)
        p = torch.sigmoid(at_least_float32(x))
        q = 1 - p
        if self.clip:
            q = (q + self.clip).clamp(max=1)

        positive = (y == 1).to(p.dtype)
        negative = (y == 0).to(p.dtype)
        loss = positive * p.clamp(min=self.eps).log() + negative * q.clamp(min=self.eps).log()
        if self.gamma_neg > 0 or self.gamma_pos > 0:
            with torch.set_grad_enabled(
                torch.is_grad_enabled() and not self.disable_torch_grad_focal_loss
            ):
                pt = p * positive + q * negative
                focusing = (1 - pt) ** (self.gamma_pos * positive + self.gamma_neg * negative)
            loss = loss * focusing
        return -nan_outside(loss, positive + negative).sum()


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
    """The softmax form for one label an image, with label smoothing eps.

    L_b = - sum over c of s(b,c) * (1 - pt)^gamma * log softmax, pt the probability of being right about c,
    s the smoothed one-hot label (1 - eps) * onehot + eps / C.
    """

    def __init__(
        self,
        gamma_pos: float = 0,
        gamma_neg: float = 4,
        eps: float = 0.1,
        reduction: str | None = "mean",
    ) -> None:
        """SettingsError (a ValueError): a gamma below 0, eps outside 0..1, another reduction than mean and none."""
        super().__init__()
        require_number(gamma_pos, "gamma_pos", 0)
        require_number(gamma_neg, "gamma_neg", 0)
        require_number(eps, "eps", 0, 1)
        if reduction not in REDUCTIONS:
            raise SettingsError(f"reduction {reduction!r}: choose mean or none")
        self.gamma_pos, self.gamma_neg, self.eps, self.reduction = (
            gamma_pos,
            gamma_neg,
            eps,
            reduction,
        )

    def forward(self, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """logits (B,C), class indices (B,) -> a scalar mean, or (B,) where `reduction` is not "mean".

        SettingsError (a ValueError): other shapes, and, in eager mode on the CPU, targets that are no index in
        0..C-1. Elsewhere such a target makes the loss of its image NaN.
        """
        if inputs.dim() != 2 or target.shape != inputs.shape[:1]:
            raise SettingsError(
                f"logits {tuple(inputs.shape)} and targets {tuple(target.shape)}: must be (B,C) and (B,)"
            )
        classes = inputs.shape[-1]
        indices = torch.arange(classes, device=target.device)
        is_class = target[:, None] == indices
        if is_readable(target) and not bool(is_class.any(1).all()):
            wrong = target[~is_class.any(1)][0].item()
            raise SettingsError(f"targets: {wrong} is no class index; there are 0 to {classes - 1}")

        log_p = F.log_softmax(at_least_float32(inputs), dim=-1)
        onehot = is_class.to(log_p.dtype)
        p = log_p.exp()
        pt = p * onehot + (1 - p) * (1 - onehot)
        focusing = (1 - pt) ** (self.gamma_pos * onehot + self.gamma_neg * (1 - onehot))
        smoothed = onehot * (1 - self.eps) + self.eps / classes
        loss = -(smoothed * focusing * log_p).sum(-1)
        loss = nan_outside(loss, onehot.sum(1))
        return loss.mean() if self.reduction == "mean" else loss


def nan_outside(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """`values` where `known`, a 0/1 number of the same shape, is 1, and NaN where it is 0."""
    return torch.where(known == 1, values, torch.nan)
