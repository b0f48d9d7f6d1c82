"""What stops a run early: a loss or weight that is not finite, and the signals SIGTERM and SIGINT."""

import math
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import NonFiniteError


class FiniteGuard:
    """Collects losses and stops the run (exit status 1) where one is not finite.

    On a CPU at once; on a GPU every 20 steps and before anything is saved, so that no step waits for the
    device and last.pt stays good.
    """

    def __init__(self, last_good: Path) -> None:
        self.last_good = last_good
        self._waiting: list[
            tuple[int, int, torch.Tensor, torch.Tensor, Callable[[], str] | None]
        ] = []

    def add(
        self,
        epoch: int,
        step: int,
        loss: torch.Tensor,
        indices: torch.Tensor,
        explain: Callable[[], str] | None = None,
    ) -> None:
        """Note the loss (a scalar) of a step and its sample indices; `explain()` says more where it is not finite."""
        if loss.device.type == "cpu" and math.isfinite(loss.item()):
            return  # the usual step, in one read
        self._waiting.append((epoch, step, loss.detach(), indices, explain))
        if loss.device.type == "cpu" or len(self._waiting) >= 20:
            self.check()

    def check(self) -> None:
        """Read the waiting losses; NonFiniteError names epoch, step, samples and the last good checkpoint."""
        waiting, self._waiting = self._waiting, []
        values = (
            torch.stack([loss.float().reshape(()) for _, _, loss, *_ in waiting]).tolist()
            if waiting
            else []
        )
        for value, (epoch, step, _, indices, explain) in zip(values, waiting, strict=True):
            if not math.isfinite(value):
                shown = ", ".join(str(i) for i in indices.flatten()[:8].tolist())
                more = ", …" if indices.numel() > 8 else ""
                why = f"; {explain()}" if explain else ""
                raise NonFiniteError(
                    f"epoch {epoch}, step {step}: the loss is {value} (samples {shown}{more}){why}; {self._good()}"
                )

    def check_weights(self, step: int, state: Mapping[str, Any]) -> None:
        """NonFiniteError where a collected state holds a tensor that is not finite."""
        for name, item in state.items():
            for key, value in item.items() if isinstance(item, Mapping) else ():
                if (
                    isinstance(value, torch.Tensor)
                    and value.is_floating_point()
                    and not value.isfinite().all()
                ):
                    raise NonFiniteError(f"step {step}: {name} {key} is not finite; {self._good()}")

    def _good(self) -> str:
        return f"last good checkpoint: {self.last_good if self.last_good.is_file() else 'none yet'}"


class StopSignals:
    """Notes the first SIGTERM or SIGINT in `received`; a second one quits at once.

    In another thread than the main one, where Python takes no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def give_back(self) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._before.items():
            if handler is not None:  # None: it was set by a library in C
                signal.signal(number, handler)
