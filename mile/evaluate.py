"""What is measured, and how: the ReaL metrics of one threshold, and of a network in a run.

N images of a batch, n of a set, C classes; A_i the predicted set of image i, R_i the set of its
true labels, V the images with a non-empty R_i. The definitions stand in method.py.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
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
    entries = _entries_of(lists, num_classes, device)
    matrix = torch.zeros(len(lists), num_classes, dtype=torch.bool, device=device)
    matrix[entries.row, entries.column] = True
    return matrix


def as_matrix(real: Real, num_classes: int, device: torch.device) -> torch.Tensor:
    """Label sets as bool (N,C) on the device."""
    if isinstance(real, torch.Tensor):
        return real
    return multi_hot(real, num_classes, device)


class _Entries(NamedTuple):
    """The labels of N sets, L in all."""

    row: torch.Tensor  # (L,) the image
    column: torch.Tensor  # (L,) the class
    sizes: torch.Tensor  # (N,) labels an image


def _entries_of(
    lists: Sequence[Sequence[int]], num_classes: int, device: torch.device | str
) -> _Entries:
    """The entries of lists of class indices; a label listed twice is one."""
    sets = [set(labels) for labels in lists]
    listed = torch.tensor(list(chain.from_iterable(sets)), dtype=torch.int64)
    require_indices(listed, num_classes, "label sets")
    sizes = torch.tensor([len(labels) for labels in sets], dtype=torch.int64, device=device)
    return _Entries(torch.repeat_interleave(sizes), listed.to(device), sizes)


def _overlap_with_lists(
    predicted: torch.Tensor, lists: Sequence[Sequence[int]], top: torch.Tensor
) -> Overlap:
    """method.overlap_of for true sets that are lists: without a matrix of them."""
    entries = _entries_of(lists, predicted.shape[1], predicted.device)
    zeros = torch.zeros(len(predicted), dtype=torch.int64, device=predicted.device)
    is_predicted = predicted[entries.row, entries.column].long()
    is_top = (entries.column == top[entries.row]).long()
    return Overlap(
        predicted=fast.count(predicted),
        true=entries.sizes,
        hits=zeros.index_add(0, entries.row, is_predicted),
        top_is_true=zeros.index_add(0, entries.row, is_top) > 0,
    )


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
        z = logits.detach().float()
        top = fast.argmax(z)
        in_five = None
        if self.top5:
            highest = z.topk(min(5, self.num_classes), 1).indices
            in_five = (highest == label[:, None]).any(1)
        predicted = fast.prediction_set(z, self.rho, self.schema, self.protocol, top)
        self.add(predicted, top, label, real, in_five)

    def add(
        self,
        predicted: torch.Tensor,
        top: torch.Tensor,
        label: torch.Tensor,
        real: Real,
        in_five: torch.Tensor | None = None,
    ) -> None:
        """Add a batch by its predicted sets A, bool (N,C), and its top classes (N,).

        in_five, for acc5: whether y is among the five highest, bool (N,).
        """
        require_indices(label, self.num_classes, "label")
        if len(real) != len(predicted):
            raise DomainError(f"real: {len(real)} label sets for {len(predicted)} images")
        if isinstance(real, torch.Tensor):
            require_shape(real, predicted.shape, "real")
            real = real.to(predicted.device, torch.bool)
            overlap = fast.overlap_of(predicted, real, top)
        else:
            overlap = _overlap_with_lists(predicted, real, top)

        scores = real_scores(overlap, top == label, in_five)
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


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[EvalBatch],
    num_classes: int,
    accelerator: Accelerator,
    poll: Callable[[], None] = lambda: None,
) -> Outputs:
    """What a model says of every image, gathered over all processes; training mode restored.

    `poll` is called between batches, so that a stop signal is answered here too. UserError where no
    image of the set can be read.
    """
    ids = [torch.zeros(0, dtype=torch.int64)]
    logits = [torch.zeros(0, num_classes)]
    label = [torch.zeros(0, dtype=torch.int64)]
    real = [torch.zeros(0, num_classes, dtype=torch.bool)]
    with evaluating(model):
        for batch in batches:
            with accelerator.autocast():
                z = model(batch.input).float()
            sets = as_matrix(batch.real, num_classes, z.device)
            ids.append(batch.ids.cpu())
            logits.append(z.cpu())
            label.append(batch.label.cpu())
            real.append(sets.cpu())
            poll()

    columns = [torch.cat(column) for column in (ids, logits, label, real)]
    gathered = gather_in_order(*columns, accelerator=accelerator)
    if not len(gathered[0]):
        raise UserError("no image of an evaluation can be read; check the data")
    return Outputs(gathered[1], gathered[2], gathered[3], ids=gathered[0])


def metrics_of(outputs: Outputs, rule: Rule) -> dict[str, float]:
    """RealMetrics at the rule's threshold, and real_f1 also at 0.25 and 0.5."""

    def at(rho: float) -> dict[str, float]:
        classes = outputs.logits.shape[1]
        metrics = RealMetrics(classes, rule.schema, rho, rule.protocol, top5=rule.top5)
        metrics.update(outputs.logits, outputs.label, outputs.real)
        return metrics.compute()

    found = at(rule.rho)
    for name, rho in FURTHER_RHOS.items():
        found[name] = at(rho)["real_f1"]
    return found


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
