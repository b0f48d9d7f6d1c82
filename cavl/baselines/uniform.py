"""Averaging: every candidate is believed equally, from the first epoch to the last."""

from dataclasses import dataclass

import torch

from cavl.method import PartialLabelMethod, average_loss, initial_confidence


@dataclass(frozen=True)
class Uniform(PartialLabelMethod):
    """The loss of CAVL's first epoch, for all of them. Nothing is kept and nothing updated."""

    def init(self, candidates: torch.Tensor) -> None:
        return None

    def loss(
        self, logits: torch.Tensor, candidates: torch.Tensor, belief: torch.Tensor | None
    ) -> torch.Tensor:
        return average_loss(logits, candidates)

    def confidence(self, belief: torch.Tensor | None, candidates: torch.Tensor) -> torch.Tensor:
        return initial_confidence(candidates)


METHOD = Uniform
