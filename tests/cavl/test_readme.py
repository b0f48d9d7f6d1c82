"""Every command of the README and of the results is taken: no flag in it is refused."""

from pathlib import Path

import pytest

from cavl import options
from common.locate import Location
from tests.readme_commands import commands_of

COMMANDS = commands_of("cavl", "main.py")


def test_there_are_commands():
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_the_command_is_taken(tmp_path, monkeypatch, argv):
    monkeypatch.setattr(
        options, "locate_dataset", lambda ds, given, want_sample: Location(tmp_path, want_sample)
    )
    monkeypatch.setattr(options, "locate_own", lambda given: located(given, tmp_path))
    monkeypatch.setattr(options, "readable_file", Path)  # DATA/weights/... is not there
    options.parse(argv)


def located(given, folder):
    """What the name of the sample's place says; it is not there."""
    holds = "features" if "features" in given["data"] else "pictures"
    return holds, Location(folder, False)
