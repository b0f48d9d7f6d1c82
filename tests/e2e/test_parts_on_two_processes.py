"""--grad_accum on two processes in all five papers: the parts of one, and killed within a step."""

import importlib
import subprocess
from pathlib import Path

import pytest
import torch

from common import checkpoint
from tests.csl.tiny import write_coco
from tests.equality import same
from tests.launch import TORCHRUN
from tests.test_training_flags import PAPERS, whole_network

KILLER = Path(__file__).with_name("killed_in_step.py")
MEANS = ("exp_avg", "momentum_buffer")

# The batch of one process and of each of two, for the same steps, and what makes their batch norm
# that of one: the batch of oass and mile is of all processes, cavl's MLP has no batch norm, and
# mile's is synchronised in any case. Adam makes whole steps of rounding where a gradient is
# almost 0: its means of gradients are compared, and the last value is how far apart they may be.
# In calm and mile, rounding decides which of several equal pixels max pooling takes; where batch
# norm is not synchronised they are 0.2 apart.
ON_TWO = {
    "cavl": (32, 16, (), 1e-4),
    "csl": (8, 4, ("--sync_bn",), 1e-4),
    "mile": (32, 32, (), 1e-2),
    "oass": (8, 8, ("--sync_bn",), 1e-4),
    "calm": (16, 8, ("--sync_bn", "--lr", "1e-5"), 2e-2),
}
# These carry something from part to part: the labels chosen of the whole step, and two networks.
OF_MORE_THAN_A_PART = ("csl", "mile")


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 annotated pictures: the last step of 16 has 9, and two processes have 5 and 4 of them."""
    return write_coco(tmp_path_factory.mktemp("coco") / "data", train=42)


def mean_gradients(saved: dict) -> torch.Tensor:
    """The running means of gradients that the optimisers of a run keep, one behind the other."""
    state = saved["state"]
    optimizers = [state["optimizer"]] if "optimizer" in state else state["learner"]["optimizers"]
    means = [torch.zeros(0)]
    for optimizer in optimizers:
        for of_one in optimizer["state"].values():
            means += [of_one[name].flatten() for name in MEANS if of_one.get(name) is not None]
    return torch.cat(means)


@pytest.mark.slow
@pytest.mark.parametrize("paper", ON_TWO)
def test_parts_on_two_processes_are_those_on_one(paper, coco, tmp_path):
    of_one, of_two, more, within = ON_TWO[paper]
    steps = ("--max_steps", "3", "--grad_accum", "2", "--output_dir")
    module = PAPERS[paper].module
    main = importlib.import_module(module).main
    rates = more[more.index("--lr") :] if "--lr" in more else ()
    main([*whole_network(paper, coco, of_one), *rates, *steps, str(tmp_path / "one")])
    command = [*TORCHRUN, "-m", module, *whole_network(paper, coco, of_two), *more, *steps, "two"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=400)
    one, two = (
        checkpoint.load(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "two")
    )
    for name in ("step", "images"):
        assert two["progress"][name] == one["progress"][name] > 0
    ours = mean_gradients(one)
    theirs = mean_gradients(two)
    assert len(ours) == len(theirs) > 0
    assert (theirs - ours).norm() <= within * ours.norm()


@pytest.mark.slow
@pytest.mark.parametrize("paper", OF_MORE_THAN_A_PART)
def test_two_processes_killed_within_a_step_go_on_as_if_nothing_was(paper, coco, tmp_path):
    _, batch, more, _ = ON_TWO[paper]
    flags = [*whole_network(paper, coco, batch), *more, "--grad_accum", "2", "--max_steps", "4"]
    module = PAPERS[paper].module
    launch = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 400}
    killed = subprocess.run([*TORCHRUN, str(KILLER), module, "3", *flags], **launch)
    assert killed.returncode != 0 and "Signal 9 (SIGKILL)" in killed.stderr
    stood = checkpoint.load(tmp_path / "killed" / "checkpoints" / "last.pt")
    assert stood["progress"]["step"] == 2
    command = [*TORCHRUN, "-m", module, *flags, "--output_dir", "killed", "--resume"]
    done = subprocess.run([*command, "--checkpoint_every", "1"], **launch)
    assert done.returncode == 0, done.stderr
    states = []
    for name in ("whole", "killed"):
        saved = checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")
        assert saved["progress"]["step"] == 4
        states.append(saved["state"])
    assert same(*states)
