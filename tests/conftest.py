"""No test reaches the network: scripts that tests start inherit the switch."""

import os

import pytest

os.environ["WSL_OFFLINE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests may take half an hour; all others have the time that pyproject.toml gives them."""
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None
        if is_slow and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))
