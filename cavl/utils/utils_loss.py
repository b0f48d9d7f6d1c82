"""The released losses, by name: each looks up the batch's rows of the table and checks them."""

import torch

from cavl import method
from cavl.baselines import cc, lws
from cavl.data_checks import require_candidates, require_weights
from cavl.method import average_loss
from common.aliases import one_module
from common.domain import require_indices, require_shape

one_module(__name__, "cavl.utils.utils_loss")

__all__ = ["average_loss", "cc_loss", "lws_loss", "rc_loss"]


def rc_loss(outputs: torch.Tensor, confidence: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`method.confidence_weighted_loss` with the rows `index` (B,) of the table (N, K); a scalar.

    ValueError for a negative or infinite weight, a NaN, and an index that is no row.
    """
    return method.confidence_weighted_loss(outputs, _rows(confidence, index, outputs))


def cc_loss(outputs: torch.Tensor, partialY: torch.Tensor) -> torch.Tensor:
    """The loss of baselines/cc.py; ValueError unless partialY (B, K) are candidate sets."""
    _require_sets(outputs, partialY)
    return cc.cc_loss(outputs, partialY)


def lws_loss(
    outputs: torch.Tensor,
    partialY: torch.Tensor,
    confidence: torch.Tensor,
    index: torch.Tensor,
    lw_weight: float,
    lw_weight0: float,
    epoch_ratio: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of baselines/lws.py and its parts, with the rows `index` (B,) of the table (N, K).

    epoch_ratio: unused, kept for the released call. ValueError for partialY as in cc_loss, for
    weights and index as in rc_loss.
    """
    _require_sets(outputs, partialY)
    weights = _rows(confidence, index, outputs)
    return lws.lws_loss(outputs, partialY, weights, lw_weight, lw_weight0)


def _require_sets(outputs: torch.Tensor, partialY: torch.Tensor) -> None:
    require_shape(partialY, outputs.shape, "partialY")
    require_candidates(partialY, "partialY")


def _rows(confidence: torch.Tensor, index: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """The rows of the table that belong to outputs (B, K); ValueError where they are no weights."""
    require_indices(index, len(confidence), "index")
    weights = confidence[index]
    require_shape(weights, outputs.shape, "confidence[index]")
    require_weights(weights, "confidence")
    return weights
