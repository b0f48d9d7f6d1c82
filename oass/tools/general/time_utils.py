"""A stopwatch, and the date."""

import time

from common.aliases import one_module

one_module(__name__, "oass.tools.general.time_utils")


def get_today() -> str:
    """The local time, as 2022-05-16 12h 30m 00s."""
    return time.strftime("%Y-%m-%d %Hh %Mm %Ss")


class Timer:
    """Seconds since it was made, or since `tik`."""

    def __init__(self) -> None:
        self.tik()

    def tik(self) -> None:
        """Start again."""
        self.start = time.perf_counter()

    def tok(self, ms: bool = False, clear: bool = False) -> float:
        """Seconds so far, with `ms` whole milliseconds; `clear` starts again."""
        seconds = time.perf_counter() - self.start
        if clear:
            self.tik()
        return int(seconds * 1000) if ms else seconds
