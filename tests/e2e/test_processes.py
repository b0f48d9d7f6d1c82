"""One process and two at the same global batch, in all five papers: the same weights.

So it is with synchronised batch norm. Without it each process normalises by its own images, and
this is the only difference: nothing else is switched on here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.cluster import ROOT
from tests.launch import TORCHRUN

STEPS = "4"
# The script and its flags; the batch size of one process and of each of two; what of the saved
# state is compared.
PAPERS = {
    # A network without dropout; Adam would make whole steps of the rounding where a gradient is 0.
    "cavl": ("main.py -mo resnet -depth 8 -op sgd -lr 1e-4", "-bs", (16, 8), ("model",)),
    "oass": (
        "train_classification_with_puzzle_cTopk_w_ema.py --num_workers 0",
        "--batch_size",
        (8, 8),  # of all processes together
        ("model", "teacher"),
    ),
    # At the samples' rates, of calm and mile, four steps make 1e-2 of rounding's 1e-6.
    "calm": (
        "main.py --attribution_method CALM_EM --lr 1e-4 --workers 0",
        "--batch_size",
        (16, 8),
        ("model",),
    ),
    "csl": (
        "train.py --partial_loss_mode=selective --likelihood_topk 3 --workers 0",
        "-b",
        (16, 8),
        ("model",),
    ),
    "mile": (
        "MILe.py --dataset mnist --lr 1e-4 --num_workers 0",
        "--batch_size",
        (16, 16),
        ("learner",),
    ),
}
ALWAYS_SYNCHRONISED = "mile"


def trained(paper: str, folder: Path, processes: int, *more: str) -> dict[str, torch.Tensor]:
    """The floating tensors of networks after some steps, by name; the counters are left out."""
    words, flag, sizes, parts = PAPERS[paper]
    launcher = [sys.executable] if processes == 1 else TORCHRUN
    own = [flag, str(sizes[processes - 1]), "--max_steps", STEPS, "--output_dir", str(folder)]
    command = [*launcher, *words.split(), "--sample", "--cpu", *own, *more]
    done = subprocess.run(
        command, cwd=ROOT / paper, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["state"]
    found = {}
    for part in parts:
        for name, value in state[part].items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                found[f"{part}.{name}"] = value
    return found


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest difference of a tensor's entries, each tensor against its own largest entry."""
    assert one.keys() == two.keys()
    parts = []
    for name, value in one.items():
        scale = value.abs().max().clamp_min(1e-3)
        parts.append(((two[name] - value).abs().max() / scale).item())
    return max(parts)


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_two_processes_train_as_one_where_batch_norm_is_synchronised(tmp_path, paper):
    one = trained(paper, tmp_path / "one", 1)
    flag = [] if paper == ALWAYS_SYNCHRONISED else ["--sync_bn"]
    two = trained(paper, tmp_path / "two", 2, *flag)
    together = distance(one, two)
    print(f"{paper}: {together:.2g} with synchronised batch norm")
    assert together < 2e-3
    if flag:
        apart = distance(one, trained(paper, tmp_path / "plain", 2))
        print(f"{paper}: {apart:.2g} with each process's own")
        assert apart > 10 * together


@pytest.mark.slow
def test_torchrun_trains_together_where_there_is_no_gpu(tmp_path):
    """Without --cpu: two processes then, and not twice one."""
    run = tmp_path / "run"
    command = [*TORCHRUN, *"main.py --sample -bs 8 --max_steps 2 --output_dir".split(), str(run)]
    no_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=ROOT / "cavl", env=no_gpu, check=True, timeout=300)
    progress = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert progress["images"] == 2 * 2 * 8
