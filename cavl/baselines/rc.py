"""RC, risk-consistent: Provably Consistent Partial-Label Learning (Feng et al., NeurIPS 2020)."""

from dataclasses import dataclass

import torch

from cavl.method import (
    PartialLabelMethod,
    candidate_probabilities,
    confidence_weighted_loss,
    initial_confidence,
)


@dataclass(frozen=True)
class RC(PartialLabelMethod):
    """The network's own belief inside the set, C[i, k] <- p_k Y[i, k] / sum_k p_k Y[i, k], after every step."""

    def init(self, candidates: torch.Tensor) -> torch.Tensor:
        return initial_confidence(candidates)

    def loss(
        self, logits: torch.Tensor, candidates: torch.Tensor, belief: torch.Tensor | None
    ) -> torch.Tensor:
        if belief is None:
            belief = initial_confidence(candidates)
        return confidence_weighted_loss(logits, belief)

    def update(
        self, logits: torch.Tensor, candidates: torch.Tensor, maps: torch.Tensor | None = None
    ) -> torch.Tensor:
        return candidate_probabilities(logits, candidates)


METHOD = RC
