"""What is logged of a phase: loss, size of the pseudo label sets, and whether they have collapsed."""

from typing import Any

import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.cli import UserError
from common.meter import Meter
from common.run import Run

one_module(__name__, "mile.phase_log")

CHECKED_STEPS = 100


class PhaseLog(Meter):
    """Sums over the steps of a phase, on the device; exact over processes and after a resume."""

    NAMES = ("rows", "loss", "labels", "empty", "with_y")

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator)
        self.sums = self.sums.new_zeros(len(self.NAMES))

    @torch.no_grad()
    def add(self, loss: torch.Tensor, target: torch.Tensor, label: torch.Tensor) -> None:
        """Add a step: its loss (0-d), its targets (N,C), the labels y (N,). No host synchronisation."""
        sizes = target.sum(1)
        with_y = target.gather(1, label[:, None])
        row = (
            torch.ones_like(loss) * len(label),
            loss * len(label),
            sizes.sum(),
            (sizes == 0).sum(),
            with_y.sum(),
        )
        self.sums += torch.stack([value.to(self.sums.dtype) for value in row])

    def _total(self) -> dict[str, float]:
        several = self.accelerator.num_processes > 1
        total = self.accelerator.reduce(self.sums, "sum") if several else self.sums
        return dict(zip(self.NAMES, total.tolist(), strict=True))

    def write(self, run: Run, phase: str, lr: float, rho: float) -> None:
        """One line of metrics.jsonl (split = the phase) and on the terminal; then start from zero.

        labels_per_image, pseudo_empty (share of rows without a label), y_kept (share with y among the labels),
        new_labels (share of the labels that are not y).
        """
        total = self._total()
        self.sums.zero_()
        n, labels = total["rows"], total["labels"]
        if not n:
            return
        line: dict[str, Any] = {"loss": total["loss"] / n, "lr": lr}
        if phase == "imitation":
            line |= {
                "rho": rho,
                "labels_per_image": labels / n,
                "pseudo_empty": total["empty"] / n,
                "y_kept": total["with_y"] / n,
                "new_labels": (labels - total["with_y"]) / labels if labels else None,
            }
        run.log(phase, **line)
        shown = "  ".join(
            f"{name} {value:.4g}" for name, value in line.items() if value is not None
        )
        speed = run.images_per_second() or 0.0
        run.print(
            f"generation {run.progress.epoch + 1}  {phase:<11}  {shown}  {speed:.0f} images/s"
        )

    def check_collapse(self, run: Run, num_classes: int, rho: float, *, strict: bool) -> None:
        """Warn (with `strict` UserError) where the phase so far labels everything or nothing."""
        total = self._total()
        mean = total["labels"] / max(1.0, total["rows"])
        if 0 < mean <= 0.9 * num_classes:
            return
        prior = 1 / num_classes
        what = "nothing" if mean == 0 else f"{mean:.1f} of {num_classes} labels an image"
        message = (
            f"generation {run.progress.epoch + 1}, imitation phase: the pseudo labels have collapsed to {what} "
            f"(rho {rho:g}, class prior {prior:g}); "
            + (
                "lower --rho, raise --warmup, or --keep_ground_truth"
                if mean == 0
                else "raise --rho or --warmup"
            )
        )
        if strict:
            raise UserError(message)
        run.print(f"warning: {message}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the sums back, on the main process only: they are the sums of all."""
        self.sums.copy_(state["sums"] * float(self.accelerator.is_main_process))


def is_checked(position: int, steps: int) -> bool:
    """Whether the collapse check is due after step `position` (from 1) of an imitation phase of `steps` steps."""
    return steps > 0 and position == min(CHECKED_STEPS, steps)
