"""Class-specific instances: `oass.method`, over all processes where batch norm is synchronised."""

from collections.abc import Sequence

import torch
from torch import nn

from common.aliases import one_module
from common.sync_bn import SynchronisedBatchNorm, sum_over_processes, world_size
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
