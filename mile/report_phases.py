"""What is logged of a phase.

Loss, size of the pseudo label sets, and whether they have collapsed.
"""

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.cli import UserError
from common.meter import Meter
from common.run import Run

one_module(__name__, "mile.report_phases")

CHECKED_STEPS = 100  # after so many steps of an imitation phase the label sets are looked at
ALMOST_ALL = 0.9  # share of the classes above which a mean set has collapsed


class PhaseSums(NamedTuple):
    """Sums over the images of a phase."""

    images: float
    loss: float
    labels: float  # of their targets
    empty: float  # images without a label
    with_y: float  # images whose label y is among the targets


class PhaseLog(Meter):
    """Sums over the steps of a phase, on the device; exact over processes and after a resume."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator)
        self.sums = self.sums.new_zeros(len(PhaseSums._fields))

    @torch.no_grad()
    def add_step(self, loss: torch.Tensor, target: torch.Tensor, label: torch.Tensor) -> None:
        """Add a step, without a wait: its loss (0-d), its targets (N,C), the labels y (N,)."""
        sizes = target.sum(1)
        with_y = target.gather(1, label[:, None])
        step = (
            loss.new_full((), len(label)),
            loss * len(label),
            sizes.sum(),
            (sizes == 0).sum(dtype=loss.dtype),
            with_y.sum(),
        )
        self.sums += torch.stack(step)

    def total(self) -> PhaseSums:
        """The sums of all processes."""
        return PhaseSums(*self.totals().tolist())

    def write(self, run: Run, phase: str, lr: float, rho: float) -> None:
        """One line of metrics.jsonl (split = the phase) and on the terminal; then start from zero.

        labels_per_image, pseudo_empty (share of images without a label), y_kept (share with y among
        the labels), new_labels (share of the labels that are not y).
        """
        total = self.total()
        self.sums.zero_()
        if not total.images:
            return
        line: dict[str, Any] = {"loss": total.loss / total.images, "lr": lr}
        if phase == "imitation":
            line["rho"] = rho
            line["labels_per_image"] = total.labels / total.images
            line["pseudo_empty"] = total.empty / total.images
            line["y_kept"] = total.with_y / total.images
            line["new_labels"] = None
            if total.labels:
                line["new_labels"] = (total.labels - total.with_y) / total.labels
        run.log(phase, **line)

        defined = {name: value for name, value in line.items() if value is not None}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in defined.items())
        speed = run.images_per_second() or 0.0
        generation = run.progress.epoch + 1
        run.print(f"generation {generation}  {phase:<11}  {shown}  {speed:.0f} images/s")

    def check_collapse(self, run: Run, num_classes: int, rho: float, *, strict: bool) -> None:
        """Warn (with `strict` UserError) where the phase so far labels everything or nothing."""
        total = self.total()
        mean = total.labels / max(1.0, total.images)
        if 0 < mean <= ALMOST_ALL * num_classes:
            return
        what = "nothing"
        remedy = "lower --rho, raise --warmup, or --keep_ground_truth"
        if mean > 0:
            what = f"{mean:.1f} of {num_classes} labels an image"
            remedy = "raise --rho or --warmup"
        message = (
            f"generation {run.progress.epoch + 1}, imitation phase: "
            f"the pseudo labels have collapsed to {what} "
            f"(rho {rho:g}, class prior {1 / num_classes:g}); {remedy}"
        )
        if strict:
            raise UserError(message)
        run.print(f"warning: {message}")


def is_checked(position: int, steps: int) -> bool:
    """Whether label sets are looked at after step `position`, from 1, of `steps` of imitation."""
    return steps > 0 and position == min(CHECKED_STEPS, steps)
