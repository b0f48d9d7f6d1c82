"""The examples run: the script, and the notebook cell by cell."""

import json
import subprocess
import sys

import pytest

from sidebyside.results import ROOT
from tests.notebooks import last_output

EXAMPLES = ROOT / "docs" / "examples"


@pytest.mark.slow
def test_the_script_runs_and_is_short():
    script = EXAMPLES / "cavl.py"
    done = subprocess.run(
        [sys.executable, "-m", "docs.examples.cavl"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch ") == 10 and "selected labels: [" in done.stdout
    assert len(script.read_text().splitlines()) <= 40


def test_the_notebook_is_whole_and_without_outputs():
    notebook = json.loads((EXAMPLES / "cavl.ipynb").read_text())
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2)
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")


@pytest.mark.slow
def test_the_notebook_runs():
    assert last_output("cavl").strip().endswith("%")
