"""Iterated learning with multi-label targets: the paper's contribution, free of data and command line.

    learner = IteratedLearning(network, num_classes=C, rho=0.25)
    for generation in range(G):
        for _ in range(k_t):
            learner.interactive_step(x, y)      # the teacher learns the single labels
        learner.begin_imitation()
        for _ in range(k_s):
            learner.imitation_step(x)           # the student learns sigmoid(teacher) > rho, a label set
        learner.end_generation()                # the student is the next generation's teacher

Shapes: N rows of a batch, C classes.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from common.aliases import one_module
from common.checkpoint import load_into
from common.domain import (
    DomainError,
    is_readable,
    require_indices,
    require_number,
    require_one_of,
    require_shape,
    require_shares,
    require_threshold,
    require_weights,
)
from common.loading import seed_of

one_module(__name__, "mile.learning")

STUDENT_INITS = ("teacher", "own", "fresh")
SCHEMAS = ("softmax", "sigmoid", "MILe")


def pseudo_labels(
    logits: torch.Tensor,
    rho: float = 0.25,
    threshold_on: str = "prob",
    label: torch.Tensor | None = None,
) -> torch.Tensor:
    """The teacher's label sets t_bc = 1 if sigmoid(z_bc) > rho else 0, (N,C) float32, detached.

    Strict, hard, any number of ones, also none. `threshold_on="logit"` compares the logit z itself with rho
    (the unofficial code). label (N,) int64: onehot(label) is or-ed in. Computed in float32 also under autocast.
    ValueError for another threshold_on, rho outside (0, 1) (of logits: not finite), a label that is no class.
    """
    _require_rho(rho, threshold_on)
    scores = logits.detach().float()
    target = ((scores.sigmoid() if threshold_on == "prob" else scores) > rho).float()
    if label is not None:
        require_indices(label, logits.shape[1], "label")
        target.scatter_(1, label[:, None], 1.0)
    return target


def _require_rho(rho: float, threshold_on: str) -> None:
    if threshold_on not in ("prob", "logit"):
        raise ValueError(f"threshold_on {threshold_on!r}: prob or logit")
    if threshold_on == "prob":
        require_threshold(rho, "rho")
    else:
        require_number(rho, "rho")


def bce_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    reduction: str = "sum",
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """L(z, t) = (1/N) sum_b sum_c BCE(z_bc, t_bc), a scalar; logits and target (N,C).

    `reduction="mean"` also divides by C (the unofficial code: gradients C times smaller). weight (N,): per
    row, rescaled to mean 1 over the batch. Half precision is computed in float32. ValueError for another reduction,
    a target of another shape or outside [0, 1], and weights that are negative or not finite, or all 0.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction {reduction!r}: sum or mean")
    require_shape(target, logits.shape, "target")
    require_shares(target, "target")
    z = logits if logits.dtype == torch.float64 else logits.float()
    rows = F.binary_cross_entropy_with_logits(z, target.to(z.dtype), reduction="none")
    rows = rows.sum(1) if reduction == "sum" else rows.mean(1)
    return _weighted_mean(rows, weight)


def _weighted_mean(rows: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    if weight is None:
        return rows.mean()
    require_shape(weight, rows.shape, "weight")
    require_weights(weight, "weight")
    if is_readable(weight) and not weight.any():
        raise DomainError("weight: all rows weigh 0")
    return (rows * (weight / weight.mean())).mean()


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


class _Trainee:
    """A network under training: the bare module, the one to call (DDP), its optimiser."""

    def __init__(
        self, network: nn.Module, settings: Mapping[str, Any], accelerator: Accelerator | None
    ) -> None:
        self.network, self.forward = network, network
        self.optimizer = torch.optim.SGD(network.parameters(), **settings)
        self.step = self.optimizer
        if accelerator is not None:
            self.forward, self.step = accelerator.prepare(network, self.optimizer)


class IteratedLearning:
    """Teacher, student and their SGD; one method call is one optimiser step or one phase border.

    `student_init`: "teacher", the network trains throughout and a frozen copy labels (the authors); "own", two
    networks and optimisers, the teacher takes the student's weights after each generation, not its momentum
    (the unofficial code); "fresh", the student and its optimiser state start anew in each generation, from
    `new_student(generation)` where given, else from each layer's own initialisation.
    `schema="softmax"` trains with cross entropy; "sigmoid" and "softmax" use interactive steps only.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module | None = None,
        *,
        num_classes: int,
        rho: float = 0.25,
        threshold_on: str = "prob",
        reduction: str = "sum",
        student_init: str = "teacher",
        keep_ground_truth: bool = False,
        lr: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 1e-4,
        accelerator: Accelerator | None = None,
        schema: str = "MILe",
        new_student: Callable[[int], nn.Module] | None = None,
    ) -> None:
        if student_init not in STUDENT_INITS:
            raise ValueError(
                f"student_init {student_init!r}: choose from {', '.join(STUDENT_INITS)}"
            )
        require_one_of(schema, SCHEMAS, "schema")
        _require_rho(rho, threshold_on)
        require_one_of(reduction, ("sum", "mean"), "reduction")
        require_number(num_classes, "num_classes", 1)
        require_number(lr, "lr", 0, open_low=True)
        if (student is None) != (student_init == "teacher"):
            raise ValueError(
                f"student_init {student_init!r} needs {'no' if student is not None else 'a'} student"
            )
        self.num_classes, self.rho, self.threshold_on, self.reduction = (
            num_classes,
            rho,
            threshold_on,
            reduction,
        )
        self.student_init, self.keep_ground_truth, self.schema = (
            student_init,
            keep_ground_truth,
            schema,
        )
        self.accelerator, self.new_student = accelerator, new_student
        sgd = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        self._trainees = [
            _Trainee(net, sgd, accelerator) for net in (teacher, student) if net is not None
        ]
        self._frozen = None
        if student is None and schema == "MILe":
            self._frozen = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.phase, self.generation = "interactive", 0
        self.target: torch.Tensor | None = None  # (N,C), what the last step taught
        self.guard: Callable[[torch.Tensor, torch.Tensor], None] | None = (
            None  # sees (loss, index) before backward
        )

    @property
    def teacher(self) -> nn.Module:
        """The network that learns the labels y; during imitation the frozen one that labels."""
        if self.phase == "imitation" and self._frozen is not None:
            return self._frozen
        return self._trainees[0].network

    @property
    def student(self) -> nn.Module:
        """The network that is evaluated and exported."""
        return self._trainees[-1].network

    @property
    def active(self) -> nn.Module:
        """The network now in training."""
        return self._now.network

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser for each trained network."""
        return [trainee.optimizer for trainee in self._trainees]

    @property
    def _now(self) -> _Trainee:
        return self._trainees[-1 if self.phase == "imitation" else 0]

    def interactive_step(
        self,
        input: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The teacher takes a step towards t = onehot(y); the detached loss, 0-d.

        input (N,...), label y (N,) int64, weight (N,) per row, index (N,) sample numbers for the guard's message.
        """
        if self.phase != "interactive":
            raise RuntimeError("interactive_step during imitation: call end_generation first")
        require_indices(label, self.num_classes, "label")
        self.target = F.one_hot(label, self.num_classes).float()
        share = self._share_of(weight)
        if self.schema != "softmax":
            return self._step(
                input, lambda z: share * bce_loss(z, self.target, self.reduction, weight), index
            )
        return self._step(
            input,
            lambda z: (
                share * _weighted_mean(F.cross_entropy(z.float(), label, reduction="none"), weight)
            ),
            index,
        )

    def _share_of(self, weight: torch.Tensor | None) -> torch.Tensor | float:
        """The mean weight here over that of all processes, so that rows weigh the same in N processes as in one."""
        if weight is None or self.accelerator is None or self.accelerator.num_processes == 1:
            return 1.0
        return weight.mean() / self.accelerator.reduce(weight.mean(), "mean")

    def imitation_step(
        self,
        input: torch.Tensor,
        label: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The student takes a step towards the teacher's label sets on the same images; the detached loss, 0-d.

        label (N,) is used only with keep_ground_truth.
        """
        if self.phase != "imitation":
            raise RuntimeError("imitation_step before begin_imitation")
        with torch.inference_mode(), self._autocast():
            logits = self.teacher(input)
        kept = label if self.keep_ground_truth else None
        self.target = pseudo_labels(logits, self.rho, self.threshold_on, kept)
        return self._step(input, lambda z: bce_loss(z, self.target, self.reduction), index)

    def _step(
        self,
        input: torch.Tensor,
        loss_of: Callable[[torch.Tensor], torch.Tensor],
        index: torch.Tensor | None,
    ) -> torch.Tensor:
        now = self._now
        if not now.network.training:
            now.network.train()
        with self._autocast():
            logits = now.forward(input)
        loss = loss_of(logits)
        if self.guard is not None:
            self.guard(loss, index)
        if self.accelerator is None:
            loss.backward()
        else:
            self.accelerator.backward(loss)
        now.step.step()
        now.step.zero_grad()
        return loss.detach()

    def _autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.accelerator is None else self.accelerator.autocast()

    def begin_imitation(self) -> None:
        """Freeze the teacher; from here to end_generation none of its tensors changes."""
        if self._frozen is not None:
            self._frozen.load_state_dict(
                self._trainees[0].network.state_dict()
            )  # into tensors that exist
        else:
            self._trainees[0].network.eval()
        if self.student_init == "fresh":
            self._renew_student()
        self.phase = "imitation"

    def end_generation(self) -> None:
        """The student becomes the teacher of the next generation."""
        if self.student_init != "teacher":
            self.teacher.load_state_dict(self.student.state_dict())
        if (
            self.student_init == "fresh"
        ):  # the old teacher's momentum means nothing to the new weights
            self._trainees[0].optimizer.state.clear()
        self.phase, self.generation = "interactive", self.generation + 1

    def _renew_student(self) -> None:
        student = self._trainees[1]
        student.optimizer.state.clear()
        if self.new_student is not None:
            student.network.load_state_dict(self.new_student(self.generation).state_dict())
            return
        with torch.random.fork_rng(
            devices=[]
        ):  # the same weights on every process and after a resume
            torch.default_generator.manual_seed(seed_of(self.generation, 1))
            for module in student.network.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()

    def _networks(self) -> dict[str, nn.Module]:
        named = {"student": self._trainees[-1].network, "frozen": self._frozen}
        if len(self._trainees) > 1:
            named["teacher"] = self._trainees[0].network
        return {name: network for name, network in named.items() if network is not None}

    def state_dict(self) -> dict[str, Any]:
        """Networks (keys NAME.KEY), optimisers, phase, generation: enough to go on inside a phase."""
        state: dict[str, Any] = {
            "phase": self.phase,
            "generation": self.generation,
            "rho": self.rho,
        }
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        for name, network in self._networks().items():
            state |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back; UserError names the first keys that do not fit, ValueError a phase or number that is none."""
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
            start = f"{name}."
            part = {
                key[len(start) :]: value for key, value in state.items() if key.startswith(start)
            }
            load_into(network, part, f"checkpoint, {name}")
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(saved))
        self.phase = phase
        self.generation = generation
        self.rho = rho
        if self.phase == "imitation":
            self.teacher.eval()
