"""Systems without POSIX: no fcntl, resource, process groups, SIGUSR1; folders cannot be opened.

What these systems lack is taken away from Python here, and worker processes are spawned.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ("cavl", "oass", "calm", "csl", "mile")
SETUP = '''
import builtins, multiprocessing, os, signal

ROOT = {root!r}
ABSENT = ("fcntl", "resource", "pwd", "grp", "termios")
import_module = builtins.__import__
open_file = os.open


def without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    """This repository finds no module of POSIX; libraries have their own ways around it."""
    importer = str((globals or {{}}).get("__file__", ""))
    if name in ABSENT and importer.startswith(ROOT) and "site-packages" not in importer:
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return import_module(name, globals, locals, fromlist, level)


def files_only(path, *arguments, **more):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return open_file(path, *arguments, **more)


builtins.__import__ = without_posix
os.open = files_only
for name in ("setpgid", "killpg", "sched_getaffinity", "mkfifo"):
    delattr(os, name)
del signal.SIGUSR1
multiprocessing.set_start_method("spawn")
'''
IMPORT_ALL = """
import importlib, subprocess, sys
files = subprocess.check_output(["git", "ls-files", "*.py"], text=True).split()
packages = ("cavl", "oass", "calm", "csl", "mile", "common", "sidebyside", "scripts")
count = 0
for file in files:
    parts = file.removesuffix(".py").split("/")
    if parts[0] in packages and parts[-1] != "__main__":
        importlib.import_module(".".join(parts).removesuffix(".__init__"))
        count += 1
print(count)
"""
TRAIN = {
    "cavl": "main.py --sample -bs 64",
    "oass": "train_classification_with_puzzle_max.py --sample --num_workers 1",
    "calm": "main.py --sample --attribution_method CALM_EM --workers 1",
    "csl": "train.py --sample --partial_loss_mode=negative --workers 1",
    "mile": "MILe.py --dataset mnist --sample --num_workers 1",
}


@pytest.fixture
def bare(tmp_path):
    """The environment of a Python without POSIX."""
    (tmp_path / "sitecustomize.py").write_text(SETUP.format(root=str(ROOT)))
    places = f"{tmp_path}{os.pathsep}{ROOT}"
    return {**os.environ, "PYTHONPATH": places, "WSL_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_what_is_taken_away_is_missed(bare, tmp_path):
    """The setup works: a module of this repository that imports fcntl would fail."""
    code = (
        "import os; assert not hasattr(os, 'setpgid')\n"
        f"exec(compile('import fcntl', {str(ROOT / 'x.py')!r}, 'exec'),"
        f" {{'__file__': {str(ROOT / 'x.py')!r}, '__builtins__': __builtins__}})"
    )
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    assert "No module named 'fcntl'" in done.stderr


@pytest.mark.slow
def test_every_module_is_imported(bare):
    command = [sys.executable, "-c", IMPORT_ALL]
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 200


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_each_paper_trains_and_goes_on(bare, tmp_path, paper):
    script, *flags = TRAIN[paper].split()
    run = [*flags, "--output_dir", str(tmp_path / "run"), "--max_steps"]
    for steps in ("2", "4"):
        command = [sys.executable, script, *run, steps, "--resume"]
        done = subprocess.run(
            command, cwd=ROOT / paper, env=bare, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-2000:]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(config["launches"]) == 2
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
