"""scripts/reproduce.py: what it lists, what it leaves out, and that a stopped experiment goes on."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.cli import UserError
from scripts import reproduce
from sidebyside.results import ROOT, write
from tests.compare.conftest import ours_row

SCRIPT = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True, exist_ok=True)
print("calls:", sys.argv[1:], flush=True)
if "--fail" in sys.argv:
    sys.exit("error: it fails")
if "--long" in sys.argv and not (folder / "half").exists():
    (folder / "half").write_text("")
    time.sleep(60)
(folder / "summary.json").write_text("{}")
"""


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with a cavl/main.py that only leaves a run directory."""
    root = tmp_path / "repository"
    for folder in ("cavl", "common"):
        (root / folder).mkdir(parents=True)
    (root / "cavl" / "main.py").write_text(SCRIPT)
    (root / "common" / "run.py").write_text("")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def ours(root: Path, *rows: dict) -> None:
    write(root / "cavl" / "results" / "ours.csv", rows)


def listed(root: Path, out: Path, capsys, *argv: str) -> str:
    status = reproduce.main(["--root", str(root), "--out", str(out), *argv])
    assert status in (0, 1)
    return capsys.readouterr().out


# --- commands ---


@pytest.mark.parametrize(
    "command, expected, by_hand",
    [
        ("python main.py -ep 5 --output_dir save/x --resume", "main.py -ep 5", False),
        ("../.venv/bin/python main.py --resume save/x/last.pt -bs 4 --overwrite -q 0.1", "main.py -bs 4 -q 0.1", False),
        ("accelerate launch --num_processes 2 main.py --output_dir=save/x", "main.py", False),
        ("cavl/main.py --sample   # the sample", "main.py --sample", False),
        ("python main.py --data_dir DATA", "main.py --data_dir DATA", False),
        ("python main.py --data_dir=DATA/VOC", "main.py --data_dir=DATA/VOC", False),
        ("for s in 0 1; do python main.py --seed $s; done", None, True),
        ("cd cavl && python main.py", None, True),
        ("python main.py --weights $your_dir", None, True),
        ("python -m cavl", None, True),
    ],
)
def test_commands_lose_interpreter_and_run_directory(root, command, expected, by_hand):
    arguments, reason = reproduce.cleaned(root / "cavl", command)
    assert bool(reason) is by_hand
    if expected:
        assert shlex.join(arguments) == expected


def test_rows_of_one_command_are_one_experiment_and_a_seed_flag_makes_one_each(root):
    together = "python main.py -seeds 0,1,2 --data_dir DATA"
    each = "python main.py --seed 2 -q 0.1 --data_dir DATA"
    ours(
        root,
        ours_row("cavl", 1, command=together, minutes="30", run="a"),
        ours_row("cavl", 1, command=together, minutes="30", run="a", metric="F1"),  # the same runs, another figure
        ours_row("rc", 1, command=together, minutes="40", run="a"),  # other runs of the same names
        ours_row("cavl", 1, command=each, minutes="90", run="c", seeds="0 2 10", dataset="other"),
        ours_row("pico", "", "", "", command="", dataset="not run"),
    )
    found = reproduce.experiments(root)
    assert [(shlex.join(e.arguments), e.scale, e.minutes) for e in found] == [
        ("main.py -seeds 0,1,2 --data_dir DATA", "full", 70.0),
        *[(f"main.py -q 0.1 --data_dir DATA --seed {s}", "full", 30.0) for s in (0, 2, 10)],
    ]
    assert len({e.name for e in found}) == len(found)


def test_a_row_of_the_sample_knows_its_scale_minutes_and_commit(root):
    ours(root, ours_row("cavl", 1, command="main.py --sample", minutes="0.3", run="x"))
    (experiment,) = reproduce.experiments(root)
    assert (experiment.scale, experiment.minutes, experiment.commits) == ("sample", 0.3, ("abc1234",))


# --- what is left out ---


def test_code_that_changed_since_a_commit(root):
    first = git(root, "rev-parse", "HEAD")
    assert not reproduce.changed_since(first, "cavl", root)
    (root / "cavl" / "results").mkdir()
    (root / "cavl" / "results" / "ours.csv").write_text("x")
    (root / "cavl" / "README.md").write_text("x")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "results only")
    assert not reproduce.changed_since(first, "cavl", root)
    (root / "common" / "run.py").write_text("x = 1\n")  # not committed yet
    assert reproduce.changed_since(first, "cavl", root)
    for unknown in ("", "f" * 40, f"{first}+", "--output=x"):
        assert reproduce.changed_since(unknown, "cavl", root)


def test_what_ours_csv_measured_at_this_commit_is_left_out(root, tmp_path, capsys):
    first = git(root, "rev-parse", "HEAD")
    ours(root, ours_row("cavl", 1, command="main.py --sample", minutes="1", commit=first))
    out = listed(root, tmp_path / "out", capsys, "--dry_run")
    assert "[measured at this commit]" in out and "0 of 1 to run" in out and "--again" in out
    assert "1 of 1 to run, about 1 min" in listed(root, tmp_path / "out", capsys, "--dry_run", "--again")
    (root / "cavl" / "main.py").write_text(SCRIPT + "\n# changed\n")
    assert "[run]" in listed(root, tmp_path / "out", capsys, "--dry_run")


def test_data_scales_papers_and_indices(root, tmp_path, capsys):
    rows = [("main.py --data_dir DATA", "10"), ("main.py --data_dir DATA -ep 500", "600"), ("gone.py", "1")]
    ours(root, *[ours_row(f"m{k}", 1, command=c, minutes=m, run=f"r{k}") for k, (c, m) in enumerate(rows)])
    small = listed(root, tmp_path / "out", capsys, "--dry_run", "--scale", "small")
    assert "[needs --data]" in small and "-ep 500" not in small and "[no cavl/gone.py]" in small
    full = listed(root, tmp_path / "out", capsys, "--dry_run", "--scale", "full", "--data", str(tmp_path))
    assert "-ep 500  [run]" in full and "2 of 3 to run, about 610 min" in full
    one = listed(
        root, tmp_path / "out", capsys, "--dry_run", "--scale", "full", "--data", str(tmp_path), "--index", "1"
    )
    assert "-ep 500  [run]" in one and "1 of 1 to run" in one
    assert "0 of 0 to run" in listed(root, tmp_path / "out", capsys, "--paper", "csl")
    with pytest.raises(UserError, match="no such directory"):
        reproduce.main(["--data", "nowhere"])


# --- running ---


def test_runs_once_then_not_again_until_the_code_changes(root, tmp_path, capsys):
    ours(root, ours_row("cavl", 1, command="main.py --sample"))
    out = tmp_path / "out"
    assert "1 done, 0 failed" in listed(root, out, capsys)
    (log,) = out.rglob("*.log")
    folder = log.with_suffix("")
    assert (folder / "summary.json").is_file()
    assert f"calls: ['--sample', '--output_dir', '{folder.resolve()}', '--resume']" in log.read_text()
    assert "[measured here]" in listed(root, out, capsys, "--dry_run")
    (root / "cavl" / "main.py").write_text(SCRIPT + "\n# changed\n")
    assert "[start over]" in listed(root, out, capsys)
    assert log.read_text().rstrip().endswith("'--overwrite']")


def test_the_data_folder_and_the_launcher_are_put_in(root, tmp_path, capsys):
    ours(root, ours_row("cavl", 1, command="python main.py --data_dir=DATA/VOC", minutes="1"))
    (tmp_path / "sets").mkdir()
    launcher = f"{sys.executable} -X utf8"
    argv = ["--scale", "small", "--data", str(tmp_path / "sets"), "--launcher", launcher]
    listed(root, tmp_path / "out", capsys, *argv)
    (log,) = (tmp_path / "out").rglob("*.log")
    first, calls = log.read_text().splitlines()
    assert first.startswith(f"$ {launcher} main.py ") and f"--data_dir={tmp_path}/sets/VOC" in calls


def test_a_failure_is_told_and_the_others_run(root, tmp_path, capsys):
    ours(root, ours_row("a", 1, command="main.py --fail --sample"), ours_row("b", 1, command="main.py --sample -x"))
    status = reproduce.main(["--root", str(root), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert status == 1 and "1 done, 1 failed" in captured.out
    assert "error: it fails" in captured.out + captured.err


def test_a_signal_stops_the_run_and_the_same_command_goes_on(root, tmp_path, capsys, monkeypatch):
    ours(root, ours_row("a", 1, command="main.py --long --sample"))
    argv = ["--root", str(root), "--out", str(tmp_path / "out"), "--index", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, str(ROOT / "scripts" / "reproduce.py"), *argv], env=environment)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").rglob("half")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 143
    assert "[run]" in listed(root, tmp_path / "out", capsys, "--dry_run", *argv[4:])
    assert not list((tmp_path / "out").rglob("summary.json"))
    assert "1 done, 0 failed" in listed(root, tmp_path / "out", capsys, *argv[4:])
