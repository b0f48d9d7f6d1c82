"""--grad_accum, --compile and --fast in all five papers: what they change, and what not."""

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from common import checkpoint, compiling, processes
from common.cli import UserError
from tests.csl.tiny import write_coco
from tests.equality import same

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
SAMPLE = "--sample --cpu --seed 3"


class Paper(NamedTuple):
    """How a paper trains for a moment: its module, its flags, and the name of the batch's."""

    module: str
    flags: str
    batch: str


PAPERS = {
    "cavl": Paper("cavl.main", f"{SAMPLE} -op sgd -lr 0.1", "-bs"),
    "csl": Paper(
        "csl.train",
        "--model_name tresnet_tiny --image_size 32 --workers 0 --epochs 2 --cpu --seed 3"
        " --simulate_partial_type rps --simulate_partial_param 0.4 --likelihood_topk 1"
        " --partial_loss_mode selective --model_path= --frozen_features --data DATA",
        "--batch_size",
    ),
    "mile": Paper(
        "mile.MILe",
        f"{SAMPLE} --dataset mnist --k_t 2 --warmup 0 --k_s 2",
        "--batch_size",
    ),
    "oass": Paper(
        "oass.train_classification_with_puzzle_cTopk_w_ema",
        f"{SAMPLE} --teacher_bn eval --weights none --num_workers 0 --image_size 64 --lr 0.001"
        " --loss_option pcl_re_conf --p_loss student",
        "--batch_size",
    ),
    "calm": Paper(
        "calm.main",
        f"{SAMPLE} --attribution_method CALM-EM --em_teacher ema --lr 0.001",
        "--batch_size",
    ),
}
HEAVY = pytest.param("mile", marks=pytest.mark.slow)  # it draws what it found, also when cut
of_each = pytest.mark.parametrize("paper", ["cavl", "csl", "oass", "calm", HEAVY])


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 annotated pictures: the last step of 16 has 9, and two processes have 5 and 4 of them."""
    return write_coco(tmp_path_factory.mktemp("coco") / "data", train=42)


@pytest.fixture
def train(tmp_path: Path, coco: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Trains a paper in this process; gives what its checkpoint holds."""

    def run(paper: str, batch: int, name: str, *more: str) -> dict:
        module, flags, batch_flag = PAPERS[paper]
        argv = flags.replace("DATA", str(coco)).split()
        if paper == "csl":  # which caches features
            monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
        place = ["--output_dir", str(tmp_path / name)]
        main = importlib.import_module(module).main
        main([*argv, batch_flag, str(batch), *more, *place])
        return checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")

    return run


@pytest.fixture
def no_batch_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm normalises with its running statistics, in training too."""

    def forward(self: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)

    monkeypatch.setattr(_BatchNorm, "forward", forward)


def tensors_of(state: Any, name: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by the way to them."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    found: dict[str, torch.Tensor] = {}
    if isinstance(state, dict):
        for key, value in state.items():
            found |= tensors_of(value, f"{name}.{key}")
    return found


def weights_of(saved: dict) -> dict[str, torch.Tensor]:
    """Weights and averages of a run, without optimisers, sums of a log and batch statistics."""
    names = ("model", "ema", "learner", "teacher")
    state = {name: saved["state"][name] for name in names if name in saved["state"]}
    state.get("learner", {}).pop("optimizers", None)
    found = tensors_of(state)
    return {name: value for name, value in found.items() if not name.endswith(STATISTICS)}


def assert_close(one: dict, other: dict, within: float) -> None:
    """The largest difference of each tensor, over its largest entry where that is above 1."""
    first = weights_of(one)
    second = weights_of(other)
    assert first.keys() == second.keys()
    assert len(first) > 2
    for name, value in first.items():
        scale = max(1.0, float(value.abs().max()))
        difference = float((value.double() - second[name].double()).abs().max())
        assert difference <= within * scale, (name, difference)


# --- accumulation ---


@of_each
def test_four_parts_of_a_batch_are_the_batch(paper, train, no_batch_statistics):
    whole = train(paper, 32, "whole", "--max_steps", "3")
    parts = train(paper, 8, "parts", "--max_steps", "3", "--grad_accum", "4")
    assert whole["progress"]["images"] == parts["progress"]["images"]
    assert whole["progress"]["step"] == parts["progress"]["step"] == 3
    assert_close(whole, parts, within=1e-6)


def whole_network(paper: str, coco: Path, batch: int) -> list[str]:
    """The flags of a run that trains all of its network; csl's too."""
    _, flags, batch_flag = PAPERS[paper]
    argv = flags.replace("DATA", str(coco)).replace("--frozen_features", "").split()
    return [*argv, batch_flag, str(batch)]


@of_each
def test_a_run_that_was_stopped_goes_on_by_whole_steps(paper, train):
    steps = ("--grad_accum", "3", "--max_steps")
    whole = train(paper, 4, "whole", *steps, "4")
    train(paper, 4, "stopped", *steps, "2")
    stopped = train(paper, 4, "stopped", *steps, "4", "--resume")
    assert same(whole["state"], stopped["state"])


@of_each
def test_the_flags_of_training_must_match(paper, train):
    train(paper, 8, "run", "--max_steps", "1")
    for flag in (["--grad_accum", "2"], ["--fast"]):
        name = flag[0].removeprefix("--")
        with pytest.raises(UserError, match=f"other settings.*: {name} .* then, .* now"):
            train(paper, 8, "run", "--max_steps", "2", "--resume", *flag)


def test_a_run_from_before_the_flags_goes_on(train, tmp_path):
    train("cavl", 8, "run", "--max_steps", "1")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    saved = checkpoint.load(path)
    for name in ("grad_accum", "compile", "fast"):
        del saved["settings"][name]
    checkpoint.save(path, saved)
    went_on = train("cavl", 8, "run", "--max_steps", "2", "--resume")
    assert went_on["progress"]["step"] == 2


# --- compiled ---


@of_each
def test_a_compiled_network_trains_as_the_network(paper, train, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")  # the real one takes a minute
    torch._dynamo.reset()
    plain = train(paper, 8, "plain", "--max_steps", "2")
    made = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: made.append(a) or compile_(*a, **k))
    compiled = train(paper, 8, "compiled", "--max_steps", "2", "--compile")
    assert made
    assert_close(plain, compiled, within=1e-5)
    assert not [name for name in weights_of(compiled) if "_orig_mod" in name]
    assert compiled["settings"]["compile"] is True


# --- fast ---


@pytest.fixture
def switches():
    """The switches of the GPU libraries, put back afterwards."""
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark, torch.get_float32_matmul_precision())
    yield lambda: (cudnn.deterministic, cudnn.benchmark, torch.get_float32_matmul_precision())
    cudnn.deterministic, cudnn.benchmark = before[:2]
    torch.set_float32_matmul_precision(before[2])


@of_each
def test_fast_switches_determinism_off(paper, train, switches):
    train(paper, 8, "exact", "--max_steps", "1")
    assert switches() == (True, False, "highest")
    train(paper, 8, "fast", "--max_steps", "1", "--fast")
    assert switches() == (False, True, "high")


def test_a_seed_says_whether_it_is_fast(switches):
    processes.seed_everything(1, fast=True)
    assert switches() == (False, True, "high")
    processes.seed_everything(1)
    assert switches() == (True, False, "highest")


# --- no compiler ---


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_a_compiler_one_line_says_so(device, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match="^--compile: .* C.* compiler .*is not there; install it"):
        compiling.require_compiler(device)


def test_without_triton_or_headers_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="^--compile: .* needs triton on a GPU"):
        compiling.require_compiler("cuda")
    monkeypatch.setattr(compiling.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(UserError, match="^--compile: .*python3-dev"):
        compiling.require_compiler("cpu")


def test_the_compiler_is_looked_for_before_the_long_work(train, monkeypatch, tmp_path):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="^--compile: "):
        train("calm", 8, "run", "--compile")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_namespace_without_the_flag_needs_no_compiler(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    args = argparse.Namespace(cpu=True, mixed_precision=None)
    assert processes.make_accelerator(args).num_processes == 1


def test_config_json_holds_the_flags(train, tmp_path):
    train("mile", 8, "run", "--max_steps", "1", "--grad_accum", "2")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    told = {name: settings[name] for name in ("grad_accum", "compile", "fast")}
    assert told == {"grad_accum": 2, "compile": False, "fast": False}
