"""The asymmetric loss (ASL, Ridnik et al., ICCV 2021), which CSL is compared with.

The rows "Negative, ASL" of the tables are `csl.method.partial_asymmetric_loss` with exponents of
their own; these are the functions behind the released classes, for labels that are complete.
"""

import torch
import torch.nn.functional as F

from csl.method import (
    NEGATIVE,
    UNKNOWN,
    at_least_float32,
    is_readable,
    partial_asymmetric_loss,
    require_labels,
)

__all__ = ["asymmetric_loss", "single_label_asymmetric_loss"]


def asymmetric_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    gamma_pos: float = 1,
    gamma_neg: float = 4,
    clip: float | None = 0.05,
    eps: float = 1e-8,
    focus_gradient: bool = True,
) -> torch.Tensor:
    """ASL of complete labels, a scalar sum: `partial_asymmetric_loss` without a set U.

    Args:
        logits: (B, C), of any float dtype.
        targets: (B, C), 1 and 0. In eager mode on the CPU another value is a ValueError;
            elsewhere it makes the loss NaN.
        focus_gradient: whether the focusing factor (1 - pt)^gamma carries a gradient.
    """
    if is_readable(targets):
        require_labels(targets, lowest=NEGATIVE)
    weights = torch.where(targets == UNKNOWN, torch.nan, 1.0)
    return partial_asymmetric_loss(
        logits,
        targets,
        weights,
        gamma_pos=gamma_pos,
        gamma_neg=gamma_neg,
        clip=clip,
        eps=eps,
        focus_gradient=focus_gradient,
    )


def single_label_asymmetric_loss(
    logits: torch.Tensor,
    classes: torch.Tensor,
    *,
    gamma_pos: float = 0,
    gamma_neg: float = 4,
    eps: float = 0.1,
) -> torch.Tensor:
    """The softmax form for one class an image, with label smoothing eps; a loss per image, (B,).

        L_b = - sum over c of  s(b,c) (1 - pt)^gamma log softmax(z)(b,c)

    pt: the probability of being right about class c; s: the label, smoothed to
    (1 - eps) onehot + eps / C.

    Args:
        logits: (B, C), of any float dtype.
        classes: (B,), indices in 0..C-1. In eager mode on the CPU another value is a ValueError;
            elsewhere it makes the loss of its image NaN.
    """
    if logits.dim() != 2 or classes.shape != logits.shape[:1]:
        shapes = f"logits {tuple(logits.shape)} and targets {tuple(classes.shape)}"
        raise ValueError(f"{shapes}: must be (B,C) and (B,)")
    count = logits.shape[-1]
    is_class = classes[:, None] == torch.arange(count, device=classes.device)
    if is_readable(classes) and not bool(is_class.any(dim=1).all()):
        wrong = classes[~is_class.any(dim=1)][0].item()
        raise ValueError(f"targets: {wrong} is no class index; there are 0 to {count - 1}")

    log_p = F.log_softmax(at_least_float32(logits), dim=-1)
    onehot = is_class.to(log_p.dtype)
    p = log_p.exp()
    pt = torch.where(is_class, p, 1 - p)
    gamma = gamma_pos * onehot + gamma_neg * (1 - onehot)
    smoothed = onehot * (1 - eps) + eps / count
    loss = -(smoothed * (1 - pt) ** gamma * log_p).sum(dim=-1)
    return torch.where(is_class.any(dim=1), loss, torch.nan)
