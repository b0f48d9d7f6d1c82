"""The commands that the READMEs, docstrings and claims print: each script takes its own.

Those of the READMEs also start, in a copy of what is committed, without any data set: they run, or
end in one line.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sidebyside.results import ROOT
from tests.e2e import printed
from tests.e2e.test_printed import EVERY

pytestmark = pytest.mark.slow

# Scripts that hand what they do not know on to others, so that only --help tells their flags.
PASS_ON = {"compare_methods.py"}
Key = tuple[str, str, str, tuple[str, ...]]


def key_of(command: printed.Command) -> Key:
    """What makes two printed commands the same."""
    kind, name = command.program
    return command.folder, kind, name, tuple(command.arguments)


def is_ours(command: printed.Command) -> bool:
    """Whether it starts a script or module of this repository."""
    kind, name = command.program
    return (
        kind in ("file", "module")
        and name != "venv"
        and not (command.is_pattern and not command.is_short)
    )


OURS: dict[Key, printed.Command] = {}  # each once, in the order in which they are printed
for _command in EVERY:
    if is_ours(_command):
        OURS.setdefault(key_of(_command), _command)


def forked(jobs: list[dict], root: Path, environment: dict[str, str]) -> list[tuple[int, str]]:
    """[(status, output), ...] of tests/e2e/forked.py in a copy of the repository."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.forked"],
        input=json.dumps(jobs),
        cwd=root,
        env={**environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(result) for result in json.loads(done.stdout)]


def job_of(key: Key, arguments: list[str], *, stop: bool) -> dict:
    folder, kind, name, _ = key
    return {"folder": folder, "kind": kind, "name": name, "arguments": arguments, "stop": stop}


@pytest.fixture(scope="module")
def taken() -> Callable[[Key], tuple[int, str]]:
    """What each script says to its command line; of --help where only that can be asked."""
    asked = {key: ["--help"] if _is_asked_for_help(key) else list(key[3]) for key in OURS}
    jobs = [job_of(key, arguments, stop=True) for key, arguments in asked.items()]
    results = dict(zip(asked, forked(jobs, ROOT, dict(os.environ)), strict=True))
    return results.__getitem__


def _is_asked_for_help(key: Key) -> bool:
    return OURS[key].is_short or key[2] in PASS_ON


@pytest.mark.parametrize("key", OURS, ids=[str(command) for command in OURS.values()])
def test_the_script_takes_the_command_line(taken, key):
    status, output = taken(key)
    assert status == 0, output[-500:]
    if _is_asked_for_help(key):
        assert OURS[key].flags <= printed.told_flags(output)


def test_a_flag_or_value_that_a_script_does_not_know_is_seen():
    wrong = {
        ("cavl", "file", "main.py", ("--no_such_flag", "3")): "unrecognized arguments",
        ("cavl", "file", "main.py", ("-method", "nothing")): "invalid choice",
        ("csl", "file", "train.py", ("--epochs", "many")): "--epochs",
    }
    jobs = [job_of(key, list(key[3]), stop=True) for key in wrong]
    for (status, output), message in zip(
        forked(jobs, ROOT, dict(os.environ)), wrong.values(), strict=True
    ):
        assert status == 2 and message in output


# --- they start ---


def _takes_long(key: Key) -> bool:
    """Benchmarks, and CALM's comparison, which evaluates whatever its training is cut to."""
    _, _, name, arguments = key
    return "benchmarks" in name or (name == "compare_methods.py" and "--sample" in arguments)


STARTED = {key: command for key, command in OURS.items() if command.source in printed.READMES}
STARTED = {
    key: command
    for key, command in STARTED.items()
    if not command.is_short and not _takes_long(key)
}
# Training scripts: they are cut after two steps.
CUT = {
    "cavl": {"main.py"},
    "oass": {"ablation.py"},
    "calm": {"main.py", "compare_methods.py"},
    "csl": {"train.py"},
    "mile": {"MILe.py"},
}


# What a command may name that only the user has, or that a run leaves which was not cut.
NOT_THERE = re.compile(
    r"DATA|your_dir|DIR|FILE|FOLDER|WEIGHTS|WEBVISION|ImageNet|RUN|save/|experiments/|outputs/|dataset/"
)


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Callable[[Key], tuple[int, str]]:
    """Every command of the READMEs, in their order, in one copy of the repository without data."""
    root = tmp_path_factory.mktemp("printed") / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    for picture in (
        "cavl/cat.png",
        "calm/bird.jpg",
        "oass/my.jpg",
        "csl/cat.jpg",
        "csl/pics/a.jpg",
    ):
        (root / picture).parent.mkdir(exist_ok=True)
        Image.radial_gradient("L").convert("RGB").save(root / picture)

    environment = {k: v for k, v in os.environ.items() if k not in ("WSL_DATA_DIR", "your_dir")}
    environment["WSL_OFFLINE"] = "1"
    jobs = []
    for key in STARTED:
        folder, _, name, arguments = key
        is_cut = name in CUT.get(folder, ()) or name.startswith("train_classification")
        more = ["--max_steps", "2"] if is_cut else []
        jobs.append(job_of(key, [*arguments, *more], stop=False))
    results = dict(zip(STARTED, forked(jobs, root, environment), strict=True))
    return results.__getitem__


@pytest.mark.parametrize("key", STARTED, ids=[str(command) for command in STARTED.values()])
def test_the_command_runs_or_ends_in_one_line(started, key):
    status, output = started(key)
    lines = [line for line in output.splitlines() if line.strip()]
    assert "Traceback" not in output, output[-1500:]
    assert status in (0, 2), output[-1500:]
    if status == 2:
        assert re.match(r"error: |\S+: error: ", lines[-1]), output[-1500:]
        assert NOT_THERE.search(str(STARTED[key])), f"nothing in it is missing, yet: {lines[-1]}"
