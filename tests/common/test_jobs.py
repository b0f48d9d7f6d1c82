"""--jobs: the runs of a sweep side by side, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common import cli, jobs
from common.cli import UserError
from common.jobs import SideBySide
from tests.common import jobs_toy
from tests.common.runs import ROOT, state

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def start(folder: Path, *flags: str, threads: int = 2) -> subprocess.Popen:
    command = [sys.executable, jobs_toy.__file__, "--cpu", "--output_dir", str(folder), *flags]
    return subprocess.Popen(
        command,
        env={**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def in_turn(folder: Path, seeds: str) -> None:
    """The same sweep in this process, one run after another."""
    jobs_toy.main(jobs_toy.parse(["--cpu", "--output_dir", str(folder), "--seeds", seeds]))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_failed_run_is_named_the_rest_goes_on_and_the_numbers_are_those_in_turn(tmp_path):
    in_turn(tmp_path / "turn", "0,1")
    sweep = tmp_path / "side"
    status, out, err = finish(start(sweep, "--seeds", "7,0,1", "--jobs", "2"))
    log = sweep / "seed7" / "console.log"
    told = f"seed7: exit status 2, error: seven is not to be trained ({log})"
    assert status == 1
    assert err == f"error: 1 of 3 runs failed:\n  {told}\n"
    assert f"--- run 3 of 3: seed1 ({sweep}/seed1/console.log)" in out
    assert f"--- failed: {told}" in out
    assert (sweep / "results.csv").read_bytes() == (tmp_path / "turn/results.csv").read_bytes()
    printed = (sweep / "seed1" / "console.log").read_text()
    assert "threads and GPU 1" in printed  # two threads for two runs
    assert not state(sweep)["progress"]["finished"]


@pytest.mark.slow
def test_a_signal_lets_every_run_save_and_another_number_of_jobs_goes_on(tmp_path):
    in_turn(tmp_path / "turn", "0,1,2")
    sweep = tmp_path / "side"
    flags = ("--seeds", "0,1,2", "--slow")
    process = start(sweep, *flags, "--jobs", "2")
    logs = [sweep / f"seed{seed}" / "console.log" for seed in (0, 1)]
    while not all(log.is_file() and "waiting" in log.read_text() for log in logs):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert (status, err) == (143, "")
    assert not (sweep / "seed2").exists()
    assert [state(log.parent)["progress"]["step"] for log in logs] == [2, 2]

    status, out, err = finish(start(sweep, *flags, "--resume", threads=1))
    assert status == 0, err
    assert (sweep / "results.csv").read_bytes() == (tmp_path / "turn/results.csv").read_bytes()
    assert state(sweep)["progress"]["finished"]


# --- with programs that are none of ours ---

TELLS = """
import json, os, sys, time
number, folder, answer = json.loads(os.environ["WSL_RUN_OF_SWEEP"])
time.sleep(0.3 * (number == 0))
print("says", number)
if number == 2:
    sys.exit(3)
told = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
open(answer, "w").write(json.dumps({"number": number, **told}))
"""


def side_by_side(folder: Path, monkeypatch, **more) -> SideBySide:
    monkeypatch.setattr(cli, "_command", [sys.executable, "-c", TELLS])
    places = [folder / f"run{number}" for number in range(4)]
    return SideBySide(places, 2, folder, received=lambda: 0, say=lambda line: None, **more)


def test_threads_are_shared_out_gpus_taken_in_turn_and_failures_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-a")
    torch.set_num_threads(5)
    working = side_by_side(tmp_path, monkeypatch, is_on_cpu=False)
    found = dict(working.finished(first=0))
    assert sorted(found) == [0, 1, 3]
    assert {told["OMP_NUM_THREADS"] for told in found.values()} == {"2"}
    assert found[0]["CUDA_VISIBLE_DEVICES"] == "5"
    assert found[1]["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert working.failed == [f"run2: exit status 3, says 2 ({tmp_path}/run2/console.log)"]
    with pytest.raises(SystemExit) as ended:
        working.report_failed()
    assert ended.value.code == 1


def test_on_a_cpu_no_gpu_is_named_and_held_runs_do_not_start(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    working = side_by_side(tmp_path, monkeypatch, is_on_cpu=True)
    found = []
    for number, told in working.finished(first=1):
        assert told["CUDA_VISIBLE_DEVICES"] is None
        found.append(number)
        working.hold()
    assert found[0] == 1 and not (tmp_path / "run0").exists()


def test_it_is_refused_where_it_cannot_work(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_command", [])
    with pytest.raises(UserError, match="--jobs 2: only from a command line"):
        jobs.SideBySide([], 2, tmp_path, is_on_cpu=True, received=lambda: 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--jobs 2: not with several processes"):
        side_by_side(tmp_path, monkeypatch, is_on_cpu=True)
