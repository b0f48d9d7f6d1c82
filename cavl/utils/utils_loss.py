"""The losses: confidence-weighted (CAVL, RC, PRODEN), averaged, classifier-consistent (CC), leveraged (LWS)."""

import torch
import torch.nn.functional as F

from common.aliases import one_module
from common.domain import require_candidates, require_indices, require_shape, require_weights

one_module(__name__, "cavl.utils.utils_loss")


def rc_loss(outputs: torch.Tensor, confidence: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the confidence-weighted cross-entropy of the batch, a scalar.

    L = -(1/B) sum_i sum_k C[i, k] log p_k(x_i), p = softmax(z).
    outputs: (B, K) logits z. confidence: (N, K) table C, rows sum to one. index: (B,) int64 rows of C.
    With one-hot rows this is F.cross_entropy(outputs, selected), in value and gradient.
    ValueError for a negative or infinite weight, a NaN, and an index that is no row.
    """
    weights = _rows(confidence, index, outputs)
    log_p = F.log_softmax(outputs, dim=1)
    return -(weights * log_p).sum(dim=1).mean()


def _rows(confidence: torch.Tensor, index: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """The rows of the table (N, K) that belong to outputs (B, K); ValueError where they are no weights."""
    require_indices(index, len(confidence), "index")
    weights = confidence[index]
    require_shape(weights, outputs.shape, "confidence[index]")
    require_weights(weights, "confidence")
    return weights


def _require_sets(outputs: torch.Tensor, partialY: torch.Tensor) -> None:
    """ValueError unless partialY has the shape of outputs (B, K), values 0 and 1, and no empty row."""
    require_shape(partialY, outputs.shape, "partialY")
    require_candidates(partialY, "partialY")


def average_loss(outputs: torch.Tensor, partialY: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy averaged over the candidates, a scalar.

    L = -(1/B) sum_i (1/|S_i|) sum_{k in S_i} log p_k(x_i): rc_loss where every candidate is believed equally.
    outputs: (B, K) logits. partialY: (B, K) of 0/1, no empty row; other values are a ValueError.
    """
    _require_sets(outputs, partialY)
    log_p = F.log_softmax(outputs, dim=1)
    return -((log_p * partialY).sum(dim=1) / partialY.sum(dim=1)).mean()


def cc_loss(outputs: torch.Tensor, partialY: torch.Tensor) -> torch.Tensor:
    """Return the classifier-consistent loss of the batch, a scalar (Feng et al., NeurIPS 2020).

    L = -(1/B) sum_i log sum_{k in S_i} p_k(x_i).
    outputs: (B, K) logits. partialY: (B, K) of 0/1, no empty row; other values are a ValueError.
    Summed in the log domain: the released log(sum(softmax)) is infinite for logits such as 60 against -60.
    """
    _require_sets(outputs, partialY)
    log_p = F.log_softmax(outputs, dim=1)
    return -log_p.masked_fill(partialY == 0, -torch.inf).logsumexp(dim=1).mean()


def lws_loss(
    outputs: torch.Tensor,
    partialY: torch.Tensor,
    confidence: torch.Tensor,
    index: torch.Tensor,
    lw_weight: float,
    lw_weight0: float,
    epoch_ratio: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the leveraged weighted sigmoid loss and its two parts (L, w0 a, w b) (Wen et al., ICML 2021).

    a = (1/B) sum_{i,k} C[i,k] Y[i,k] s(-z_k), b = (1/B) sum_{i,k} C[i,k] (1 - Y[i,k]) s(z_k), s = sigmoid,
    L = w0 a + w b.
    outputs: (B, K) logits z. partialY: (B, K) of 0/1. confidence: (N, K) table, starts at 1/K.
    index: (B,) int64. lw_weight: w. lw_weight0: w0. epoch_ratio: unused, kept for the released call.
    ValueError for other values of partialY, and for weights or an index as in rc_loss.
    """
    _require_sets(outputs, partialY)
    weights = _rows(confidence, index, outputs)
    Y = partialY.to(outputs.dtype)
    candidates = lw_weight0 * (weights * Y * torch.sigmoid(-outputs)).sum(dim=1).mean()
    others = lw_weight * (weights * (1 - Y) * torch.sigmoid(outputs)).sum(dim=1).mean()
    return candidates + others, candidates, others
