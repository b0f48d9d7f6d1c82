"""The fused loss is the plain weights and the plain loss: value, gradient, second derivative,
transforms."""

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
PRIOR = torch.tensor([0.0, 0.6, 0.2, 0.9, 0.1, 0.3, 0.4])
SELECTIONS = {
    "the defaults": {},
    "count": {"topk": 1},
    "more than there are": {"topk": 70},
    "share": {"share": 0.3},
    "of each image": {"topk": 2, "scope": "sample"},
    "prior alone": {"topk": 0, "prior": PRIOR, "prior_threshold": 0.5},
    "prior and count": {"topk": 1, "prior": PRIOR, "prior_threshold": 0.35},
    "prior of threshold 0": {"topk": 1, "prior": PRIOR, "prior_threshold": 0},
}


def batch(dtype=torch.float64, rows=5, classes=7):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(rows, classes, generator=generator, dtype=dtype)
    targets = torch.randint(-1, 2, (rows, classes), generator=generator)
    return logits, targets


def plain_loss(logits, targets, mode="selective", selection=None, **factors):
    """The composition of the two equations, and what the weights leave of U."""
    _, q = method.probabilities(logits, factors.get("clip"))
    weights = method.label_weights(mode, targets, q, **(selection or {}))
    loss = method.partial_asymmetric_loss(logits, targets, weights, **factors)
    return loss, weights * (targets == -1)


def derivatives(loss, logits, *others, **factors):
    """Value, gradient, the diagonal of the second derivative, which has nothing beside it, and what
    was kept."""
    z = logits.clone().requires_grad_()
    value, kept = loss(z, *others, **factors)
    (gradient,) = torch.autograd.grad(value, z, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), z)
    return value.detach(), gradient.detach(), second, kept


def assert_equal(dtype, *others, **factors):
    logits, targets = batch(dtype)
    rtol = 1e-10 if dtype == torch.float64 else 1e-5
    plain = derivatives(plain_loss, logits, targets, *others, **factors)
    found = derivatives(fast.selective_loss, logits, targets, *others, **factors)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)
    z = logits.clone().requires_grad_()
    (first,) = torch.autograd.grad(fast.selective_loss(z, targets, *others, **factors)[0], z)
    torch.testing.assert_close(first, plain[1], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", method.MODES)
@pytest.mark.parametrize("name", FACTORS)
def test_value_gradient_and_second_derivative(name, mode, dtype):
    assert_equal(dtype, mode, {"topk": 1}, **FACTORS[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SELECTIONS)
def test_every_selection(name, dtype):
    assert_equal(dtype, "selective", SELECTIONS[name], **FACTORS["P-ASL"])


def test_second_derivatives_by_finite_differences():
    """gamma 0, so that the focusing factor, which is held fixed, is 1."""
    logits, targets = batch()

    def loss(z):
        return fast.selective_loss(z, targets, "negative", **FACTORS["cross entropy"])[0]

    z = logits.requires_grad_()
    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


@pytest.mark.parametrize("name", FACTORS)
def test_torch_func(name):
    logits, targets = batch()
    factors = FACTORS[name]
    value, gradient, second, _ = derivatives(plain_loss, logits, targets, **factors)

    def loss(z):
        return fast.selective_loss(z, targets, **factors)[0]

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
    logits, targets = batch()
    factors = FACTORS[name]
    z = logits.clone().requires_grad_()
    expected, kept = fast.selective_loss(z, targets, **factors)
    (gradient,) = torch.autograd.grad(expected, z)
    torch._dynamo.reset()
    compiled = torch.compile(fast.selective_loss, fullgraph=True, backend="aot_eager")
    found, same = compiled(z, targets, **factors)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(same, kept)
    torch.testing.assert_close(torch.autograd.grad(found, z)[0], gradient)


def test_a_gradient_of_the_focusing_factor():
    """Not written down: the plain form serves."""
    factors = {"focus_gradient": True, "gamma_neg": 2.0}
    plain = derivatives(plain_loss, *batch(), **factors)
    found = derivatives(fast.selective_loss, *batch(), **factors)
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))


@pytest.mark.parametrize("mode", ["selective", "negative"])
def test_what_is_no_label_is_an_error_or_nan(mode, monkeypatch):
    logits, targets = batch()
    targets[1, 2] = 5
    with pytest.raises(ValueError, match=r"targets: 5 at \[1, 2\] is no label"):
        fast.selective_loss(logits, targets, mode)
    with pytest.raises(ValueError, match="both must be of one shape"):
        fast.selective_loss(logits, targets[0], mode)
    monkeypatch.setattr(method, "is_readable", lambda tensor: False)
    logits.requires_grad_()
    loss, _ = fast.selective_loss(logits, targets, mode)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isnan() and gradient[1, 2].isnan()
