"""The deviations of the README's table that no other test of oass holds."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from oass import train_classification_with_puzzle_cMax_ema as cmax
from oass.build import build_optimizer, build_student, build_teacher
from oass.core.keypoints import detect_keypoints, scaled_distances
from oass.core.losses import re_loss_weight
from oass.options import parse
from oass.options_check import RELEASED
from oass.tools.ai.optim_utils import PolyOptimizer, update_ema_variables

ROOT = Path(__file__).parents[2]


def test_the_readme_explains_every_switch_of_released():
    readme = (ROOT / "oass" / "README.md").read_text()
    section = readme.partition("## Deviations")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|", section, re.M)
    named = {word.strip() for row in rows for word in re.split("[,:]", row)}
    assert set(RELEASED) <= named
    assert len(rows) == 26  # 24 deviations, the heads and the line under them


@pytest.mark.slow
def test_the_four_scripts_import_without_scikit_image():
    scripts = (
        f"oass.train_classification_with_puzzle_{n}"
        for n in ("max", "cMax_ema", "cTopk_ema", "cTopk_w_ema")
    )
    names = ", ".join(scripts)
    code = f"import sys; sys.modules['skimage'] = sys.modules['imageio'] = None; import {names}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_size_follows_from_the_image():
    assert scaled_distances(512) == (20, 128) and scaled_distances(64) == (2, 16)


def test_the_momentum_is_printed_and_few_steps_are_enough(small, tmp_path, capsys):
    cmax.main(
        [*small, "--output_dir", str(tmp_path), "--max_epoch", "1", "--print_ratio", "0.1"]
    )  # 0.3 steps a line
    out = capsys.readouterr().out
    assert "SGD's momentum is 0.0001 as released" in out and out.count("step ") == 3


def test_an_object_cut_by_the_border_has_no_peak_unless_asked():
    cams = torch.zeros(1, 1, 16, 16)
    cams[0, 0, 8, 0] = (
        0.9  # its peak lies 8 pixels from the left border at 256 pixels, min_distance is 10
    )
    labels = torch.ones(1, 1)
    kept = detect_keypoints(cams, labels, "cTopk", 256).keypoints
    asked = detect_keypoints(cams, labels, "cTopk", 256, exclude_border=False).keypoints
    assert kept.tolist() == [[128, 128]] and asked[0, 1] == 16 and abs(int(asked[0, 0]) - 136) < 10


def test_schedule_zero_and_steps_past_the_end():
    assert re_loss_weight(3.0, 0.0, 0, 10) == 3.0
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = PolyOptimizer([weight], 0.1, 1e-4, 0, 2)
    for _ in range(4):
        weight.grad = torch.ones(2)
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize(("flags", "steps"), [("", 10), ("--released", 661)])
def test_warm_up_counts_true_steps(flags, steps, devkit):
    argv = f"--data_dir {devkit} --architecture resnet_tiny --weights none --warmup_epoch 3"
    settings = parse("cMax", f"{argv} {flags}".split())
    assert build_optimizer(settings, build_student(settings), 10).steps_per_epoch == steps


def test_the_teacher_starts_as_a_copy_and_is_averaged_without_warnings(devkit):
    settings = parse(
        "cMax", f"--data_dir {devkit} --architecture resnet_tiny --weights none".split()
    )
    student = build_student(settings)
    teacher = build_teacher(student)
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True)
    )
    assert teacher.training and not any(p.requires_grad for p in teacher.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        update_ema_variables(student, teacher, 0.99, 5)
