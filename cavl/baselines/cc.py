"""CC, classifier-consistent (Feng et al., Provably Consistent Partial-Label Learning, 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cavl.method import PartialLabelMethod


def cc_loss(logits: Tensor, candidates: Tensor) -> Tensor:
    """The probability of the whole set, a scalar: L = -(1/B) sum_i log sum_{k in S_i} p_k(x_i).

    logits: (B, K). candidates: (B, K) of 0 and 1, no empty row. Summed in the log domain:
    log(sum(softmax)) is infinite for logits such as 60 against -60.
    """
    log_p = F.log_softmax(logits, dim=1)
    return -log_p.masked_fill(candidates == 0, -torch.inf).logsumexp(dim=1).mean()


@dataclass(frozen=True)
class CC(PartialLabelMethod):
    """Learns that the label is in the set, and keeps no table: which one it is follows from p."""

    def init(self, candidates: Tensor) -> None:
        return None

    def loss(self, logits: Tensor, candidates: Tensor, state: Tensor | None) -> Tensor:
        return cc_loss(logits, candidates)


METHOD = CC
