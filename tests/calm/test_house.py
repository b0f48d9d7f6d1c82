"""Each equation of method.py is what the runs compute: its calls are counted while they run."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from calm import eval_cue_location, eval_remove_classify, eval_wsol, explain, fast, main, method
from tests.calm.conftest import JOINT, TRAIN, flags

EQUATIONS = {name: getattr(method, name) for name in method.__all__}
# What training runs in place of an equation: its faster twin, equal to it by the tests below.
TWINS = {"heads": fast.heads}
SAMPLES = torch.Generator().manual_seed(3)


@contextmanager
def counted() -> Iterator[Counter]:
    """How often each equation, or its twin, is called inside the block."""
    functions = EQUATIONS | TWINS
    names = {function.__code__: name for name, function in functions.items()}
    calls: Counter = Counter()

    def profile(frame, event, _argument) -> None:
        if event == "call" and frame.f_code in names:
            calls[names[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def test_all_lists_every_public_function() -> None:
    public = [
        name
        for name, value in vars(method).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and value.__module__ == "calm.method"
    ]
    assert sorted(public) == sorted(method.__all__)


def test_method_imports_torch_and_numpy_alone() -> None:
    for module in (method, fast):
        lines = Path(module.__file__).read_text().splitlines()
        imported = {
            line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))
        }
        own = {"calm"} if module is fast else set()
        assert imported <= {"collections", "typing", "numpy", "torch"} | own


@pytest.mark.slow
def test_the_runs_call_every_equation(birds: Path, save_root: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.json").write_text(str({str(c): [c] for c in range(6)}).replace("'", '"'))
    grouped = ["--superclass_file", str(tmp_path / "groups.json")]
    there = ["--data_root", str(birds), "--max_steps", "1"]
    evaluate = flags(birds, save_root, *JOINT)
    one_map = flags(birds, save_root, "--erase_k", "0.1")
    with counted() as calls:
        for name in ("CAM", "CALM_ML", "CALM_EM"):
            given = [*TRAIN, *there, f"--attribution_method={name}"]
            main.main([*given, "--output_dir", str(tmp_path / name)])
        main.main(
            [
                *TRAIN,
                "--data_root",
                str(birds),
                "--epochs",
                "1",
                "--output_dir",
                str(tmp_path / "whole"),
            ]
        )
        eval_cue_location.main([*evaluate, "--max_pairs", "1"])
        eval_wsol.main([*evaluate, "--cam_curve_interval", "0.3"])
        for process in ("vanilla-saliency", "gtcond", "saliency"):
            eval_remove_classify.main([*one_map, f"--score_map_process={process}"])
        eval_remove_classify.main([*one_map, "--score_map_process=vanilla-superclass", *grouped])
        explain.main(flags(birds, save_root, *JOINT))
        cam = ["--load_checkpoint", str(tmp_path / "CAM"), "--attribution_method=CAM"]
        eval_remove_classify.main([*one_map, *cam, "--score_map_process=gtcond"])
    assert set(EQUATIONS) - set(calls) == set()


# ---- the faster twins ------------------------------------------------------------------------


def layers() -> tuple[nn.Conv2d, nn.Sequential]:
    torch.manual_seed(0)
    conv_last = nn.Conv2d(7, 5, 1).double()
    return conv_last, nn.Sequential(nn.Conv2d(7, 1, 1), nn.Softplus()).double()


def both_heads(heads: Callable) -> Callable:
    conv_last, attention = layers()

    def loss(features: torch.Tensor) -> torch.Tensor:
        f, a = heads(features, conv_last, attention)
        return (f.sin().sum() + (a**3).sum()).squeeze()

    return loss


LABELS = torch.tensor([0, 3])


def plain_row(f: torch.Tensor) -> torch.Tensor:
    log_s = method.map_of_label(method.log_conditional_likelihood(f), LABELS)
    return log_s.square().sum()


def fast_row(f: torch.Tensor) -> torch.Tensor:
    total = f.logsumexp(1, keepdim=True)
    return fast.log_conditional_likelihood_of(f, LABELS, total).square().sum()


def scores_and_prior(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """f (B,C,h,w) and g (B,1,h,w) out of one tensor of C + 1 channels."""
    return x[:, :-1], method.latent_prior(x[:, -1:].exp(), full_gradient=True)


def plain_likelihood(x: torch.Tensor) -> torch.Tensor:
    f, g = scores_and_prior(x)
    p = method.likelihood(method.joint_likelihood(method.conditional_likelihood(f), g))
    return p.sin().sum()


def fast_likelihood(x: torch.Tensor) -> torch.Tensor:
    f, g = scores_and_prior(x)
    return fast.likelihood_of(f, f.logsumexp(1, keepdim=True), g).sin().sum()


PAIRS = [
    pytest.param(both_heads(method.heads), both_heads(fast.heads), (2, 7, 3, 4), id="heads"),
    pytest.param(plain_row, fast_row, (2, 5, 3, 4), id="log_conditional_likelihood_of"),
    pytest.param(plain_likelihood, fast_likelihood, (2, 6, 3, 4), id="likelihood_of"),
]


@pytest.mark.parametrize(("plain", "quick", "shape"), PAIRS)
def test_a_twin_has_the_same_value_and_derivatives(
    plain: Callable, quick: Callable, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=SAMPLES, dtype=torch.float64)
    assert torch.allclose(plain(x), quick(x))
    assert torch.allclose(torch.func.grad(plain)(x), torch.func.grad(quick)(x))
    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(quick, (leaf,))
    second = [
        torch.autograd.functional.hvp(function, x, torch.ones_like(x))[1]
        for function in (plain, quick)
    ]
    assert torch.allclose(*second)


@pytest.mark.parametrize(("plain", "quick", "shape"), PAIRS)
def test_a_twin_is_traced_without_a_break(
    plain: Callable, quick: Callable, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=SAMPLES, dtype=torch.float64)
    assert torch._dynamo.explain(quick)(x).graph_break_count == 0
    compiled = torch.compile(quick, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), plain(x))
