"""scripts/slurm/train.sbatch with two nodes of two processes each, on the loopback interface."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.cluster import ROOT, SCRIPT, Cluster, end, finish, wait_for_checkpoint
from tests.equality import same

CAVL = ("main.py", "--sample", "--cpu", "-ep", "4", "--checkpoint_every", "10")
MILE = ("MILe.py", "--dataset", "mnist", "--sample", "--cpu", "--num_workers", "1")


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def lines(folder: Path) -> list[dict]:
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def one_process(paper: str, *words: str) -> None:
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=ROOT / paper, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def assert_close(ours: list[dict], theirs: list[dict], **tolerance: float) -> None:
    """The same lines of metrics, but for rounding."""
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            if isinstance(value, float):
                value = pytest.approx(value, **tolerance)
            assert other[name] == value, name


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run of four processes on two nodes."""
    folder = tmp_path_factory.mktemp("whole")
    cluster = Cluster(folder)
    job = cluster.start("cavl", *CAVL, "-bs", "16", "--output_dir", str(folder / "run"))
    status, out = finish(job)
    assert status == 0, out
    assert cluster.asked == []  # nothing was requeued
    return folder / "run"


@pytest.mark.slow
def test_two_nodes_give_the_numbers_of_one_process(whole, tmp_path):
    one_process("cavl", *CAVL, "-bs", "64", "--output_dir", str(tmp_path / "one"))
    assert json.loads((whole / "config.json").read_text())["hardware"]["processes"] == 4
    assert_close(lines(tmp_path / "one"), lines(whole), rel=1e-3, abs=1e-3)
    ours = saved(tmp_path / "one")["state"]
    theirs = saved(whole)["state"]
    assert torch.equal(ours["labels"]["selected"], theirs["labels"]["selected"])
    for name, value in ours["model"].items():
        torch.testing.assert_close(theirs["model"][name], value, rtol=0, atol=1e-4)
    mine = table(tmp_path / "one" / "selected.csv")
    others = table(whole / "selected.csv")
    assert [row[:3] for row in mine] == [row[:3] for row in others]


@pytest.mark.slow
def test_a_job_out_of_time_and_one_that_loses_a_node_go_on_as_if_nothing_was(whole, tmp_path):
    folder = tmp_path / "run"
    words = (*CAVL, "-bs", "16", "--output_dir", str(folder))
    cluster = Cluster(tmp_path)

    job = cluster.start("cavl", *words)
    wait_for_checkpoint(job, folder)
    job.send_signal(signal.SIGUSR1)  # Slurm's, to the script alone
    status, out = finish(job)
    assert status == 1 and "stopped by signal 10; saved" in out
    number = cluster.asked[-1].split()[-1]
    assert cluster.asked == [f"scancel --signal=USR1 {number}", f"requeue {number}"]
    stood = saved(folder)["progress"]["step"]
    assert stood % 10 == 0  # at a poll, all processes together

    job = cluster.start("cavl", *words)
    wait_for_checkpoint(job, folder)
    end(cluster.nodes[1])  # torchrun and its two processes
    status, out = finish(job)
    assert status != 0
    assert len(cluster.asked) == 2  # such a job is requeued by Slurm itself
    assert saved(folder)["progress"]["step"] > stood

    status, out = finish(cluster.start("cavl", *words))
    assert status == 0, out
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert same(saved(folder)["state"], saved(whole)["state"])
    assert len(json.loads((folder / "config.json").read_text())["launches"]) == 3


@pytest.mark.slow
def test_mile_on_two_nodes_gives_the_numbers_of_one_process(tmp_path):
    cluster = Cluster(tmp_path)
    steps = ("--max_steps", "12", "--batch_size", "16", "--lr", "1e-4")
    one_process("mile", *MILE, *steps, "--output_dir", str(tmp_path / "one"))
    job = cluster.start("mile", *MILE, *steps, "--output_dir", str(tmp_path / "four"))
    status, out = finish(job)
    assert status == 0, out
    ours = saved(tmp_path / "one")["state"]["learner"]
    theirs = saved(tmp_path / "four")["state"]["learner"]
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-4, msg=name)


# --- the script's text ---


def test_bash_can_read_the_scripts():
    scripts = sorted(SCRIPT.parent.glob("*.sbatch"))
    assert [script.name for script in scripts] == ["reproduce.sbatch", "train.sbatch"]
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)


TELLS = """
import os, sys
print(*sys.argv, flush=True)
"""


@pytest.fixture
def told(tmp_path):
    """What the launcher would get: its arguments, in place of torchrun."""
    cluster = Cluster(tmp_path)
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{TELLS}")
    python.chmod(0o755)

    def start(*words: str, **more: str) -> tuple[int, list[str]]:
        status, out = finish(cluster.start("csl", *words, PYTHON=str(python), **more))
        return status, out.splitlines()

    return start


def test_every_node_gets_the_same_launch(told):
    status, out = told("train.py", "--data", "a b", SLURM_JOB_ID="41", PORT="29500")
    assert status == 0 and out[0] == out[1]
    assert out[0].split(maxsplit=1)[1] == (
        "-m torch.distributed.run --nnodes 2 --nproc_per_node 2 --rdzv_backend c10d"
        " --rdzv_endpoint localhost:29500 --rdzv_id 41-0 train.py --data a b --resume"
    )
    more = {"SLURM_JOB_ID": "41", "SLURM_GPUS_ON_NODE": "4", "SLURM_RESTART_COUNT": "2"}
    status, out = told("train.py", PROCESSES="", **more)
    assert "--nproc_per_node 4 " in out[0] and "localhost:20041 --rdzv_id 41-2 train" in out[0]


def test_a_task_of_an_array_has_its_own_seed_and_folder(told):
    array = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}
    words = ("train.py", "--seed", "{seed}", "--output_dir", "runs/csl-{seed}")
    status, out = told(*words, **array)
    assert status == 0
    assert out[0].endswith("train.py --seed 3 --output_dir runs/csl-3 --resume")
    status, out = told("train.py", "--output_dir", "runs/csl", **array)
    assert status == 2
    assert out == ["error: the tasks of an array need {seed} in --seed and --output_dir"]


def test_without_a_script_it_says_what_is_missing(told):
    assert told() == (2, ["error: name a training script and its flags"])
