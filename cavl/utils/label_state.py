"""The label state: what the method believes about every training sample, and how a step changes it.

A row written in epoch e is read for the first time in epoch e + 1 (spec a), so within an epoch either all
rows are still averaged over their candidates or all have been updated, and several processes need to exchange
the rows they wrote only once an epoch (or before a checkpoint) to be exact.
"""

import argparse
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn import functional as F

from cavl.utils.utils_algo import (
    label_smoothing,
    select_by_cam,
    selected_labels,
    update_from_outputs,
)
from cavl.utils.utils_data import initial_confidence
from cavl.utils.utils_loss import average_loss, cc_loss, lws_loss, rc_loss
from common.aliases import one_module
from common.cli import UserError
from common.domain import require_indices, require_shape, require_weights

one_module(__name__, "cavl.utils.label_state")

HARD, TABLE, FIXED = "hard", "table", "fixed"


class LabelState:
    """Candidates Y (n,K) uint8 and the method's state on the device.

    cavl without smoothing stores the selected class (n,) int64, -1 while it averages (kind `hard`); rc, proden,
    lws, smoothed and soft cavl store the table C (n,K) float32; cc and uniform store nothing.
    """

    def __init__(
        self, args: argparse.Namespace, candidates: torch.Tensor, accelerator: Accelerator
    ) -> None:
        self.args, self.accelerator = args, accelerator
        self.candidates = candidates.to(accelerator.device)
        n, k = candidates.shape
        self.kind = FIXED if args.method in ("cc", "uniform") else TABLE
        if args.method == "cavl" and args.smoothing == 0 and args.temperature is None:
            self.kind = HARD
        self.selected = torch.full((n if self.kind == HARD else 0,), -1, device=accelerator.device)
        start = (
            torch.full((n, k), 1 / k) if args.method == "lws" else initial_confidence(candidates)
        )
        self.table = (start if self.kind == TABLE else start[:0]).float().to(accelerator.device)
        self._written: list[torch.Tensor] = []

    # ---- the loss -------------------------------------------------------------------------------

    def loss(self, outputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The method's loss for logits (B,K) of samples `index` (B,), mean over the batch."""
        if self.kind == HARD and self.has_selected:
            return F.cross_entropy(
                outputs, self.selected[index]
            )  # equals the table's loss for one-hot rows
        partial = self.candidates[index]
        if self.args.method == "cc":
            return cc_loss(outputs, partial)
        if self.args.method == "lws":
            return lws_loss(
                outputs, partial, self.table, index, self.args.lw_weight, self.args.lw_weight0, None
            )[0]
        if self.kind == TABLE:
            return rc_loss(outputs, self.table, index)
        return average_loss(outputs, partial)

    has_selected = False  # whether the rows that this epoch reads were selected in an earlier one

    # ---- the update -----------------------------------------------------------------------------

    def updates(self, selecting: bool) -> bool:
        """Whether a step changes the state; `selecting` is False during the warm-up of cavl."""
        return self.kind != FIXED and (selecting or self.args.method != "cavl")

    @torch.no_grad()
    def update(
        self, index: torch.Tensor, outputs: torch.Tensor, maps: torch.Tensor | None = None
    ) -> None:
        """Rewrite the rows `index` from logits (B,K), or from CAMs (B,K,h,w) with -select cam."""
        partial = self.candidates[index]
        if self.kind == HARD:
            self.selected[index] = self._choice(outputs, partial, maps)
        else:
            self.table[index] = self._rows(outputs, partial, maps).to(self.table.dtype)
        self._written.append(index)

    def _choice(
        self, outputs: torch.Tensor, partial: torch.Tensor, maps: torch.Tensor | None
    ) -> torch.Tensor:
        if maps is not None:
            return select_by_cam(maps, partial)
        return selected_labels(outputs, partial, cav=self.args.cav, mask=self.args.mask)

    def _rows(
        self, outputs: torch.Tensor, partial: torch.Tensor, maps: torch.Tensor | None
    ) -> torch.Tensor:
        args = self.args
        if maps is not None:
            return label_smoothing(
                F.one_hot(select_by_cam(maps, partial), partial.shape[1]).float(), args.smoothing
            )
        how = {
            "cav": args.cav,
            "mask": args.mask,
            "smoothing": args.smoothing,
            "temperature": args.temperature,
        }
        return update_from_outputs(outputs, partial, args.method, **how)

    def end_epoch(self, selecting: bool) -> None:
        """Exchange the epoch's rows; from now on they are read."""
        self.synchronize()
        self.has_selected = self.kind == HARD and selecting

    def synchronize(self) -> None:
        """Exchange the rows that the processes wrote since the last call (spec h: exact)."""
        written, self._written = self._written, []
        if self.accelerator.num_processes == 1 or self.kind == FIXED:
            return
        target = self.selected if self.kind == HARD else self.table
        index = (
            torch.cat(written)
            if written
            else torch.empty(0, dtype=torch.int64, device=target.device)
        )
        for rows, values in gather_object([(index.cpu(), target[index].cpu())]):
            target[rows.to(target.device)] = values.to(target.device)

    # ---- what it says ---------------------------------------------------------------------------

    def confidence(self) -> torch.Tensor:
        """The table C (n,K) float32, whichever way it is stored."""
        if self.kind == TABLE:
            return self.table
        rows = initial_confidence(self.candidates)
        if self.kind == HARD:
            chosen = self.selected >= 0
            rows[chosen] = F.one_hot(self.selected[chosen], rows.shape[1]).to(rows.dtype)
        return rows

    def belief(self, outputs: Callable[[], torch.Tensor]) -> torch.Tensor:
        """How much each label is believed, (n,K) float32; the largest of a row is the disambiguated label.

        C (lws, which also weighs the others: -1 outside S); of cc and uniform, which learn no C, p renormalised over
        S, from the logits (n,K) that `outputs()` makes.
        """
        if self.kind == FIXED:
            return update_from_outputs(outputs(), self.candidates, "rc")
        if self.args.method == "lws":
            return self.table.masked_fill(self.candidates == 0, -1)
        return self.confidence()

    def disambiguation(self, labels: torch.Tensor) -> float | None:
        """Fraction of rows whose argmax of C is the true label (ties to the lowest class); None for cc."""
        if self.args.method == "cc":
            return None
        return (self.confidence().argmax(1) == labels).float().mean().item()

    def state_dict(self) -> dict[str, torch.Tensor | bool]:
        """Candidates and state, on the CPU."""
        names = ("candidates", "selected", "table")
        return {n: getattr(self, n).cpu() for n in names} | {"has_selected": self.has_selected}

    def load_state_dict(self, state: dict[str, torch.Tensor | bool]) -> None:
        """Put the state back; UserError where it belongs to other candidate sets, or cannot be one."""
        if not torch.equal(state["candidates"], self.candidates.cpu()):
            raise UserError("--resume: candidate sets differ from those of the checkpoint")
        self._require_state(state)
        for name in ("selected", "table"):
            getattr(self, name).copy_(state[name])
        self.has_selected = state["has_selected"]

    def _require_state(self, state: dict[str, torch.Tensor | bool]) -> None:
        """UserError where a tensor of a checkpoint has another shape, or values that no step writes."""
        for name in ("selected", "table"):
            own = getattr(self, name)
            require_shape(state[name], own.shape, f"labels {name}")
            if state[name].dtype != own.dtype:
                raise UserError(f"labels {name} is {state[name].dtype}, expected {own.dtype}")
        has_selected = state["has_selected"]
        if not isinstance(has_selected, bool):
            raise UserError(f"labels has_selected is {has_selected!r:.40}, expected true or false")

        lowest = 0 if has_selected else -1  # -1: not selected yet
        require_indices(
            state["selected"] - lowest, self.candidates.shape[1] - lowest, "labels selected"
        )
        require_weights(state["table"], "labels table")
