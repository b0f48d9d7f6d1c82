"""Every command of the README and of the results is taken: no flag in it is refused."""

import pytest

from mile import options
from mile.data_location import Located
from tests.readme_commands import commands_of

COMMANDS = [argv for argv in commands_of("mile", "MILe.py") if "FILE" not in argv]


def test_there_are_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_the_command_is_taken(tmp_path, monkeypatch, argv):
    def located(dataset, *, want_sample, **paths):
        return Located(want_sample)

    monkeypatch.setattr(options, "locate_data", located)
    assert options.parse(argv, lambda line: None).data == Located("--sample" in argv)
