"""`python main.py`, in process: what a run leaves, every switch, exact resume, folders."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from calm import main as entry
from calm import training
from calm.build import build_optimizer, low_rate_names
from calm.build_checkpoint import read_checkpoint
from common.cli import UserError
from tests.calm.conftest import TRAIN
from tests.calm.training_runs import prepared, state, train
from tests.equality import same
from tests.launch import TORCHRUN

SCRIPT = Path(entry.__file__)


def test_a_run_leaves_what_design_lists(save_root: Path) -> None:
    folder = save_root / "em"
    for name in (
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints/best.pt",
        "figures/accuracy.png",
        "figures/maps.png",
        "last_checkpoint.pth.tar",
        "reports/2_test.json",
        "log.json",
    ):
        assert (folder / name).is_file(), name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train", "val", "train", "val", "test"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test_accuracy"] == lines[-1]["accuracy"] and summary["images_per_second"] > 0
    ours, settings = read_checkpoint(folder / "checkpoints" / "last.pt")
    theirs, _ = read_checkpoint(folder / "last_checkpoint.pth.tar")
    assert same(ours, theirs) and settings["prior_activation"] == "softplus"


@pytest.fixture(scope="module")
def plain(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("plain") / "r"
    train(birds, folder)
    return {"folder": folder, "model": state(folder)["state"]["model"]}


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "1"],
        ["--attribution_method", "CAM"],
        ["--attribution_method", "CALM_ML", "--prior_gradient", "detach"],
        ["--prior_activation", "relu"],
        ["--prior_gradient", "detach"],
        ["--em_teacher", "ema"],
        ["--lr", "0.01"],
        ["--lr_decay_frequency", "1"],
        ["--lr_classifier_ratio", "3"],
        ["--param_groups", "clean", "--lr_classifier_ratio", "3"],
        ["--momentum", "0"],
        ["--weight_decay", "0.1"],
        ["--batch_size", "32"],
        ["--crop_size", "32"],
        ["--resize_size", "80"],
    ],
    ids=" ".join,
)
def test_each_switch_changes_the_outcome(
    birds: Path, tmp_path: Path, plain: dict, flags: list[str]
) -> None:
    train(birds, tmp_path / "r", *flags)
    after = state(tmp_path / "r")["state"]["model"]
    assert not same(after, plain["model"])
    assert all(v.isfinite().all() for v in after.values() if v.is_floating_point())


def test_bf16(birds: Path, tmp_path: Path, plain: dict) -> None:
    AcceleratorState._reset_state(True)  # one precision a process
    try:
        train(birds, tmp_path / "r", "--mixed_precision", "bf16", "--epochs", "1")
    finally:
        AcceleratorState._reset_state(True)
    after = state(tmp_path / "r")["state"]["model"]
    assert not same(after, plain["model"]) and after["conv_last.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    "flags", [["--workers", "2"], ["--cache_images=False"], ["--logger_type", "tensorboard"]]
)
def test_these_change_nothing(birds: Path, tmp_path: Path, plain: dict, flags: list[str]) -> None:
    train(birds, tmp_path / "r", *flags)
    assert same(state(tmp_path / "r")["state"]["model"], plain["model"])


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("teacher", ["none", "ema"])
def test_resume_is_exact(
    birds: Path, tmp_path: Path, plain: dict, steps: int, teacher: str
) -> None:
    flags = ["--em_teacher", teacher]
    if teacher == "ema":
        if steps != 2:
            return
        train(birds, tmp_path / "whole", *flags)
    whole = plain["folder"] if teacher == "none" else tmp_path / "whole"
    train(birds, tmp_path / "r", *flags, "--max_steps", str(steps))
    train(birds, tmp_path / "r", *flags, "--resume")
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert same(state(tmp_path / "r")["state"], state(whole)["state"])
    for name in ("test_accuracy", "test_nll", "best_val"):
        assert (
            json.loads((tmp_path / "r/summary.json").read_text())[name]
            == json.loads((whole / "summary.json").read_text())[name]
        )


@pytest.mark.slow
def test_a_signal_in_evaluation_resumes_exactly(
    birds: Path, tmp_path: Path, plain: dict, monkeypatch
) -> None:
    real, calls = training.classify, []

    def classify(*args: object):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from real(*args)

    monkeypatch.setattr(training, "classify", classify)
    with pytest.raises(SystemExit) as stop:
        train(birds, tmp_path / "r")
    assert stop.value.code == 143
    train(birds, tmp_path / "r", "--resume")
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == (
        plain["folder"] / "metrics.jsonl"
    ).read_bytes()
    assert same(state(tmp_path / "r")["state"], state(plain["folder"])["state"])


@pytest.mark.slow
def test_kill_9_and_resume(birds: Path, tmp_path: Path, plain: dict) -> None:
    """The process dies right after a save in the middle of epoch 2; the same command with --resume
    goes on.
    """
    flags = [
        *TRAIN,
        "--data_root",
        str(birds),
        "--output_dir",
        str(tmp_path / "r"),
        "--checkpoint_every",
        "1",
    ]
    code = (
        "import os, signal, sys; from common.run import Run; from calm import main\n"
        "save = Run.save\n"
        "def dying(self, path=None):\n save(self, path)\n"
        " if self.progress.step == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Run.save = dying; main.main(sys.argv[1:])"
    )
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # as many as in this process: sums depend on it
    dead = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, timeout=300, env=environment
    )
    assert dead.returncode == -signal.SIGKILL
    train(birds, tmp_path / "r", "--resume")
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == (
        plain["folder"] / "metrics.jsonl"
    ).read_bytes()
    assert same(state(tmp_path / "r")["state"], state(plain["folder"])["state"])


def test_folders_and_resume_errors(birds: Path, save_root: Path, tmp_path: Path) -> None:
    flags = [*TRAIN, "--data_root", str(birds), "--save_root", str(save_root)]
    with pytest.raises(UserError, match="holds a run"):
        entry.main([*flags, "--experiment_name=em/"])
    with pytest.raises(UserError, match="lr 0.05 then, 0.02 now"):
        entry.main([*flags, "--experiment_name=em", "--resume", "--lr", "0.02"])
    with pytest.raises(UserError, match="no checkpoint there"):
        entry.main([*flags, "--experiment_name=other", "--resume", str(tmp_path / "none.pt")])
    before = (save_root / "em" / "summary.json").read_bytes()
    entry.main([*flags, "--experiment_name=em", "--resume"])
    assert (save_root / "em" / "summary.json").read_bytes() == before
    (save_root / "em" / "summary.json").unlink()  # as after a kill right before it
    entry.main([*flags, "--experiment_name=em", "--resume"])
    assert (save_root / "em" / "summary.json").read_bytes() == before


def test_override_cache_moves_the_old_run_aside(birds: Path, tmp_path: Path) -> None:
    flags = [
        *TRAIN,
        "--data_root",
        str(birds),
        "--save_root",
        str(tmp_path),
        "--experiment_name=a",
        "--max_steps",
        "1",
    ]
    entry.main(flags)
    entry.main([*flags, "--override_cache=True"])
    assert (tmp_path / "a.old-1" / "checkpoints" / "last.pt").is_file()


def test_start_from_a_checkpoint_and_evaluate_only(
    birds: Path, save_root: Path, tmp_path: Path, capsys
) -> None:
    flags = [
        "--cpu",
        "--data_root",
        str(birds),
        "--save_root",
        str(save_root),
        "--attribution_method=CALM_EM",
        "--use_load_checkpoint=True",
        "--load_checkpoint=em/",
        "--epochs",
        "2",
        "--crop_size",
        "64",
    ]
    entry.main([*flags, "--is_train=False"])
    out = capsys.readouterr().out
    accuracy = json.loads((save_root / "em" / "summary.json").read_text())["test_accuracy"]
    assert f"test accuracy {accuracy:.2f} %" in out
    assert not list((save_root / "result").rglob("*.pth.tar"))
    entry.main([*flags, "--output_dir", str(tmp_path / "r"), "--max_steps", "1", "--lr", "1e-9"])
    first = state(save_root / "em")["state"]["model"]["conv_last.weight"]
    assert torch.allclose(
        state(tmp_path / "r")["state"]["model"]["conv_last.weight"], first, atol=1e-6
    )


def test_evaluation_takes_the_experiments_own_checkpoint_or_fails(
    birds: Path, save_root: Path, capsys
) -> None:
    flags = [
        "--cpu",
        "--data_root",
        str(birds),
        "--save_root",
        str(save_root),
        "--attribution_method=CALM_EM",
        "--crop_size",
        "64",
        "--is_train=False",
    ]
    before = (save_root / "em" / "last_checkpoint.pth.tar").stat().st_mtime_ns
    for named in (["--experiment_name=em"], ["--output_dir", str(save_root / "em")]):
        entry.main([*flags, *named])
        accuracy = json.loads((save_root / "em" / "summary.json").read_text())["test_accuracy"]
        out = capsys.readouterr().out
        assert (
            f"test accuracy {accuracy:.2f} %" in out
            and f"results: {save_root}/em/main_evaluate" in out
        )
    assert (save_root / "em" / "last_checkpoint.pth.tar").stat().st_mtime_ns == before
    assert not list((save_root / "em").glob("main_evaluate*/*.pth.tar"))
    with pytest.raises(
        UserError, match=f"tried {save_root}/nothing, {save_root}/nothing/checkpoints/last.pt"
    ):
        entry.main([*flags, "--experiment_name=nothing"])


def test_learning_rates_and_groups(birds: Path, save_root: Path) -> None:
    names = [
        "conv1.weight",
        "bn1.weight",
        "layer3.0.conv1.weight",
        "layer4.0.conv1.weight",
        "layer4.0.conv2.weight",
        "conv_last.weight",
        "attention.0.bias",
    ]
    args = prepared(["--data_root", str(birds), "--architecture", "resnet50"])[0].args
    assert low_rate_names(args, names) == {names[0], names[2], names[3]}
    args.is_different_checkpoint = True
    assert low_rate_names(args, names) == set(names[:5])
    args.param_groups = "clean"
    assert low_rate_names(args, names) == set(names[:5])
    args.architecture, args.param_groups, args.is_different_checkpoint = "vgg16", "released", False
    assert low_rate_names(args, ["features.0.weight", "conv6.weight", "bn6.bias"]) == {
        "features.0.weight"
    }
    args.architecture = "inception_v3"
    assert low_rate_names(args, ["Mixed_5b.x", "Conv2d_4a_3x3.x", "A3_1b.0.weight"]) == {
        "Mixed_5b.x",
        "Conv2d_4a_3x3.x",
    }
    trainer = entry.Trainer.__new__(entry.Trainer)
    given = ["--data_root", str(birds), "--lr", "0.1", "--lr_decay_frequency", "30"]
    trainer.args = prepared([*given, "--lr_classifier_ratio", "10"])[0].args
    from calm import network

    trainer.optimizer = build_optimizer(trainer.args, network.small(num_classes=2))
    rates = {}
    for epoch in (1, 29, 30, 59, 60):
        trainer.adjust_learning_rate(epoch)
        rates[epoch] = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates[29] == rates[1] == [0.1, 1.0]
    assert rates[30] == rates[59] == pytest.approx([0.01, 0.1]) and rates[60] == pytest.approx(
        [0.001, 0.01]
    )


@pytest.mark.slow
def test_two_processes_train_and_resume_exactly(birds: Path, tmp_path: Path) -> None:
    command = [*TORCHRUN, str(SCRIPT), *TRAIN]

    def launch(folder: str, *flags: str) -> None:
        done = subprocess.run(
            [*command, "--data_root", str(birds), "--output_dir", str(tmp_path / folder), *flags],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]

    launch("whole")
    launch("r", "--max_steps", "2")
    launch("r", "--resume")
    assert (tmp_path / "r/metrics.jsonl").read_bytes() == (
        tmp_path / "whole/metrics.jsonl"
    ).read_bytes()
    assert same(state(tmp_path / "r")["state"], state(tmp_path / "whole")["state"])
    lines = [
        json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    ]
    assert lines[-1]["split"] == "test" and (lines[-1]["accuracy"] * 18 / 100) % 1 == pytest.approx(
        0, abs=1e-9
    )
