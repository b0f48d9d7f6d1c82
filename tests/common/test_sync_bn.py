"""Synchronised batch norm: bit by bit torch's in one process, two processes as one."""

import copy
import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn
from torch.nn import functional as F

from common.cli import UserError
from common.sync_bn import (
    SynchronisedBatchNorm,
    normalise_over_processes,
    synchronised,
)
from tests.common.two_norms import CASES, SHARES, batches, make, walk

ROOT = Path(__file__).parents[2]
ONE = SimpleNamespace(num_processes=1)
TWO = SimpleNamespace(num_processes=2)
NETWORKS = (
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "regnetx_002",
    "regnety_002",
    "convnext_atto",
    "resnet10t",
)


def assert_equal(found, wanted):
    assert list(found) == list(wanted)
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def kinds(model):
    return [type(m).__name__ for m in model.modules()]


# --- one process ---


@pytest.mark.parametrize("name", NETWORKS)
def test_timms_networks_stay_what_they_are_bit_by_bit(name):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3)
    synced = synchronised(copy.deepcopy(plain), ONE)
    assert list(synced.state_dict()) == list(plain.state_dict())
    norms = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    replaced = [m for m in synced.modules() if isinstance(m, SynchronisedBatchNorm)]
    assert len(replaced) == len(norms) and bool(norms) == (name != "convnext_atto")
    for norm, new in zip(norms, replaced, strict=True):
        for follower in ("act", "drop"):
            assert type(getattr(new, follower, None)) is type(getattr(norm, follower, None))
    assert kinds(synced).count("LayerNorm2d") == kinds(plain).count("LayerNorm2d")

    inputs = [torch.randn(2, 3, 64, 64) for _ in range(2)]
    for training in (True, False):
        torch.manual_seed(1)  # of dropped paths
        wanted = walk(plain.train(training), inputs)
        torch.manual_seed(1)
        assert_equal(walk(synced.train(training), inputs), wanted)


@pytest.mark.parametrize("case", CASES[:-1])
def test_every_setting_of_a_norm_bit_by_bit(case):
    assert_equal(
        walk(synchronised(make(case), ONE), batches(case)), walk(make(case), batches(case))
    )


def test_a_norm_keeps_its_parameters_its_mode_and_its_names():
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(
        nn.Conv2d(4, 4, 1), shared, nn.Sequential(shared), nn.BatchNorm1d(4).eval(), nn.LayerNorm(4)
    )
    weight, keys = shared.weight, list(model.state_dict())
    assert synchronised(model, TWO) is model
    assert (
        model[1] is model[2][0] and model[1].weight is weight and list(model.state_dict()) == keys
    )
    assert model[1].training and not model[3].training and type(model[4]) is nn.LayerNorm
    assert synchronised(model, TWO)[1] is model[1]  # nothing is left to do
    assert isinstance(synchronised(nn.SyncBatchNorm(4), TWO), SynchronisedBatchNorm)
    assert isinstance(copy.deepcopy(model)[1], SynchronisedBatchNorm)


def test_norms_of_another_kind_are_refused_only_for_several_processes():
    frozen = timm.layers.FrozenBatchNormAct2d(4)
    synchronised(nn.Sequential(frozen, nn.InstanceNorm2d(4, track_running_stats=True)), TWO)
    for norm in (SplitBatchNorm2d(4), timm.layers.EvoNorm2dB0(4)):
        model = nn.Sequential(nn.Sequential(norm))
        with pytest.raises(UserError, match=rf"0\.0: a {type(norm).__name__}.*one process"):
            synchronised(model, TWO)
        assert synchronised(model, ONE)[0][0] is norm


# --- the arithmetic, in a group of one process ---


@pytest.fixture
def group():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("mean", [0.0, 1000.0, -30000.0])
def test_two_passes_keep_the_variance_far_from_zero(group, mean):
    x = (
        torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + mean
    ).requires_grad_()
    weight, bias = torch.tensor([0.5, 1, 2]), torch.tensor([1.0, 0, -1])
    y, m, s, count = normalise_over_processes(x, weight, bias, 1e-5)
    exact = x.detach().double()
    torch.testing.assert_close(m.double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(s.double(), exact.var((0, 2, 3), correction=0), rtol=1e-5, atol=0)
    assert count == 8 * 36
    wanted = F.batch_norm(exact, None, None, weight.double(), bias.double(), True)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-6 * max(abs(mean), 10))


@pytest.mark.parametrize("affine", [True, False])
def test_gradients_by_differences(group, affine):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=generator).requires_grad_()
    parts = [
        torch.rand(2, dtype=torch.float64, generator=generator).requires_grad_() if affine else None
    ] * 2
    assert torch.autograd.gradcheck(
        lambda v, w, b: normalise_over_processes(v, w, b, 1e-5)[0], (x, *parts)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_computed_in_float32_and_cast_back(group, dtype):
    x = torch.randn(4, 3, 5, 5).to(dtype).requires_grad_()
    weight = torch.ones(3, requires_grad=True)
    y, mean, *_ = normalise_over_processes(x, weight, None, 1e-5)
    y.float().square().sum().backward()
    assert y.dtype == x.grad.dtype == dtype and mean.dtype == weight.grad.dtype == torch.float32
    wanted = F.batch_norm(x.detach().float(), None, None, training=True).to(dtype)
    torch.testing.assert_close(y.detach(), wanted)


def test_channels_last_stays(group):
    x = torch.randn(4, 3, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = normalise_over_processes(x, None, None, 1e-5)[0]
    y.sin().sum().backward()
    for t in (y, x.grad):
        assert t.is_contiguous(memory_format=torch.channels_last)


# --- two processes ---


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("norms")
    command = [sys.executable, "-m", "tests.common.two_norms"]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in started:
        errors = process.communicate(timeout=280)[1]
        assert process.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


PAIRS = [
    (case, share)
    for case, share in itertools.product(CASES, SHARES)
    if (case, share) != ("network", "empty")
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "share"), PAIRS)
def test_two_processes_equal_one_with_the_whole_batch(processes, case, share):
    parts = [found[f"{case}/{share}"] for found in processes]
    wanted = walk(make(case), batches(case))
    limits = {"double": 1e-12, "network": 1e-9, "far_from_zero": 2e-3}
    atol = limits.get(case, 2e-5)
    rtol = min(atol, 2e-4) if case in limits else 2e-4
    for name, value in wanted.items():
        one, two = (part[name] for part in parts)
        if name.startswith("buffer"):
            assert torch.equal(one, two), name
            found = one
        elif name.startswith("gradient"):  # of the loss that is summed over the images
            found = one + two
        else:
            found = torch.cat([one, two])
        error = (found.double() - value.double()).abs()
        assert (error <= atol + rtol * value.abs()).all(), (name, error.max())


@pytest.mark.slow
def test_the_test_can_fail(processes):
    """Each process alone would have other numbers."""
    alone = walk(make("plain"), [x.split(SHARES["even"])[0] for x in batches("plain")])
    assert not torch.allclose(alone["output0"], processes[0]["plain/even"]["output0"], atol=1e-2)


def test_batch_norms_with_an_activation_need_one():
    """timm's class itself applies it, so a conversion without it is another network."""
    x = torch.randn(4, 3, 5, 5)
    norm = BatchNormAct2d(3)
    assert (norm(x) >= 0).all() and (synchronised(norm, ONE)(x) >= 0).all()
