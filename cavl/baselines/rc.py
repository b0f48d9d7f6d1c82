"""RC, risk-consistent (Feng et al., Provably Consistent Partial-Label Learning, 2020)."""

from dataclasses import dataclass

from torch import Tensor

from cavl.method import (
    PartialLabelMethod,
    candidate_probabilities,
    confidence_weighted_loss,
    initial_confidence,
)


@dataclass(frozen=True)
class RC(PartialLabelMethod):
    """What the network believes: C[i, k] <- p_k Y[i, k] / sum_k p_k Y[i, k], after every step."""

    def init(self, candidates: Tensor) -> Tensor:
        return initial_confidence(candidates)

    def loss(self, logits: Tensor, candidates: Tensor, state: Tensor | None) -> Tensor:
        if state is None:
            state = initial_confidence(candidates)
        return confidence_weighted_loss(logits, state)

    def update(self, logits: Tensor, candidates: Tensor, maps: Tensor | None = None) -> Tensor:
        return candidate_probabilities(logits, candidates)


METHOD = RC
