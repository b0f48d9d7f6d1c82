"""What a script needs before it imports torch comes without heavy packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common.runs import ROOT
from tests.heavy import HEAVY

HEAVIER = (*HEAVY, "numpy", "PIL", "tqdm")  # common does without these as well
LIGHT = (
    *("cli", "locate", "download", "text", "files", "samples", "interrupt", "aliases"),
    *("own", "backbones_names", "launch"),
)
TELL = f"\nimport sys\nprint(*sorted(set({HEAVIER}) & set(sys.modules)))"
FIND = """
from pathlib import Path
from common.cli import UserError
from common.locate import locate

settings = dict(default="data/x", holds=Path.is_dir, how_to_get="get it", sample=None, flag="--x")
assert locate("X", given=".", **settings) == (Path("."), False)
try:
    locate("X", given="missing", **settings)
except UserError as error:
    assert str(error) == "--x missing does not exist (X); get it"
"""


def heavy_modules_of(code: str, folder: Path) -> list[str]:
    """The heavy packages that a program has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", code + TELL],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize("name", LIGHT)
def test_a_module_for_parsing_imports_nothing_heavy(name, tmp_path):
    assert heavy_modules_of(f"import common.{name}", tmp_path) == []


def test_a_data_set_is_found_or_missed_without_anything_heavy(tmp_path):
    assert heavy_modules_of(FIND, tmp_path) == []


def test_values_of_a_file_are_checked_without_anything_heavy(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n")
    code = "from common.text import read_csv, write_csv\nwrite_csv('b.csv', [read_csv('a.csv')])"
    assert heavy_modules_of(code, tmp_path) == []
