"""Multi-label iterated learning, as the paper tells it.

Single labels, label sets, generations, and how they are scored.

    learner = IteratedLearning(network, num_classes=C, rho=0.25)
    for generation in range(G):
        for _ in range(k_t):
            learner.interactive_step(x, y)      # the teacher learns the single labels
        learner.begin_imitation()
        for _ in range(k_s):
            learner.imitation_step(x)           # the student learns the set sigmoid(teacher) > rho
        learner.end_generation()                # the student is the next generation's teacher

An image x has a set of true labels, of which an annotator wrote down one, y. The network's logits
are z, its probabilities p = sigmoid(z). Shapes: N images of a batch, C classes.

Where the paper is silent the authors' released code is followed; the words "unofficial" and
"softmax" select what others do (README, deviations). Values outside a function's domain are a
ValueError wherever they can be looked at without waiting for a GPU and without breaking a graph.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from mile.method_checks import (
    require_between,
    require_classes,
    require_one_of,
    require_rho,
    require_shape,
    require_weights,
)
from mile.method_scores import (
    PROTOCOLS,
    SCHEMAS,
    Overlap,
    RealScores,
    overlap_of,
    prediction_set,
    probabilities,
    real_means,
    real_scores,
    set_at,
    set_f1,
)

__all__ = ["IteratedLearning", "Phases", "Plan", "PROTOCOLS", "SCHEMAS", "STUDENT_INITS"]
__all__ += ["bce_loss", "prior_bias", "probabilities", "pseudo_labels", "softmax_loss"]
__all__ += ["annealed_rho", "covering_rho"]
__all__ += ["Overlap", "RealScores", "overlap_of", "prediction_set", "set_at", "set_f1"]
__all__ += ["real_means", "real_scores"]

STUDENT_INITS = ("teacher", "own", "fresh")


# ---- the network's outputs and its losses -------------------------------------------------------


def prior_bias(num_classes: int) -> float:
    """The start of the last layer's bias, -ln C, which makes every sigmoid start at 1 / (C + 1).

    From 1/2 all classes would exceed rho, and the first label sets would hold everything.
    """
    return -math.log(num_classes)


def bce_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    reduction: str = "sum",
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of both phases, a scalar: a sum over classes, a mean over images.

        L(z, t) = 1/N  sum_b  sum_c  BCE(sigmoid(z_bc), t_bc)

    Args:
        logits: z (N,C); half precision is computed in float32.
        target: t (N,C) in [0, 1]: onehot(y) in the interactive phase, pseudo labels in the
            imitation phase.
        reduction: "mean" also divides by C (the unofficial code: gradients C times smaller).
        weight: (N,) finite, none negative, not all 0: a weight for each image, rescaled to mean 1
            over the batch.
    """
    require_one_of(reduction, ("sum", "mean"), "reduction")
    require_shape(target, logits.shape, "target")
    require_between(target, 1, "target", "values from 0 to 1")

    z = logits if logits.dtype == torch.float64 else logits.float()
    of_entries = F.binary_cross_entropy_with_logits(z, target.to(z.dtype), reduction="none")
    of_images = of_entries.sum(1) if reduction == "sum" else of_entries.mean(1)
    return _weighted_mean(of_images, weight)


def softmax_loss(
    logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """The baseline's loss, a scalar: the cross entropy of softmax(z) with y, a mean over images.

    logits z (N,C), label y (N,) int64, weight (N,) as in `bce_loss`.
    """
    of_images = F.cross_entropy(logits.float(), label, reduction="none")
    return _weighted_mean(of_images, weight)


def _weighted_mean(values: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """The mean of values (N,), each times its weight over the mean weight."""
    if weight is None:
        return values.mean()
    require_shape(weight, values.shape, "weight")
    require_weights(weight)
    return (values * (weight / weight.mean())).mean()


# ---- the pseudo labels and their threshold ------------------------------------------------------


def pseudo_labels(
    logits: torch.Tensor,
    rho: float = 0.25,
    threshold_on: str = "prob",
    label: torch.Tensor | None = None,
) -> torch.Tensor:
    """The label sets that the teacher teaches, t (N,C) float32 of 0 and 1, without gradient.

        t_bc = 1  if  sigmoid(z_bc) > rho,  else 0

    Strict and hard; a set may have any number of labels, also none.

    Args:
        logits: the teacher's z (N,C), of any precision; compared in float32.
        rho: between 0 and 1. It must lie between the class prior and the probability that an
            annotator names a secondary label: below, everything becomes positive and stays so;
            above, only the main label remains.
        threshold_on: "logit" compares z itself with rho, any finite number (the unofficial code).
        label: y (N,) int64, put into the sets as well; None leaves the sets to the teacher.
    """
    require_rho(rho, threshold_on)
    scores = logits.detach().float()
    if threshold_on == "prob":
        scores = scores.sigmoid()

    target = (scores > rho).float()
    if label is not None:
        require_classes(label, logits.shape[1])
        target.scatter_(1, label[:, None], 1.0)
    return target


def annealed_rho(rho: float, rho_start: float | None, generation: int, generations: int) -> float:
    """The threshold of a generation, counted from 0, that falls (or rises) from rho_start to rho.

    Linear over the first half of the generations, then rho. Always rho where rho_start is None.
    """
    if rho_start is None:
        return rho
    share = min(1.0, generation / max(1, (generations - 1) / 2))
    return rho_start + share * (rho - rho_start)


def covering_rho(p: torch.Tensor, label: torch.Tensor, share: float) -> float:
    """The highest threshold at which the sets {c: p_c > rho} hold y on a share of the images.

    Kept between the class prior 1/C, below which absent classes pass, and the median of each
    image's second highest p, above which hardly a set has a second label.

    Args:
        p: (n,C) in [0, 1], the teacher's probabilities of images that it was not trained on.
        label: y (n,) int64.
        share: between 0 and 1.
    """
    require_rho(share, what="share")
    require_between(p, 1, "p", "values from 0 to 1")
    require_classes(label, p.shape[1])

    prior = 1 / p.shape[1]
    second_highest = p.topk(min(2, p.shape[1]), 1).values[:, -1].median().item()
    p_of_label = p.gather(1, label[:, None])[:, 0]
    covering = p_of_label.quantile(1 - share).item()
    return min(max(covering, prior), max(second_highest, prior))


# ---- the generations and their two phases -------------------------------------------------------


class Phases(NamedTuple):
    """Steps of a generation: interactive ones first; a plain pass has no imitation."""

    interactive: int
    imitation: int

    @property
    def total(self) -> int:
        """All steps of the generation."""
        return self.interactive + self.imitation


@dataclass(frozen=True)
class Plan:
    """The generations of a run in optimiser steps; for softmax and sigmoid passes over the images.

    A generation has k_t interactive and k_s imitation steps, the first one `warmup` interactive
    steps more. Both phases are short, so that neither network can memorise the single labels. With
    total_steps above 0 the last generation is cut there, and `generations` does not count.
    """

    schema: str
    k_t: int
    k_s: int
    warmup: int
    generations: int
    total_steps: int
    pass_steps: int

    def whole(self, generation: int) -> Phases:
        """The phases of a generation, counted from 0, where it is not cut."""
        if self.schema != "MILe":
            return Phases(self.pass_steps, 0)
        warmup = self.warmup if generation == 0 else 0
        return Phases(warmup + self.k_t, self.k_s)

    @property
    def steps(self) -> int:
        """The length of the run."""
        return self.total_steps or round(self.start(self.generations))

    @property
    def epochs(self) -> int:
        """The number of generations or passes, a cut one included."""
        if not self.total_steps:
            return self.generations
        after_first = self.total_steps - self.whole(0).total
        return 1 + max(0, math.ceil(after_first / self.whole(1).total))

    def start(self, generation: float) -> float:
        """The number of steps before a generation, counted from 0; it may be a fraction."""
        if generation == 0:
            return 0
        return self.whole(0).total + (generation - 1) * self.whole(1).total

    def phases(self, generation: int) -> Phases:
        """The phases of a generation, the last one cut at the end of the run."""
        whole = self.whole(generation)
        left = self.steps - round(self.start(generation))
        interactive = min(whole.interactive, left)
        return Phases(interactive, min(whole.imitation, left - interactive))


class IteratedLearning:
    """Teacher, student and their SGD; a call is one optimiser step or a border of two phases.

    Args:
        teacher: the network that learns the single labels, images -> z (N,C).
        student: a second network for student_init "own" and "fresh", else None.
        num_classes: C.
        rho, threshold_on: see `pseudo_labels`.
        reduction: see `bce_loss`.
        student_init: where the student starts. "teacher": the network trains throughout, and a
            frozen copy of it labels (the authors). "own": two networks and optimisers; after each
            generation the teacher takes the student's weights, not its momentum (the unofficial
            code). "fresh": the student and its optimiser state start anew in each generation, from
            the weights of new_student(generation).
        keep_ground_truth: y is always in the pseudo labels.
        lr, momentum, nesterov, weight_decay: of SGD.
        schema: "softmax" trains with cross entropy; "softmax" and "sigmoid" have interactive steps
            only.
        new_student: see student_init.
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
        schema: str = "MILe",
        new_student: Callable[[int], nn.Module] | None = None,
    ) -> None:
        require_one_of(student_init, STUDENT_INITS, "student_init")
        require_one_of(schema, SCHEMAS, "schema")
        require_one_of(reduction, ("sum", "mean"), "reduction")
        require_rho(rho, threshold_on)
        if num_classes < 1:
            raise ValueError(f"num_classes {num_classes!r}: expected at least 1")
        if not 0 < lr < math.inf:
            raise ValueError(f"lr {lr!r}: expected a finite number above 0")
        if (student is None) != (student_init == "teacher"):
            needs = "no" if student is not None else "a"
            raise ValueError(f"student_init {student_init!r} needs {needs} student")

        self.num_classes = num_classes
        self.rho = rho
        self.threshold_on = threshold_on
        self.reduction = reduction
        self.student_init = student_init
        self.keep_ground_truth = keep_ground_truth
        self.schema = schema
        self.new_student = new_student

        self.trained = [teacher] if student is None else [teacher, student]
        self.optimizers: list[torch.optim.Optimizer] = []
        for network in self.trained:
            sgd = torch.optim.SGD(
                network.parameters(),
                lr=lr,
                momentum=momentum,
                nesterov=nesterov,
                weight_decay=weight_decay,
                fused=True,  # one pass over all weights
            )
            self.optimizers.append(sgd)
        self.frozen: nn.Module | None = None
        if student is None and schema == "MILe":
            self.frozen = copy.deepcopy(teacher).eval().requires_grad_(False)

        self.phase = "interactive"
        self.generation = 0
        self.target = torch.zeros(0, num_classes)  # (N,C), what the last step taught

    @property
    def teacher(self) -> nn.Module:
        """The network that learns the labels y; in imitation it stands still and labels."""
        if self.phase == "imitation" and self.frozen is not None:
            return self.frozen
        return self.trained[0]

    @property
    def student(self) -> nn.Module:
        """The network that is evaluated and exported."""
        return self.trained[-1]

    @property
    def place(self) -> int:
        """The place in `trained` and `optimizers` of the network now in training."""
        return len(self.trained) - 1 if self.phase == "imitation" else 0

    @property
    def active(self) -> nn.Module:
        """The network now in training."""
        return self.trained[self.place]

    def interactive_step(
        self, input: torch.Tensor, label: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The teacher takes a step towards t = onehot(y); the loss, 0-d, without gradient.

        input (N,...), label y (N,) int64, weight (N,) as in `bce_loss`. Where sets are known (a
        relabelled training set, say) label may be those, t (N,C) in [0, 1].
        """
        if self.phase != "interactive":
            raise RuntimeError("interactive_step during imitation: call end_generation first")
        if label.ndim == 1:
            require_classes(label, self.num_classes)
            self.target = F.one_hot(label, self.num_classes).float()
        else:
            require_shape(label, (len(input), self.num_classes), "label")
            if self.schema == "softmax":
                raise ValueError("label: schema softmax learns one label an image, not sets")
            self.target = label.float()

        logits = self.logits_in_training(input)
        if self.schema == "softmax":
            return self.descend(softmax_loss(logits, label, weight))
        return self.descend(bce_loss(logits, self.target, self.reduction, weight))

    def begin_imitation(self) -> None:
        """Freeze the teacher; from here to end_generation none of its tensors changes."""
        if self.frozen is not None:
            self.frozen.load_state_dict(self.trained[0].state_dict())  # into tensors that exist
        else:
            self.trained[0].eval()
        if self.student_init == "fresh":
            if self.new_student is None:
                raise ValueError("student_init 'fresh' needs new_student(generation)")
            self.optimizers[1].state.clear()
            self.student.load_state_dict(self.new_student(self.generation).state_dict())
        self.phase = "imitation"

    def imitation_step(
        self, input: torch.Tensor, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The student takes a step towards the teacher's sets of the same images; the loss, 0-d.

        label y (N,) is used with keep_ground_truth only.
        """
        if self.phase != "imitation":
            raise RuntimeError("imitation_step before begin_imitation")
        kept = label if self.keep_ground_truth else None
        teacher_logits = self.logits_of_teacher(input)
        self.target = pseudo_labels(teacher_logits, self.rho, self.threshold_on, kept)

        logits = self.logits_in_training(input)
        return self.descend(bce_loss(logits, self.target, self.reduction))

    def end_generation(self) -> None:
        """The student becomes the teacher of the next generation."""
        if self.student_init != "teacher":
            self.teacher.load_state_dict(self.student.state_dict())
        if self.student_init == "fresh":
            # The old teacher's momentum means nothing to the new weights.
            self.optimizers[0].state.clear()
        self.phase = "interactive"
        self.generation += 1

    def logits_of_teacher(self, input: torch.Tensor) -> torch.Tensor:
        """What the frozen teacher says of the student's images, (N,C), without gradient."""
        with torch.inference_mode():
            return self.teacher(input)

    def logits_in_training(self, input: torch.Tensor) -> torch.Tensor:
        """The logits (N,C) of the network in training, in training mode."""
        if not self.active.training:
            self.active.train()
        return self.active(input)

    def descend(self, loss: torch.Tensor) -> torch.Tensor:
        """One step of SGD down the loss, which comes back without its graph."""
        loss.backward()
        optimizer = self.optimizers[self.place]
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()
