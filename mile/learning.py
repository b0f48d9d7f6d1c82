"""The learner of a run: the paper's (method.py) on any device, guarded, and to be resumed.

Also the learning rate's schedules. The paper's own functions are to be had here as well.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from common.accumulation import Part, equal_parts, micro_batches, possible_parts
from common.aliases import one_module
from common.checkpoint import load_into
from common.compiling import compiled
from common.loading import seed_of
from mile import method
from mile.method import (  # noqa: F401
    SCHEMAS,
    STUDENT_INITS,
    Plan,
    bce_loss,
    pseudo_labels,
    softmax_loss,
)

one_module(__name__, "mile.learning")


class IteratedLearning(method.IteratedLearning):
    """method.IteratedLearning on accelerate's devices and processes, with a state to save.

    Args:
        teacher, student, settings: as there.
        accelerator: None trains where the networks are.
        parts: in so many a step is computed, one after the other (--grad_accum).
        is_compiled: the networks in training are compiled (--compile).
        is_body_frozen: parameters without a gradient stay so: no optimiser has them, and all
            networks use the same ones.

    `guard`, where it is set, sees (loss, index) before each backward pass. With student_init
    "fresh" and no new_student each layer starts anew by its own initialisation.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module | None = None,
        *,
        accelerator: Accelerator | None = None,
        parts: int = 1,
        is_compiled: bool = False,
        is_body_frozen: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(teacher, student, **settings)
        self.parts = parts
        if is_body_frozen:
            self._leave_fixed_weights_out()
        if self.student_init == "fresh" and self.new_student is None:
            self.new_student = self._restarted_student
        self.accelerator = accelerator
        self.guard: Callable[[torch.Tensor, Any], None] | None = None
        self._index: torch.Tensor | None = None
        self._share: torch.Tensor | float | None = None

        # What is called and stepped: with several processes a wrapper around each network.
        self._forwards: list[Any] = [compiled(network, is_compiled) for network in self.trained]
        self._steppers: list[Any] = list(self.optimizers)
        if accelerator is not None:
            for place, network in enumerate(self._forwards):
                prepared = accelerator.prepare(network, self.optimizers[place])
                self._forwards[place], self._steppers[place] = prepared

    def _leave_fixed_weights_out(self) -> None:
        for optimizer in self.optimizers:
            group = optimizer.param_groups[0]
            group["params"] = [value for value in group["params"] if value.requires_grad]
        first, *others = self.trained
        if self.frozen is not None:
            others.append(self.frozen)
        share_fixed_weights(first, others)

    def interactive_step(
        self,
        input: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As in method.py; index (N,) are sample numbers for the guard's message.

        The loss of a batch with weights is that of this process's share of all weights, so that
        images weigh the same in N processes as in one.
        """
        share = self._share_of(weight)

        def learn(part: Part) -> torch.Tensor:
            rows = part.rows
            own = None if weight is None else weight[rows]
            self._share = _share_in_step(part, weight, share)
            self._index = None if index is None else index[rows]
            return method.IteratedLearning.interactive_step(self, input[rows], label[rows], own)

        return self._in_parts(len(input), learn)

    def imitation_step(
        self,
        input: torch.Tensor,
        label: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As in method.py; index (N,) as in `interactive_step`."""

        def learn(part: Part) -> torch.Tensor:
            rows = part.rows
            own = None if label is None else label[rows]
            self._share = _share_in_step(part)
            self._index = None if index is None else index[rows]
            return method.IteratedLearning.imitation_step(self, input[rows], own)

        return self._in_parts(len(input), learn)

    def _in_parts(self, images: int, learn: Callable[[Part], torch.Tensor]) -> torch.Tensor:
        """One step of the optimiser over parts of the images; the loss of all, `target` of all."""
        losses = []
        targets = []
        count = self.parts
        if self.accelerator is not None:  # batch norm waits for all processes in each part
            count = possible_parts(images, count, self.accelerator)
        parts = equal_parts(images, count)
        for part in micro_batches(parts, self.accelerator, self._forwards[self.place]):
            losses.append(learn(part))
            targets.append(self.target)
        stepper = self._steppers[self.place]
        stepper.step()
        stepper.zero_grad()
        if len(parts) == 1:
            return losses[0]
        self.target = torch.cat(targets)
        return torch.stack(losses).sum()

    def _share_of(self, weight: torch.Tensor | None) -> torch.Tensor | None:
        """The mean weight here over that of all processes; None where it is 1."""
        if weight is None or self.accelerator is None or self.accelerator.num_processes == 1:
            return None
        return weight.mean() / self.accelerator.reduce(weight.mean(), "mean")

    def logits_of_teacher(self, input: torch.Tensor) -> torch.Tensor:
        """As in method.py, in the precision of the run."""
        with self._autocast():
            return super().logits_of_teacher(input)

    def logits_in_training(self, input: torch.Tensor) -> torch.Tensor:
        """As in method.py, in the precision of the run."""
        if not self.active.training:
            self.active.train()
        with self._autocast():
            return self._forwards[self.place](input)

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.accelerator is None:
            return contextlib.nullcontext()
        return self.accelerator.autocast()

    def descend(self, loss: torch.Tensor) -> torch.Tensor:
        """The gradient of a part of a step, by its share; the guard looks at the loss first.

        The step of the optimiser follows the last part (`_in_parts`).
        """
        if self._share is not None:
            loss = self._share * loss
        if self.guard is not None:
            self.guard(loss, self._index)
        if self.accelerator is None:
            loss.backward()
        else:
            self.accelerator.backward(loss)
        return loss.detach()

    def _restarted_student(self, generation: int) -> nn.Module:
        """The student with each layer drawn anew: the same on every process and after a resume."""
        student = copy.deepcopy(self.student)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(generation, 1))
            for module in student.modules():
                restart = getattr(module, "reset_parameters", None)
                if restart is not None:
                    restart()
        return student

    def _networks(self) -> dict[str, nn.Module]:
        """The networks by the names that checkpoints give them."""
        named = {"student": self.student}
        if self.frozen is not None:
            named["frozen"] = self.frozen
        if len(self.trained) > 1:
            named["teacher"] = self.trained[0]
        return named

    def state_dict(self) -> dict[str, Any]:
        """Networks (keys NAME.KEY), optimisers, phase, generation.

        Enough to go on inside a phase.
        """
        state: dict[str, Any] = {
            "phase": self.phase,
            "generation": self.generation,
            "rho": self.rho,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        for name, network in self._networks().items():
            for key, value in network.state_dict().items():
                state[f"{name}.{key}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back; UserError names the first keys that do not fit, ValueError a wrong value."""
        phase = state["phase"]
        generation = state["generation"]
        rho = state["rho"]
        if phase not in ("interactive", "imitation"):
            raise ValueError(f"phase is {phase!r:.40}")
        if type(generation) is not int or generation < 0:
            raise ValueError(f"generation is {generation!r:.40}")
        if not isinstance(rho, float) or not math.isfinite(rho):
            raise ValueError(f"rho is {rho!r:.40}")

        for name, network in self._networks().items():
            part = under(f"{name}.", state)
            load_into(network, part, f"checkpoint, {name}")
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(saved))
        self.phase = phase
        self.generation = generation
        self.rho = rho
        if phase == "imitation":
            self.teacher.eval()


def _share_in_step(
    part: Part, weight: torch.Tensor | None = None, share: torch.Tensor | None = None
) -> torch.Tensor | float | None:
    """What the mean over a part counts in the loss of its step; None for 1.

    Args:
        weight: of all images of the step in this process; None: they weigh the same.
        share: what this process's images count in the step of all processes; None for 1.
    """
    if part.share == 1:
        return share
    own: torch.Tensor | float = part.share
    if weight is not None:
        own = weight[part.rows].sum() / weight.sum()
    return own if share is None else own * share


def share_fixed_weights(model: nn.Module, others: Iterable[nn.Module]) -> None:
    """Let networks of one kind use the parameters of `model` that take no gradient.

    They are then in memory, and in a checkpoint, once.
    """
    for other in others:
        theirs = dict(other.named_parameters())
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                theirs[name].data = parameter.data


def under(start: str, state: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries whose keys begin with `start`, without it."""
    return {key[len(start) :]: state[key] for key in state if str(key).startswith(start)}


def trial_steps(
    network: nn.Module,
    images: torch.Tensor,
    autocast: Callable[[], contextlib.AbstractContextManager],
    steps: int = 3,
) -> list[float]:
    """The seconds of a few training steps of a copy of the network; the network stays as it is."""
    copied = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.0, momentum=0.9)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        with autocast():
            logits = copied(images)
        bce_loss(logits, torch.zeros_like(logits)).backward()
        optimizer.step()
        optimizer.zero_grad()
        float(logits.detach().sum())  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return seconds


def make_scheduler(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    """lr times 0.1 when real_f1 has not risen by 0.01 in six evaluations; not below 1e-5."""
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=0.1,
        patience=5,
        threshold=0.01,
        threshold_mode="abs",
        min_lr=1e-5,
        eps=1e-8,
    )


class LearningRate:
    """The learning rate of all optimisers of a run; plateau follows real_f1, the others the step.

    Args:
        schedule: plateau, step, cosine or constant.
        milestones: "step" multiplies by 0.1 at each of these epochs (generations), or below 1 after
            that share of the run; numbers with commas between them.
        plan: the generations of the run.
    """

    def __init__(
        self,
        schedule: str,
        milestones: str,
        optimizers: Iterable[torch.optim.Optimizer],
        plan: Plan,
    ) -> None:
        self.schedule = schedule
        self.plan = plan
        self.optimizers = list(optimizers)
        self.base = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.milestones = [self._milestone(float(part)) for part in str(milestones).split(",")]
        self.plateaus: list[torch.optim.lr_scheduler.ReduceLROnPlateau] = []
        if schedule == "plateau":
            self.plateaus = [make_scheduler(optimizer) for optimizer in self.optimizers]

    def _milestone(self, number: float) -> int:
        """The first step of epoch `number`; below 1, the step after that share of the run.

        Never the first step of the run: a short run too starts at its full rate.
        """
        if number < 1:
            return max(1, round(number * self.plan.steps))
        return round(self.plan.start(number))

    def factor(self, step: int) -> float:
        """What the base learning rate is multiplied with at a step counted from 0."""
        if self.schedule == "step":
            return 0.1 ** sum(step >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.plan.steps)))
        return 1.0

    def before_step(self, step: int) -> None:
        """Set the learning rate of the coming step."""
        if self.schedule not in ("step", "cosine"):
            return
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
    """The entries that are plain data."""
    plain = (int, float, str, list, type(None))
    return {key: value for key, value in state.items() if isinstance(value, plain)}
