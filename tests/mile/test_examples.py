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
    script = EXAMPLES / "mile.py"
    done = subprocess.run(
        [sys.executable, "-m", "docs.examples.mile"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("generation") == 3
    assert len(script.read_text().splitlines()) <= 40


def test_the_notebook_holds_the_code_of_the_script():
    notebook = json.loads((EXAMPLES / "mile.ipynb").read_text())
    script = (EXAMPLES / "mile.py").read_text().splitlines()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            lines = "".join(cell["source"]).splitlines()
            assert all(line in script or line.startswith(("data = ", "%cd")) for line in lines)


@pytest.mark.slow
def test_the_notebook_runs():
    assert last_output("mile").count("generation") == 3
