"""What a script needs before it imports torch comes without heavy packages."""

import ast
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


# ---- a run, up to its first step ----

LATER = ("sklearn", "scipy", "pandas", "matplotlib", "captum", "timm", "pycocotools")
FIRST_STEP = """
import runpy, sys
from common.run import Run


def step(*_, **__):
    print("loaded:", *sorted({later!r} & set(sys.modules)))
    raise SystemExit(0)


Run.step = step
sys.argv = {argv!r}
sys.path[0] = {folder!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RUNS = {
    "cavl": ["main.py", "--sample"],
    "oass": ["train_classification_with_puzzle_cTopk_w_ema.py", "--sample"],
    "calm": ["main.py", "--sample", "--attribution_method=CALM_EM"],
    "csl": ["train.py", "--sample", "--partial_loss_mode=selective"],
    "mile": ["MILe.py", "--sample", "--dataset=mnist"],
}


@pytest.mark.slow
@pytest.mark.parametrize("paper", RUNS)
def test_the_first_step_comes_without_packages_of_later(paper, tmp_path):
    """Those of reports, other data and other networks, where the sample is drawn already."""
    argv = [*RUNS[paper], "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    code = FIRST_STEP.format(later=set(LATER), argv=argv, folder=str(ROOT / paper))
    for attempt in ("draws the sample", "finds it"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT / paper,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{attempt}: {done.stderr[-2000:]}"
        last = done.stdout.splitlines()[-1]
        if last == "loaded:":
            return
    raise AssertionError(last)


def imports_at_once(path: Path) -> set[str]:
    """The packages that a file imports as soon as it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_what_a_run_imports_later_stands_within_functions():
    own = {ROOT / "common/backbones_timm.py"}  # imported within functions itself
    own |= set((ROOT / "common/samples").glob("*.py"))  # the drawing of a sample
    own |= set((ROOT / "sidebyside").glob("*.py"))  # no part of a run
    for name in (*RUNS, "common"):
        for path in sorted((ROOT / name).rglob("*.py")):
            if path not in own:
                assert imports_at_once(path).isdisjoint(LATER), path
