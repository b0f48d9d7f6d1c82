"""ObjectAwareLoss: the training's own numbers, in any loop, precision and transform of torch."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from oass import fast, method
from oass.build_objective import PuzzleOptions, TilePass, object_aware_losses
from oass.library import STRATEGIES, InstanceClassifier, ObjectAwareLoss
from tests.oass.conftest import tiny

SIZE = 32


class Smooth(nn.Module):
    """A backbone without batch norms, stride 4."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Softplus(), nn.Conv2d(8, 6, 1))

    def forward(self, x):
        return self.layers(x)


def student(seed=0):
    torch.manual_seed(seed)
    return InstanceClassifier(Smooth(), 6, 3)


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(4, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0]])
    return images.to(dtype), labels.to(dtype)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_numbers_are_those_of_the_training(strategy):
    network = tiny()
    images = torch.randn(3, 3, 64, 64)
    labels = torch.zeros(3, 20)
    labels[0, 3] = labels[1, 4] = labels[1, 7] = 1
    teacher = None if strategy == "max" else copy.deepcopy(network)
    wanted = object_aware_losses(
        copy.deepcopy(network), teacher, images, labels, PuzzleOptions(strategy), TilePass()
    )
    loss = ObjectAwareLoss(network, teacher, strategy=strategy.upper())
    value = loss(images, labels)
    for name, part in loss.parts.items():
        torch.testing.assert_close(part, wanted[name].detach())
    whole = wanted["class_loss"] + 0.5 * wanted["p_class_loss"] + 3 * wanted["re_loss"]
    torch.testing.assert_close(value, whole)
    assert torch.equal(loss.keypoints.keypoints, wanted["keypoints"])


def test_a_plain_loop_learns_and_goes_on_from_its_state():
    loss = ObjectAwareLoss(student(), strategy="ctopk-w", alpha_re=0.3, total_steps=40)
    optimizer = torch.optim.Adam(loss.student.parameters(), 0.02)
    images, labels = batch()
    values = []
    for _ in range(40):
        value = loss(images, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        loss.update_teacher()
        values.append(float(loss.parts["class_loss"]))
    assert values[-1] < 0.5 * values[0]
    assert all(p.grad is None for p in loss.teacher.parameters())
    other = ObjectAwareLoss(student(1), strategy="ctopk-w", total_steps=40)
    other.load_state_dict(loss.state_dict())
    assert other.step == 40 and other.re_weight == 3.0
    assert torch.equal(other.teacher.classifier.weight, loss.teacher.classifier.weight)


def test_the_ramp_and_the_teacher_follow_the_steps():
    loss = ObjectAwareLoss(student(), total_steps=100)
    assert loss.re_weight == 0 and loss.strategy == "cTopk-w"
    with torch.no_grad():
        loss.student.classifier.weight.add_(1)
    loss.update_teacher()
    assert torch.equal(loss.teacher.classifier.weight, loss.student.classifier.weight)
    assert loss.re_weight == pytest.approx(3 / 5)


WRONG = [
    ({"strategy": "best"}, "strategy 'best': choose from max"),
    ({"alpha_re": -1}, "alpha_re"),
    ({"alpha_p": float("nan")}, "alpha_p"),
    ({"alpha_ema": 1}, "alpha_ema"),
    ({"total_steps": 0}, "total_steps"),
    ({"k": 0}, "k 0"),
    ({"rule": "x"}, "rule"),
    ({"re_loss": "L3"}, "re_loss"),
    ({"option": "x"}, "option"),
    ({"level": "x"}, "level"),
    ({"tile_statistics": "x"}, "tile_statistics"),
    ({"strategy": "max", "teacher": nn.Identity()}, "has no teacher"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_settings_out_of_their_domain(wrong, message):
    with pytest.raises(ValueError, match=message):
        ObjectAwareLoss(student(), **wrong)


def test_batches_out_of_their_domain():
    images, labels = batch()
    loss = ObjectAwareLoss(student())
    for arguments, message in (
        ((images[..., :16], labels), "square"),
        ((images, labels[:2]), "labels"),
        ((images, labels * 0.5), "neither 0 nor 1"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*arguments)
    with pytest.raises(ValueError, match="num_classes 0"):
        InstanceClassifier(Smooth(), 6, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(dtype):
    images, labels = batch()
    wanted = ObjectAwareLoss(student(), strategy="cMax").eval()(images, labels)
    loss = ObjectAwareLoss(student(), strategy="cMax").eval()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(images, labels)
    value.backward()
    assert value.dtype == torch.float32 and abs(float(value - wanted)) < 0.05
    assert loss.student.classifier.weight.grad.isfinite().all()
    half = ObjectAwareLoss(student().to(dtype), strategy="cMax").eval()
    value = half(images.to(dtype), labels.to(dtype))
    assert value.dtype == torch.float32 and abs(float(value - wanted)) < 0.1


def test_second_derivatives():
    images, labels = batch(torch.float64)
    loss = ObjectAwareLoss(student().double(), strategy="max").double().eval()
    weight = loss.student.classifier.weight

    def slope(values):
        with torch.no_grad():
            weight.copy_(values)
        first = torch.autograd.grad(loss(images, labels), weight, create_graph=True)[0]
        return first

    start = weight.detach().clone()
    direction = torch.randn_like(start)
    first = slope(start)
    second = torch.autograd.grad((first * direction).sum(), weight)[0]
    step = 1e-6
    numeric = (slope(start + step * direction) - slope(start - step * direction)) / (2 * step)
    torch.testing.assert_close(second, numeric.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("strategy", ["max", "cTopk-w"])
def test_torch_func_gives_the_gradient_of_autograd(strategy):
    images, labels = batch()
    loss = ObjectAwareLoss(student(), strategy=strategy).eval()
    pairs = method.positive_pairs(labels)
    loss(images, labels, pairs).backward()
    weights = dict(loss.student.named_parameters())

    def of_weights(values):
        named = {f"student.{name}": value for name, value in values.items()}
        return torch.func.functional_call(loss, named, (images, labels, pairs))

    values = {name: weight.detach() for name, weight in weights.items()}
    found = torch.func.grad(of_weights)(values)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strategy", ["max", "cTopk-w"])
def test_one_graph_under_compile(strategy):
    images, labels = batch()
    loss = ObjectAwareLoss(student(), strategy=strategy, tile_statistics="eval")
    pairs = method.positive_pairs(labels)
    wanted = copy.deepcopy(loss)(images, labels, pairs)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    value = compiled(images, labels, pairs)
    torch.testing.assert_close(value, wanted)
    value.backward()
    assert loss.student.classifier.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_the_files_work_without_the_rest(tmp_path):
    """method.py, fast.py and library.py alone, where common cannot be imported."""
    package = tmp_path / "oass"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for module in (method, fast, sys.modules["oass.library"]):
        shutil.copy(module.__file__, package)
    code = (
        "import sys; sys.modules['common'] = None\n"
        "import torch, oass.library as m\n"
        "net = m.InstanceClassifier(torch.nn.Conv2d(3, 4, 8, 8), 4, 2)\n"
        "print(float(m.ObjectAwareLoss(net)(torch.randn(2, 3, 32, 32), torch.eye(2))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0 and Path(package / "method.py").is_file()
