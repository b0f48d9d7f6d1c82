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

    def add(self, mean: torch.Tensor, count: int) -> None:
        """Add a mean over `count` samples; no host synchronisation."""
        self.sums[0].add_(mean.detach(), alpha=count)
        self.sums[1].add_(count)

    def totals(self) -> torch.Tensor:
        """The sums of all processes, in every process."""
        if self.accelerator.num_processes == 1:
            return self.sums
        return self.accelerator.reduce(self.sums, "sum")

    def synchronize(self) -> None:
        """Move all processes' sums to the main one (Run.save calls it on every process)."""
        self.sums.copy_(sum_on_main_process(self.sums, self.accelerator))

    def compute(self) -> float | None:
        """The mean over all processes, None without samples; starts again from zero."""
        value, count = self.totals().tolist()
        self.sums = torch.zeros_like(self.sums)
        return value / count if count else None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sums, on the CPU."""
        return {"sums": self.sums.cpu()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put the sums back, on the main process only: they are the sums of all."""
        self.sums.copy_(on_main_process(state["sums"], self.accelerator))
