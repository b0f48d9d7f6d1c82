"""Lines and running means as the original's tools have them.

The runs themselves use `oass.report.Average_Meter`, whose sums stay on the device.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.aliases import one_module
from oass.report import log_line
from oass.tools.general.txt_utils import add_txt

one_module(__name__, "oass.tools.ai.log_utils")

__all__ = ["Average_Meter", "log_line", "log_print"]


def log_print(message: str, path: str | Path) -> None:
    """Print a line and append it to a file."""
    print(message, flush=True)
    add_txt(path, message)


class Average_Meter:
    """The means of values added by key since the last `clear`."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self.clear()

    def clear(self) -> None:
        """Start again."""
        self.data_dic: dict[str, list[float]] = {key: [] for key in self.keys}

    def add(self, dic: Mapping[str, float]) -> None:
        """Add a value of each key that is given."""
        for key, value in dic.items():
            self.data_dic[key].append(float(value))

    def get(self, keys: Sequence[str] | None = None, clear: bool = False) -> float | list[float]:
        """The means of these keys (default: all), a number where it is one; NaN without values."""
        means = []
        for key in self.keys if keys is None else keys:
            values = self.data_dic[key]
            means.append(float(np.mean(values)) if values else float("nan"))
        if clear:
            self.clear()
        return means[0] if len(means) == 1 else means
