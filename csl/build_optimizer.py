"""The optimiser, its schedule and the groups of weight decay; the averaged network."""

import math
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from common.aliases import one_module
from common.checkpoint import unwrap
from common.cli import DomainError
from common.domain import require_number
from common.frozen import is_frozen
from csl import method
from csl.data_errors import require_count

one_module(__name__, "csl.build_optimizer")


Place = tuple[dict[str, torch.Tensor], str]  # the parameters or buffers of a layer, and a name


def _places(model: nn.Module) -> list[Place]:
    """Where the tensors of a model's state dict are kept, in one order for equal models.

    Those of a frozen backbone are left out.
    """
    found: list[Place] = []
    still = {layer for backbone in _backbones(model) for layer in backbone.modules()}
    for layer in model.modules():
        if layer in still:
            continue
        hidden = layer._non_persistent_buffers_set
        parameters: Any = layer._parameters
        buffers: Any = layer._buffers
        found += [(parameters, name) for name, value in parameters.items() if value is not None]
        for name, value in buffers.items():
            if value is not None and name not in hidden:
                found.append((buffers, name))
    return found


def _backbones(model: nn.Module) -> list[nn.Module]:
    """The parts that `common.frozen.freeze` keeps as they are."""
    return [layer for layer in model.modules() if is_frozen(layer)]


class ModelEma(nn.Module):
    """An average of a model's state, buffers included: e <- d e + (1 - d) m for floating entries.

    Integer entries are copied (the released code averages and truncates them, which freezes
    counters). `module` is the averaged model, in eval mode. With `warmup` the decay of update t
    (from 0) is min(d, (1 + t) / (10 + t)). A frozen backbone is its own average: model and average
    share its tensors, so that a checkpoint holds them once.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.9997,
        device: torch.device | None = None,
        *,
        warmup: bool = False,
    ) -> None:
        """DomainError (a ValueError): a decay outside 0..1."""
        require_number(decay, "decay", 0, 1)
        super().__init__()
        shared = {}
        if device is None:
            shared = {id(backbone): backbone for backbone in _backbones(model)}
        self.module = deepcopy(unwrap(model), shared).eval().requires_grad_(False)
        if device is not None:
            self.module.to(device=device)
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._means = _places(self.module)
        self._values: dict[nn.Module, list[Place]] = {}  # of the one model that is averaged

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """One step of the average, in a few fused kernels.

        The layers of a model are listed at its first update, their tensors are looked up at each.
        """
        decay = method.average_decay(self.decay, self.updates, warmup=self.warmup)
        self.updates += 1
        if model not in self._values:
            self._values = {model: _places(unwrap(model))}
        means = [tensors[name] for tensors, name in self._means]
        values = [tensors[name] for tensors, name in self._values[model]]
        method.update_average(means, values, decay)

    @torch.no_grad()
    def set(self, model: nn.Module) -> None:
        """Make the average equal to the model."""
        state = unwrap(model).state_dict()
        for name, mean in self.module.state_dict().items():
            mean.copy_(state[name])

    def get_extra_state(self) -> dict[str, int]:
        """The number of updates, which a state dict holds beside the averaged model."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Put it back."""
        self.updates = state["updates"]

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Put the averaged model and the number of updates back, of earlier versions' files too."""
        if "updates" in state_dict:
            self.updates = state_dict["updates"]
            return self.module.load_state_dict(state_dict["module"])
        return super().load_state_dict(state_dict, *args, **kwargs)


def add_weight_decay(
    model: nn.Module, weight_decay: float = 1e-4, skip_list: Collection[str] = ()
) -> list[dict]:
    """Two parameter groups: those without weight decay, and the rest with it.

    1-d parameters, biases and those of `skip_list` have none. 0-d parameters decay, frozen ones are
    left out (as released). DomainError: a negative decay.
    """
    require_number(weight_decay, "weight_decay", 0)
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.dim() == 1 or name.endswith(".bias") or name in skip_list
            if plain:
                no_decay.append(parameter)
            else:
                decay.append(parameter)
    return [
        {"params": no_decay, "weight_decay": 0.0},
        {"params": decay, "weight_decay": weight_decay},
    ]


def make_optimizer(
    model: nn.Module, lr: float, weight_decay: float, epochs: int, steps_per_epoch: int
) -> tuple[Adam, OneCycleLR]:
    """Adam with L2 on all but biases and norms, and the one-cycle schedule of its rate.

    Warm-up over a fifth of the steps, then a cosine; beta1 goes from 0.95 to 0.85 and back.

    DomainError (a ValueError): a rate that is not above 0, a negative decay, no epoch, no step.
    """
    require_number(lr, "lr", 0)
    require_count(epochs, "epochs", 1)
    require_count(steps_per_epoch, "steps_per_epoch", 1)
    if lr == 0:
        raise DomainError("lr 0: must be above 0")
    optimizer = Adam(add_weight_decay(model, weight_decay), lr=lr, weight_decay=0, fused=True)
    scheduler = OneCycleLR(
        optimizer,
        lr,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        pct_start=warmup_share(epochs * steps_per_epoch),
    )
    return optimizer, scheduler


def warmup_share(steps: int) -> float:
    """The share of a run of `steps` that the warm-up takes: 0.2, as released.

    OneCycleLR ends the warm-up at step 0.2 * steps - 1. With five steps that is its first step,
    step 0, and the position inside the warm-up is 0/0. There it ends a rounding error later, so
    that the run begins at lr / 25 as all longer runs do.
    """
    share = 0.2
    if share * steps - 1 == 0:
        return math.nextafter(share, 1)
    return share
