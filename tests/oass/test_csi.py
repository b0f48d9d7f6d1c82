"""Class-specific instances in closed form against the loop over classes, in one process and two."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.sync_bn import synchronised
from oass.core.csi import class_specific_instances, csi_logits, sum_over_processes
from oass.method import instance_moments, make_cam

TWO = SimpleNamespace(num_processes=2)


def head(C=5, K=7):
    torch.manual_seed(0)
    BN, stage6 = (
        nn.ModuleList(nn.BatchNorm2d(K) for _ in range(C)),
        nn.ModuleList(nn.Conv2d(K, 1, 1, bias=False) for _ in range(C)),
    )
    for bn in BN:
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.normal_(bn.bias)
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    return BN, stage6


def loop_logits(x, cams, BN, stage6):
    """The released way: one gated copy of the feature map for each class."""
    columns = [
        conv(bn(x * cams[:, c : c + 1])).mean((1, 2, 3))
        for c, (bn, conv) in enumerate(zip(BN, stage6, strict=True))
    ]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("training", [True, False])
def test_closed_form_equals_the_loop(training):
    BN, stage6 = head()
    BN2, stage62 = copy.deepcopy(BN).train(training), copy.deepcopy(stage6)
    BN.train(training)
    x = torch.rand(3, 7, 4, 4).requires_grad_()
    f = torch.randn(3, 5, 4, 4).requires_grad_()
    x2, f2 = x.detach().clone().requires_grad_(), f.detach().clone().requires_grad_()
    ours, theirs = (
        csi_logits(x, make_cam(f), BN, stage6, training),
        loop_logits(x2, make_cam(f2), BN2, stage62),
    )
    close = dict(rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(ours, theirs, **close)
    ours.sin().sum().backward()
    theirs.sin().sum().backward()
    torch.testing.assert_close(x.grad, x2.grad, **close)
    torch.testing.assert_close(f.grad, f2.grad, **close)
    for a, b in zip(
        [*BN.parameters(), *stage6.parameters()],
        [*BN2.parameters(), *stage62.parameters()],
        strict=True,
    ):
        torch.testing.assert_close(a.grad, b.grad, **close)
    for (name, a), b in zip(BN.named_buffers(), BN2.buffers(), strict=True):
        torch.testing.assert_close(a, b, **close, msg=name)


def test_instances_are_the_mean_of_the_gated_map():
    x, cams = torch.rand(2, 6, 3, 5), torch.rand(2, 4, 3, 5)
    loop = torch.stack([(x * cams[:, c : c + 1]).mean((2, 3)) for c in range(4)], 1)
    torch.testing.assert_close(class_specific_instances(x, cams), loop)


def test_zero_variance_is_clamped():
    BN, stage6 = head()
    logits = csi_logits(torch.ones(2, 7, 4, 4), torch.ones(2, 5, 4, 4), BN, stage6, True)
    assert logits.isfinite().all() and all((bn.running_var >= 0).all() for bn in BN)


def test_one_process_sums_alone():
    x = torch.rand(3)
    assert sum_over_processes(x) is x


@pytest.fixture
def two_halves(monkeypatch):
    """The sums of two processes, where the other one's numbers are these: a list, or a function of
    ours.
    """

    def pretend(others):
        waiting = iter(others)
        monkeypatch.setattr("oass.core.csi.world_size", lambda: 2)
        monkeypatch.setattr(
            "oass.core.csi.sum_over_processes", lambda values: values + next(waiting)
        )

    return pretend


def test_the_heads_statistics_are_those_of_all_images_of_both_processes(two_halves):
    """Five images here, three there: as a head that sees all eight."""
    BN, stage6 = head()
    whole, parts = copy.deepcopy(BN).train(), synchronised(copy.deepcopy(BN).train(), TWO)
    x, cams = torch.rand(8, 7, 4, 4), make_cam(torch.randn(8, 5, 4, 4))
    wanted = csi_logits(x, cams, whole, stage6, True)[:5]
    v, second = instance_moments(x[5:], cams[5:])
    two_halves([torch.tensor([3.0, 3 * 16]), torch.stack([v.sum(0), 3 * second])])
    torch.testing.assert_close(
        csi_logits(x[:5], cams[:5], parts, stage6, True), wanted, rtol=1e-5, atol=1e-5
    )
    for (name, a), b in zip(parts.named_buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
