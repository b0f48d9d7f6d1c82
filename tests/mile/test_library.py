"""mile.method in somebody else's program: half precision, derivatives, compiled, wrong values."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from mile.method import IteratedLearning, bce_loss, prediction_set, pseudo_labels, softmax_loss

HALVES = [torch.float16, torch.bfloat16]
FUNCTIONS = {
    "bce": lambda z, y, t: bce_loss(z, t),
    "bce mean": lambda z, y, t: bce_loss(z, t, "mean", torch.arange(1.0, 5.0)),
    "softmax": lambda z, y, t: softmax_loss(z, y),
}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 5, generator=generator)
    y = torch.tensor([0, 4, 2, 2])
    t = (torch.rand(4, 5, generator=generator) > 0.5).float()
    return z, y, t


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))


@pytest.mark.slow
def test_the_method_is_imported_where_common_cannot_be():
    code = (
        "import sys; sys.modules['common'] = None\n"
        "import mile.method, mile.method_scores\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "assert not names & {'timm', 'torchvision', 'accelerate', 'PIL'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_is_computed_in_float32(batch, name, dtype):
    z, y, t = batch
    half = z.to(dtype).requires_grad_()
    loss = FUNCTIONS[name](half, y, t)
    loss.backward()
    whole = half.detach().float().requires_grad_()
    expected = FUNCTIONS[name](whole, y, t)
    expected.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    assert half.grad.dtype == dtype and torch.equal(half.grad, whole.grad.to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_sets_of_half_precision_are_those_of_float32(batch, dtype):
    half = batch[0].to(dtype)
    assert torch.equal(pseudo_labels(half, 0.4), pseudo_labels(half.float(), 0.4))
    assert torch.equal(prediction_set(half, 0.4), prediction_set(half.float(), 0.4))
    assert torch.isfinite(bce_loss(torch.full((1, 5), 6e4, dtype=dtype), torch.zeros(1, 5)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives(batch, name):
    z, y, t = batch
    z = z.double().requires_grad_()
    if name == "softmax":  # its logits are float32
        loss = softmax_loss(z, y)
        (first,) = torch.autograd.grad(loss, z, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), z)
        assert second.isfinite().all() and second.any()
        return
    assert torch.autograd.gradgradcheck(lambda z: FUNCTIONS[name](z, y, t.double()), (z,))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_func_grad_equals_autograd(batch, name):
    z, y, t = batch
    leaf = z.clone().requires_grad_()
    FUNCTIONS[name](leaf, y, t).backward()
    found = torch.func.grad(lambda z: FUNCTIONS[name](z, y, t))(z)
    assert found.allclose(leaf.grad, atol=1e-7)
    many = torch.func.vmap(lambda z: bce_loss(z[None], t[:1]))(z)
    assert many.allclose(torch.stack([bce_loss(row[None], t[:1]) for row in z]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_equals_eager(batch, name):
    z, y, t = batch
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True)
    one = z.clone().requires_grad_()
    other = z.clone().requires_grad_()
    loss = compiled(one, y, t)
    loss.backward()
    expected = FUNCTIONS[name](other, y, t)
    expected.backward()
    assert loss.allclose(expected) and one.grad.allclose(other.grad, atol=1e-7)
    sets = torch.compile(lambda z: pseudo_labels(z, 0.4), fullgraph=True)
    assert torch.equal(sets(z), pseudo_labels(z, 0.4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_learner_in_a_plain_loop(dtype):
    learner = IteratedLearning(network().to(dtype), num_classes=5, rho=0.3)
    x = torch.randn(8, 6, dtype=dtype)
    y = torch.arange(8) % 5
    for _ in range(2):
        before = [value.clone() for value in learner.student.parameters()]
        losses = [learner.interactive_step(x, y) for _ in range(3)]
        learner.begin_imitation()
        losses.append(learner.imitation_step(x))
        learner.end_generation()
        assert torch.stack(losses).isfinite().all()
        assert all(loss.dtype == torch.float32 for loss in losses)
        pairs = zip(before, learner.student.parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs)


def test_sets_of_one_label_teach_what_the_label_teaches():
    one = IteratedLearning(network(), num_classes=5)
    other = IteratedLearning(network(), num_classes=5)
    x = torch.randn(8, 6)
    y = torch.arange(8) % 5
    sets = nn.functional.one_hot(y, 5).bool()
    assert torch.equal(one.interactive_step(x, y), other.interactive_step(x, sets))
    pairs = zip(one.student.parameters(), other.student.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("settings", "label", "message"),
    [
        ({}, torch.zeros(8, 4), "label: shape"),
        ({}, torch.full((8, 5), 2.0), "values from 0 to 1"),
        ({}, torch.full((8,), 5), "whole numbers from 0 to 4"),
        ({"schema": "softmax"}, torch.zeros(8, 5), "one label an image"),
    ],
)
def test_labels_that_are_none_are_a_value_error(settings, label, message):
    learner = IteratedLearning(network(), num_classes=5, **settings)
    with pytest.raises(ValueError, match=message):
        learner.interactive_step(torch.randn(8, 6), label)


@pytest.mark.parametrize("settings", [{"rho": 25}, {"student_init": "x"}, {"lr": 0}])
def test_settings_that_are_none_are_a_value_error(settings):
    with pytest.raises(ValueError):
        IteratedLearning(network(), num_classes=5, **settings)
