"""A running mean that stays on the device, so that no step waits for it."""

import torch
from accelerate import Accelerator

from common.processes import on_main_process, sum_on_main_process


class Meter:
    """Mean of what `add` was given since the last `compute`; exact over processes and resumes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        has_float64 = accelerator.device.type in ("cpu", "cuda")
        kind = (torch.float32, torch.float64)[has_float64]
        self.sums = torch.zeros(2, dtype=kind, device=accelerator.device)
        self._weighed = self.sums[0]
        self._uncounted = 0  # of the samples in sums[0], those that sums[1] lacks

    def add(self, mean: torch.Tensor, count: int) -> None:
        """Add a mean over `count` samples: one operation, and no host synchronisation."""
        self._weighed.add_(mean.detach(), alpha=count)
        self._uncounted += count

    def _counted(self) -> torch.Tensor:
        if self._uncounted:
            self.sums[1] += self._uncounted
            self._uncounted = 0
        return self.sums

    def totals(self) -> torch.Tensor:
        """The sums of all processes, in every process."""
        sums = self._counted()
        if self.accelerator.num_processes == 1:
            return sums
        return self.accelerator.reduce(sums, "sum")

    def synchronize(self) -> None:
        """Move all processes' sums to the main one (Run.save calls it on every process)."""
        self.sums.copy_(sum_on_main_process(self._counted(), self.accelerator))

    def compute(self) -> float | None:
        """The mean over all processes, None without samples; starts again from zero."""
        value, count = self.totals().tolist()
        self.sums.zero_()
        return value / count if count else None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sums, on the CPU."""
        return {"sums": self._counted().cpu()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put the sums back, on the main process only: they are the sums of all."""
        self.sums.copy_(on_main_process(state["sums"], self.accelerator))
        self._uncounted = 0
