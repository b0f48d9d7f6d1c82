"""scripts/reproduce.py: what it lists, what it leaves out, and how a stopped experiment goes on."""

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
from sidebyside import reruns
from sidebyside.fullscale import load_planned
from sidebyside.results import PAPERS, ROOT, write
from tests.compare.conftest import CLAIMS, ours_row

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
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], capture_output=True, text=True, check=True
    )
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
        (
            "../.venv/bin/python main.py --resume save/x/last.pt -bs 4 --overwrite -q 0.1",
            "main.py -bs 4 -q 0.1",
            False,
        ),
        ("accelerate launch --num_processes 2 main.py --output_dir=save/x", "main.py", False),
        ("cavl/main.py --sample   # the sample", "main.py --sample", False),
        ("python main.py --data_dir DATA", "main.py --data_dir DATA", False),
        ("python main.py --data_dir=DATA/VOC", "main.py --data_dir=DATA/VOC", False),
        ("for s in 0 1; do python main.py --seed $s; done", None, True),
        ("cd cavl && python main.py", None, True),
        ("python main.py --weights $your_dir", None, True),
        ("python main.py --weights backbone:PRETRAINED", None, True),
        (
            "python main.py --weights backbone:DATA/w.pt",
            "main.py --weights backbone:DATA/w.pt",
            False,
        ),
        ("python main.py --tag 'open", None, True),
        ("python -m cavl", None, True),
    ],
)
def test_commands_lose_interpreter_and_run_directory(root, command, expected, by_hand):
    arguments, reason = reruns.cleaned(root / "cavl", command)
    assert bool(reason) is by_hand
    if expected:
        assert shlex.join(arguments) == expected


def test_rows_of_one_command_are_one_experiment_but_one_for_each_seed(root):
    together = "python main.py -seeds 0,1,2 --data_dir DATA"
    each = "python main.py --seed 2 -q 0.1 --data_dir DATA"
    ours(
        root,
        ours_row("cavl", 1, command=together, minutes="30", run="a"),
        ours_row(
            "cavl", 1, command=together, minutes="30", run="a", metric="F1"
        ),  # the same runs, another figure
        ours_row("rc", 1, command=together, minutes="40", run="a"),  # other runs of the same names
        ours_row("cavl", 1, command=each, minutes="90", run="c", seeds="0 2 10", dataset="other"),
        ours_row("pico", "", "", "", command="", dataset="not run"),
    )
    found = reruns.experiments(root)
    assert [(shlex.join(e.arguments), e.scale, e.minutes) for e in found] == [
        ("main.py -seeds 0,1,2 --data_dir DATA", "full", 70.0),
        *[(f"main.py -q 0.1 --data_dir DATA --seed {s}", "full", 30.0) for s in (0, 2, 10)],
    ]
    assert len({e.name for e in found}) == len(found)


def test_a_row_of_the_sample_knows_its_scale_minutes_and_commit(root):
    ours(root, ours_row("cavl", 1, command="main.py --sample", minutes="0.3", run="x"))
    (experiment,) = reruns.experiments(root)
    assert (experiment.scale, experiment.minutes, experiment.commits) == (
        "sample",
        0.3,
        ("abc1234",),
    )


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
    assert "1 of 1 to run, about 1 min" in listed(
        root, tmp_path / "out", capsys, "--dry_run", "--again"
    )
    (root / "cavl" / "main.py").write_text(SCRIPT + "\n# changed\n")
    assert "[run]" in listed(root, tmp_path / "out", capsys, "--dry_run")


def test_data_scales_papers_and_indices(root, tmp_path, capsys):
    rows = [
        ("main.py --data_dir DATA", "10"),
        ("main.py --data_dir DATA -ep 500", "600"),
        ("gone.py", "1"),
    ]
    ours(
        root,
        *[ours_row(f"m{k}", 1, command=c, minutes=m, run=f"r{k}") for k, (c, m) in enumerate(rows)],
    )
    small = listed(root, tmp_path / "out", capsys, "--dry_run", "--scale", "small")
    assert "[needs --data]" in small and "-ep 500" not in small and "[no cavl/gone.py]" in small
    full = listed(
        root, tmp_path / "out", capsys, "--dry_run", "--scale", "full", "--data", str(tmp_path)
    )
    assert "-ep 500  [run]" in full and "1 of 1 to run, about 600 min" in full
    one = listed(
        root,
        tmp_path / "out",
        capsys,
        "--dry_run",
        "--scale",
        "full",
        "--data",
        str(tmp_path),
        "--index",
        "0",
    )
    assert "-ep 500  [run]" in one and "1 of 1 to run" in one
    assert "0 of 0 to run" in listed(root, tmp_path / "out", capsys, "--paper", "csl")
    with pytest.raises(UserError, match="no such directory"):
        reproduce.main(["--data", "nowhere"])


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--launcher", "accelerate 'launch"],
            "--launcher .*cannot be split into words .No closing quotation",
        ),
        (["--launcher", 'a "b'], "--launcher .*cannot be split into words"),
        (["--launcher", "a\\"], "--launcher .*cannot be split into words"),
        (
            ["--launcher", "no-such-program launch"],
            "--launcher 'no-such-program launch': no program 'no-such-program'",
        ),
        (["--launcher", "./no/such"], "no program './no/such'"),
        (["--index", "1"], "--index 1: no such experiment; there are 0 to 0"),
        (["--index", "999999999999999999999"], "no such experiment; there are 0 to 0"),
        (["--index", "0", "--paper", "csl"], "--index 0: no such experiment; there are none"),
        (["--data", "nowhere"], "--data nowhere: no such directory"),
        (["--root", "nowhere"], "--root nowhere: no such directory"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(root, tmp_path, argv, message):
    ours(root, ours_row("cavl", 1, command="main.py --sample"))
    with pytest.raises(UserError, match=message) as error:
        reproduce.main(["--root", str(root), "--out", str(tmp_path / "out"), *argv])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["--index", "-1"],
        ["--index", "x"],
        ["--index", ""],
        ["--index", "0-41"],
        ["--scale", "huge"],
        ["--data=~nobody-of-this-name/x"],
        ["--out", __file__],
        ["--data", ""],
        ["--array", "0-3"],
    ],
)
def test_flags_that_cannot_be_right_are_one_line(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        reproduce.main(argv)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "cell, other, message",
    [
        (",0 1 2,", ",0 one,", "ours.csv: line 2: seeds: expected a whole number, found 'one'"),
        (",30,", ",half an hour,", "ours.csv: line 2: minutes: expected a finite number"),
        ("seeds,", "", "ours.csv: line 1: columns seeds are missing"),
        ("main.py", "m\xe9in.py", "ours.csv: line 2: not UTF-8"),
        ("main.py", "main.py\0", "ours.csv: line 2: a NUL"),
    ],
)
def test_a_damaged_results_file_is_named_with_its_line(root, tmp_path, cell, other, message):
    ours(root, ours_row("cavl", 1, command="main.py --sample", minutes="30"))
    path = root / "cavl" / "results" / "ours.csv"
    path.write_bytes(path.read_bytes().replace(cell.encode(), other.encode("latin-1")))
    with pytest.raises(UserError, match=message):
        reproduce.main(["--root", str(root), "--out", str(tmp_path), "--dry_run"])


def test_seeds_are_numbers_not_text(root):
    ours(root, ours_row("cavl", 1, command="main.py --seed 0", seeds="10 9 100"))
    assert [e.arguments[-1] for e in reruns.experiments(root)] == ["9", "10", "100"]


def test_data_that_is_not_there_is_named_and_the_others_run(root, tmp_path, capsys):
    rows = [
        ours_row("a", 1, command="main.py --data_dir DATA/VOC", minutes="1", run="a"),
        ours_row("b", 1, command="main.py --weights backbone:DATA/w.pt", minutes="1", run="b"),
        ours_row(
            "c", 1, command="main.py --pic 'DATA/*.jpg' --model DATA/net", minutes="1", run="c"
        ),
    ]
    ours(root, *rows)
    data = tmp_path / "sets"
    data.mkdir()
    (data / "net.pth").write_text("")
    out = listed(
        root, tmp_path / "out", capsys, "--dry_run", "--scale", "small", "--data", str(data)
    )
    assert (
        f"[needs {data}/VOC, which is not there]" in out
        and f"[needs {data}/w.pt, which is not there]" in out
    )
    assert "1 of 3 to run" in out


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"code": 3}', "\0"])
def test_a_damaged_note_of_an_earlier_run_starts_over(root, tmp_path, capsys, text):
    ours(root, ours_row("cavl", 1, command="main.py --sample"))
    (experiment,) = reruns.experiments(root)
    note = tmp_path / f"{experiment.name}.json"
    note.parent.mkdir(parents=True)
    note.write_text(text)
    assert "[start over]" in listed(root, tmp_path, capsys, "--dry_run")


def test_without_git_nothing_counts_as_measured(root, monkeypatch):
    first = git(root, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    assert reproduce.changed_since(first, "cavl", root)


def test_a_launcher_is_found_from_where_one_stands(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "my launcher").symlink_to(sys.executable)
    assert reproduce.launcher_words("'bin/my launcher' -X utf8") == [
        f"{tmp_path}/bin/my launcher",
        "-X",
        "utf8",
    ]
    assert reproduce.launcher_words("  ") == [sys.executable]


# --- evaluations of what another experiment trains ---

EVALUATION = "python eval_cue.py --experiment_name compare/CAM-0 --sample"


@pytest.fixture
def evaluated(root):
    """A repository with an evaluation of two seeds, which stands above its training in ours.csv."""
    (root / "cavl" / "eval_cue.py").write_text(SCRIPT)
    training = ours_row("CAM", 1, command="python main.py --sample", run="CAM-0 CAM-1", n="2")
    training["seeds"] = "0 1"
    evaluation = {**training, "command": EVALUATION, "run": "cue", "metric": "mPxAP"}
    ours(root, evaluation, training)
    return root


def test_an_evaluation_comes_after_its_training_once_for_each_seed(evaluated):
    training, *evaluations = reruns.experiments(evaluated)
    assert training.arguments == ("main.py", "--sample") and training.trained_by == ""
    assert [e.evaluated for e in evaluations] == ["compare/CAM-0", "compare/CAM-1"]
    assert {e.trained_by for e in evaluations} == {training.name}


def test_an_evaluation_reads_the_run_where_its_training_wrote_it(evaluated, tmp_path, capsys):
    out = tmp_path / "out"
    assert "3 done, 0 failed" in listed(evaluated, out, capsys)
    training, first, _ = reruns.experiments(evaluated)
    log = (out / f"{first.name}.log").read_text()
    place = (out / training.name).resolve()
    assert f"'--experiment_name', 'CAM-0', '--sample', '--save_root', '{place}'" in log
    assert log.rstrip().endswith("'--overwrite']")  # evaluations take no --resume


def test_an_evaluation_waits_for_its_training(evaluated, tmp_path, capsys):
    out = listed(evaluated, tmp_path / "out", capsys, "--index", "1")
    assert "0 done, 1 failed" in out
    training, *_ = reruns.experiments(evaluated)
    (evaluated / "cavl" / "main.py").unlink()
    told = listed(evaluated, tmp_path / "out", capsys, "--dry_run")
    assert told.count(f"[needs {training.name}, which has not run here; --again runs it]") == 2


# --- running ---


def test_runs_once_then_not_again_until_the_code_changes(root, tmp_path, capsys):
    ours(root, ours_row("cavl", 1, command="main.py --sample"))
    out = tmp_path / "out"
    assert "1 done, 0 failed" in listed(root, out, capsys)
    (log,) = out.rglob("*.log")
    folder = log.with_suffix("")
    assert (folder / "summary.json").is_file()
    assert (
        f"calls: ['--sample', '--output_dir', '{folder.resolve()}', '--resume']" in log.read_text()
    )
    assert "[measured here]" in listed(root, out, capsys, "--dry_run")
    (root / "cavl" / "main.py").write_text(SCRIPT + "\n# changed\n")
    assert "[start over]" in listed(root, out, capsys)
    assert log.read_text().rstrip().endswith("'--overwrite']")


def test_the_data_folder_and_the_launcher_are_put_in(root, tmp_path, capsys):
    ours(root, ours_row("cavl", 1, command="python main.py --data_dir=DATA/VOC", minutes="1"))
    (tmp_path / "sets" / "VOC").mkdir(parents=True)
    launcher = f"{sys.executable} -X utf8"
    argv = ["--scale", "small", "--data", str(tmp_path / "sets"), "--launcher", launcher]
    listed(root, tmp_path / "out", capsys, *argv)
    (log,) = (tmp_path / "out").rglob("*.log")
    first, calls = log.read_text().splitlines()
    assert first.startswith(f"$ {launcher} main.py ") and f"--data_dir={tmp_path}/sets/VOC" in calls


def test_a_failure_is_told_and_the_others_run(root, tmp_path, capsys):
    ours(
        root,
        ours_row("a", 1, command="main.py --fail --sample"),
        ours_row("b", 1, command="main.py --sample -x"),
    )
    status = reproduce.main(["--root", str(root), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert status == 1 and "1 done, 1 failed" in captured.out
    assert "error: it fails" in captured.out + captured.err


def test_a_signal_stops_the_run_and_the_same_command_goes_on(root, tmp_path, capsys, monkeypatch):
    ours(root, ours_row("a", 1, command="main.py --long --sample"))
    argv = ["--root", str(root), "--out", str(tmp_path / "out"), "--index", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "reproduce.py"), *argv], env=environment
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").rglob("half")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 143
    assert "[run]" in listed(root, tmp_path / "out", capsys, "--dry_run", *argv[4:])
    assert not list((tmp_path / "out").rglob("summary.json"))
    assert "1 done, 0 failed" in listed(root, tmp_path / "out", capsys, *argv[4:])


# --- the papers' own settings ---

PLANNED = """
[[experiment]]
command = "python main.py -ep 250 --data_dir DATA/x"
data = "X (1 GB)"
runs = 2
epochs = 10
images = 3_600
images_per_second = 10
claims = ["better than averaging"]
"""


@pytest.fixture
def planned(root):
    """A repository with one experiment at full scale, and the claim that it decides."""
    results = root / "cavl" / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / "claims.toml").write_text(CLAIMS["cavl"])
    (results / "full.toml").write_text(PLANNED)
    return root


def test_the_papers_settings_are_listed_with_data_hours_and_claims(planned, tmp_path, capsys):
    told = listed(planned, tmp_path / "out", capsys, "--dry_run", "--scale", "full")
    assert "2.0 GPU h  cavl: main.py -ep 250 --data_dir DATA/x  [needs --data]" in told
    assert "needs X (1 GB); decides better than averaging" in told
    assert "GPU h" not in listed(planned, tmp_path / "out", capsys, "--dry_run", "--scale", "small")


def test_the_size_of_an_array_comes_from_the_list(planned, tmp_path, capsys):
    assert listed(planned, tmp_path / "out", capsys, "--count", "--scale", "full") == "1\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("runs = 2", "runs = 0", "runs must be a whole number from 1 on"),
        ("runs = 2\n", "", "expected exactly .*differs in runs"),
        ("better than averaging", "best", "'best' is no registered claim of cavl"),
        ('"python main.py -ep 250 --data_dir DATA/x"', '""', "the command is empty"),
        ("epochs = 10", "epochs =", "full.toml: "),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(planned, old, new, message):
    path = planned / "cavl" / "results" / "full.toml"
    assert old in PLANNED
    path.write_text(PLANNED.replace(old, new))
    with pytest.raises(UserError, match=message):
        load_planned(planned, "cavl")


@pytest.mark.parametrize("paper", PAPERS)
def test_each_paper_has_its_own_settings(paper):
    assert load_planned(ROOT, paper)
