"""SGD with the polynomial schedule of PuzzleCAM."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from common.aliases import one_module
from common.domain import require_number
from oass.data_checks import require_count

one_module(__name__, "oass.build_optimizer")


class PolyOptimizer(torch.optim.SGD):
    """SGD whose learning rates fall as (1 - step/max_step)^momentum, after an optional warm-up.

    `momentum` is the *power* of the decay, as in the original. SGD's own momentum is
    `sgd_momentum`; its default is the value of `weight_decay`, because the released code hands
    weight_decay to SGD's third parameter, which is momentum (README, deviations: sgd_momentum).
    Decay itself comes from each group's own weight_decay. Warm-up: for s < (warmup_epoch - 1) *
    steps_per_epoch the factor is (s // steps_per_epoch + 1)/warmup_epoch. Every group: initial lr x
    factor, set before the update; 0 from max_step on. A warm-up of 0 or 1 epochs is none.
    ValueError for less than one step in all or an epoch, a negative warm-up or power.

    The update is fused: one operation for all parameters of a group.
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
            *(params, lr, sgd_momentum),
            weight_decay=weight_decay,
            nesterov=nesterov,
            fused=True,
        )
        self.global_step = 0
        self.max_step = max_step
        self.power = momentum
        self.warmup_epoch = warmup_epoch
        self.steps_per_epoch = steps_per_epoch
        self._initial = [group["lr"] for group in self.param_groups]

    def factor(self, step: int) -> float:
        """The factor of every group's initial learning rate at a step."""
        if step < (self.warmup_epoch - 1) * self.steps_per_epoch:
            return (step // self.steps_per_epoch + 1) / self.warmup_epoch
        if step >= self.max_step:
            return 0.0
        return (1 - step / self.max_step) ** self.power

    def step(  # type: ignore[override]  # torch overloads it
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
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
        for group in self.param_groups:  # a checkpoint of before this was fused says None
            group["fused"] = self.defaults["fused"]
