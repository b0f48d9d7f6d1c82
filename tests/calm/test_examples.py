"""docs/examples/calm.py and calm.ipynb run on the own-data sample."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def test_the_script(own: Path) -> None:
    file = EXAMPLES / "calm.py"
    assert len(file.read_text().splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, "-P", str(file), str(own / "folders")],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and all(" with p " in line for line in lines)


@pytest.mark.slow
def test_the_notebook(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("FOLDER", str(own / "folders"))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parents[1]))
    notebook = nbformat.read(EXAMPLES / "calm.ipynb", as_version=4)
    nbformat.validate(notebook)
    found = nbclient.NotebookClient(notebook, timeout=120).execute()
    text = "".join(output.get("text", "") for output in found.cells[-1].outputs)
    assert text.count(" with p ") == 6
