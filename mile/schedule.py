"""What happens at which step: the phases of a generation, the learning rate, the threshold rho."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from common.aliases import one_module
from mile.learning import make_scheduler

one_module(__name__, "mile.schedule")


class Phases(NamedTuple):
    """Steps of a generation: first `interactive`, then `imitation`. A plain pass has no imitation."""

    interactive: int
    imitation: int

    @property
    def total(self) -> int:
        """All steps of the generation."""
        return self.interactive + self.imitation


class Plan:
    """The generations (MILe) or passes (softmax, sigmoid) of a run, and its length in steps.

    MILe: k_t interactive and k_s imitation steps, the first generation `warmup` interactive ones more. With
    total_steps the last generation is cut there, and epoch_num does not count.
    """

    def __init__(self, conf: Any, pass_steps: int) -> None:
        self.is_mile = conf.schema == "MILe"
        self.first = (
            Phases(conf.warmup + conf.k_t, conf.k_s) if self.is_mile else Phases(pass_steps, 0)
        )
        self.other = Phases(conf.k_t, conf.k_s) if self.is_mile else self.first
        whole = self.first.total + self.other.total * (conf.epoch_num - 1)
        self.steps = conf.total_steps or whole
        self.epochs = conf.epoch_num
        if conf.total_steps:
            self.epochs = 1 + max(
                0, math.ceil((conf.total_steps - self.first.total) / self.other.total)
            )

    def start(self, epoch: float) -> float:
        """The number of steps before generation `epoch`, counted from 0."""
        return 0 if epoch == 0 else self.first.total + (epoch - 1) * self.other.total

    def phases(self, epoch: int) -> Phases:
        """The phases of generation `epoch`, the last one cut at the end of the run."""
        whole, left = self.first if epoch == 0 else self.other, self.steps - self.start(epoch)
        interactive = min(whole.interactive, left)
        return Phases(interactive, min(whole.imitation, left - interactive))


class LearningRate:
    """`lr_schedule` for all optimisers of a run; plateau follows real_f1, the others follow the step."""

    def __init__(self, conf: Any, optimizers: Iterable[torch.optim.Optimizer], plan: Plan) -> None:
        self.kind, self.plan, self.optimizers = conf.lr_schedule, plan, list(optimizers)
        self.base = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        numbers = [float(part) for part in str(conf.lr_milestones).split(",")]
        self.milestones = [self._milestone(number) for number in numbers]
        self.plateaus = (
            [make_scheduler(o) for o in self.optimizers] if self.kind == "plateau" else []
        )

    def _milestone(self, number: float) -> int:
        """The first step of epoch `number`, or where that is below 1, the step after this share of the run.

        Never the first step of the run: a short run too starts at its full rate.
        """
        if number < 1:
            return max(1, round(number * self.plan.steps))
        return round(self.plan.start(number))

    def factor(self, step: int) -> float:
        """What the base learning rate is multiplied with at a step counted from 0."""
        if self.kind == "step":
            return 0.1 ** sum(step >= milestone for milestone in self.milestones)
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.plan.steps)))
        return 1.0

    def before_step(self, step: int) -> None:
        """Set the learning rate of the coming step."""
        if self.kind in ("step", "cosine"):
            for optimizer, base in zip(self.optimizers, self.base, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = base * self.factor(step)

    def after_evaluation(self, real_f1: float) -> None:
        """Let the plateau schedule see the metric."""
        for scheduler in self.plateaus:
            scheduler.step(real_f1)

    @property
    def now(self) -> float:
        """The present learning rate."""
        return self.optimizers[0].param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        """What the plateau schedule has seen."""
        return {"plateaus": [_plain(scheduler.state_dict()) for scheduler in self.plateaus]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        for scheduler, saved in zip(self.plateaus, state["plateaus"], strict=True):
            scheduler.load_state_dict(dict(saved))


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, (int, float, str, list, type(None)))
    }


def rho_at(conf: Any, epoch: int, epochs: int, rho: float) -> float:
    """The threshold of generation `epoch`: from rho_start linearly to rho over the first half, then rho."""
    if conf.rho_start is None:
        return rho
    share = min(1.0, epoch / max(1, (epochs - 1) / 2))
    return conf.rho_start + share * (rho - conf.rho_start)
