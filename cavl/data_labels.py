"""What is believed about the labels of the training samples, kept beside them while a run goes on.

A row that is written in one epoch is read for the first time in the next. So within an epoch either
no label has been selected or all have; several processes need to exchange the rows they wrote only
once an epoch, or before a checkpoint, to be exact; and rows of many batches can be written at once.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from cavl.data_checks import require_weights
from cavl.data_sets import PackedSets, Sets, blocks_of, is_same
from cavl.method import PartialLabelMethod
from common.aliases import one_module
from common.cli import UserError
from common.domain import require_indices, require_shape

one_module(__name__, "cavl.data_labels")

WRITTEN_AT_ONCE = 256  # batches: their small operations are then one each


class LabelState:
    """The candidate sets (n, K) and a method's belief, on the device.

    The sets are uint8, or bits where they are many. The belief is a class for each sample, (n,)
    int64, -1 for none yet; or a table (n, K) float32; or None. `has_selected` says whether the
    classes that this epoch reads were selected in an earlier one.
    """

    def __init__(
        self, method: PartialLabelMethod, candidates: Sets, accelerator: Accelerator
    ) -> None:
        self.method = method
        self.accelerator = accelerator
        self.candidates = candidates.to(accelerator.device)
        parts = [method.init(block) for _, block in blocks_of(self.candidates)]
        known = [part for part in parts if part is not None]
        self._rows = torch.cat(known) if len(known) > 1 else parts[0]
        self.holds_classes = self._rows is not None and self._rows.dtype == torch.int64
        self.has_selected = False
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []  # index, outputs
        self._written: list[torch.Tensor] = []

    @property
    def rows(self) -> torch.Tensor | None:
        """The belief, after all updates so far."""
        self._write_waiting()
        return self._rows

    def loss(self, outputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The method's loss for logits (B, K) of the samples `index` (B,), a scalar."""
        is_begun = self.has_selected or not self.holds_classes
        rows = None
        if self._rows is not None and is_begun:
            rows = self._rows.index_select(0, index)
        return self.method.loss(outputs, self.candidates.index_select(0, index), rows)

    def updates(self, selecting: bool) -> bool:
        """Whether a step changes the belief; `selecting` is False during the warm-up."""
        return self._rows is not None and (selecting or not self.method.warms_up)

    def update(
        self, index: torch.Tensor, outputs: torch.Tensor, maps: torch.Tensor | None = None
    ) -> None:
        """Rewrite the rows `index` from logits (B, K), or from CAMs (B, K, h, w).

        Rows that follow from logits are written later, with those of other batches.
        """
        if maps is not None:
            self._write(index, outputs, maps)
            return
        self._waiting.append((index, outputs.detach()))
        if len(self._waiting) == WRITTEN_AT_ONCE:
            self._write_waiting()

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        index = torch.cat([index for index, _ in self._waiting])
        outputs = torch.cat([outputs for _, outputs in self._waiting])
        self._waiting = []
        self._write(index, outputs)

    @torch.no_grad()
    def _write(
        self, index: torch.Tensor, outputs: torch.Tensor, maps: torch.Tensor | None = None
    ) -> None:
        rows = self.method.update(outputs, self.candidates[index], maps)
        if self._rows is not None and rows is not None:
            self._rows[index] = rows.to(self._rows.dtype)
        self._written.append(index)

    def end_epoch(self, selecting: bool) -> None:
        """Exchange the epoch's rows; from now on they are read."""
        self.synchronize()
        self.has_selected = self.holds_classes and selecting

    def synchronize(self) -> None:
        """Exchange the rows that the processes wrote since the last call."""
        rows = self.rows
        written = self._written
        self._written = []
        if self.accelerator.num_processes == 1 or rows is None:
            return
        device = rows.device
        none = torch.empty(0, dtype=torch.int64, device=device)
        index = torch.cat([none, *written])
        mine = (index.cpu(), rows[index].cpu())
        for places, values in gather_object([mine]):
            rows[places.to(device)] = values.to(device)

    def belief(self, outputs: Callable[[], torch.Tensor]) -> torch.Tensor:
        """How much each candidate is believed, (n, K). outputs: makes the logits (n, K)."""
        sets = self.candidates
        if isinstance(sets, PackedSets):
            sets = sets[:]
        return self.method.belief(self.rows, sets, outputs)

    def disambiguation(self, labels: torch.Tensor) -> float | None:
        """The share of samples with the largest C at the true label.

        Of those whose label is known; None without any, and without a table.
        """
        is_known = labels >= 0
        if not is_known.any():
            return None
        state = self.rows
        largest = []
        for rows, block in blocks_of(self.candidates):
            of_rows = None if state is None else state[rows]
            confidence = self.method.confidence(of_rows, block)
            if confidence is None:
                return None
            largest.append(confidence.argmax(1))
        is_right = torch.cat(largest) == labels
        return is_right[is_known].float().mean().item()

    # ---- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor | bool]:
        """Candidates, classes and table (one of the two empty, or both), and `has_selected`.

        The candidates are bits where there are many.
        """
        sets = self.candidates
        bits = sets.bits if isinstance(sets, PackedSets) else sets
        tensors = {"candidates": bits, **self._parts()}
        on_cpu: dict[str, torch.Tensor | bool] = {}
        for name, tensor in tensors.items():
            on_cpu[name] = tensor.cpu()
        return on_cpu | {"has_selected": self.has_selected}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the state back; UserError where it is of other candidate sets, or cannot be one."""
        if not is_same(self.candidates, state["candidates"]):
            raise UserError("--resume: candidate sets differ from those of the checkpoint")
        self._require_state(state)
        for name, own in self._parts().items():
            own.copy_(state[name])
        self.has_selected = state["has_selected"]

    def _parts(self) -> dict[str, torch.Tensor]:
        """The belief under its name in a checkpoint: `selected` for classes, `table` for C."""
        device = self.candidates.device
        parts = {
            "selected": torch.empty(0, dtype=torch.int64, device=device),
            "table": torch.empty(0, self.candidates.shape[1], device=device),
        }
        rows = self.rows
        if rows is not None:
            parts["selected" if self.holds_classes else "table"] = rows
        return parts

    def _require_state(self, state: dict[str, Any]) -> None:
        """UserError for another shape, and for values that no step writes."""
        for name, own in self._parts().items():
            require_shape(state[name], own.shape, f"labels {name}")
            if state[name].dtype != own.dtype:
                raise UserError(f"labels {name} is {state[name].dtype}, expected {own.dtype}")
        has_selected = state["has_selected"]
        if not isinstance(has_selected, bool):
            raise UserError(f"labels has_selected is {has_selected!r:.40}, expected true or false")

        lowest = 0 if has_selected else -1  # -1: not selected yet
        num_classes = self.candidates.shape[1]
        require_indices(state["selected"] - lowest, num_classes - lowest, "labels selected")
        require_weights(state["table"], "labels table")


class Warmup:
    """When selection starts: after N epochs, or ("auto") when the covering rate stops rising.

    The covering rate of the training samples (the share whose prediction lies in S) needs no true
    label. It rises while averaging still tells candidates from the rest. With few steps an epoch a
    selection without a warm-up comes too early (README, results: Lost).
    """

    def __init__(self, epochs: int | str) -> None:
        self.epochs = epochs
        self.best = -1.0
        self.risen = True

    def is_over(self, epoch: int) -> bool:
        """Whether epoch number `epoch`, from 0 on, selects labels."""
        if isinstance(self.epochs, str):
            return not self.risen
        return epoch >= self.epochs

    def observe(self, covering_rate: float) -> None:
        """Note the covering rate after an epoch."""
        if self.risen:
            self.risen = covering_rate > self.best
            self.best = max(self.best, covering_rate)

    def state_dict(self) -> dict[str, float | bool]:
        """What `observe` has noted."""
        return {"best": self.best, "risen": self.risen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back; ValueError for values that `observe` does not note."""
        best = state["best"]
        risen = state["risen"]
        if not isinstance(risen, bool) or not -1 <= best <= 1:
            raise ValueError(f"best {best!r:.40}, risen {risen!r:.40}")
        self.best = best
        self.risen = risen
