"""What the selective loss drops, class by class: shows why it works."""

import numpy as np
import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.processes import on_main_process, sum_on_main_process
from csl.method import frequent_classes

one_module(__name__, "csl.evaluate_drops")

COUNTS = (
    "unannotated",
    "by_prior",
    "by_likelihood",
    "dropped",
    "dropped_positive",
    "unannotated_positive",
)


class DropStatistics:
    """Counts of un-annotated entries and of those that prior and likelihood drop, over one epoch.

    With the complete labels of a simulated set also how many of them are missed positives. Stays on
    the device.
    """

    def __init__(
        self,
        prior: torch.Tensor | None,
        prior_threshold: float | None,
        complete: np.ndarray | None,
        accelerator: Accelerator,
    ) -> None:
        """Of a loss's prior (C,) and its threshold.

        `complete` (N,C) int8: labels before the simulation.
        """
        self.prior = prior
        self.prior_threshold = prior_threshold
        self.accelerator = accelerator
        self.complete = None if complete is None else torch.from_numpy(complete)
        self.counts: torch.Tensor | None = None

    @torch.no_grad()
    def update(self, kept: torch.Tensor | None, targets: torch.Tensor, index: torch.Tensor) -> None:
        """Add a batch to the counts.

        Takes the loss's `kept` (B,C) or None, the targets (B,C), and the index (B,) of the samples,
        on the CPU.
        """
        if kept is None:
            return
        unannotated = targets == -1
        dropped = unannotated & (kept == 0)
        by_prior = torch.zeros_like(unannotated)
        if self.prior is not None and self.prior_threshold:
            by_prior = unannotated & frequent_classes(self.prior, self.prior_threshold)
        real = torch.zeros_like(unannotated)
        if self.complete is not None:
            real = (self.complete[index] == 1).to(unannotated.device, non_blocking=True)
        # the part of the likelihood: what is dropped beside the prior's classes
        parts = (
            unannotated,
            by_prior,
            dropped & ~by_prior,
            dropped,
            dropped & real,
            unannotated & real,
        )
        counts = torch.stack([part.sum(0) for part in parts])
        if self.counts is not None:
            counts += self.counts
        self.counts = counts

    def reset(self) -> None:
        """Start again from zero."""
        self.counts = None

    def synchronize(self) -> None:
        """Move all processes' counts to the main one; every process calls it (Run.save does)."""
        if self.counts is not None:
            self.counts = sum_on_main_process(self.counts, self.accelerator)

    def columns(self) -> dict[str, list[int]]:
        """What was counted -> its count per class; empty where nothing was counted."""
        if self.counts is None:
            return {}
        columns = dict(zip(COUNTS, self.counts.tolist(), strict=True))
        if self.complete is None:
            columns = {k: v for k, v in columns.items() if not k.endswith("positive")}
        return columns

    def summary(self) -> dict[str, float]:
        """Return what share of the un-annotated entries was dropped, in percent.

        It also says how many of the dropped entries are missed positives, in percent.

        `drop_precision`: dropped entries that are missed positives; `missed_positive_rate`: the
        same among all un-annotated entries, what a random choice would reach.
        """
        sums = {name: sum(values) for name, values in self.columns().items()}
        if not sums or not sums["unannotated"]:
            return {}
        found = {"dropped_share": 100 * sums["dropped"] / sums["unannotated"]}
        if "dropped_positive" in sums:
            found["drop_precision"] = 100 * sums["dropped_positive"] / max(1, sums["dropped"])
            found["missed_positive_rate"] = 100 * sums["unannotated_positive"] / sums["unannotated"]
        return found

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The counts, on the CPU."""
        if self.counts is None:
            return {}
        return {"counts": self.counts.cpu()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put them back, on the main process only: they are the counts of all."""
        self.counts = None
        if "counts" in state:
            counts = state["counts"].to(self.accelerator.device)
            self.counts = on_main_process(counts, self.accelerator)
