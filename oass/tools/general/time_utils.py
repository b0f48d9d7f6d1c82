"""A stopwatch."""

import time

from common.aliases import one_module

one_module(__name__, "oass.tools.general.time_utils")


class Timer:
    """Seconds since it was made or last asked."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def tok(self, clear: bool = False) -> float:
        """Seconds so far; `clear` starts again."""
        seconds = time.perf_counter() - self.start
        if clear:
            self.start = time.perf_counter()
        return seconds
