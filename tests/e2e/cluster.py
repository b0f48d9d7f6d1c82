"""Two nodes on the loopback interface: Slurm's commands as far as train.sbatch uses them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm" / "train.sbatch"
NODES = 2

# srun: the command once a node; where one node ends badly the others are killed. The processes of a
# step are found by their parents, as Slurm finds them by their container.
SRUN = """
import subprocess, sys, time
from pathlib import Path
from tests.e2e.cluster import NODES, end

words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
here = Path(__file__).parent
nodes = [subprocess.Popen(words) for _ in range(NODES)]
(here / "nodes").write_text(" ".join(str(node.pid) for node in nodes))
while any(node.poll() is None for node in nodes):
    if any(node.poll() not in (None, 0) for node in nodes):
        time.sleep(1)
        for node in nodes:
            end(node.pid)
    time.sleep(0.1)
codes = [node.wait() for node in nodes]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """
import sys
from pathlib import Path
from tests.e2e.cluster import NODES

if sys.argv[1:3] == ["show", "hostnames"]:
    print("localhost\\n" * NODES, end="")
else:
    with (Path(__file__).parent / "asked").open("a") as file:
        print(*sys.argv[1:], file=file)
"""
SCANCEL = """
import os, signal, sys
from pathlib import Path
from tests.e2e.cluster import descendants

here = Path(__file__).parent
with (here / "asked").open("a") as file:
    print("scancel", *sys.argv[1:], file=file)
number = signal.Signals["SIG" + sys.argv[1].removeprefix("--signal=")]
for node in map(int, (here / "nodes").read_text().split()):
    for process in [node, *descendants(node)]:
        os.kill(process, number)
"""


def descendants(process: int) -> list[int]:
    """The processes that come from `process`, whatever their session."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")")[-1].split()[1])
        except OSError:  # it has just ended
            continue
    found = [process]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def end(process: int) -> None:
    """SIGKILL to a process and all that come from it."""
    for each in [process, *descendants(process)]:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue


class Cluster:
    """Slurm's commands in a folder of their own, and the jobs that are started with them."""

    def __init__(self, folder: Path) -> None:
        self.commands = folder / "commands"
        self.commands.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
            file = self.commands / name
            file.write_text(f"#!{sys.executable}\n{text}")
            file.chmod(0o755)

    def start(
        self, paper: str, *words: str, script: Path = SCRIPT, **more: str
    ) -> subprocess.Popen:
        """A job of train.sbatch, as `cd PAPER && sbatch --nodes 2 train.sbatch WORDS`."""
        variables = {
            "PATH": f"{self.commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "SLURM_SUBMIT_DIR": str(ROOT / paper),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "localhost,localhost",
            "SLURM_JOB_NUM_NODES": str(NODES),
            "PROCESSES": "2",
        }
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            cwd=ROOT,
            env={**os.environ, **variables, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def asked(self) -> list[str]:
        """What scancel was asked for, and scontrol beside names of nodes."""
        file = self.commands / "asked"
        return file.read_text().splitlines() if file.is_file() else []

    @property
    def nodes(self) -> list[int]:
        """The first process of each node of the last step."""
        return [int(word) for word in (self.commands / "nodes").read_text().split()]


def finish(job: subprocess.Popen) -> tuple[int, str]:
    """Exit status and output of a job."""
    out, _ = job.communicate(timeout=600)
    return job.returncode, out


def wait_for_checkpoint(job: subprocess.Popen, folder: Path) -> None:
    """Until the run in `folder` has written a checkpoint since the call."""
    last = folder / "checkpoints" / "last.pt"
    before = last.stat().st_mtime_ns if last.is_file() else 0
    while job.poll() is None:
        if last.is_file() and last.stat().st_mtime_ns != before:
            return
        time.sleep(0.05)
    raise AssertionError(f"the job ended before it saved: {finish(job)}")
