"""Weight averaging and the groups of weight decay."""

from collections.abc import Collection
from copy import deepcopy

import torch
from torch import nn

from common.aliases import one_module
from common.checkpoint import unwrap
from csl.src.domain import require_number

one_module(__name__, "csl.src.helper_functions.ema")


class ModelEma:
    """An average of a model's state: e <- d * e + (1 - d) * m for every floating entry, buffers included.

    Integer entries are copied (the released code averages and truncates them, which freezes counters).
    `module` is the averaged model, in eval mode. With `warmup` the decay of update t (from 0) is
    min(d, (1 + t) / (10 + t)).
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.9997,
        device: torch.device | None = None,
        *,
        warmup: bool = False,
    ) -> None:
        """SettingsError (a ValueError): a decay outside 0..1."""
        require_number(decay, "decay", 0, 1)
        self.module = deepcopy(unwrap(model)).eval().requires_grad_(False)
        if device is not None:
            self.module.to(device=device)
        self.decay, self.warmup, self.updates = decay, warmup, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """One step of the average, in a few fused kernels."""
        decay = (
            min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        )
        self.updates += 1
        means, values = [], []
        for mean, value in self._pairs(model):
            if mean.is_floating_point():
                means.append(mean)
                values.append(value.to(mean))
            else:
                mean.copy_(value)
        if means:
            torch._foreach_lerp_(means, values, 1 - decay)

    @torch.no_grad()
    def set(self, model: nn.Module) -> None:
        """Make the average equal to the model."""
        for mean, value in self._pairs(model):
            mean.copy_(value)

    def _pairs(self, model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        state = unwrap(model).state_dict()
        return [(mean, state[name].detach()) for name, mean in self.module.state_dict().items()]

    def state_dict(self) -> dict:
        """The averaged model's state dict and the number of updates."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Put them back."""
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]


def add_weight_decay(
    model: nn.Module, weight_decay: float = 1e-4, skip_list: Collection[str] = ()
) -> list[dict]:
    """Two parameter groups: without decay 1-d parameters, biases and those of `skip_list`; with decay the rest.

    0-d parameters decay, frozen ones are left out (as released). SettingsError (a ValueError): a negative decay.
    """
    require_number(weight_decay, "weight_decay", 0)
    decay, no_decay = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.dim() == 1 or name.endswith(".bias") or name in skip_list
            (no_decay if plain else decay).append(parameter)
    return [
        {"params": no_decay, "weight_decay": 0.0},
        {"params": decay, "weight_decay": weight_decay},
    ]
