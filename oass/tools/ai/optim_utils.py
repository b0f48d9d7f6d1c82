"""The polynomial schedule with SGD, and the average of the weights over the steps (the teacher)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from common.aliases import one_module
from oass.core.domain import require_count, require_number

one_module(__name__, "oass.tools.ai.optim_utils")


class PolyOptimizer(torch.optim.SGD):
    """SGD whose learning rates fall as (1 - step/max_step)^momentum, after an optional warm-up.

    `momentum` is the *power* of the decay, as in the original. SGD's own momentum is `sgd_momentum`; its
    default is the value of `weight_decay`, because the released code hands weight_decay to SGD's third
    parameter, which is momentum (deviation D3). Decay itself comes from each group's own weight_decay.
    Warm-up: for s < (warmup_epoch - 1) * steps_per_epoch the factor is (s // steps_per_epoch + 1)/warmup_epoch.
    Every group: initial lr x factor, set before the update; 0 from max_step on. A warm-up of 0 or 1 epochs is none.
    ValueError for less than one step in all or an epoch, a negative warm-up or power.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float,
        warmup_epoch: int,
        max_step: int,
        momentum: float = 0.9,
        nesterov: bool = False,
        *,
        steps_per_epoch: int = 661,
        sgd_momentum: float | None = None,
    ) -> None:
        require_count(max_step, "max_step", 1)
        require_count(steps_per_epoch, "steps_per_epoch", 1)
        require_count(warmup_epoch, "warmup_epoch", 0)
        require_number(momentum, "momentum", 0)
        require_number(lr, "lr", 0)
        require_number(weight_decay, "weight_decay", 0)
        sgd_momentum = weight_decay if sgd_momentum is None else sgd_momentum
        super().__init__(
            params, lr, momentum=sgd_momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        self.global_step, self.max_step, self.power = 0, max_step, momentum
        self.warmup_epoch, self.steps_per_epoch = warmup_epoch, steps_per_epoch
        self._initial = [group["lr"] for group in self.param_groups]

    def factor(self, step: int) -> float:
        """The factor of every group's initial learning rate at a step."""
        if step < (self.warmup_epoch - 1) * self.steps_per_epoch:
            return (step // self.steps_per_epoch + 1) / self.warmup_epoch
        return (1 - step / self.max_step) ** self.power if step < self.max_step else 0.0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Set the learning rates of this step, then update."""
        factor = self.factor(self.global_step)
        for group, initial in zip(self.param_groups, self._initial, strict=True):
            group["lr"] = initial * factor
        self.global_step += 1
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        """SGD's state and the step."""
        return {**super().state_dict(), "global_step": self.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put SGD's state and the step back."""
        state_dict = dict(state_dict)
        self.global_step = int(state_dict.pop("global_step", self.global_step))
        super().load_state_dict(state_dict)


@torch.no_grad()
def update_ema_variables(
    model: nn.Module, ema_model: nn.Module, alpha: float, global_step: int
) -> None:
    """theta' <- a theta' + (1 - a) theta with a = min(1 - 1/(global_step + 1), alpha); step 0 copies the student.

    Parameters only: buffers (the running statistics) stay as they are, as in the released code.
    ValueError for an alpha outside 0 .. 1, and a negative step.
    """
    require_number(alpha, "alpha", 0, 1)
    require_count(global_step, "global_step", 0)
    alpha = min(1 - 1 / (global_step + 1), alpha)
    torch._foreach_lerp_(list(ema_model.parameters()), list(model.parameters()), 1 - alpha)


@torch.no_grad()
def copy_buffers(model: nn.Module, ema_model: nn.Module) -> None:
    """The student's running statistics, for a teacher that normalises with them (`--teacher_bn eval`)."""
    for mine, theirs in zip(ema_model.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
