"""Several processes, and a kill in the middle of a step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from csl import train, validate
from csl.src.models.utils.checkpoint import averaged_state
from tests.csl.test_train import assert_same_run
from tests.csl.tiny import arguments, write_coco
from tests.launch import TORCHRUN

CSL = Path(train.__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CSL.parent)}
SELECTIVE = ("--partial_loss_mode", "selective")


@pytest.mark.slow
def test_resume_after_kill_9_is_exact(tmp_path):
    data = write_coco(tmp_path / "data")
    train.main(arguments(data, tmp_path / "whole", *SELECTIVE))
    flags = arguments(data, tmp_path / "killed", *SELECTIVE, "--checkpoint_every", "1")
    process = subprocess.Popen(
        [sys.executable, "train.py", *flags], cwd=CSL, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    last = tmp_path / "killed" / "checkpoints" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL and last.is_file()
    train.main([*flags, "--resume"])
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_train_one_model_and_score_each_sample_once(tmp_path):
    data = write_coco(tmp_path / "data")

    def run_two(script, *flags):
        subprocess.run(
            [*TORCHRUN, script, *flags],
            cwd=CSL,
            env=ENVIRONMENT,
            check=True,
            capture_output=True,
            timeout=600,
        )

    flags = arguments(data, tmp_path / "two", *SELECTIVE)
    at = flags.index("--batch_size")
    flags[at + 1] = "4"  # of each process
    run_two("train.py", *flags)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["epochs"] == 2 and summary["dropped_share"] > 0
    saved = torch.load(tmp_path / "two" / "checkpoints" / "last.pt", weights_only=True)
    assert saved["progress"]["images"] == 2 * 44
    assert saved["state"]["prior"]["train"][-1] == 44  # every process's rows, the last epoch
    # the counts of the drops are those of the labels: every un-annotated entry was seen once
    rows = [
        line.split(",") for line in (tmp_path / "two" / "per_class.csv").read_text().splitlines()
    ]
    unannotated = sum(int(row[rows[0].index("unannotated")]) for row in rows[1:])
    annotated = sum(
        int(r[rows[0].index(f"annotated_{k}")])
        for r in rows[1:]
        for k in ("positives", "negatives")
    )
    assert unannotated + annotated == 44 * 5

    weights = str(tmp_path / "two" / "checkpoints" / "best_ema.pth")
    scoring = [
        "--data",
        str(data),
        "--image_size",
        "32",
        "--workers",
        "0",
        "--cpu",
        "-b",
        "3",
        "--model_path",
        weights,
    ]
    run_two("validate.py", *scoring, "--output_dir", str(tmp_path / "v2"))
    one = validate.validate(validate.parse([*scoring, "--output_dir", str(tmp_path / "v1")]))
    two = json.loads((tmp_path / "v2" / "summary.json").read_text())
    assert two["images"] == one["images"] == 13
    assert {k: two[k] for k in one} == pytest.approx(one, abs=1e-9)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    """A network without batch norm: the same weights and prior from 2 x 4 images a step as from
    8."""
    data = write_coco(tmp_path / "data")
    changed = (
        "--partial_loss_mode",
        "negative",
        "--model_name",
        "timm/test_vit",
        "--image_size",
        "160",
    )
    flags = [*changed, "--lr", "1e-3", "--max_steps", "4", "--augment", "none"]
    train.main(arguments(data, tmp_path / "one", *flags))
    two = arguments(data, tmp_path / "two", *flags)
    two[two.index("--batch_size") + 1] = "4"  # of each process
    subprocess.run(
        [*TORCHRUN, "train.py", *two],
        cwd=CSL,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        timeout=600,
    )
    a, b = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["state"]
        for name in ("one", "two")
    )
    assert a["prior"]["train"][-1] == b["prior"]["train"][-1] == 32
    torch.testing.assert_close(a["prior"]["train"], b["prior"]["train"], rtol=1e-5, atol=0)
    for part in (lambda s: s["model"], lambda s: averaged_state(s["ema"])):
        for name, value in part(a).items():
            if name.endswith(
                "qkv.bias"
            ):  # the keys' bias has gradient 0: Adam makes a step of its rounding
                continue
            torch.testing.assert_close(part(b)[name], value, rtol=0, atol=1e-5, msg=name)
