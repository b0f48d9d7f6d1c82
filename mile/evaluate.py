"""What is measured, and how: the ReaL metrics of one threshold, and of a network in a run.

N images of a batch, n of a set, C classes; A_i the predicted set of image i, R_i the set of its
true labels, V the images with a non-empty R_i. The definitions stand in method.py.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.cli import UserError
from common.domain import (
    DomainError,
    require_indices,
    require_number,
    require_one_of,
    require_shape,
)
from common.loading import gather_in_order
from common.modes import evaluating
from mile import fast
from mile.data import EvalBatch, Real
from mile.evaluate_counts import count_overlaps, entries_of, entries_of_lists
from mile.evaluate_thresholds import (  # noqa: F401
    Study,
    classes_without_positive,
    mean_average_precision,
    threshold_study,
    trivial_f1,
)
from mile.method import (
    PROTOCOLS,
    SCHEMAS,
    Overlap,
    RealScores,
    annealed_rho,
    covering_rho,
    real_means,
    real_scores,
)

one_module(__name__, "mile.evaluate")

# real_f1 is also reported at the thresholds of the authors
FURTHER_RHOS = {"real_f1_025": 0.25, "real_f1_05": 0.5}


# ---- label sets ----------------------------------------------------------------------------------


def multi_hot(
    lists: Sequence[Sequence[int]], num_classes: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """N lists of class indices as bool (N,C); ValueError for an index that is no class."""
    entries = entries_of_lists(lists, num_classes, device)
    matrix = torch.zeros(len(lists), num_classes, dtype=torch.bool, device=device)
    matrix[entries.row, entries.column] = True
    return matrix


# ---- metrics, batch by batch ---------------------------------------------------------------------


class RealMetrics:
    """The metrics of method.RealScores over batches.

    Their sums stay on the device, nothing waits for it.

    authors: real_acc, real_f1 and label_coverage (the number of predicted labels an image) are
    means
    over V; unofficial: the same sums divided by all n images. `top5` adds acc5. ValueError for rho
    outside (0, 1), another schema or protocol, labels and label sets that name no class.
    """

    NAMES = RealScores._fields

    def __init__(
        self,
        num_classes: int,
        schema: str = "MILe",
        rho: float = 0.25,
        protocol: str = "authors",
        *,
        top5: bool = False,
    ) -> None:
        require_number(num_classes, "num_classes", 1)
        require_one_of(schema, SCHEMAS, "schema")
        require_number(rho, "rho", 0, 1, open_low=True, open_high=True)
        require_one_of(protocol, PROTOCOLS, "protocol")
        self.num_classes = num_classes
        self.schema = schema
        self.rho = rho
        self.protocol = protocol
        self.top5 = top5
        self.sums: torch.Tensor | None = None

    def update(self, logits: torch.Tensor, label: torch.Tensor, real: Real) -> None:
        """Add a batch: logits (N,C), the single labels (N,) int64, the true sets R."""
        require_shape(logits, (len(label), self.num_classes), "logits")
        require_indices(label, self.num_classes, "label")
        if len(real) != len(label):
            raise DomainError(f"real: {len(real)} label sets for {len(label)} images")
        z = logits.detach().float()
        if isinstance(real, torch.Tensor):
            require_shape(real, z.shape, "real")
            top = fast.argmax(z)
            predicted = fast.prediction_set(z, self.rho, self.schema, self.protocol, top)
            overlap = fast.overlap_of(predicted, real.to(z.device, torch.bool), top)
        else:
            entries = entries_of_lists(real, self.num_classes, z.device)
            counted = count_overlaps([z], entries, [self.rho], self.schema, self.protocol)
            top = counted.top
            overlap = counted.overlaps[0]
        self.add(overlap, top == label, is_in_five(z, label) if self.top5 else None)

    def add(
        self, overlap: Overlap, top_is_label: torch.Tensor, in_five: torch.Tensor | None = None
    ) -> None:
        """Add images by what was counted of them; see method.real_scores."""
        scores = real_scores(overlap, top_is_label, in_five)
        sums = torch.stack(scores).sum(1)
        self.sums = sums if self.sums is None else self.sums + sums

    def compute(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """The metrics as fractions, over all processes.

        Those of R are NaN where no image has a true label.
        """
        sums = self.sums
        if sums is None:
            sums = torch.zeros(len(self.NAMES), dtype=torch.float64)
        if accelerator is not None and accelerator.num_processes > 1:
            sums = accelerator.reduce(sums.to(accelerator.device), "sum")

        total = RealScores(*sums.tolist())
        if total.n and not total.n_real:
            warnings.warn("no image has a ReaL label: the ReaL figures are NaN", stacklevel=2)
        found = real_means(total, self.protocol)._asdict()
        found["n"] = int(total.n)
        found["n_real"] = int(total.n_real)
        if not self.top5:
            del found["acc5"]
        return found


def is_in_five(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Whether the label (N,) is among the five highest of logits (N,C): bool (N,)."""
    highest = logits.topk(min(5, logits.shape[1]), 1).indices
    return (highest == label[:, None]).any(1)


# ---- a network in a run --------------------------------------------------------------------------


class Rule(NamedTuple):
    """How label sets are predicted and counted: see method.prediction_set."""

    schema: str
    protocol: str
    rho: float
    top5: bool = False  # acc5 too


class Outputs(NamedTuple):
    """What a network says of the n images of a set, and what is true of them; on the CPU, in order.

    With --skip_corrupt images may be missing: `ids` has the places of those that are there.
    """

    logits: torch.Tensor  # (n,C) float32
    label: torch.Tensor  # (n,) int64
    real: torch.Tensor  # (n,C) bool
    ids: torch.Tensor  # (n,) int64, places in the set

    def first(self, shown: int) -> "Outputs":
        """Those of the first `shown` images of the set; unreadable ones are left out."""
        is_shown = self.ids < shown
        return Outputs(*(column[is_shown] for column in self))


class Answer(NamedTuple):
    """What a network says of a batch, on the device."""

    logits: torch.Tensor  # (B,C) float32
    label: torch.Tensor  # (B,) int64
    real: Real
    ids: torch.Tensor  # (B,) int64


class Evaluated:
    """What a network says of a set, as it came: joined to one table only where that is asked."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers

    def __len__(self) -> int:
        return sum(len(answer.logits) for answer in self.answers)

    @cached_property
    def whole(self) -> Outputs:
        """All images."""
        return _joined(self.answers)

    def first(self, shown: int) -> Outputs:
        """The first `shown` images of the set."""
        head = []
        for answer in self.answers:
            head.append(answer)
            if answer.ids[-1] >= shown:
                break
        return _joined(head).first(shown)


def _joined(answers: Sequence[Answer]) -> Outputs:
    """Answers one below the other, on the CPU."""
    num_classes = answers[0].logits.shape[1]
    logits, label, real, ids = zip(*answers, strict=True)
    sets = _sets_of(real)
    if not isinstance(sets, torch.Tensor):
        sets = multi_hot(sets, num_classes)
    columns = (torch.cat(logits), torch.cat(label), sets, torch.cat(ids))
    return Outputs(*(column.cpu() for column in columns))


def _sets_of(real: Sequence[Real]) -> Real:
    """The label sets of several batches as those of one."""
    if isinstance(real[0], torch.Tensor):
        return torch.cat([sets for sets in real if isinstance(sets, torch.Tensor)])
    return list(chain.from_iterable(real))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[EvalBatch],
    num_classes: int,
    accelerator: Accelerator,
    poll: Callable[[], None] = lambda: None,
) -> Evaluated:
    """What a model says of every image, of all processes in each; training mode restored.

    Nothing waits for a GPU. `poll` is called between batches, so that a stop signal is
    answered here too. UserError where no image of the set can be read.
    """
    answers = []
    with evaluating(model):
        for batch in batches:
            with accelerator.autocast():
                z = model(batch.input).float()
            answers.append(Answer(z, batch.label, batch.real, batch.ids))
            poll()

    if accelerator.num_processes > 1:
        answers = _gathered(answers, num_classes, accelerator)
    if not answers:
        raise UserError("no image of an evaluation can be read; check the data")
    return Evaluated(answers)


def _gathered(answers: list[Answer], num_classes: int, accelerator: Accelerator) -> list[Answer]:
    """The answers of all processes as one, in order, on the CPU; no one where there is none."""
    none = torch.zeros(0, dtype=torch.int64)
    own = Outputs(torch.zeros(0, num_classes), none, torch.zeros(0, num_classes).bool(), none)
    if answers:
        own = _joined(answers)
    ids, logits, label, real = gather_in_order(
        own.ids, own.logits, own.label, own.real, accelerator=accelerator
    )
    return [Answer(logits, label, real, ids)] if len(ids) else []


def metrics_of(evaluated: Evaluated, rule: Rule) -> dict[str, float]:
    """RealMetrics at the rule's threshold, and real_f1 also at 0.25 and 0.5; in one pass."""
    logits, labels, real, _ = zip(*evaluated.answers, strict=True)
    num_classes = logits[0].shape[1]
    device = logits[0].device
    label = torch.cat(labels)
    entries = entries_of(_sets_of(real), num_classes, device)
    rhos = list(dict.fromkeys([rule.rho, *FURTHER_RHOS.values()]))
    counted = count_overlaps(logits, entries, rhos, rule.schema, rule.protocol)
    in_five = None
    if rule.top5:
        in_five = torch.cat([is_in_five(*pair) for pair in zip(logits, labels, strict=True)])

    at: dict[float, dict[str, float]] = {}
    for rho, overlap in zip(rhos, counted.overlaps, strict=True):
        metrics = RealMetrics(num_classes, rule.schema, rho, rule.protocol, top5=rule.top5)
        metrics.add(overlap, counted.top == label, in_five)
        at[rho] = metrics.compute()
    found = at[rule.rho]
    further = {name: at[rho]["real_f1"] for name, rho in FURTHER_RHOS.items()}
    return found | further


class Threshold(NamedTuple):
    """How the threshold of the pseudo labels is found, generation by generation."""

    rho: float
    start: float | None = None  # anneal rho from here
    cover: float | None = None  # choose rho: the sets hold y on this share of held-out images

    def of(self, generation: int, generations: int, teacher_says: Callable[[], Outputs]) -> float:
        """rho, annealed from `start`, or chosen by what the teacher says of images held out."""
        if self.cover is None:
            return annealed_rho(self.rho, self.start, generation, generations)
        held_out = teacher_says()
        return covering_rho(held_out.logits.sigmoid(), held_out.label, self.cover)
