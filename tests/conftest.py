"""No test reaches the network (scripts that it starts inherit the switch) or waits for the disk."""

import os
import signal

import pytest

os.environ["WSL_OFFLINE"] = "1"


def _no_sync(descriptor: int) -> None:
    """In the place of `os.fsync`: the tests kill processes, but never cut the power.

    A run waits for the disk some thirty times, for a tenth of its time; scripts in processes of
    their own still do.
    """


os.fsync = _no_sync

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what runs in its background; processes that tests start would inherit it,
    # and know of no Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests may take half an hour; all others have the time that pyproject.toml gives them."""
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None
        if is_slow and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))
