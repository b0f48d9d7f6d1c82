"""Signals at every moment of a script: while it imports, works, draws its report, and ends."""

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import interrupt
from tests.common.runs import ROOT, assert_equal_runs

SIGNALS = [
    (signal.SIGINT, 130, "error: interrupted\n"),
    (signal.SIGTERM, 143, "error: stopped by SIGTERM\n"),
    (signal.SIGUSR1, 138, "error: stopped by SIGUSR1\n"),
]


def start(folder: Path, script: str, **modules: str) -> subprocess.Popen:
    """Run `script` as a file, with other modules beside it."""
    for name, text in {"script": script, **modules}.items():
        (folder / f"{name}.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, folder / "script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(script: subprocess.Popen) -> tuple[int, str]:
    """Exit status and stderr."""
    _, err = script.communicate(timeout=120)
    return script.returncode, err


# --- while it imports ---

IMPORTS = """
import common.interrupt

import slow
from common.cli import run_main

run_main(lambda: 0)
"""
SLOW = """
import time
try:
    print("importing", flush=True)
    time.sleep(600)
except BaseException:  # as libraries do around their optional parts
    print("swallowed", flush=True)
"""


@pytest.mark.parametrize(("number", "status", "line"), SIGNALS)
def test_a_signal_during_the_imports_is_one_line(tmp_path, number, status, line):
    script = start(tmp_path, IMPORTS, slow=SLOW)
    assert script.stdout.readline() == "importing\n"
    script.send_signal(number)
    assert end_of(script) == (status, line)


def test_an_ignored_signal_stays_ignored(tmp_path):
    """nohup, or a shell that starts a job in the background."""
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{IMPORTS}"
    slow = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('still here', flush=True)"
    script = start(tmp_path, code, slow=slow)
    assert script.communicate(timeout=120) == ("still here\n", "") and script.returncode == 0


PARSES = """
import common.interrupt

import time

from common.cli import parse_or_exit, run_main


def parse(argv):
    try:
        print("parsing", flush=True)
        time.sleep(600)
    finally:
        print("cleared up", flush=True)


settings = parse_or_exit(parse)
"""


@pytest.mark.parametrize(("number", "status", "line"), SIGNALS)
def test_a_signal_while_a_script_parses_lets_it_clear_up(tmp_path, number, status, line):
    script = start(tmp_path, PARSES)
    assert script.stdout.readline() == "parsing\n"
    script.send_signal(number)
    out, err = script.communicate(timeout=120)
    assert (out, script.returncode, err) == ("cleared up\n", status, line)


@pytest.mark.parametrize(("number", "status", "line"), SIGNALS)
def test_a_signal_during_the_imports_after_the_parsing_is_one_line(tmp_path, number, status, line):
    parses = "from common.cli import parse_or_exit\nparse_or_exit(print)\n\nimport slow"
    script = start(tmp_path, IMPORTS.replace("import slow", parses), slow=SLOW)
    assert [script.stdout.readline() for _ in range(2)] == ["None\n", "importing\n"]
    script.send_signal(number)
    assert end_of(script) == (status, line)


NOT_A_PROGRAM = """
import signal
import module
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
print(handlers == [signal.default_int_handler, signal.SIG_DFL])
"""


def test_it_changes_nothing_in_somebody_elses_program(tmp_path):
    script = start(tmp_path, NOT_A_PROGRAM, module="import common.interrupt")
    assert script.communicate(timeout=120)[0] == "True\n"
    assert signal.getsignal(signal.SIGTERM) is not interrupt._quit  # this test imports it too


# --- while it works, outside of a run ---

WORKS = """
import common.interrupt

import time
from common.cli import run_main

def main():
    print("working", flush=True)
    time.sleep(600)

run_main(main)
"""


@pytest.mark.parametrize(("number", "status", "line"), SIGNALS)
def test_a_signal_outside_of_a_run_is_one_line(tmp_path, number, status, line):
    script = start(tmp_path, WORKS)
    assert script.stdout.readline() == "working\n"
    script.send_signal(number)
    assert end_of(script) == (status, line)


# --- in its final report ---

REPORTS = """
import common.interrupt

import atexit
import os
import torch
from pathlib import Path
from common.cli import run_main
from tests.common.toy import settings, train

torch.set_num_threads(1)

def send():
    os.kill(os.getpid(), {number})

def main():
    if "{where}" == "in the report":
        train(settings(Path("run")), before_finish=lambda run: send())
    else:
        train(settings(Path("run")))
    print("after the run", flush=True)
    if "{where}" == "after the run":
        send()
        print("still here", flush=True)

if "{where}" == "among the exit functions":
    atexit.register(send)
run_main(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status", "line"), SIGNALS)
@pytest.mark.parametrize("where", ["in the report", "after the run", "among the exit functions"])
def test_a_signal_in_the_final_report_keeps_its_status_and_all_is_saved(
    whole, tmp_path, where, number, status, line
):
    script = start(tmp_path, REPORTS.format(where=where, number=int(number)))
    out, err = script.communicate(timeout=120)
    assert script.returncode == status, err
    is_noted = where == "in the report"
    assert err == ("" if is_noted else line)
    assert (f"stopped by signal {int(number)}; everything was saved before" in out) == is_noted
    assert ("after the run" in out) != is_noted and "still here" not in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())
    assert_equal_runs(whole, tmp_path / "run")


# --- the scripts ---


FOLDERS = ("cavl", "oass", "calm", "csl", "mile", "common", "sidebyside", "benchmarks", "scripts")


def entry_scripts() -> list[str]:
    """Every file that runs a main function when it is the program."""
    files = list(ROOT.glob("*.py"))
    for folder in FOLDERS:
        files.extend((ROOT / folder).rglob("*.py"))
    found = []
    for path in sorted(files):
        for node in ast.parse(path.read_text()).body:
            is_program = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
            if is_program and "run_main" in ast.unparse(node):
                found.append(str(path.relative_to(ROOT)))
    return found


def test_every_entry_script_imports_it_first():
    names = entry_scripts()
    assert {"cavl/main.py", "csl/train.py", "calm/main.py", "mile/MILe.py", "compare.py"} <= set(
        names
    )
    for name in names:
        nodes = (node for node in ast.walk(ast.parse((ROOT / name).read_text())))
        imports = sorted(filter(_is_import, nodes), key=lambda node: node.lineno)
        assert ast.unparse(imports[0]) == "import common.interrupt", name


OF_PAPERS = [name for name in entry_scripts() if name.split("/")[0] in FOLDERS[:5]]


@pytest.mark.parametrize("name", [name for name in OF_PAPERS if name.count("/") == 1])
def test_a_clone_that_is_not_installed_says_what_to_type(name):
    """Without site-packages neither this repository nor torch is found."""
    folder, script = name.split("/")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-S", script]
    done = subprocess.run(
        command, cwd=ROOT / folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: this clone is not installed; type: pip install -e ..\n"


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


@pytest.mark.parametrize(
    "name",
    [
        *("cavl/main.py", "csl/train.py", "calm/main.py", "mile/MILe.py"),
        "oass/train_classification_with_puzzle_cMax_ema.py",
    ],
)
def test_ctrl_c_while_a_script_imports_torch_is_one_line(tmp_path, name):
    (tmp_path / "torch.py").write_text(SLOW)  # found before the installed one
    script = subprocess.Popen(
        [sys.executable, ROOT / name],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "WSL_OFFLINE": "1",  # a download, while parsing, would import torchvision
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in script.stdout:  # parsing comes first, and says where the data are
        if line == "importing\n":
            break
    script.send_signal(signal.SIGINT)
    assert end_of(script) == (130, "error: interrupted\n")
