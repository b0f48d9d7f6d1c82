"""docs/examples/calm.py and calm.ipynb run on the own-data sample."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebooks import last_output

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.mark.slow
@pytest.mark.parametrize("is_given", [True, False])
def test_the_script(own: Path, is_given: bool) -> None:
    file = EXAMPLES / "calm.py"
    assert len(file.read_text().splitlines()) <= 40
    given = [str(own / "folders")] if is_given else []
    done = subprocess.run(
        [sys.executable, "-m", "docs.examples.calm", *given],
        cwd=EXAMPLES.parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and all(" with p " in line for line in lines)


@pytest.mark.slow
def test_the_notebook(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", str(own / "folders"))
    assert last_output("calm").count(" with p ") == 6
