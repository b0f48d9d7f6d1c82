"""A run that is stopped anywhere and resumed equals one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.cli import UserError
from mile import MILe as entry
from tests.launch import TORCHRUN
from tests.mile.helpers import TINY, assert_same_run, flags, lines_of, run, state

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def folders():
    return {}


@pytest.fixture
def whole(tmp_path_factory, folders, no_figures):
    """Uninterrupted runs by student_init."""

    def get(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind) / "run"
            run(folders[kind], student_init=kind)
        return folders[kind]

    return get


# Generation 1 has steps 1-4 and 5-6, generation 2 steps 7-9 and 10-11: inside each phase and at
# each border.
@pytest.mark.parametrize("steps", [1, 4, 5, 6, 9])
def test_stopped_after_any_step_and_resumed(tmp_path, whole, steps):
    run(tmp_path / "r", "--max_steps", str(steps), student_init="teacher")
    run(tmp_path / "r", "--resume", student_init="teacher")
    assert_same_run(whole("teacher"), tmp_path / "r")


@pytest.mark.parametrize("kind", ["own", "fresh"])
def test_two_networks_are_resumed_in_the_imitation_phase(tmp_path, whole, kind):
    for steps in (5, 8, 10):
        resume = ["--resume"] if steps > 5 else []
        run(tmp_path / "r", *resume, "--max_steps", str(steps), student_init=kind)
    run(tmp_path / "r", "--resume", student_init=kind)
    assert_same_run(whole(kind), tmp_path / "r")


def test_the_checkpoint_holds_teacher_student_optimiser_and_phase(tmp_path):
    run(tmp_path / "r", "--max_steps", "5", student_init="own")
    learner = state(tmp_path / "r")["state"]["learner"]
    assert learner["phase"] == "imitation"
    assert len(learner["optimizers"]) == 2 and learner["optimizers"][0]["state"]
    assert {key.split(".")[0] for key in learner} >= {"teacher", "student"}


@pytest.mark.parametrize("phase", ["interactive", "imitation"])
def test_sigterm_saves_and_exits_143(tmp_path, whole, monkeypatch, phase):
    original, target, calls = entry.one_step, {"interactive": 3, "imitation": 5}[phase], []

    def kill_once(learner, batch):
        calls.append(learner.phase)
        if len(calls) == target:
            assert learner.phase == phase
            os.kill(os.getpid(), signal.SIGTERM)
        return original(learner, batch)

    monkeypatch.setattr(entry, "one_step", kill_once)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "r", student_init="teacher")
    assert stop.value.code == 143
    monkeypatch.setattr(entry, "one_step", original)
    run(tmp_path / "r", "--resume", student_init="teacher")
    assert_same_run(whole("teacher"), tmp_path / "r")


def test_a_signal_during_evaluation_is_answered_then_repeated(tmp_path, whole, monkeypatch):
    original, calls = entry.evaluate, []

    def kill_in_the_first(*args):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(entry, "evaluate", kill_in_the_first)
    with pytest.raises(SystemExit):
        run(tmp_path / "r", student_init="teacher")
    run(tmp_path / "r", "--resume", student_init="teacher")
    assert_same_run(whole("teacher"), tmp_path / "r")


def test_plateau_schedule_and_annealed_rho_survive_a_resume(tmp_path):
    settings = {"lr_schedule": "plateau", "rho_start": 0.3, "total_steps": 31}
    run(tmp_path / "whole", **settings)
    run(tmp_path / "cut", "--max_steps", "17", **settings)
    run(tmp_path / "cut", "--resume", **settings)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_chosen_rho_survives_a_resume_in_the_imitation_phase(tmp_path):
    settings = {"rho_cover": 0.8, "mnist_grids": 180, "k_t": 12}
    run(tmp_path / "whole", total_steps=31, **settings)
    assert 0.1 <= lines_of(tmp_path / "whole", "imitation")[0]["rho"] != 0.25
    run(tmp_path / "cut", "--max_steps", "14", total_steps=31, **settings)
    assert state(tmp_path / "cut")["state"]["learner"]["phase"] == "imitation"
    run(tmp_path / "cut", "--resume", total_steps=31, **settings)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_other_settings_are_refused_and_a_finished_run_stands(tmp_path, capsys):
    run(tmp_path / "r")
    with pytest.raises(UserError, match="k_s 2 then, 3 now"):
        run(tmp_path / "r", "--resume", k_s=3)
    with pytest.raises(UserError, match="holds a run"):
        run(tmp_path / "r")
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    run(tmp_path / "r", "--resume")
    assert "finished already" in capsys.readouterr().out
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phase", "resting"),
        ("generation", -1),
        ("rho", float("nan")),
        ("rho", "x"),
        ("optimizers", []),
    ],
)
def test_a_checkpoint_with_an_impossible_value_is_refused(tmp_path, name, value):
    run(tmp_path / "r", "--max_steps", "2")
    path = tmp_path / "r" / "checkpoints" / "last.pt"
    saved = torch.load(path, weights_only=True)
    saved["state"]["learner"][name] = value
    torch.save(saved, path)
    with pytest.raises(UserError, match=f"last.pt: learner.*({name}|fit)"):
        run(tmp_path / "r", "--resume")


def test_a_checkpoint_behind_the_end_of_its_generation_is_refused(tmp_path):
    run(tmp_path / "r", "--max_steps", "2")
    path = tmp_path / "r" / "checkpoints" / "last.pt"
    saved = torch.load(path, weights_only=True)
    saved["progress"] |= {"batch": 10, "step": 10}
    torch.save(saved, path)
    with pytest.raises(UserError, match="10 batches are done, the epoch has 6"):
        run(tmp_path / "r", "--resume")


@pytest.mark.slow
def test_kill_9_in_the_imitation_phase_of_an_image_folder_run(tmp_path):
    """On the ImageNet sample with a loader worker.

    The last checkpoint is whole, and the end is the same.
    """
    own = {
        "total_steps": 40,
        "warmup": 4,
        "k_t": 4,
        "k_s": 8,
        "batch_size": 32,
        "num_workers": 1,
        "augment": "standard",
    }

    def start(folder, *more):
        places = {"output_dir": tmp_path / folder, "checkpoint_path": tmp_path / "weights"}
        command = [sys.executable, "MILe.py", "--sample", "--cpu", *flags(**own, **places), *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=ROOT / "mile", env=environment, stdout=subprocess.DEVNULL
        )

    assert start("whole").wait() == 0
    killed, last = (
        start("killed", "--checkpoint_every", "1"),
        tmp_path / "killed" / "checkpoints" / "last.pt",
    )
    while killed.poll() is None:
        if last.is_file() and state(tmp_path / "killed")["progress"]["step"] >= 13:
            killed.kill()
        time.sleep(0.05)
    assert killed.wait() == -signal.SIGKILL
    assert state(tmp_path / "killed")["progress"]["step"] < 40
    assert start("killed", "--resume").wait() == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Same metrics and weights to float tolerance.

    The batch is split, batch norms and sums are shared.
    """
    places = {"output_dir": tmp_path / "two", "checkpoint_path": tmp_path / "weights"}
    # one step of each phase: rounding grows a hundredfold within ten steps, so more would test
    # nothing more
    short = {"warmup": 0, "k_t": 2, "k_s": 1, "total_steps": 3}
    command = [*TORCHRUN, "MILe.py", "--sample", "--cpu", *flags(**{**TINY, **short, **places})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        command,
        cwd=ROOT / "mile",
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=600,
    )
    run(tmp_path / "one", **short)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    for key, value in one["state"]["learner"].items():
        if hasattr(value, "shape"):
            difference = (value.double() - two["state"]["learner"][key].double()).abs().max()
            assert difference <= 2e-5 * max(1.0, value.abs().max().item()), key
    lines = [json.loads(each["metrics"]) for each in (one, two)]
    assert len(lines[0]) == len(lines[1])
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys() and a["split"] == b["split"]
        for key in a.keys() - {"split"}:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-4), key
