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
from oass.options_flags import LOSS_PARTS

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


def weight_by_pairs(
    losses: dict[str, torch.Tensor], terms: Terms, accelerator: Accelerator
) -> None:
    """With several processes: weight the means over pairs by P_local * world / sum P, in place.

    Then the averaged loss and gradient are those of one process with the whole batch.
    """
    world = accelerator.num_processes
    if world == 1:
        return
    pairs = losses["num_pairs"]
    share = pairs * world / accelerator.reduce(pairs.clone(), "sum").clamp_min(1)
    for part in terms.over_pairs:
        losses[LOSS_PARTS[part]] = share * losses[LOSS_PARTS[part]]


def weight_by_images(losses: dict[str, torch.Tensor], terms: Terms, share: float) -> None:
    """Weight the means over images by `share` = B_local * world / sum B, in place."""
    if share == 1:
        return
    for part in terms.present - terms.over_pairs:
        losses[LOSS_PARTS[part]] = share * losses[LOSS_PARTS[part]]
