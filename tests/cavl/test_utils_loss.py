"""Losses: gradients, symmetry, finiteness, identities between them."""

import pytest
import torch
import torch.nn.functional as F

from cavl.method import average_loss, initial_confidence
from cavl.utils.utils_loss import cc_loss, lws_loss, rc_loss

B, K, N = 6, 5, 9


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    outputs = torch.randn(B, K, generator=g, dtype=torch.float64).mul(2).requires_grad_()
    Y = (torch.rand(B, K, generator=g) < 0.5).double()
    Y[torch.arange(B), torch.arange(B) % K] = 1
    confidence = torch.rand(N, K, generator=g, dtype=torch.float64)
    confidence /= confidence.sum(1, keepdim=True)
    index = torch.randperm(N, generator=g)[:B]
    return outputs, Y, confidence, index


def losses(outputs, Y, confidence, index):
    return {
        "rc": rc_loss(outputs, confidence, index),
        "average": average_loss(outputs, Y),
        "cc": cc_loss(outputs, Y),
        "lws": lws_loss(outputs, Y, confidence, index, 2, 1, None)[0],
    }


@pytest.mark.parametrize("name", ["rc", "average", "cc", "lws"])
def test_gradcheck(batch, name):
    outputs, *rest = batch
    assert torch.autograd.gradcheck(lambda z: losses(z, *rest)[name], (outputs,))


def test_values_by_their_definition(batch):
    outputs, Y, confidence, index = batch
    p = outputs.softmax(1)
    s = torch.sigmoid
    C = confidence[index]
    actual = losses(*batch)
    torch.testing.assert_close(actual["rc"], -(C * p.log()).sum() / B)
    torch.testing.assert_close(actual["cc"], -(p * Y).sum(1).log().mean())
    inside, outside = (C * Y * s(-outputs)).sum() / B, 2 * (C * (1 - Y) * s(outputs)).sum() / B
    torch.testing.assert_close(actual["lws"], inside + outside)
    _, first, second = lws_loss(*batch, lw_weight=2, lw_weight0=3, epoch_ratio=None)
    torch.testing.assert_close(first, 3 * inside)
    torch.testing.assert_close(second, outside)


def test_permuting_the_classes_changes_nothing(batch):
    outputs, Y, confidence, index = batch
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = losses(outputs[:, order], Y[:, order], confidence[:, order], index)
    for name, loss in losses(*batch).items():
        torch.testing.assert_close(permuted[name], loss)


def test_rc_with_one_hot_rows_is_cross_entropy(batch):
    outputs, _, _, index = batch
    selected = torch.arange(N) % K
    loss = rc_loss(outputs, F.one_hot(selected, K).double(), index)
    plain = F.cross_entropy(outputs, selected[index])
    torch.testing.assert_close(loss, plain)
    gradients = [torch.autograd.grad(value, outputs)[0] for value in (loss, plain)]
    torch.testing.assert_close(*gradients)


def test_the_averaged_loss_is_rc_with_equal_confidences(batch):
    outputs, Y, *_ = batch
    torch.testing.assert_close(
        average_loss(outputs, Y), rc_loss(outputs, initial_confidence(Y), torch.arange(B))
    )


def test_cc_of_a_single_candidate_is_cross_entropy_and_of_all_is_zero(batch):
    outputs = batch[0]
    labels = torch.arange(B) % K
    torch.testing.assert_close(
        cc_loss(outputs, F.one_hot(labels, K)), F.cross_entropy(outputs, labels)
    )
    torch.testing.assert_close(
        cc_loss(outputs, torch.ones(B, K)), torch.zeros((), dtype=torch.float64)
    )


def test_losses_stay_finite_at_extreme_outputs():
    outputs = torch.tensor([[60.0, -60.0, -60.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    Y = torch.tensor([[0, 1, 1], [1, 0, 0]], dtype=torch.uint8)
    confidence = Y / Y.sum(1, keepdim=True)
    index = torch.arange(2)
    assert cc_loss(outputs[:1], Y[:1]).item() == pytest.approx(
        120 - torch.log(torch.tensor(2.0)).item()
    )
    for loss in losses(outputs, Y, confidence, index).values():
        (gradient,) = torch.autograd.grad(loss, outputs, retain_graph=True)
        assert loss.isfinite() and gradient.isfinite().all()
