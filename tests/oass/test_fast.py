"""The tiles of all pairs in one pass equal oass.method's loop; whose statistics the norms use."""

import copy
from types import SimpleNamespace

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from common import sync_bn
from common.sync_bn import synchronised
from oass import method
from oass.core.losses import object_aware_losses
from oass.core.networks import Classifier
from oass.fast import grouped_in_one_call, tile_class_maps, tile_statistics
from tests.oass.conftest import tiny

ONE = SimpleNamespace(num_processes=1)


def test_group_statistics_equal_one_call_per_pair_and_leave_the_buffers():
    model, tiles = tiny(), torch.randn(3, 4, 3, 32, 32)
    before = copy.deepcopy(model.state_dict())
    batched = tile_class_maps(model, tiles)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    loop = torch.stack([model.class_maps(pair) for pair in tiles])
    torch.testing.assert_close(batched, loop, rtol=1e-5, atol=1e-5)
    chunked = tile_class_maps(model, tiles, pairs_at_once=2)
    torch.testing.assert_close(batched, chunked)
    with torch.no_grad():
        torch.testing.assert_close(tile_class_maps(model, tiles), loop, rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(tile_class_maps(model, tiles), loop, rtol=0.1, atol=0.1)


def test_the_view_for_gpus_equals_the_chunks():
    bn, x = nn.BatchNorm2d(5), torch.randn(12, 5, 3, 3)
    nn.init.normal_(bn.weight)
    chunks = torch.cat([bn(part) for part in x.split(4)])
    torch.testing.assert_close(grouped_in_one_call(bn, x), chunks)
    torch.testing.assert_close(
        grouped_in_one_call(bn, x.contiguous(memory_format=torch.channels_last)), chunks
    )


def test_modes_batch_and_eval():
    model, tiles = tiny(), torch.randn(2, 4, 3, 32, 32)
    flat = tiles.flatten(0, 1)
    torch.testing.assert_close(
        tile_class_maps(model, tiles, mode="batch").flatten(0, 1), tiny().class_maps(flat)
    )
    model.eval()
    want = model.class_maps(flat)
    model.train()
    torch.testing.assert_close(tile_class_maps(model, tiles, mode="eval").flatten(0, 1), want)


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet18", "resnest50"])
def test_eval_within_the_convolutions_equals_eval(name):
    torch.manual_seed(0)
    model, tiles = (
        Classifier(name, 5, pretrained=False).requires_grad_(False),
        torch.randn(2, 4, 3, 64, 64),
    )
    for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for values, low in (
            (bn.running_mean, -0.2),
            (bn.running_var, 0.5),
            (bn.weight, 0.5),
            (bn.bias, -0.2),
        ):
            values.uniform_(low, low + 1)
    before = {name: vars(m).get("forward") for name, m in model.named_modules()}
    with torch.no_grad():
        want = model.eval().class_maps(tiles.flatten(0, 1))
        fused = tile_class_maps(model.train(), tiles, mode="eval").flatten(0, 1)
    torch.testing.assert_close(fused, want, rtol=0, atol=1e-4 * float(want.abs().max()))
    assert {name: vars(m).get("forward") for name, m in model.named_modules()} == before


def test_forwards_come_back_also_after_an_error():
    model = synchronised(tiny(), ONE)
    model.model.bn1.forward = before = model.model.bn1.forward  # somebody's own
    with pytest.raises(RuntimeError, match="size"), tile_statistics(model.model):
        model.class_maps(torch.zeros(3, 5, 5, 5))
    assert model.model.bn1.forward is before and "forward" not in vars(model.model.layer1[0].bn1)


def test_synchronised_norms_of_one_process_are_plain_batch_norms():
    a, b, x = tiny(), tiny(), torch.randn(4, 3, 32, 32)
    keys = list(a.state_dict())
    assert synchronised(a, ONE) is a and list(a.state_dict()) == keys
    assert a.model.bn1 is a.stage1[1] and isinstance(a.BN[0], sync_bn.SynchronisedBatchNorm)
    for model in (a, b):
        model(x, with_cam=True)[0].sin().sum().backward()
    for (name, u), v in zip(a.named_parameters(), b.parameters(), strict=True):
        assert u.grad is v.grad is None or torch.equal(u.grad, v.grad), name
    for (name, u), v in zip(a.named_buffers(), b.buffers(), strict=True):
        assert torch.equal(u, v), name


@pytest.mark.parametrize(
    "name", ["timm:efficientnet_b0", "timm:mobilenetv3_small_050", "timm:regnetx_002"]
)
def test_timms_networks_keep_their_activation_under_sync_bn_and_on_tiles(name):
    """Whole step with tiles in groups of four; the activation lies in timm's norm layers."""
    torch.manual_seed(0)
    plain = Classifier(name, 20, pretrained=False).train()
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 20)
    labels[0, 2] = labels[1, 5] = labels[1, 7] = 1
    found = {}
    for kind, model in (
        ("plain", copy.deepcopy(plain)),
        ("synced", synchronised(copy.deepcopy(plain), ONE)),
    ):
        torch.manual_seed(1)  # of dropped paths
        out = object_aware_losses(model, None, images, labels, "max")
        sum(out[key] for key in ("class_loss", "p_class_loss", "re_loss")).backward()
        found[kind] = {
            key: out[key].detach() for key in ("class_loss", "p_class_loss", "re_loss", "features")
        }
        found[kind] |= {
            name: p.grad for name, p in model.named_parameters() if p.grad is not None
        }  # its head has none
        found[kind] |= dict(model.named_buffers())
    assert list(found["plain"]) == list(found["synced"])
    for key, value in found["plain"].items():
        assert torch.equal(found["synced"][key], value), key


@pytest.mark.parametrize(
    "settings", [{"momentum": None}, {"track_running_stats": False}, {"affine": False}]
)
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_tiles_of_a_norm_of_any_setting_equal_one_call_per_pair(kind, settings):
    torch.manual_seed(0)
    loop, batched, x = (
        kind(5, **settings),
        nn.Sequential(kind(5, **settings)),
        torch.randn(12, 5, 3, 3),
    )
    wanted = torch.cat([loop(part) for part in x.split(4)])
    with tile_statistics(batched, "group", update=True):
        torch.testing.assert_close(batched(x.clone()), wanted)
    for a, b in zip(batched.buffers(), loop.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad(), tile_statistics(batched, "group"):
        torch.testing.assert_close(batched(x.clone()), wanted)
    with tile_statistics(batched, "eval"):
        torch.testing.assert_close(batched(x.clone()), loop.eval()(x.clone()))
    grouped = grouped_in_one_call(batched[0], x)
    torch.testing.assert_close(getattr(loop, "act", nn.Identity())(grouped), wanted)


# --- equal to oass.method ---


def both_forms():
    """A network in training mode, tiles of three pairs, and the loop over the pairs."""
    model = tiny().double()
    tiles = torch.randn(3, 4, 3, 32, 32, dtype=torch.float64)
    return model, tiles


def scalar_of(function, model):
    """A smooth number of the tiles' maps, as a function of the tiles."""
    return lambda tiles: function(model, tiles).double().sin().sum()


def test_value_and_gradient_are_those_of_the_loop():
    model, tiles = both_forms()
    found = []
    for function in (method.tile_class_maps, tile_class_maps):
        model.zero_grad()
        scalar_of(function, model)(tiles).backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_running_statistics_move_as_in_the_loop():
    loop, batched = tiny(), tiny()
    tiles = torch.randn(3, 4, 3, 32, 32)
    with torch.no_grad():
        method.tile_class_maps(loop, tiles)
        tile_class_maps(batched, tiles, update_statistics=True)
    for (name, a), b in zip(loop.model.named_buffers(), batched.model.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5, msg=name)


def test_the_second_derivative_is_that_of_the_loop():
    model, tiles = both_forms()
    found = []
    for function in (method.tile_class_maps, tile_class_maps):
        x = tiles.clone().requires_grad_()
        (first,) = torch.autograd.grad(scalar_of(function, model)(x), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_torch_func_gives_the_gradient_of_autograd():
    model, tiles = both_forms()
    x = tiles.clone().requires_grad_()
    scalar_of(tile_class_maps, model)(x).backward()
    found = torch.func.grad(scalar_of(tile_class_maps, model))(tiles)
    torch.testing.assert_close(found, x.grad)
    directions = torch.func.vmap(lambda t: tile_class_maps(model, t[None])[0])(tiles)
    torch.testing.assert_close(directions, tile_class_maps(model, tiles))


@pytest.mark.parametrize("mode", ["group", "batch", "eval"])
def test_compiled_maps_are_the_same(mode):
    model, tiles = both_forms()
    compiled = torch.compile(lambda t: tile_class_maps(model, t, mode=mode), backend="eager")
    torch.testing.assert_close(compiled(tiles), tile_class_maps(model, tiles, mode=mode))
