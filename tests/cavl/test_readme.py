"""Every command of the README and of the results is taken: no flag in it is refused."""

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
    options.parse(argv)
