"""Whole runs: exact resume with the teacher, strategies and switches, the files a run leaves, two
processes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common import checkpoint
from common.cli import NonFiniteError, UserError
from common.images import read_own_picture
from oass import build_objective, explain, inference_classification
from oass import train_classification_with_puzzle_cMax_ema as cmax
from oass import train_classification_with_puzzle_cTopk_w_ema as ctopk_w
from oass import train_classification_with_puzzle_max as puzzle_max
from oass.core.networks import Classifier
from oass.data_transforms import normalise
from oass.data_voc import CLASS_NAMES
from oass.options import parse
from oass.train import train
from tests.equality import same
from tests.launch import TORCHRUN

ROOT = Path(__file__).parents[2]


def assert_same_run(a, b):
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    one, two = (
        torch.load(f / "checkpoints" / "last.pt", weights_only=True)["state"] for f in (a, b)
    )
    assert same(one, two)


def read(folder, name="summary"):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("script", [pytest.param(puzzle_max, marks=pytest.mark.slow), ctopk_w])
def test_stopped_and_resumed_equals_uninterrupted(script, small, tmp_path):
    script.main([*small, "--output_dir", str(tmp_path / "whole")])
    for steps in (["--max_steps", "2"], ["--max_steps", "4", "--resume"], ["--resume"]):
        script.main([*small, "--output_dir", str(tmp_path / "parts"), *steps])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    volatile = ("wall_seconds", "images_per_second")
    one, two = (
        {k: v for k, v in read(tmp_path / f).items() if k not in volatile}
        for f in ("whole", "parts")
    )
    assert one == two and one["steps"] == 6
    has_teacher = (
        "teacher" in torch.load(tmp_path / "whole/checkpoints/last.pt", weights_only=True)["state"]
    )
    assert has_teacher == (script is ctopk_w)


def test_last_only_keeps_one_checkpoint_and_changes_no_number(small, tmp_path):
    puzzle_max.main([*small, "--output_dir", str(tmp_path / "both")])
    puzzle_max.main([*small, "--last_only", "--output_dir", str(tmp_path / "last")])

    assert [path.name for path in (tmp_path / "last/checkpoints").iterdir()] == ["last.pt"]
    assert (tmp_path / "both/checkpoints/best.pt").is_file()
    assert_same_run(tmp_path / "both", tmp_path / "last")


def test_files_and_metrics_of_a_run(small, tmp_path):
    flags = [
        *small,
        "--output_dir",
        str(tmp_path),
        "--pictures",
        "2",
        "--eval_ema",
        "--tag",
        "T",
        "--max_epoch",
        "1",
    ]
    cmax.main(flags)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    train_line = next(line for line in lines if line["split"] == "Train")
    names = {
        "loss",
        "class_loss",
        "p_class_loss",
        "re_loss",
        "conf_loss",
        "learning_rate",
        "dead_cam",
    }
    assert names <= train_line.keys()
    evaluation = next(line for line in lines if line["split"] == "Evaluation")
    assert {
        "map",
        "best map",
        "eval class loss",
        "pointing",
        "map without difficult",
    } <= evaluation.keys()
    assert any(line["split"] == "Evaluation_ema" for line in lines)
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "map.png",
        "loss.png",
        "puzzle_epoch_001.png",
    }
    assert set(read(tmp_path / "data", "T")) == {"train", "validation"}
    assert read(tmp_path)["classes"] <= 20 and len(read(tmp_path)["ap"]) == 20


SWITCHES = [
    ("cMax", "--p_loss student --teacher_bn eval"),
    ("cMax", "--p_loss full --level cam --re_loss L2_Loss --re_loss_option selection"),
    ("cTopk", "--released"),
    ("cTopk", "--loss_option cl_re_conf --re_loss_option none --tile_chunk 3 --teacher_bn batch"),
    ("max", "--released --augment colorjitter_randaugment"),
    ("max", "--loss_option cl"),
    ("uniform", "--clip_grad 0.01"),
    ("none", "--difficult ignore --drop_last_eval"),
    ("none", "--p_loss full --loss_option cl_pcl_re_conf"),
    ("cMax", "--p_loss full --loss_option cl_pcl_conf"),
    ("gap", "--sync_bn --loss_option cl_pcl_re_conf"),
]


@pytest.mark.parametrize(("strategy", "flags"), SWITCHES)
def test_every_switch_runs(strategy, flags, small, tmp_path):
    argv = [*small, "--output_dir", str(tmp_path), "--max_epoch", "1", *flags.split()]
    summary = train(parse(strategy, argv))
    assert summary["steps"] == 3 and 0 <= summary["map"] <= 100


EFFECTS = (
    *(
        "",
        "--level cam",
        "--re_loss L2_Loss",
        "--re_loss_option none",
        "--re_loss_option selection",
    ),
    *("--teacher_bn eval", "--teacher_bn batch", "--p_loss student", "--p_loss full"),
    *(
        "--p_loss student --p_target onehot",
        "--loss_option cl",
        "--alpha_re 0.2",
        "--alpha_schedule_re 0.1",
    ),
    *(
        "--alpha_p 0.3 --p_loss full",
        "--alpha_ema 0.2",
        "--sgd_momentum 0.9",
        "--nesterov false",
        "--wd 0.1",
    ),
    *(
        "--warmup_epoch 3",
        "--augment colorjitter",
        "--lr 0.05",
        "--keypoint_rule released",
        "--clip_grad 0.01",
    ),
)


@pytest.mark.slow
def test_the_switches_change_the_numbers(small, tmp_path):
    """No flag of the method is without effect."""
    found = {}
    for number, flags in enumerate(EFFECTS):
        argv = [
            *small,
            "--output_dir",
            str(tmp_path / str(number)),
            "--max_steps",
            "3",
            "--print_ratio",
            "0.3",
        ]
        cmax.main([*argv, *flags.split()])
        state = torch.load(tmp_path / str(number) / "checkpoints/last.pt", weights_only=True)[
            "state"
        ]
        found[flags] = round(float(sum(v.double().abs().sum() for v in state["model"].values())), 6)
    values = list(found.values())
    assert len(set(values)) == len(values), found


@pytest.mark.parametrize("strategy", ["none", "max", "uniform"])
def test_p_loss_full_changes_every_strategy_that_takes_it(strategy, small, tmp_path):
    for name, flags in (("plain", []), ("full", ["--p_loss", "full"])):
        argv = [
            *small,
            "--output_dir",
            str(tmp_path / name),
            "--max_steps",
            "1",
            "--print_ratio",
            "0.3",
            *flags,
        ]
        train(parse(strategy, argv))
    plain, full = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("plain", "full")
    )
    assert full["p_class_loss"] > 0 and full["p_class_loss"] != plain["p_class_loss"]
    assert full["class_loss"] == plain["class_loss"] and full["loss"] != plain["loss"]


def test_the_first_lines_say_what_differs_from_the_release(small, tmp_path, capsys):
    cmax.main(
        [*small, "--output_dir", str(tmp_path / "a"), "--max_steps", "1", "--sgd_momentum", "0.9"]
    )
    line = next(x for x in capsys.readouterr().out.splitlines() if "differs from the release" in x)
    assert "--keypoint_rule paper" in line and "--sgd_momentum 0.9" in line
    assert "tile_bn_stats" not in line and "p_loss" not in line  # no effect here; as released
    cmax.main([*small, "--output_dir", str(tmp_path / "b"), "--max_steps", "1", "--released"])
    assert "every switch is as released" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_names_images_and_rate(small, tmp_path, monkeypatch):
    real = build_objective.object_aware_losses
    monkeypatch.setattr(
        build_objective,
        "object_aware_losses",
        lambda *a, **k: {**(r := real(*a, **k)), "class_loss": r["class_loss"] * torch.nan},
    )
    with pytest.raises(NonFiniteError, match=r"step 1.*images 2008_.*lr .*lower --lr"):
        cmax.main([*small, "--output_dir", str(tmp_path)])


def test_dead_maps_are_named(small, tmp_path, capsys):
    argv = [
        *small,
        "--output_dir",
        str(tmp_path),
        "--max_epoch",
        "1",
        "--alpha_re",
        "300",
        "--alpha_schedule_re",
        "0",
    ]
    train(parse("max", [*argv, "--lr", "3"]))
    assert "dead maps" in capsys.readouterr().out


def test_resume_with_other_settings_and_batches_too_large(small, tmp_path):
    cmax.main([*small, "--output_dir", str(tmp_path), "--max_steps", "1"])
    with pytest.raises(UserError, match="alpha_re"):
        cmax.main([*small, "--output_dir", str(tmp_path), "--resume", "--alpha_re", "2"])
    with pytest.raises(UserError, match="only 24 training images"):
        cmax.main([*small, "--output_dir", str(tmp_path / "b"), "--batch_size", "25"])


@pytest.mark.slow
def test_inference_uses_a_run(small, devkit, tmp_path, capsys):
    cmax.main([*small, "--output_dir", str(tmp_path / "run"), "--max_epoch", "1"])
    paths = f"--checkpoint {tmp_path / 'run'} --data_dir {devkit}"
    argv = f"{paths} --cpu --num_workers 0 --output_dir".split()
    extra = f"--neighbours --export_instances {tmp_path / 'i.npz'} --flip --scales 1.0,1.5"
    inference_classification.main([*argv, str(tmp_path / "val"), "--cam_iou", *extra.split()])
    summary = read(tmp_path / "val")
    assert {"map", "cam_miou", "neighbour_precision", "pointing"} <= summary.keys()
    assert (tmp_path / "val/predictions.csv").read_text().count("\n") == 11
    assert (tmp_path / "val/figures/neighbours.png").is_file() and (tmp_path / "i.npz").is_file()
    inference_classification.main(
        [*argv, str(tmp_path / "test"), "--domain", "test", "--server_files"]
    )
    written = sorted((tmp_path / "test/results/VOC2012/Main").iterdir())
    assert len(written) == 20 and written[0].name == "comp2_cls_test_aeroplane.txt"
    assert [len(line.split()) for line in written[0].read_text().splitlines()] == [2, 2, 2]
    inference_classification.main([*argv, str(tmp_path / "ema"), "--network", "teacher"])
    assert "no annotations" in capsys.readouterr().out
    evaluation = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()][
        -1
    ]
    inference_classification.main([*argv, str(tmp_path / "again")])
    assert read(tmp_path / "again")["map"] == pytest.approx(evaluation["map"], rel=1e-9)


@pytest.mark.parametrize("scales", ["nan", "0", "-1", "1e9", "x", "0.5,"])
def test_scales_are_read_before_anything_is_scored(scales, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        inference_classification.main(["--checkpoint", str(tmp_path), f"--scales={scales}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "--scales" in error and error.count("\n") == 1


def test_a_gap_checkpoint_is_explained_by_its_pooled_maps_and_read_once(
    small, tmp_path, monkeypatch
):
    argv = [*small, "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    train(parse("gap", argv))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        tmp_path / "my.png"
    )
    paths = f"--image {tmp_path}/my.png --checkpoint {tmp_path}/run"
    argv = f"{paths} --cpu --strategy cTopk --classes".split()
    real, loads = checkpoint.load, []
    monkeypatch.setattr(checkpoint, "load", lambda path: loads.append(path) or real(path))
    explain.main([*argv, *CLASS_NAMES, "--output_dir", str(tmp_path / "explain")])
    assert len(loads) == 1
    line = json.loads((tmp_path / "explain/metrics.jsonl").read_text())
    model = Classifier("resnet_tiny", pretrained=tmp_path / "run/checkpoints/last.pt").eval()
    picture = explain.shown_whole(read_own_picture(tmp_path / "my.png"), 64, "bicubic")
    with torch.no_grad():
        pooled = model(normalise(picture, torch.device("cpu"))).sigmoid()[0]
    assert [line[name] for name in CLASS_NAMES] == pytest.approx(pooled.tolist(), abs=1e-4)


def test_explain_draws_the_puzzle_of_ones_own_picture(small, tmp_path, capsys):
    cmax.main([*small, "--output_dir", str(tmp_path / "run"), "--max_steps", "1"])
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 150, 3), np.uint8)).save(
        tmp_path / "my.png"
    )
    paths = f"--image {tmp_path}/my.png {tmp_path}/my.png --checkpoint {tmp_path}/run"
    argv = f"{paths} --cpu --output_dir".split()
    explain.main([*argv, str(tmp_path / "a"), "--before", str(tmp_path / "run")])
    likeliest = cv2.imread(str(tmp_path / "a/figures/explain.png"))
    explain.main([*argv, str(tmp_path / "b"), "--classes", "dog", "--strategy", "max"])
    named = cv2.imread(str(tmp_path / "b/figures/explain.png"))
    assert likeliest.shape[0] == 3 * named.shape[0] and likeliest.shape[1] * 8 == named.shape[1] * 9
    assert "dog" in capsys.readouterr().out
    with pytest.raises(UserError, match="choose from aeroplane"):
        explain.main([*argv, str(tmp_path / "c"), "--classes", "puppy"])
    with pytest.raises(UserError, match="no.png"):
        explain.main(
            ["--image", f"{tmp_path}/no.png", "--checkpoint", str(tmp_path / "run"), "--cpu"]
        )


@pytest.mark.slow
def test_two_processes_equal_one(small, tmp_path):
    """With batch norm over all processes the losses of a step do not depend on their number."""
    argv = [*small, "--sync_bn", "--max_epoch", "1", "--print_ratio", "0.4"]
    cmax.main([*argv, "--output_dir", str(tmp_path / "one")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = ROOT / "oass" / "train_classification_with_puzzle_cMax_ema.py"
    done = subprocess.run(
        [*TORCHRUN, str(script), *argv, "--output_dir", str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        [json.loads(x) for x in (tmp_path / f / "metrics.jsonl").read_text().splitlines()]
        for f in ("one", "two")
    )
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "class_loss", "re_loss", "map"):
            if key in a and key != "num_pairs":
                assert a[key] == pytest.approx(b[key], rel=5e-3), key


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(small, tmp_path):
    """kill -9 in the middle, then the same command with --resume."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = ROOT / "oass" / "train_classification_with_puzzle_cTopk_ema.py"
    argv = [*small, "--max_epoch", "4", "--checkpoint_every", "1"]
    command = [sys.executable, str(script), *argv, "--output_dir", str(tmp_path / "killed")]
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("step 5/"):
            process.kill()
            break
    assert process.wait() == -signal.SIGKILL
    subprocess.run(
        [*command, "--resume"],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=600,
    )
    subprocess.run(
        [*command[:-1], str(tmp_path / "whole")],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=600,
    )
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_how_long_it_takes_is_told_but_on_the_sample(devkit, small, tmp_path, capsys):
    puzzle_max.main([*small, "--output_dir", str(tmp_path / "a")])
    assert "estimate: 6 steps" in capsys.readouterr().out
    shutil.copytree(devkit, tmp_path / "sample")
    (tmp_path / "sample" / "SAMPLE.json").write_text(json.dumps({"name": "VOC2012", "version": 1}))
    of_sample = ["--data_dir", str(tmp_path / "sample"), "--output_dir", str(tmp_path / "b")]
    puzzle_max.main([*small, *of_sample])
    assert "estimate:" not in capsys.readouterr().out
