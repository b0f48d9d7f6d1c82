"""What stops a run early: a loss or weight that is not finite, and signals."""

from common.interrupt import SAID

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.errors import NonFiniteError

WAITING = 20  # losses of a GPU that are read at once


class _Loss(NamedTuple):
    """The loss () of a step, and the indices of its samples."""

    epoch: int
    step: int
    value: torch.Tensor
    indices: torch.Tensor
    explain: Callable[[], str] | None


class FiniteGuard:
    """Collects losses and stops the run (exit status 1) where one is not finite.

    On a CPU at once; on a GPU every 20 steps and before anything is saved, so that no step waits
    for the device and last.pt stays good.
    """

    def __init__(self, last_good: Path) -> None:
        self.last_good = last_good
        self._waiting: list[_Loss] = []

    def add(
        self,
        epoch: int,
        step: int,
        loss: torch.Tensor,
        indices: torch.Tensor,
        explain: Callable[[], str] | None = None,
    ) -> None:
        """Note the loss (a scalar) of a step; `explain()` says more where it is not finite."""
        is_on_cpu = loss.device.type == "cpu"
        if is_on_cpu and math.isfinite(loss.item()):
            return  # the usual step, in one read
        self._waiting.append(_Loss(epoch, step, loss.detach(), indices, explain))
        if is_on_cpu or len(self._waiting) >= WAITING:
            self.check()

    def check(self) -> None:
        """Read the waiting losses; NonFiniteError names step, samples and the last checkpoint."""
        if not self._waiting:
            return
        losses = self._waiting
        self._waiting = []
        values = torch.stack([loss.value.float().reshape(()) for loss in losses]).tolist()
        for value, loss in zip(values, losses, strict=True):
            if math.isfinite(value):
                continue
            shown = ", ".join(map(str, loss.indices.flatten()[:8].tolist()))
            if loss.indices.numel() > 8:
                shown += ", …"
            where = f"epoch {loss.epoch}, step {loss.step}"
            problem = f"{where}: the loss is {value} (samples {shown})"
            if loss.explain:
                problem += f"; {loss.explain()}"
            raise NonFiniteError(f"{problem}; {self._good()}")

    def check_weights(self, step: int, state: Mapping[str, Any]) -> None:
        """NonFiniteError where a collected state holds a tensor that is not finite."""
        for name, item in state.items():
            if not isinstance(item, Mapping):
                continue
            for key, value in item.items():
                is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
                if is_float and not value.isfinite().all():
                    raise NonFiniteError(f"step {step}: {name} {key} is not finite; {self._good()}")

    def _good(self) -> str:
        if not self.last_good.is_file():
            return "last good checkpoint: none yet"
        return f"last good checkpoint: {self.last_good}"


class StopSignals:
    """Notes the first SIGTERM, SIGINT or SIGUSR1 in `received`; a second one quits at once.

    A launcher's processes get a signal twice where it is sent to all of a job: from outside, and
    from torchrun, which hands on its own. So what comes within FORWARDED seconds is no second one
    there. In another thread than the main one, where Python takes no handlers, it notes nothing.
    """

    FORWARDED = 5.0  # seconds

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SAID:
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if not self.received:
            self.received = number
            self._since = now
            if "LOCAL_RANK" not in os.environ:
                signal.signal(number, signal.SIG_DFL)
        elif now - self._since > self.FORWARDED:
            os._exit(128 + number)

    def give_back(self) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._before.items():
            if handler is not None:  # None: it was set by a library in C
                signal.signal(number, handler)
