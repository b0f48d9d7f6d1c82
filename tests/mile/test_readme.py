"""Every command of the README and of the results is taken: no flag in it is refused."""

import pytest

from mile import locate
from mile.config import parse_config
from tests.readme_commands import commands_of

COMMANDS = [argv for argv in commands_of("mile", "MILe.py") if "FILE" not in argv]


def test_there_are_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_the_command_is_taken(tmp_path, monkeypatch, argv):
    for name in ("_locate_mnist", "_locate_imagenet", "_locate_webvision", "_locate_folders"):
        monkeypatch.setattr(locate, name, lambda conf: (conf.sample, {}))
    locate.locate_data(parse_config(argv), lambda line: None)
