"""Which folder a run gets, its lock, and config.json."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common import processes, rundir
from common.cli import UserError
from common.rundir import (
    claim,
    describe_launch,
    holds_run,
    lock,
    make_accelerator,
    plain,
    seed_everything,
    settings_of,
)
from tests.common.toy import settings


def make_run(folder: Path, *, checkpoint: bool = True, metrics: bool = True) -> Path:
    """What a run leaves behind."""
    (folder / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (folder / "checkpoints" / "last.pt").write_bytes(b"weights")
    (folder / "metrics.jsonl").write_text("{}\n" if metrics else "")
    return folder


# --- the folder ---


def test_a_directory_with_a_checkpoint_or_a_metrics_line_holds_a_run(tmp_path):
    assert not holds_run(tmp_path / "gone")
    assert not holds_run(make_run(tmp_path / "a", checkpoint=False, metrics=False))
    assert holds_run(make_run(tmp_path / "b", checkpoint=False))
    assert holds_run(make_run(tmp_path / "c", metrics=False))


def test_a_named_directory_that_holds_a_run_is_never_overwritten(tmp_path):
    folder = make_run(tmp_path / "mine")
    with pytest.raises(
        UserError, match="mine holds a run; go on with --resume, start over with --overwrite"
    ):
        claim(settings(folder), tmp_path / "default", folder)
    assert (folder / "checkpoints" / "last.pt").read_bytes() == b"weights"
    assert claim(settings(None), tmp_path / "default", tmp_path / "new") == (tmp_path / "new", None)


def test_overwrite_moves_the_old_run_aside_each_time(tmp_path, capsys):
    folder = tmp_path / "mine"
    for number in (1, 2):
        make_run(folder) if number == 1 else (folder / "metrics.jsonl").write_text("second\n")
        assert claim(settings(folder, overwrite=True), tmp_path / "default", folder) == (
            folder,
            None,
        )
        assert f"the run in {folder} was moved to {folder}.old-{number}" in capsys.readouterr().out
        assert not holds_run(folder) and holds_run(tmp_path / f"mine.old-{number}")
    assert (tmp_path / "mine.old-1" / "checkpoints" / "last.pt").read_bytes() == b"weights"
    assert (tmp_path / "mine.old-2" / "metrics.jsonl").read_text() == "second\n"


@pytest.mark.parametrize("name", ["toy", "toy[1]*", "toy-3"])
def test_without_a_name_a_second_run_gets_a_numbered_folder_and_says_so(tmp_path, capsys, name):
    default = tmp_path / "save" / name
    for number in (1, 2, 3):
        folder, source = claim(settings(None), default, None)
        assert (
            folder == (default if number == 1 else default.with_name(f"{name}-{number}"))
            and source is None
        )
        out = capsys.readouterr().out
        assert out == ("" if number == 1 else f"{default} holds a run; this one goes to {folder}\n")
        (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.pt").touch()
    resumed = claim(settings(None, resume=""), default, None)
    assert resumed == (folder, folder / "checkpoints" / "last.pt")  # the newest of them


def test_siblings_count_but_not_those_moved_aside_or_named_alike(tmp_path):
    for name in (
        "toy-2",
        "toy-10",
        "toy-9",
        "toy.old-1",
        "toy-10.old-1",
        "toy-x",
        "toyota",
        "toy-11-b",
    ):
        make_run(tmp_path / name)
    assert claim(settings(None, resume=""), tmp_path / "toy", None)[0] == tmp_path / "toy-10"


def test_resume_without_a_checkpoint_starts_anew_and_says_so(tmp_path, capsys):
    for name in ("empty", "metrics"):
        folder = tmp_path / name
        if name == "metrics":
            make_run(folder, checkpoint=False)
        assert claim(settings(folder, resume=""), tmp_path / "default", folder) == (folder, None)
        assert capsys.readouterr().out == f"--resume: no checkpoint in {folder}; starting anew\n"
        assert not holds_run(folder)
    assert holds_run(tmp_path / "metrics.old-1")


def test_resume_from_a_path_that_is_not_there_names_it_and_makes_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "gone.pt", tmp_path / "empty"):
        with pytest.raises(UserError, match=f"--resume {path}: no checkpoint there"):
            claim(settings(None, resume=str(path)), tmp_path / "default", None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty"]


def test_resume_from_a_path_goes_on_in_its_own_run_or_in_the_named_folder(tmp_path):
    run = make_run(tmp_path / "run")
    last = run / "checkpoints" / "last.pt"
    for path in (run, last):
        assert claim(settings(None, resume=str(path)), tmp_path / "default", None) == (run, last)
        assert claim(settings(None, resume=str(path)), tmp_path / "default", run) == (run, last)
        assert claim(settings(None, resume=str(path)), tmp_path / "default", tmp_path / "new") == (
            tmp_path / "new",
            last,
        )
    other = make_run(tmp_path / "other")
    with pytest.raises(
        UserError, match="other holds another run than .*last.pt; name another --output_dir"
    ):
        claim(settings(None, resume=str(last)), tmp_path / "default", other)
    (tmp_path / "moved.pt").write_bytes(b"weights")
    moved = claim(settings(None, resume=str(tmp_path / "moved.pt")), tmp_path / "default", None)
    assert moved == (tmp_path / "default", tmp_path / "moved.pt")


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    calls = []
    monkeypatch.setattr(rundir, "lock", lambda folder: (calls.append(folder), lock(folder)))
    for named in (None, tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="file/run: cannot be used as a run directory"):
            claim(settings(None), tmp_path / "file" / "run", named)
    assert len(calls) == 2


# --- the lock ---


def test_another_process_is_kept_out_until_this_one_ends(tmp_path, in_child):
    folder = tmp_path / "run"
    assert in_child(lock, folder, stay=True)
    with pytest.raises(UserError, match="run: another process is writing there"):
        lock(folder)
    in_child.end(in_child.last)  # killed: the operating system drops the lock
    lock(folder)
    assert not in_child(lock, folder)


def test_the_end_of_a_process_closes_its_locks_without_a_word(tmp_path):
    code = "import sys; from pathlib import Path; from common.rundir import lock\n"
    code += "lock(Path(sys.argv[1]))"
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code, str(tmp_path)]
    assert ".lock" not in subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_locking_twice_or_failing_to_lock_gives_nothing_up(tmp_path, in_child):
    lock(tmp_path / "run")
    lock(tmp_path / "run")
    lock(tmp_path / "other" / ".." / "run")
    assert not in_child(lock, tmp_path / "run")


def test_a_folder_that_was_deleted_and_made_again_is_locked_anew(tmp_path, in_child):
    lock(tmp_path / "run")
    (tmp_path / "run" / ".lock").unlink()
    lock(tmp_path / "run")
    assert not in_child(lock, tmp_path / "run")


def test_a_folder_that_takes_the_place_of_one_moved_aside_is_locked(tmp_path, in_child):
    folder = make_run(tmp_path / "run")
    claim(settings(folder, overwrite=True), tmp_path / "default", folder)
    assert not in_child(lock, folder)
    assert in_child(lock, tmp_path / "run.old-1")


def test_loader_workers_do_not_inherit_the_lock(tmp_path, in_child):
    def holder() -> None:
        lock(tmp_path / "run")
        if os.fork() == 0:
            (tmp_path / "worker").write_text(str(os.getpid()))
            signal.pause()
        while not (tmp_path / "worker").is_file() or not (tmp_path / "worker").read_text():
            pass

    assert in_child(holder, stay=True)
    worker = int((tmp_path / "worker").read_text())
    in_child.end(in_child.last)
    try:
        os.kill(worker, 0)  # still alive
        lock(tmp_path / "run")
    finally:
        os.kill(worker, signal.SIGKILL)


def test_an_unnamed_run_goes_beside_one_that_another_process_holds(tmp_path, in_child):
    assert in_child(lock, tmp_path / "toy", stay=True)
    assert claim(settings(None), tmp_path / "toy", None)[0] == tmp_path / "toy-2"


PARTS = (
    *("checkpoints/.last.pt.123.part", ".config.json.123.part", "figures/.curves.png.7.part"),
    *("exported/deep/.model.onnx.123456.part", "a [1]*/.x.1.part", ".odd.name..part.99.part"),
)
KEPT = ("notes.part", ".hidden.part", "exported/movie.mp4.part", "exported/.movie.123.partial")


def test_what_a_killed_save_left_half_written_is_cleared_away(tmp_path, in_child):
    folder = make_run(tmp_path / "run")
    for name in (*PARTS, *KEPT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")
    assert in_child(lock, folder, stay=True)
    assert not any((folder / name).exists() for name in PARTS)
    assert all((folder / name).exists() for name in KEPT)
    part = folder / PARTS[0]
    part.write_bytes(b"being written")  # somebody is writing: not ours to clear
    with pytest.raises(UserError):
        lock(folder)
    assert part.exists() and (folder / "checkpoints" / "last.pt").exists()


def test_only_a_runs_own_directory_is_cleared_and_no_run_below_it(tmp_path):
    (tmp_path / "mine").mkdir()
    part = tmp_path / "mine" / ".a.1.part"
    part.write_bytes(b"not of a run")
    lock(tmp_path / "mine")
    assert part.exists()
    child = make_run(tmp_path / "sweep" / "seed0") / ".config.json.1.part"
    make_run(tmp_path / "sweep")
    child.write_bytes(b"half")
    (child.parent / ".lock").touch()
    lock(tmp_path / "sweep")
    assert child.exists()
    lock(child.parent)
    assert not child.exists()


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_a_lock_that_is_no_file_does_not_block(tmp_path, kind):
    os.mkfifo(tmp_path / ".lock") if kind == "fifo" else (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="cannot be used as a run directory"):
        lock(tmp_path)


def test_a_fifo_in_place_of_a_run_directory_is_refused(tmp_path):
    os.mkfifo(tmp_path / "run")
    with pytest.raises(UserError, match="run: cannot be used as a run directory"):
        claim(settings(tmp_path / "run"), tmp_path / "default", tmp_path / "run")


# --- config.json and what it compares ---


def test_settings_leave_out_what_may_differ_and_are_plain_data():
    args = settings(
        Path("x"), _location=object(), folders=[Path("a"), Path("b")], pair=(Path("c"), 1)
    )
    found = settings_of(args)
    assert not set(found) & {
        "output_dir",
        "resume",
        "overwrite",
        "max_steps",
        "checkpoint_every",
        "workers",
        "cpu",
    }
    assert "_location" not in found
    assert found["data"] == "somewhere" and found["sizes"] == [3, 4]
    assert found["folders"] == ["a", "b"] and found["pair"] == ["c", 1]
    assert found["seed"] == 0 and found["mixed_precision"] is None


def test_config_says_how_the_run_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "0"])
    args = settings(tmp_path, _hidden=object())
    describe_launch(tmp_path, args, make_accelerator(args))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["settings"] == {
        **{
            "checkpoint_every": None,
            "cpu": True,
            "data": "somewhere",
            "epochs": 3,
            "lr": 0.1,
            "max_steps": None,
        },
        **{
            "mixed_precision": None,
            "output_dir": str(tmp_path),
            "overwrite": False,
            "resume": None,
            "seed": 0,
        },
        **{"sizes": [3, 4], "workers": 0},
    }
    assert config["command"] == "train.py --seed 0"
    assert config["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", config["commit"])
    assert (
        config["packages"]["torch"] == torch.__version__.split("+")[0]
        or config["packages"]["torch"]
    )
    assert config["python"].startswith("3.") and config["hardware"]["processes"] == 1
    assert config["hardware"]["mixed_precision"] == "no" and config["hardware"]["device"]
    assert len(config["launches"]) == 1 and set(config["launches"][0]) == {
        "command",
        "commit",
        "time",
    }


def test_a_second_launch_is_added_only_where_a_run_goes_on(tmp_path):
    args = settings(tmp_path)
    accelerator = make_accelerator(args)
    for expected in (1, 1):
        describe_launch(tmp_path, args, accelerator)
        assert len(json.loads((tmp_path / "config.json").read_text())["launches"]) == expected
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    describe_launch(tmp_path, args, accelerator)
    assert len(json.loads((tmp_path / "config.json").read_text())["launches"]) == 2


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "__file__", str(tmp_path / "rundir.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert rundir.commit() is None
    monkeypatch.setenv("PATH", "")
    assert rundir.commit() is None


def test_undefined_is_null_and_numbers_are_plain():
    value = {
        **{
            "nan": float("nan"),
            "inf": -np.inf,
            "np": np.float32(0.5),
            "torch": torch.tensor(2.0),
            "n": 3,
        },
        **{"path": Path("a"), "list": (1, [np.nan]), "yes": True, "none": None, 5: {"text": "t"}},
    }
    assert json.dumps(plain(value), allow_nan=False) == (
        '{"nan": null, "inf": null, "np": 0.5, "torch": 2.0, "n": 3, "path": "a", '
        '"list": [1, [null]], "yes": true, "none": null, "5": {"text": "t"}}'
    )


# --- seed, device, precision ---


@pytest.mark.parametrize("seed", [0, 1, -5, 2**40, None])
def test_every_generator_follows_the_seed(seed):
    import random

    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    assert seed_everything(seed) == (seed or 0)
    first = draw()
    seed_everything(12345)
    assert draw() != first
    seed_everything(seed)
    assert draw() == first


def test_precision_on_a_cpu_is_no_unless_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_accelerator(settings(None)).mixed_precision == "no"
    with pytest.raises(UserError, match="--mixed_precision fp16 needs a GPU"):
        make_accelerator(settings(None, mixed_precision="fp16"))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP is not supported; these networks fit on one GPU"),
        ("ACCELERATE_USE_DEEPSPEED", "1", "DeepSpeed is not supported"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto", "whole number from 1 on"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "choose from no, fp16, bf16"),
    ],
)
def test_what_accelerate_offers_and_the_five_do_not_support_is_refused(
    monkeypatch, variable, value, told
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^{variable}.*: .*{told}"):
        make_accelerator(settings(None))


@pytest.mark.parametrize(
    ("variable", "value", "set_to"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", {"grad_accum": 2}),
        ("ACCELERATE_MIXED_PRECISION", "bf16", {"mixed_precision": "no"}),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", {"compile": False}),
        ("ACCELERATE_USE_CPU", "true", {"cpu": False}),
    ],
)
def test_settings_that_are_not_as_the_launch_asks_are_refused(monkeypatch, variable, value, set_to):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^{variable} asks for .*, the settings have "):
        make_accelerator(settings(None, **set_to))


def test_accelerate_neither_divides_losses_nor_compiles(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setattr(processes, "require_compiler", lambda device: None)
    made = make_accelerator(settings(None, grad_accum=4, compile=True))
    assert made.gradient_accumulation_steps == 1
    network = torch.nn.Linear(1, 1)
    assert made.prepare(network) is network


def test_what_accelerate_launch_sets_by_default_is_not_refused(monkeypatch):
    names = ("USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM", "USE_PARALLELISM_CONFIG")
    for name in names:
        monkeypatch.setenv(f"ACCELERATE_{name}", "false")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert make_accelerator(settings(None)).num_processes == 1


@pytest.mark.parametrize(
    "cpu, has_bf16, asked, wanted",
    [
        (False, True, None, "bf16"),
        (False, False, None, "no"),
        (True, True, None, "no"),
        (False, True, "fp16", "fp16"),
    ],
)
def test_precision_on_a_gpu_is_bf16_where_it_has_it(monkeypatch, cpu, has_bf16, asked, wanted):
    asked_of_accelerate = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(
        processes, "Accelerator", lambda **kwargs: asked_of_accelerate.update(kwargs)
    )
    make_accelerator(settings(None, cpu=cpu, mixed_precision=asked))
    found = {name: asked_of_accelerate[name] for name in ("cpu", "mixed_precision")}
    assert found == {"cpu": cpu, "mixed_precision": wanted}
