"""Every command of the README and of the results is taken: no flag in it is refused."""

from pathlib import Path

import pytest

from common.own_places import Kind
from mile import options
from mile.data_location import Located
from tests.readme_commands import commands_of

# What a user or an earlier run leaves is not there.
ABSENT = {"FILE", "RUN/checkpoints/last.pt"}
COMMANDS = [argv for argv in commands_of("mile", "MILe.py") if ABSENT.isdisjoint(argv)]
OWN = Kind("folders", Path("own"))


def test_there_are_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_the_command_is_taken(monkeypatch, argv):
    def located(dataset, *, want_sample, **paths):
        return Located(want_sample)

    monkeypatch.setattr(options, "locate_data", located)
    monkeypatch.setattr(options, "recognise", lambda place: OWN)
    expected = Located("--sample" in argv)
    if "--data" in argv:
        expected = Located(False, own=OWN.path)
    assert options.parse(argv, lambda line: None).data == expected
