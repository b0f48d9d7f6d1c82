"""The parts of a step around the loss: data to the device, the teacher, several processes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.loading import Batch
from common.rundir import share_buffers
from oass.core.networks import Classifier
from oass.data import Picture
from oass.data_frozen import Features, network_input
from oass.method import positive_pairs, update_ema_variables
from oass.options_check import Terms
from oass.options_flags import LOSS_PARTS, PAIR_PER_IMAGE

one_module(__name__, "oass.train_step")


class Described:
    """Plain data in a checkpoint, such as class names; a run goes on with the same only."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = dict(content)

    def state_dict(self) -> dict[str, Any]:
        """The data."""
        return self.content

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """ValueError where the run had other data."""
        for name, now in self.content.items():
            then = state.get(name)
            if then != now:
                raise ValueError(f"{name} {then!s:.80} then, {now!s:.80} now")


def present_weights(weights: dict[str, float], present: frozenset[str]) -> dict[str, float]:
    """The weight of each loss that the run has, by its name in the log."""
    return {name: weights[part] for part, name in LOSS_PARTS.items() if part in present}


def to_device(
    data: tuple[Picture | Features, torch.Tensor],
    device: torch.device,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
) -> tuple[Any, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """What the network is shown, labels and their positive pairs, which are found on the host.

    Normalised images; computed features stay what they are.
    """
    picture, labels = data
    image_index, class_index = positive_pairs(labels)
    pairs = (
        image_index.to(device, non_blocking=True),
        class_index.to(device, non_blocking=True),
    )
    images = network_input(picture, device, normalisation)
    return images, labels.to(device, non_blocking=True), pairs


def move_teacher(
    teacher: Classifier,
    student: Classifier,
    alpha_ema: float,
    teacher_bn: str,
    accelerator: Accelerator,
    step: int,
) -> None:
    """The teacher after a step: averaged weights; with teacher_bn eval the student's statistics."""
    update_ema_variables(student, teacher, alpha_ema, step)
    if teacher_bn == "eval":
        share_buffers(accelerator, student)
        copy_buffers(student, teacher)


@torch.no_grad()
def copy_buffers(model: Classifier, ema_model: Classifier) -> None:
    """The student's running statistics, for a teacher that normalises with them."""
    for mine, theirs in zip(ema_model.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


# --- several processes ---


class LossesOfPart(NamedTuple):
    """What a part of a step gave: its losses, its share of the images, its present labels (0-d)."""

    losses: dict[str, torch.Tensor]
    share: float
    present: torch.Tensor


class Counts(NamedTuple):
    """Images of a step, over all processes."""

    images: int  # that could be read
    skipped: int  # that could not
    smallest: int  # the fewest that a process read


def count_together(batch: Batch, skip_corrupt: bool, accelerator: Accelerator) -> Counts:
    """The counts of a batch; processes ask each other only with skip_corrupt.

    Otherwise all have equally many. A process that had nothing to do would leave the others
    waiting, so all decide by the same numbers.
    """
    mine = len(batch.index)
    if accelerator.num_processes == 1 or not skip_corrupt:
        return Counts(mine * accelerator.num_processes, batch.skipped, mine)
    counts = accelerator.gather(torch.tensor([[mine, batch.skipped]], device=accelerator.device))
    images, skipped = counts.sum(0).tolist()
    return Counts(images, skipped, int(counts[:, 0].min()))


def pairs_together(
    labels: torch.Tensor, strategy: str, parts: int, accelerator: Accelerator
) -> torch.Tensor | None:
    """How many (image, keypoint) pairs a step has, over its parts and all processes; 0-d float.

    None where nothing needs the number: one part in one process. labels (B,C) of this process's
    images, on the host; a strategy has a pair for each image, or for each present class.
    """
    if accelerator.num_processes == 1 and parts == 1:
        return None
    count = len(labels)
    if strategy not in PAIR_PER_IMAGE:
        count = len(positive_pairs(labels)[0])
    mine = torch.tensor(float(count), device=accelerator.device)
    if accelerator.num_processes == 1:
        return mine
    return accelerator.reduce(mine, "sum")


def weight_by_pairs(
    losses: dict[str, torch.Tensor], terms: Terms, total: torch.Tensor | None, world: int
) -> None:
    """Weight the means over the pairs of a part by P_part * world / P_step, in place.

    Then the loss and gradient, added over the parts and averaged over the processes, are those of
    one process with the whole batch. total: of `pairs_together`.
    """
    if total is None:
        return
    share = losses["num_pairs"] * world / total.clamp_min(1)
    for part in terms.over_pairs:
        losses[LOSS_PARTS[part]] = share * losses[LOSS_PARTS[part]]


def rows_of(
    data: tuple[Picture | Features, torch.Tensor], rows: slice
) -> tuple[Picture | Features, torch.Tensor]:
    """Some images of a batch, what is shown of them and their labels."""
    shown, labels = data
    if isinstance(shown, torch.Tensor):
        return shown[rows], labels[rows]
    kind = Features if isinstance(shown, Features) else Picture
    fields = [None if field is None else field[rows] for field in shown]
    return kind(*fields), labels[rows]  # type: ignore[arg-type]  # each field as it was


def sum_of_parts(parts: list[LossesOfPart], terms: Terms) -> dict[str, torch.Tensor]:
    """What a step logs: the losses of its parts, added up; alone they stay as they are."""
    if len(parts) == 1:
        return parts[0].losses
    weighed = {LOSS_PARTS[name] for name in terms.present | terms.over_pairs}
    weighed |= {"loss", "num_pairs"}
    present = torch.stack([part.present for part in parts])
    of_labels = present / present.sum().clamp_min(1)
    found: dict[str, torch.Tensor] = {}
    for name in parts[0].losses:
        values = torch.stack([part.losses[name] for part in parts])
        shares = torch.tensor([part.share for part in parts], device=values.device)
        if name == "dead_cam":
            shares = of_labels
        found[name] = values.sum() if name in weighed else (values * shares).sum()
    return found


def weight_by_images(losses: dict[str, torch.Tensor], terms: Terms, share: float) -> None:
    """Weight the means over images by `share` = B_local * world / sum B, in place."""
    if share == 1:
        return
    for part in terms.present - terms.over_pairs:
        losses[LOSS_PARTS[part]] = share * losses[LOSS_PARTS[part]]
