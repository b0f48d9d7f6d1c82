"""The script as users start it: verbatim, killed and resumed, in two processes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.launch import TORCHRUN

SCRIPT = Path(__file__).resolve().parents[2] / "cavl" / "main.py"
SAMPLE = [str(SCRIPT), "--sample", "--cpu"]
pytestmark = pytest.mark.slow


def start(folder: Path, *command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return out


def final(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["state"]


def test_python_main_py_runs_verbatim_offline(tmp_path):
    """`python main.py` without data: the sample serves and is announced."""
    out = finish(start(tmp_path, str(SCRIPT)))
    assert "offline sample" in out.split("before training")[0]
    assert (
        "cavl (offline sample): test accuracy" in out
        and (tmp_path / "save/mnist_mlp_cavl/summary.json").is_file()
    )


def test_killed_at_any_moment_and_resumed_gives_the_same_numbers(tmp_path):
    flags = [*SAMPLE, "-ep", "12", "--checkpoint_every", "5"]
    finish(start(tmp_path, *flags, "--output_dir", "whole"))
    ends = []
    for _ in range(3):
        process = start(tmp_path, *flags, "--output_dir", "killed", "--resume")
        last, began = tmp_path / "killed/checkpoints/last.pt", time.time()
        before = last.stat().st_mtime_ns if last.is_file() else 0
        while process.poll() is None and time.time() - began < 60:
            time.sleep(0.05)
            if last.is_file() and last.stat().st_mtime_ns != before:
                time.sleep(0.3)
                break
        process.kill()
        process.communicate()
        ends.append(process.returncode)
    assert ends[0] == -signal.SIGKILL
    finish(start(tmp_path, *flags, "--output_dir", "killed", "--resume"))
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (
        tmp_path / "killed/metrics.jsonl"
    ).read_bytes()
    whole, killed = final(tmp_path / "whole"), final(tmp_path / "killed")
    assert torch.equal(whole["labels"]["selected"], killed["labels"]["selected"])
    assert all(torch.equal(whole["model"][k], killed["model"][k]) for k in whole["model"])


@pytest.mark.parametrize("method", ["cavl", "rc"])
def test_two_processes_equal_one_with_the_same_global_batches(tmp_path, method):
    flags = ["-ep", "3", "-method", method, "--max_steps", "50"]
    finish(start(tmp_path, *SAMPLE, *flags, "-bs", "64", "--output_dir", "one"))
    finish(start(tmp_path, *TORCHRUN[1:], *SAMPLE, *flags, "-bs", "32", "--output_dir", "two"))
    one, two = final(tmp_path / "one"), final(tmp_path / "two")
    assert torch.equal(one["labels"]["selected"], two["labels"]["selected"])
    assert torch.allclose(one["labels"]["table"], two["labels"]["table"], atol=1e-4)
    assert all(torch.allclose(one["model"][k], two["model"][k], atol=1e-4) for k in one["model"])
