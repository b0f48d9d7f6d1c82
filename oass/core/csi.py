"""Class-specific instances: the feature map gated with each class's own normalised map (section a of the spec).

Shapes: B images, C classes, K channels, H W cells of the map.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from common.aliases import one_module
from common.sync_bn import SynchronisedBatchNorm, sum_over_processes, world_size
from oass.core.domain import require_shape

one_module(__name__, "oass.core.csi")


class Moments(NamedTuple):
    """v (B,C,K): pixel mean of X M; second (C,K): mean of (X M)^2 over the images; count: values per channel."""

    v: torch.Tensor
    second: torch.Tensor
    count: int


def class_specific_instances(x: torch.Tensor, cams: torch.Tensor) -> torch.Tensor:
    """One descriptor per image and class, v_bc = mean over pixels of X_b * M_bc, (B,C,K).

    x: feature map X (B,K,H,W); cams: normalised maps M (B,C,H,W). Gates all classes in one matrix product.
    ValueError for maps of other images or another size.
    """
    require_shape(x, (None, None, None, None), "x")
    require_shape(cams, (len(x), None, *x.shape[2:]), "cams")
    return torch.bmm(cams.flatten(2), x.flatten(2).transpose(1, 2)) / x[0, 0].numel()


def instance_moments(x: torch.Tensor, cams: torch.Tensor) -> Moments:
    """The first two moments of the gated maps I_bc = X_b * M_bc, without making them."""
    count = len(x) * x[0, 0].numel()
    squares = torch.bmm(cams.flatten(2).square(), x.flatten(2).square().transpose(1, 2))
    return Moments(class_specific_instances(x, cams), squares.sum(0) / count, count)


def csi_logits(
    x: torch.Tensor,
    cams: torch.Tensor,
    BN: Sequence[nn.BatchNorm2d],
    stage6: Sequence[nn.Conv2d],
    training: bool,
) -> torch.Tensor:
    """The logits l_bc = mean over pixels of sum_k w_ck BN_c(X_b M_bc)_k, (B,C).

    Everything after the gate is linear, so with v of `class_specific_instances`
        l_bc = sum_k w_ck [ gamma_ck (v_bck - m_ck) / sqrt(s_ck + eps) + beta_ck ].
    Training: m, s are the batch's (biased variance, as two matrix products), and the running statistics
    of BN move (unbiased variance). Else m, s are the running statistics. The released code loops over
    20 gated copies of the feature map; values, gradients and statistics are equal.
    """
    if training:
        moments = instance_moments(x, cams)
        mean, second, count = _over_processes(moments, BN)
        variance = (second - mean.square()).clamp_min(0)
        update_running_statistics(BN, mean, variance, count)
        v = moments.v
    else:
        v = class_specific_instances(x, cams)
        mean = torch.stack([bn.running_mean for bn in BN])
        variance = torch.stack([bn.running_var for bn in BN])
    w = torch.stack([conv.weight.flatten() for conv in stage6])
    gamma, beta = (torch.stack([getattr(bn, name) for bn in BN]) for name in ("weight", "bias"))
    scale = w * gamma * torch.rsqrt(variance + BN[0].eps)
    return torch.einsum("bck,ck->bc", v, scale) + (w * beta - scale * mean).sum(1)


def _over_processes(
    moments: Moments, BN: Sequence[nn.BatchNorm2d]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | int]:
    """Mean, second moment (C,K) and number of values; over all processes where the head's norms are synchronised.

    Each process counts with its own number of images.
    """
    mean = moments.v.mean(0)
    if not isinstance(BN[0], SynchronisedBatchNorm) or world_size() == 1:
        return mean, moments.second, moments.count
    sums = torch.stack([moments.v.sum(0), moments.second * len(moments.v)])
    count = mean.new_tensor([len(moments.v), moments.count])
    images, values = sum_over_processes(count).unbind()
    mean, second = (sum_over_processes(sums) / images).unbind()
    return mean, second, values


@torch.no_grad()
def update_running_statistics(
    BN: Sequence[nn.BatchNorm2d],
    mean: torch.Tensor,
    variance: torch.Tensor,
    count: torch.Tensor | int,
) -> None:
    """What a BatchNorm2d does after a training batch: momentum, unbiased variance, the batch counted.

    mean, variance (C,K): row c belongs to BN[c].
    """
    torch._foreach_lerp_([bn.running_mean for bn in BN], list(mean.unbind()), BN[0].momentum)
    freedom = count - 1
    freedom = freedom.clamp_min(1) if isinstance(freedom, torch.Tensor) else max(freedom, 1)
    unbiased = variance * (count / freedom)
    torch._foreach_lerp_([bn.running_var for bn in BN], list(unbiased.unbind()), BN[0].momentum)
    torch._foreach_add_([bn.num_batches_tracked for bn in BN], 1)
