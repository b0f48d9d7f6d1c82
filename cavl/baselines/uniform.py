"""Averaging: every candidate is believed equally, from the first epoch to the last."""

from dataclasses import dataclass

from torch import Tensor

from cavl.method import PartialLabelMethod, average_loss, initial_confidence


@dataclass(frozen=True)
class Uniform(PartialLabelMethod):
    """The loss of CAVL's first epoch, for all of them. Nothing is kept and nothing updated."""

    def init(self, candidates: Tensor) -> None:
        return None

    def loss(self, logits: Tensor, candidates: Tensor, state: Tensor | None) -> Tensor:
        return average_loss(logits, candidates)

    def confidence(self, state: Tensor | None, candidates: Tensor) -> Tensor:
        return initial_confidence(candidates)


METHOD = Uniform
