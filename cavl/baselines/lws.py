"""LWS: Leveraged Weighted Loss for Partial Label Learning (Wen et al., ICML 2021)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cavl.method import PartialLabelMethod


class LWSLoss(NamedTuple):
    """The loss, and its two parts."""

    total: Tensor
    inside: Tensor
    outside: Tensor


def lws_loss(
    logits: Tensor,
    candidates: Tensor,
    confidence: Tensor,
    lw_weight: float = 2.0,
    lw_weight0: float = 1.0,
) -> LWSLoss:
    """The leveraged weighted sigmoid loss of a batch, scalars.

        L =  w0 (1/B) sum_{i,k} C[i,k] Y[i,k] s(-z_k)
           + w  (1/B) sum_{i,k} C[i,k] (1 - Y[i,k]) s(z_k)

    s is the sigmoid, w0 = lw_weight0, w = lw_weight. logits z, candidates Y, confidence C: (B, K).
    """
    Y = candidates.to(logits.dtype)
    too_low = (confidence * Y * torch.sigmoid(-logits)).sum(dim=1).mean()
    too_high = (confidence * (1 - Y) * torch.sigmoid(logits)).sum(dim=1).mean()
    inside = lw_weight0 * too_low
    outside = lw_weight * too_high
    return LWSLoss(inside + outside, inside, outside)


def lws_confidence(logits: Tensor, candidates: Tensor) -> Tensor:
    """p renormalised inside the set, and apart from that outside of it: (B, K)."""
    p = logits.softmax(dim=1)
    Y = candidates.to(p.dtype)
    inside = p * Y
    outside = p * (1 - Y)
    inside = inside / (inside + 1e-8).sum(dim=1, keepdim=True)
    outside = outside / (outside + 1e-8).sum(dim=1, keepdim=True)
    return inside + outside


@dataclass(frozen=True)
class LWS(PartialLabelMethod):
    """Raises candidates and lowers the others, each as much as believed; C starts at 1/K."""

    lw_weight: float = 2.0
    lw_weight0: float = 1.0

    def init(self, candidates: Tensor) -> Tensor:
        n, K = candidates.shape
        return torch.full((n, K), 1 / K, device=candidates.device)

    def loss(self, logits: Tensor, candidates: Tensor, state: Tensor | None) -> Tensor:
        if state is None:
            state = self.init(candidates)
        return lws_loss(logits, candidates, state, self.lw_weight, self.lw_weight0).total

    def update(self, logits: Tensor, candidates: Tensor, maps: Tensor | None = None) -> Tensor:
        return lws_confidence(logits, candidates)

    def belief(
        self, state: Tensor | None, candidates: Tensor, logits: Callable[[], Tensor]
    ) -> Tensor:
        """C; -1 outside the set, whose labels C weighs too."""
        confidence = super().belief(state, candidates, logits)
        return confidence.masked_fill(candidates == 0, -1)


METHOD = LWS
