"""The asymmetric loss (ASL, Ridnik et al., ICCV 2021) for complete labels: the baselines of CSL."""

import torch
import torch.nn.functional as F
from torch import nn


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
        super().__init__()
        self.gamma_neg, self.gamma_pos, self.clip, self.eps = gamma_neg, gamma_pos, clip, eps
        self.disable_torch_grad_focal_loss = disable_torch_grad_focal_loss

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar sum: logits x (B,C) of any float dtype, targets y (B,C) in {0, 1}."""
        p = torch.sigmoid(at_least_float32(x))
        q = 1 - p
        if self.clip:
            q = (q + self.clip).clamp(max=1)
        loss = y * p.clamp(min=self.eps).log() + (1 - y) * q.clamp(min=self.eps).log()
        if self.gamma_neg > 0 or self.gamma_pos > 0:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.disable_torch_grad_focal_loss):
                pt = p * y + q * (1 - y)
                focusing = (1 - pt) ** (self.gamma_pos * y + self.gamma_neg * (1 - y))
            loss = loss * focusing
        return -loss.sum()


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
        self, gamma_pos: float = 0, gamma_neg: float = 4, eps: float = 0.1, reduction: str | None = "mean"
    ) -> None:
        super().__init__()
        self.gamma_pos, self.gamma_neg, self.eps, self.reduction = gamma_pos, gamma_neg, eps, reduction

    def forward(self, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """logits (B,C), class indices (B,) -> a scalar mean, or (B,) where `reduction` is not "mean"."""
        classes = inputs.shape[-1]
        log_p = F.log_softmax(at_least_float32(inputs), dim=-1)
        onehot = F.one_hot(target.long(), classes).to(log_p.dtype)
        p = log_p.exp()
        pt = p * onehot + (1 - p) * (1 - onehot)
        focusing = (1 - pt) ** (self.gamma_pos * onehot + self.gamma_neg * (1 - onehot))
        smoothed = onehot * (1 - self.eps) + self.eps / classes
        loss = -(smoothed * focusing * log_p).sum(-1)
        return loss.mean() if self.reduction == "mean" else loss
