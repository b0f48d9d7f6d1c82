"""Class-specific instances: `oass.method`, over all processes where batch norm is synchronised."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import nn

from common.aliases import one_module
from common.sync_bn import SynchronisedBatchNorm, world_size
from oass import method
from oass.data_checks import require_sizes

one_module(__name__, "oass.core.csi")


def class_specific_instances(x: torch.Tensor, cams: torch.Tensor) -> torch.Tensor:
    """`oass.method.class_specific_instances`; ValueError for maps that do not fit."""
    require_sizes(x, (None, None, None, None), "x")
    require_sizes(cams, (len(x), None, *x.shape[2:]), "cams")
    return method.class_specific_instances(x, cams)


def csi_logits(
    x: torch.Tensor,
    cams: torch.Tensor,
    BN: Sequence[nn.BatchNorm2d],
    stage6: Sequence[nn.Conv2d],
    training: bool,
) -> torch.Tensor:
    """`oass.method.csi_logits`; the batch is that of all processes where BN is synchronised."""
    is_shared = isinstance(BN[0], SynchronisedBatchNorm) and world_size() > 1
    total = sum_over_processes if is_shared else None
    return method.csi_logits(x, cams, BN, stage6, training, total)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, same shape; its gradient is the sum of theirs."""
    if world_size() == 1:
        return values
    return _SumOverProcesses.apply(values)
