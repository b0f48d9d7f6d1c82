"""The loss with its derivative written down is the plain one: value, gradient, second
derivative, transforms."""

import pytest
import torch

from csl import fast, method

FACTORS = {
    "cross entropy": {"gamma_pos": 0.0, "gamma_neg": 0.0, "gamma_unann": 0.0},
    "P-ASL": {"gamma_pos": 0.0, "gamma_neg": 3.0, "gamma_unann": 4.0},
    "other exponents": {"gamma_pos": 1.0, "gamma_neg": 2.0, "gamma_unann": 2.5},
    "factors": {"alpha_pos": 2.0, "alpha_neg": 0.5, "alpha_unann": 0.3},
    "clip": {"clip": 0.05, "gamma_pos": 1.5},
    "stable": {"stable": True, "gamma_neg": 3.0},
    "eps": {"eps": 0.1},
    "the defaults": {},
}


def batch(dtype=torch.float64, rows=5, classes=7):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(rows, classes, generator=generator, dtype=dtype)
    targets = torch.randint(-1, 2, (rows, classes), generator=generator)
    weights = torch.randint(0, 2, (rows, classes), generator=generator).to(dtype)
    return logits, targets, weights


def derivatives(loss, logits, targets, weights, factors):
    """Value, gradient, and the diagonal of the second derivative, which has nothing beside it."""
    z = logits.clone().requires_grad_()
    value = loss(z, targets, weights, **factors)
    (gradient,) = torch.autograd.grad(value, z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), z)
    return value.detach(), gradient.detach(), second


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_gradient_and_second_derivative(name, dtype, rtol):
    factors = FACTORS[name]
    plain = derivatives(method.partial_asymmetric_loss, *batch(dtype), factors)
    found = derivatives(fast.partial_asymmetric_loss, *batch(dtype), factors)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)


def test_second_derivatives_by_finite_differences():
    """gamma 0, so that the focusing factor, which is held fixed, is 1."""
    logits, targets, weights = batch()
    factors = FACTORS["cross entropy"]

    def loss(z):
        return fast.partial_asymmetric_loss(z, targets, weights, **factors)

    z = logits.requires_grad_()
    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


@pytest.mark.parametrize("name", FACTORS)
def test_torch_func(name):
    logits, targets, weights = batch()
    factors = FACTORS[name]
    value, gradient, second = derivatives(
        method.partial_asymmetric_loss, logits, targets, weights, factors
    )

    def loss(z):
        return fast.partial_asymmetric_loss(z, targets, weights, **factors)

    found, same = torch.func.grad_and_value(loss)(logits)
    torch.testing.assert_close(same, value)
    torch.testing.assert_close(found, gradient)
    twice = torch.func.jacfwd(torch.func.grad(loss))(logits)
    count = logits.numel()
    torch.testing.assert_close(
        twice.reshape(count, count).diagonal().view_as(logits), second, rtol=1e-6, atol=1e-9
    )
    several = torch.stack([logits, logits.flip(0)])
    each = torch.stack([loss(z) for z in several])
    torch.testing.assert_close(torch.func.vmap(loss)(several), each)


@pytest.mark.parametrize("name", ["P-ASL", "clip", "stable"])
def test_torch_compile_gives_one_graph(name):
    logits, targets, weights = batch()
    factors = FACTORS[name]
    z = logits.clone().requires_grad_()
    expected = fast.partial_asymmetric_loss(z, targets, weights, **factors)
    (gradient,) = torch.autograd.grad(expected, z)
    torch._dynamo.reset()
    compiled = torch.compile(fast.partial_asymmetric_loss, fullgraph=True, backend="aot_eager")
    found = compiled(z, targets, weights, **factors)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, z)[0], gradient)


def test_a_gradient_of_the_focusing_factor():
    """Not written down: the plain form serves."""
    factors = {"focus_gradient": True, "gamma_neg": 2.0}
    plain = derivatives(method.partial_asymmetric_loss, *batch(), factors)
    found = derivatives(fast.partial_asymmetric_loss, *batch(), factors)
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))


def test_what_is_no_label_is_an_error_or_nan(monkeypatch):
    logits, targets, weights = batch()
    targets[1, 2] = 5
    with pytest.raises(ValueError, match=r"targets: 5 at \[1, 2\] is no label"):
        fast.partial_asymmetric_loss(logits, targets, weights)
    with pytest.raises(ValueError, match="both must be of one shape"):
        fast.partial_asymmetric_loss(logits, targets[0], weights)
    monkeypatch.setattr(method, "is_readable", lambda tensor: False)
    assert fast.partial_asymmetric_loss(logits, targets, weights).isnan()
