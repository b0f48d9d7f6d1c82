"""Parsing needs none of the heavy packages.

The words it knows are those of the method and the networks.
"""

import subprocess
import sys

import pytest

from csl import method, options_choices
from csl.src.models.tresnet.tresnet import LAYOUTS
from tests.heavy import HEAVY

COMMANDS = {
    "help of train": ("options", ["--help"], 0),
    "a flag that is none": ("options", ["--nope"], 2),
    "no such data": ("options", ["--data", "nowhere"], 2),
    "a contradiction": ("options", ["--compare", "all", "--recipe", "csl_fpc"], 2),
    "help of validate": ("options_validate", ["--help"], 0),
    "no such data for validate": ("options_validate", ["nowhere"], 2),
    "help of infer": ("options_infer", ["--help"], 0),
    "a threshold that is none": ("options_infer", ["--th", "2"], 2),
}


@pytest.mark.parametrize("case", COMMANDS, ids=[case.replace(" ", "-") for case in COMMANDS])
def test_answers_come_without_heavy_packages(case, tmp_path):
    module, flags, status = COMMANDS[case]
    program = f"""
import sys
from common.cli import parse_or_exit
from csl.{module} import parse
sys.argv[1:] = {flags!r}
try:
    parse_or_exit(parse)
finally:
    print("heavy:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert "Traceback" not in done.stderr


def test_words_of_flags_are_those_of_the_method_and_the_networks():
    assert options_choices.MODES == method.MODES
    assert options_choices.SCOPES == method.SCOPES
    assert set(options_choices.NETWORKS) == set(LAYOUTS)
