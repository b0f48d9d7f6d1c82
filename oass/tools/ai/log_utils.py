"""Means of named quantities between two log lines, and a line for the screen."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.meter import Meter

one_module(__name__, "oass.tools.ai.log_utils")


class Average_Meter:
    """One running mean for each key; the sums stay on the device until `get`."""

    def __init__(self, keys: tuple[str, ...], accelerator: Accelerator) -> None:
        self.meters = {key: Meter(accelerator) for key in keys}

    def add(self, values: Mapping[str, torch.Tensor], count: int) -> None:
        """Add means over `count` samples; no host synchronisation."""
        for key, meter in self.meters.items():
            meter.add(values[key], count)

    def get(self) -> dict[str, float | None]:
        """All means; starts again from zero."""
        return {key: meter.compute() for key, meter in self.meters.items()}

    def synchronize(self) -> None:
        """Sums of all processes to the main one, before saving."""
        for meter in self.meters.values():
            meter.synchronize()

    def state_dict(self) -> dict[str, Any]:
        """The sums of every key."""
        return {key: meter.state_dict() for key, meter in self.meters.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the sums back."""
        for key, meter in self.meters.items():
            meter.load_state_dict(state[key])


def log_line(values: Mapping[str, float | None], digits: int = 4) -> str:
    """`name 0.1234` for every value, two spaces between; undefined is `-`."""
    return "  ".join(
        f"{key} {'-' if v is None or v != v else f'{v:.{digits}g}'}" for key, v in values.items()
    )
