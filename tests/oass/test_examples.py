"""docs/examples: the script and the notebook run as they stand, and learn."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import samples

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
pytestmark = pytest.mark.slow


def shares(text):
    """The numbers behind the classes' names."""
    found = re.search(r"right in val: \{(.*?)\} maps \(6, 3, 8, 8\)", text)
    assert found, text
    return [float(part.split(": ")[1]) for part in found[1].split(", ")]


@pytest.mark.parametrize("is_given", [True, False])
def test_the_script(tmp_path, is_given):
    assert len((EXAMPLES / "oass.py").read_text().splitlines()) <= 40
    samples.draw("own", tmp_path / "x")
    given = [str(tmp_path / "x" / "multi.csv")] if is_given else []
    done = subprocess.run(
        [sys.executable, "-m", "docs.examples.oass", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sum(shares(done.stdout)) / 3 > 0.7


def test_the_notebook(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    book = nbformat.read(EXAMPLES / "oass.ipynb", as_version=4)
    nbformat.validate(book)
    assert all(not cell.outputs for cell in book.cells if cell.cell_type == "code")
    for name in ("oass", "common", "docs"):  # what it draws goes there, not into the checkout
        (tmp_path / name).symlink_to(ROOT / name)
    place = tmp_path / "notebooks" / "examples"
    place.mkdir(parents=True)
    shutil.copy(EXAMPLES / "oass.ipynb", place)
    client = nbclient.NotebookClient(
        book, timeout=300, resources={"metadata": {"path": str(place)}}
    )
    client.execute()
    assert sum(shares(book.cells[-1].outputs[0].text)) / 3 > 0.7
    assert (tmp_path / "DATA/own/multi.csv").is_file()
