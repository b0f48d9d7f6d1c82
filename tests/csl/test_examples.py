"""The examples of docs/examples run as they are, and are short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebooks import last_output

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "csl.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_the_script():
    assert len(EXAMPLE.read_text().splitlines()) <= 40
    command = [sys.executable, "-m", "docs.examples.csl"]  # as a file it would hide the package
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "24 pictures, classes one, three, two" in done.stdout


@pytest.mark.slow
def test_the_notebook():
    assert "24 pictures" in last_output("csl")
