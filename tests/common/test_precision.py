"""Apple's GPUs have no float64: what needs it comes to the CPU first."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.precision import doubled, has_float64, with_float64
from csl.data_prior import ComputePrior

ROOT = Path(__file__).resolve().parents[2]
# Files whose .double() is of tensors that lie on the CPU already, or that may not change now.
ON_THE_CPU = {
    *("cavl/data_pll.py", "mile/evaluate_thresholds.py", "calm/evaluate.py"),
    *("csl/method.py", "oass/method.py", "common/precision.py"),
    *("cavl/data_candidates.py", "oass/data_checks.py", "oass/evaluate_metrics.py"),
    "common/domain.py",
}


class OfMps:
    """A tensor that says that it lies on an Apple GPU, and refuses float64 there."""

    device = SimpleNamespace(type="mps")

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def cpu(self) -> torch.Tensor:
        return self.x

    def double(self) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


def test_float64_is_on_the_device_or_on_the_cpu():
    x = torch.tensor([1.5, 2.5])
    assert with_float64(x) is x
    assert doubled(x).dtype == torch.float64
    assert torch.equal(doubled(OfMps(x)), x.double())
    assert not has_float64(torch.device("mps"))


def test_the_prior_is_summed_on_the_cpu(monkeypatch, tmp_path):
    asked = []

    def kept(x: torch.Tensor) -> torch.Tensor:
        asked.append(x.shape)
        return x

    monkeypatch.setattr("csl.data_prior.with_float64", kept)
    ComputePrior({0: "a", 1: "b"}, tmp_path).update(torch.zeros(3, 2))
    assert asked == [(3, 2)]


@pytest.mark.parametrize("package", ["cavl", "oass", "calm", "csl", "mile", "common"])
def test_no_other_tensor_of_a_device_becomes_float64(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.relative_to(ROOT).as_posix() in ON_THE_CPU:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            assert not (is_call and node.func.attr == "double"), f"{path}:{node.lineno}"
