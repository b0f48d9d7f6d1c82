"""The optimiser and the teacher's average, under the original's names."""

import torch
from torch import nn

from common.aliases import one_module
from common.domain import require_number
from oass import method
from oass.build_optimizer import PolyOptimizer
from oass.data_checks import require_count

one_module(__name__, "oass.tools.ai.optim_utils")

__all__ = ["PolyOptimizer", "update_ema_variables"]


@torch.no_grad()
def update_ema_variables(
    model: nn.Module, ema_model: nn.Module, alpha: float, global_step: int
) -> None:
    """`oass.method.update_ema_variables`; ValueError for other alphas and steps."""
    require_number(alpha, "alpha", 0, 1)
    require_count(global_step, "global_step", 0)
    method.update_ema_variables(model, ema_model, alpha, global_step)
