"""LWS: Leveraged Weighted Loss for Partial Label Learning (Wen et al., ICML 2021)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cavl.method import PartialLabelMethod


class LWSLoss(NamedTuple):
    """The loss, and its two parts."""

    total: torch.Tensor
    inside: torch.Tensor
    outside: torch.Tensor


def lws_loss(
    logits: torch.Tensor,
    candidates: torch.Tensor,
    confidence: torch.Tensor,
    lw_weight: float = 2.0,
    lw_weight0: float = 1.0,
) -> LWSLoss:
    """The leveraged weighted sigmoid loss of a batch, scalars.

        L = w0 (1/B) sum_{i,k} C[i,k] Y[i,k] s(-z_k)  +  w (1/B) sum_{i,k} C[i,k] (1 - Y[i,k]) s(z_k)

    s is the sigmoid, w = lw_weight, w0 = lw_weight0. logits z, candidates Y and confidence C: (B, K).
    """
    Y = candidates.to(logits.dtype)
    too_low = (confidence * Y * torch.sigmoid(-logits)).sum(dim=1).mean()
    too_high = (confidence * (1 - Y) * torch.sigmoid(logits)).sum(dim=1).mean()
    inside = lw_weight0 * too_low
    outside = lw_weight * too_high
    return LWSLoss(inside + outside, inside, outside)


def lws_confidence(logits: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """p renormalised inside the set, and by itself outside of it: (B, K). 1e-8 is added to every p below the bar."""
    p = logits.softmax(dim=1)
    Y = candidates.to(p.dtype)
    inside = p * Y
    outside = p * (1 - Y)
    inside = inside / (inside + 1e-8).sum(dim=1, keepdim=True)
    outside = outside / (outside + 1e-8).sum(dim=1, keepdim=True)
    return inside + outside


@dataclass(frozen=True)
class LWS(PartialLabelMethod):
    """Raises the candidates and lowers the others, each as much as it is believed; C starts at 1/K."""

    lw_weight: float = 2.0
    lw_weight0: float = 1.0

    def init(self, candidates: torch.Tensor) -> torch.Tensor:
        n, K = candidates.shape
        return torch.full((n, K), 1 / K, device=candidates.device)

    def loss(
        self, logits: torch.Tensor, candidates: torch.Tensor, belief: torch.Tensor | None
    ) -> torch.Tensor:
        if belief is None:
            belief = self.init(candidates)
        return lws_loss(logits, candidates, belief, self.lw_weight, self.lw_weight0).total

    def update(
        self, logits: torch.Tensor, candidates: torch.Tensor, maps: torch.Tensor | None = None
    ) -> torch.Tensor:
        return lws_confidence(logits, candidates)

    def belief(
        self,
        belief: torch.Tensor | None,
        candidates: torch.Tensor,
        logits: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """C; -1 outside the set, whose labels C weighs too."""
        confidence = super().belief(belief, candidates, logits)
        return confidence.masked_fill(candidates == 0, -1)


METHOD = LWS
