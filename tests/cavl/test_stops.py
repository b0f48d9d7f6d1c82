"""A run that is stopped outside of its steps, by a failing evaluation or a signal, loses no step
and no number.
"""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from cavl import build_candidates, evaluate, report
from cavl import main as entry
from common import checkpoint
from common.cli import UserError, run_main
from tests.cavl.runs import SAMPLE, run, state
from tests.equality import same

FLAGS = ("-ep", "3", "-warmup", "1")
PER_EPOCH = 21  # steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "r"
    run(folder, *FLAGS)
    return folder


def assert_equal(one, two):
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert same(state(one)["state"], state(two)["state"])
    assert (one / "selected.csv").read_bytes() == (two / "selected.csv").read_bytes()


def at_call(function, number, act):
    """The function, which does `act()` before its call of this number, counted from 1."""
    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            act()
        return function(*args, **kwargs)

    return call


def fail():
    raise UserError("an image cannot be read")


def steps_of(monkeypatch):
    """The steps that the run takes from now on."""
    taken = []
    backward = entry.backward
    monkeypatch.setattr(entry, "backward", lambda *args: taken.append(1) or backward(*args))
    return taken


@pytest.mark.parametrize("measurement", [3, 4, 5, 6])
def test_after_an_evaluation_that_failed_no_step_is_repeated(
    tmp_path, monkeypatch, whole, measurement
):
    """Two measurements before the first step, and two after each epoch."""
    monkeypatch.setattr(entry, "measure", at_call(entry.measure, measurement, fail))
    with pytest.raises(UserError):
        run(tmp_path / "r", *FLAGS)
    monkeypatch.undo()
    taken = steps_of(monkeypatch)
    run(tmp_path / "r", *FLAGS, "--resume")
    epochs_done = (measurement - 1) // 2
    assert len(taken) == (3 - epochs_done) * PER_EPOCH
    assert_equal(whole, tmp_path / "r")


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("measurement", [1, 2, 4])
def test_a_signal_in_an_evaluation_ends_it_between_two_batches(
    tmp_path, monkeypatch, capsys, whole, measurement, number, status
):
    monkeypatch.setattr(evaluate, "EVAL_BATCH", 50)
    evaluated = []
    predict = torch.nn.Module.__call__

    def kill():
        os.kill(os.getpid(), number)
        monkeypatch.setattr(
            entry.torch.nn.Module,
            "__call__",
            lambda *a, **k: evaluated.append(1) or predict(*a, **k),
        )

    monkeypatch.setattr(entry, "measure", at_call(entry.measure, measurement, kill))
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: run(tmp_path / "r", *FLAGS))
    assert (
        stop.value.code == status and len(evaluated) == 3
    )  # the network and its two layers, for one batch
    assert "go on with --resume" in capsys.readouterr().out
    monkeypatch.undo()
    run(tmp_path / "r", *FLAGS, "--resume")
    assert_equal(whole, tmp_path / "r")


def test_the_start_is_logged_once_also_where_it_was_saved(tmp_path, whole):
    """As by a poll between the start and the first step."""
    original = report.log_start

    def log_and_stop(own, *args):
        original(own, *args)
        os.kill(os.getpid(), signal.SIGTERM)
        own.poll()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "log_start", log_and_stop)
        with pytest.raises(SystemExit):
            run(tmp_path / "r", *FLAGS)
    run(tmp_path / "r", *FLAGS, "--resume")
    assert_equal(whole, tmp_path / "r")


def test_an_oracle_of_another_start_is_trained_again(tmp_path, monkeypatch):
    """A run that was killed after the oracle leaves oracle.pt; the next start has another seed."""
    flags = ("-partial_type", "instance", "-ep", "1")
    monkeypatch.setattr(build_candidates, "ORACLE_EPOCHS", 1)
    run(tmp_path / "fresh", *flags, "-seed", "1")
    run(tmp_path / "old", *flags)
    (tmp_path / "r").mkdir()
    shutil.copy(tmp_path / "old/oracle.pt", tmp_path / "r/oracle.pt")
    run(tmp_path / "r", *flags, "-seed", "1")
    assert same(state(tmp_path / "r")["state"], state(tmp_path / "fresh")["state"])
    assert np.array_equal(
        np.load(tmp_path / "r/candidates.npy"), np.load(tmp_path / "fresh/candidates.npy")
    )

    monkeypatch.setattr(
        build_candidates,
        "train_oracle",
        lambda *args, **kwargs: pytest.fail("a resumed run has its oracle"),
    )
    run(tmp_path / "r", *flags, "-seed", "1", "--resume")


def test_bad_input_leaves_the_run_that_overwrite_would_move(tmp_path, whole):
    folder = shutil.copytree(whole, tmp_path / "r")
    np.save(tmp_path / "sets.npy", np.ones((3, 10)))
    for flags in (
        ("-partial_file", str(tmp_path / "sets.npy")),
        ("-ds", "cifar10", "-mo", "lenet"),
    ):
        with pytest.raises(UserError):
            run(folder, *flags, "--overwrite")
    assert_equal(whole, folder)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["r"]


@pytest.mark.parametrize(
    ("flags", "keys", "value", "message"),
    [
        ((), ("labels", "selected"), torch.full((1300,), 99), "labels selected: 99 at 0"),
        (
            (),
            ("labels", "selected"),
            torch.full((1300,), -1),
            "labels selected: -1 at 0; expected whole numbers from 0",
        ),
        ((), ("labels", "selected"), torch.tensor([3]), r"labels selected: shape \(1,\)"),
        ((), ("labels", "selected"), torch.full((1300,), 1.0), "labels selected is torch.float32"),
        ((), ("labels", "has_selected"), "x", "has_selected"),
        ((), ("labels", "candidates"), "x", "labels candidates is 'x', expected a tensor"),
        ((), ("warmup", "best"), float("nan"), "warmup does not fit"),
        ((), ("warmup", "risen"), 3, "warmup does not fit"),
        (
            ("-method", "rc"),
            ("labels", "table"),
            torch.full((1300, 10), torch.nan),
            "labels table: nan",
        ),
        (("-method", "rc"), ("labels", "table"), torch.ones(10), r"labels table: shape \(10,\)"),
    ],
    ids=str,
)
def test_states_that_no_step_writes_are_refused(tmp_path, flags, keys, value, message):
    flags = ("-ep", "3", *flags)
    run(tmp_path / "r", *flags, "--max_steps", "30")
    file = tmp_path / "r/checkpoints/last.pt"
    saved = checkpoint.load(file)
    saved["state"][keys[0]][keys[1]] = value
    torch.save(saved, file)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "r", *flags, "--resume")


@pytest.mark.slow
def test_a_comparison_that_is_cut_in_its_first_run_is_a_run(tmp_path, monkeypatch, capsys):
    flags = ("-compare", "cavl,cc", "-ep", "1")
    folder = tmp_path / "c"
    second_look = entry.second_look
    monkeypatch.setattr(
        entry, "second_look", at_call(second_look, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    )
    with pytest.raises(SystemExit) as stop:
        run(folder, *flags)
    assert stop.value.code == 143
    monkeypatch.undo()

    with pytest.raises(UserError, match="holds a run; go on with --resume"):
        run(folder, *flags)
    shutil.copytree(folder, tmp_path / "copy")
    run(folder, *flags, "--resume")
    run(
        tmp_path / "copy", *flags, "-seed", "1", "--overwrite"
    )  # another seed: nothing of the cut run is in its way
    one, two = (
        json.loads((path / "summary.json").read_text()) for path in (folder, tmp_path / "copy")
    )
    assert one["runs"] == two["runs"] == 2
    assert (tmp_path / "copy.old-1/cavl-seed0/checkpoints/last.pt").is_file()


def test_the_figure_leaves_out_a_run_that_was_deleted_since(tmp_path, capsys):
    flags = ("-compare", "cavl,cc", "-ep", "1")
    run(tmp_path / "c", *flags)
    (tmp_path / "c/cavl-seed0/metrics.jsonl").unlink()
    (tmp_path / "c/cc-seed0/metrics.jsonl").write_text("{")
    entry.main([*SAMPLE, *flags, "--output_dir", str(tmp_path / "c"), "--resume"])
    assert capsys.readouterr().out.count("the figure goes without it") == 2
