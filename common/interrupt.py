"""Ctrl-C and SIGTERM outside of a run end a program in one line, with status 130 and 143.

So does SIGUSR1 (138), which Slurm sends some minutes before a job's time is over.

An entry script imports this module before anything else, for importing torch takes seconds:

    import common.interrupt  # noqa: F401

It acts only where the importing module is the program itself (`__main__` of a file). In a test, a
notebook or somebody else's program it changes nothing. `common.cli.run_main` gives the handlers
back before it starts.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}
if hasattr(signal, "SIGUSR1"):  # not on Windows
    SAID[signal.SIGUSR1] = "stopped by SIGUSR1"
_before: dict[int, Any] = {}


def quit_at_once() -> None:
    """From now on the signals of SAID end the process at once, past every `except`."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SAID:
        handler = signal.getsignal(number)
        is_ignored = handler is signal.SIG_IGN  # nohup, a job in the background
        is_foreign = handler is None  # set by a library in C: it could not be put back
        if not is_ignored and not is_foreign:
            signal.signal(number, _quit)


def _quit(number: int, _frame: FrameType | None) -> None:
    os.write(2, f"error: {SAID[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _is_imported_by_a_program() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and not name.startswith("importlib."):
            return name == "__main__" and "__file__" in frame.f_globals
        frame = frame.f_back
    return False


def give_back() -> None:
    """Put the handlers back that were there before this module was imported."""
    for number, handler in _before.items():
        if signal.getsignal(number) is _quit:
            signal.signal(number, handler)
    _before.clear()


def _take() -> None:
    _before.update({number: signal.getsignal(number) for number in SAID})
    quit_at_once()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Inside, the handlers from before this module was imported; afterwards its own again."""
    was_taken = bool(_before)
    give_back()
    try:
        yield
    finally:
        if was_taken:
            _take()


if _is_imported_by_a_program():
    _take()
