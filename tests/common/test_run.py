"""A run directory from start to end: what it holds, exact resume, and what it refuses."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint
from common.cli import UserError, run_main
from common.run import Run, start_run
from common.rundir import make_accelerator
from tests.common.runs import PER_EPOCH, assert_equal_runs, evaluation, state, strict
from tests.common.toy import EPOCHS, SAMPLES, STEPS, settings, train
from tests.equality import same

# --- what a directory holds ---


def test_a_run_leaves_what_the_design_lists(whole):
    for name in (
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    ):
        assert (whole / name).stat().st_size > 0, name
    assert any((whole / "tensorboard").iterdir())
    assert strict((whole / "config.json").read_text())["settings"]["lr"] == 0.1
    assert not [p for p in whole.rglob("*") if p.name.endswith(".part")]


def test_every_metrics_line_has_step_epoch_split_and_null_where_undefined(whole):
    lines = [strict(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    expected = [
        (PER_EPOCH * e, e, split) for e in range(1, EPOCHS + 1) for split in ("train", "test")
    ]
    assert [(line["step"], line["epoch"], line["split"]) for line in lines] == expected
    assert set(lines[0]) == {"step", "epoch", "split", "loss", "nothing", "draw"}
    assert lines[0]["nothing"] is None and math.isfinite(lines[0]["loss"])


def test_the_summary_has_metrics_time_speed_and_null_where_undefined(whole):
    found = strict((whole / "summary.json").read_text())
    assert set(found) == {"accuracy", "undefined", "wall_seconds", "images_per_second"}
    assert found["undefined"] is None
    progress = checkpoint.load(whole / "checkpoints" / "last.pt")["progress"]
    assert found["wall_seconds"] == round(progress["seconds"], 3)
    assert found["images_per_second"] == pytest.approx(SAMPLES * EPOCHS / progress["seconds"])


def test_checkpoints_count_and_best_is_the_first_with_the_highest_score(whole):
    last, best = state(whole), state(whole, "best")
    scores = [line["accuracy"] for line in json.loads(last["metrics"]) if line["split"] == "test"]
    assert last["progress"] == {
        **{"epoch": EPOCHS, "batch": 0, "step": STEPS, "images": SAMPLES * EPOCHS, "skipped": 0},
        **{"best": max(scores), "finished": True},
    }
    assert (
        best["progress"]["epoch"] == scores.index(max(scores)) + 1
        and not best["progress"]["finished"]
    )
    assert set(last["state"]) == {
        "model",
        "teacher",
        "optimizer",
        "scheduler",
        "confidence",
        "mean_loss",
    }


def test_the_location_is_printed_at_the_end(tmp_path, capsys):
    train(settings(tmp_path / "run"))
    assert capsys.readouterr().out.splitlines()[-1] == f"results: {tmp_path / 'run'}"


def test_the_seed_changes_and_fixes_everything(whole, tmp_path):
    train(settings(tmp_path / "again"))
    assert_equal_runs(whole, tmp_path / "again")
    train(settings(tmp_path / "other", seed=1))
    assert not same(state(whole)["state"]["model"], state(tmp_path / "other")["state"]["model"])


def test_figures_have_a_folder(tmp_path):
    run = evaluation(tmp_path / "run")
    assert run.figure("curves") == tmp_path / "run" / "figures" / "curves.png"
    assert (tmp_path / "run" / "figures").is_dir()
    run.close()


def test_evaluation_writes_the_same_kind_of_directory(tmp_path):
    run = evaluation(tmp_path / "run")
    run.log("val", mAP=0.5, empty=float("nan"))
    run.finish(mAP=0.5, empty=float("nan"))
    assert strict((tmp_path / "run" / "metrics.jsonl").read_text())["mAP"] == 0.5
    found = strict((tmp_path / "run" / "summary.json").read_text())
    assert (found["mAP"], found["empty"]) == (0.5, None) and not (
        tmp_path / "run" / "checkpoints"
    ).exists()
    with pytest.raises(UserError, match="holds a run"):
        evaluation(tmp_path / "run")


def test_a_directory_may_be_named_by_another_flag(tmp_path):
    args = settings(None)
    for _ in range(2):
        run = start_run(
            args, tmp_path / "default", make_accelerator(args), named=tmp_path / "experiment"
        )
        assert run.folder == tmp_path / "experiment"
        run.close()
    run.log("val", mAP=0.5)
    run.close()
    with pytest.raises(UserError, match="experiment holds a run"):
        start_run(args, tmp_path / "default", make_accelerator(args), named=tmp_path / "experiment")


def test_a_default_directory_is_numbered_in_the_working_directory(working_directory):
    folders = [train(settings(None, epochs=1)).folder for _ in range(2)]
    assert (
        folders == [Path("toy"), Path("toy-2")]
        and (working_directory / "toy-2" / "summary.json").is_file()
    )


# --- exact resume ---


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_a_run_interrupted_at_any_step_equals_the_uninterrupted_one(whole, tmp_path, at, capsys):
    folder = tmp_path / "run"
    run = train(settings(folder, max_steps=at))
    assert run.stopped and run.progress.step == at
    assert not checkpoint.load(folder / "checkpoints" / "last.pt")["progress"]["finished"]
    capsys.readouterr()
    train(settings(folder, resume="", workers=0))
    epoch, batch = (at - 1) // PER_EPOCH + 1, (at - 1) % PER_EPOCH + 1
    line = f"resumed {folder}/checkpoints/last.pt: epoch {epoch}, batch {batch}, step {at}"
    assert capsys.readouterr().out.splitlines()[0] == line
    assert_equal_runs(whole, folder)


def test_a_run_interrupted_at_every_step_equals_the_uninterrupted_one(whole, tmp_path):
    for step in range(1, STEPS + 1):
        train(settings(tmp_path / "run", max_steps=step, resume=""))
    train(settings(tmp_path / "run", resume=""))
    assert_equal_runs(whole, tmp_path / "run")


def test_workers_do_not_change_a_resumed_run(whole, tmp_path):
    train(settings(tmp_path / "run", max_steps=PER_EPOCH + 1, workers=2))
    train(settings(tmp_path / "run", resume=""))
    assert_equal_runs(whole, tmp_path / "run")


class Killed(BaseException):
    """The process ends here; nothing is tidied up."""


def test_a_kill_right_after_any_save_loses_nothing(whole, tmp_path, monkeypatch):
    """Also between the saves of best.pt and last.pt: no best is lost or forgotten."""
    save, folder, left, kills = checkpoint.save, tmp_path / "run", 0, 0

    def killing(path: Path, saved: dict) -> None:
        nonlocal left
        save(path, saved)
        left -= 1
        if left == 0:
            raise Killed

    for kills in range(20):
        left = kills + 1
        monkeypatch.setattr(checkpoint, "save", killing)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            train(settings(folder, checkpoint_every=5))
        except Killed:
            monkeypatch.setattr(checkpoint, "save", save)
            with (folder / "metrics.jsonl").open("a") as file:
                file.write('{"step": 99, "cut sho')
            train(settings(folder, resume=""))
            assert_equal_runs(whole, folder)
        else:
            break
    assert EPOCHS + 2 <= kills < 19


def test_checkpoint_every_saves_at_those_steps(tmp_path, monkeypatch):
    steps, save = [], Run.save
    monkeypatch.setattr(
        Run, "save", lambda run, path=None: (steps.append(run.progress.step), save(run, path))
    )
    train(settings(tmp_path / "a", checkpoint_every=3))
    assert {3, 6, 9} <= set(steps)
    steps.clear()
    train(settings(tmp_path / "b"))
    assert set(steps) == {PER_EPOCH * e for e in range(1, EPOCHS + 1)}


def test_resume_into_another_folder_keeps_the_old_run_and_takes_the_best(whole, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    train(settings(old, max_steps=STEPS - 1))
    before = {p: p.read_bytes() for p in old.rglob("*") if p.is_file()}
    train(settings(new, resume=str(old)))
    assert_equal_runs(whole, new)
    assert {p: p.read_bytes() for p in old.rglob("*") if p.is_file()} == before


def test_resume_without_a_checkpoint_says_so_and_equals_a_new_run(whole, tmp_path, capsys):
    train(settings(tmp_path / "run", resume=""))
    assert capsys.readouterr().out.startswith(
        f"--resume: no checkpoint in {tmp_path / 'run'}; starting anew\n"
    )
    assert_equal_runs(whole, tmp_path / "run")


def test_resume_from_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(UserError, match="gone.pt: no checkpoint there"):
        train(settings(tmp_path / "run", resume=str(tmp_path / "gone.pt")))
    assert not (tmp_path / "run").exists()


def test_other_settings_are_named_and_change_nothing(finished):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(UserError) as caught:
        train(settings(finished, resume="", lr=0.2, seed=3))
    told = "--resume: other settings than the run was started with: "
    told += "lr 0.1 then, 0.2 now, seed 0 then, 3 now"
    assert str(caught.value) == told
    with pytest.raises(UserError, match="added None then, 1 now"):
        train(settings(finished, resume="", added=1))
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_free_settings_may_differ(whole, tmp_path):
    train(settings(tmp_path / "run", max_steps=2, print_freq=10, device="cpu", num_workers=3))
    args = settings(
        tmp_path / "run", resume=str(tmp_path / "run"), max_steps=900, checkpoint_every=2
    )
    train(args)
    assert_equal_runs(whole, tmp_path / "run")
    launches = strict((tmp_path / "run" / "config.json").read_text())["launches"]
    assert len(launches) == 2


@pytest.mark.parametrize("content", ["weights", "list"])
def test_a_checkpoint_of_something_else_is_an_error(tmp_path, content):
    path = tmp_path / "official.pth"
    torch.save({"a": torch.ones(1)} if content == "weights" else [1], path)
    with pytest.raises(
        UserError,
        match="official.pth: not a checkpoint of a run; --resume wants checkpoints/last.pt",
    ):
        train(settings(tmp_path / "run", resume=str(path)))


@pytest.mark.parametrize(
    "damage",
    [
        {"state": None},
        {"metrics": "none"},
        {"random": []},
        {"random": [{"python": 1}]},
        {"settings": []},
        {"progress": {"epochs": 1}},
    ],
)
def test_a_damaged_checkpoint_is_one_line_that_names_it(finished, damage):
    path = finished / "checkpoints" / "last.pt"
    torch.save({**checkpoint.load(path), **damage}, path)
    with pytest.raises(UserError, match=r"last\.pt: not a (whole )?checkpoint of a run"):
        train(settings(finished, resume=""))


def damaged(folder: Path, change) -> Path:
    """The run in `folder` with a changed last.pt."""
    path = folder / "checkpoints" / "last.pt"
    saved = checkpoint.load(path)
    change(saved)
    torch.save(saved, path)
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("epoch", "x"),
            ("epoch", -1),
            ("epoch", 1.5),
            ("epoch", None),
            ("epoch", True),
            ("epoch", 2**70),
        ),
        *(
            ("batch", "x"),
            ("batch", -1),
            ("batch", 10**6),
            ("step", "x"),
            ("step", -3),
            ("images", [1]),
        ),
        *(("skipped", {}), ("seconds", "long"), ("seconds", float("nan")), ("seconds", -1.0)),
        *(("best", "x"), ("best", [0.5]), ("finished", "no"), ("finished", 1)),
    ],
)
def test_a_value_that_cannot_be_is_named_before_anything_is_changed(finished, name, value):
    path = damaged(finished, lambda saved: saved["progress"].update({name: value}))
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(
        UserError, match=rf"last\.pt: not a whole checkpoint of a run \({name} is "
    ) as caught:
        train(settings(finished, resume=""))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_a_value_that_is_missing_is_named(finished):
    damaged(finished, lambda saved: saved["progress"].pop("epoch"))
    with pytest.raises(UserError, match=r"not a whole checkpoint of a run \(progress: epoch\)"):
        train(settings(finished, resume=""))


@pytest.mark.parametrize("is_finished", [True, False])
def test_an_epoch_behind_the_last_is_an_error(finished, is_finished):
    damaged(finished, lambda saved: saved["progress"].update(epoch=99, finished=is_finished))
    told = (
        rf"last\.pt: not a whole checkpoint of a run \(99 epochs are done, the run has {EPOCHS}\)"
    )
    with pytest.raises(UserError, match=told):
        train(settings(finished, resume=""))


def test_a_batch_behind_the_last_is_an_error(finished):
    damaged(
        finished,
        lambda saved: saved["progress"].update(epoch=1, batch=PER_EPOCH + 1, finished=False),
    )
    problem = f"{PER_EPOCH + 1} batches are done, the epoch has {PER_EPOCH}"
    told = rf"last\.pt: not a whole checkpoint of a run \({problem}\)"
    with pytest.raises(UserError, match=told):
        train(settings(finished, resume=""))


@pytest.mark.parametrize(
    "line",
    [
        *(
            "text",
            None,
            ["split", "test"],
            {"split": "test"},
            {"step": 1, "epoch": 1, "split": None},
        ),
        *({"step": "x", "epoch": 1, "split": "test"}, {"step": 1, "epoch": -1, "split": "test"}),
        {"step": 1, "epoch": 1, "split": "test", "accuracy": torch.ones(1)},
        {"step": 1, "epoch": 1, "split": "test", "accuracy": float("nan")},
    ],
)
def test_a_line_of_metrics_that_cannot_be_is_named(finished, line):
    def insert(saved: dict) -> None:
        lines = json.loads(saved["metrics"])
        saved["metrics"] = [*lines[:2], line, *lines[2:]]  # a list, as earlier checkpoints hold it

    damaged(finished, insert)
    with pytest.raises(
        UserError, match=r"last\.pt: not a whole checkpoint of a run \(line 3 of the metrics is "
    ):
        train(settings(finished, resume=""))


def test_a_setting_that_cannot_be_compared_is_another_one(finished):
    damaged(finished, lambda saved: saved["settings"].update(lr=torch.ones(2)))
    with pytest.raises(UserError, match="other settings than the run was started with: lr tensor"):
        train(settings(finished, resume=""))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda state: state["optimizer"]["param_groups"][0].update(lr="x"),
            "optimizer param_groups 0 lr is 'x'",
        ),
        (
            lambda state: state["optimizer"].update(state=[]),
            r"optimizer state is \[\], expected named values",
        ),
        (
            lambda state: state["optimizer"].update(param_groups=7),
            "optimizer param_groups is 7, expected a list",
        ),
        (
            lambda state: state["scheduler"].update(last_epoch="x"),
            "scheduler last_epoch is 'x', expected a number",
        ),
        (
            lambda state: state.update(mean_loss={"sums": 3}),
            "mean_loss sums is 3, expected a tensor",
        ),
        (lambda state: state.update(mean_loss=[]), r"mean_loss is \[\], expected named values"),
        (lambda state: state.update(mean_loss={}), "mean_loss does not fit"),
        (
            lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.ones(2)),
            r"optimizer momentum_buffer is \(2,\), expected \(8, 4\)",
        ),
    ],
)
def test_a_state_of_another_kind_is_an_error_and_not_a_failing_step(finished, change, told):
    damaged(finished, lambda saved: change(saved["state"]))
    with pytest.raises(UserError, match=rf"last\.pt: {told}"):
        train(settings(finished, resume=""))


@pytest.mark.parametrize("score", [float("nan"), None])
def test_an_undefined_score_is_never_the_best(tmp_path, score):
    run = evaluation(tmp_path / "run")
    run.restore(model=torch.nn.Linear(1, 1))
    for value in (score, 0.25, score, 0.5):
        run.end_epoch(score=value)
    assert run.progress.best == 0.5 and state(tmp_path / "run", "best")["progress"]["epoch"] == 4
    run.close()


def test_an_undefined_best_of_an_older_run_is_forgotten(finished):
    damaged(finished, lambda saved: saved["progress"].update(best=float("nan")))
    assert train(settings(finished, resume="")).progress.best is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"accuracy": 0.', b"\xff\xfe\x00"])
def test_a_damaged_summary_of_a_finished_run_is_written_again(whole, finished, content, capsys):
    (finished / "summary.json").write_bytes(content)
    train(settings(finished, resume=""))
    assert "its missing summary.json is written" in capsys.readouterr().out
    assert_equal_runs(whole, finished)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe{}",
        b"[]",
        b"7",
        b'{"launches": null}',
        b'{"launches": "ab"}',
        b'{"launches": [1]}',
        b"{",
        b"[" * 10**5,
    ],
)
def test_a_damaged_config_does_not_block_resuming(whole, tmp_path, content, capsys):
    folder = tmp_path / "run"
    train(settings(folder, max_steps=2))
    (folder / "config.json").write_bytes(content)
    train(settings(folder, resume=""))
    assert_equal_runs(whole, folder)
    assert f"{folder}/config.json: damaged; it is written anew" in capsys.readouterr().out
    config = strict((folder / "config.json").read_text())
    assert len(config["launches"]) == 1 and config["settings"]["lr"] == 0.1


def test_numpy_values_beside_the_weights_do_not_stop_a_resume(whole, tmp_path):
    folder = tmp_path / "run"
    train(settings(folder, max_steps=5))
    damaged(folder, lambda saved: saved.update(extra=np.float64(0.5)))
    train(settings(folder, resume=""))
    assert_equal_runs(whole, folder)


@pytest.mark.parametrize(
    "damage, told",
    [
        (torch.ones(15, 3, dtype=torch.float64), "torch.float64, expected torch.float32"),
        (torch.ones(15), r"\(15,\)"),
    ],
)
def test_label_state_of_another_kind_is_an_error(finished, damage, told):
    path = finished / "checkpoints" / "last.pt"
    saved = checkpoint.load(path)
    saved["state"]["confidence"] = damage
    torch.save(saved, path)
    with pytest.raises(UserError, match=rf"last\.pt: confidence is {told}"):
        train(settings(finished, resume=""))


def test_a_finished_run_stands_and_writes_a_missing_summary(whole, finished, capsys):
    before = (finished / "summary.json").read_bytes()
    for text in ("its summary.json stands", "its missing summary.json is written"):
        with pytest.raises(SystemExit) as caught:
            run_main(lambda: train(settings(finished, resume="")) and 0)
        assert not caught.value.code
        assert f"{finished}: this run was finished already; {text}" in capsys.readouterr().out
        assert (finished / "summary.json").read_bytes() == before
        assert_equal_runs(whole, finished)
        (finished / "summary.json").unlink()


def test_a_named_run_is_refused_and_overwrite_starts_over(whole, finished):
    with pytest.raises(
        UserError, match="holds a run; go on with --resume, start over with --overwrite"
    ):
        train(settings(finished))
    assert_equal_runs(whole, finished)
    train(settings(finished, overwrite=True, max_steps=1))
    assert_equal_runs(whole, finished.with_name("finished.old-1"))
    assert state(finished)["progress"]["step"] == 1


def test_a_run_directory_in_use_is_refused(tmp_path, in_child):
    from common.rundir import lock

    assert in_child(lock, tmp_path / "run", stay=True)
    for changed in ({}, {"resume": ""}, {"overwrite": True}):
        with pytest.raises(UserError, match="another process is writing there"):
            train(settings(tmp_path / "run", **changed))


def test_a_run_goes_on_from_a_checkpoint_of_an_earlier_form(tmp_path):
    """Metrics as a list, random words as lists: the numbers are those of a run in one piece."""
    whole = tmp_path / "whole"
    train(settings(whole))
    folder = tmp_path / "run"
    train(settings(folder, max_steps=3))

    def as_before(saved: dict) -> None:
        saved["metrics"] = json.loads(saved["metrics"])
        for generators in saved["random"]:
            version, words, spare = generators["python"]
            generators["python"] = (version, tuple(words.tolist()), spare)
            name, keys, *rest = generators["numpy"]
            generators["numpy"] = [name, keys.tolist(), *rest]

    damaged(folder, as_before)
    train(settings(folder, resume=""))
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
