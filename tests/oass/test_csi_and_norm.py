"""Class-specific instances against the loop over classes; batch norms of the tiles against one call per pair."""

import copy
from types import SimpleNamespace

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from common import sync_bn
from common.cli import UserError
from common.sync_bn import synchronised
from oass.build_objective import TilePass
from oass.core.csi import class_specific_instances, csi_logits
from oass.core.losses import object_aware_losses
from oass.core.networks import Classifier
from oass.fast import grouped_in_one_call, tile_class_maps, tile_statistics
from oass.method import instance_moments
from oass.options_check import terms_of
from oass.tools.ai.torch_utils import make_cam
from oass.train_step import weight_by_pairs


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


def tiny():
    torch.manual_seed(1)
    return Classifier("resnet_tiny", 20, pretrained=False).train()


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


ONE, TWO = SimpleNamespace(num_processes=1), SimpleNamespace(num_processes=2)


def test_forwards_come_back_also_after_an_error():
    model = synchronised(tiny(), ONE)
    model.model.bn1.forward = before = model.model.bn1.forward  # somebody's own
    with pytest.raises(RuntimeError, match="size"), tile_statistics(model.model):
        model.class_maps(torch.zeros(3, 5, 5, 5))
    assert model.model.bn1.forward is before and "forward" not in vars(model.model.layer1[0].bn1)


def test_synchronised_norms_in_one_process_are_batch_norms_and_keep_the_names():
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


@pytest.fixture
def two_halves(monkeypatch):
    """The sums of two processes, where the other one's numbers are these: a list, or a function of ours."""

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


@pytest.mark.parametrize(
    "name", ["timm:efficientnet_b0", "timm:mobilenetv3_small_050", "timm:regnetx_002"]
)
def test_timms_networks_keep_their_activation_under_sync_bn_and_on_tiles(name):
    """Whole step, tiles in groups of four included; the activation lies inside timm's norm layers."""
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


@pytest.mark.parametrize("strategy", ["max", "cMax", "cTopk", "cTopk-w", "uniform"])
def test_batched_step_equals_a_loop_over_pairs(strategy):
    """The whole step: tiles one pair at a time through the network, against one batched pass."""
    model, images = tiny(), torch.randn(3, 3, 64, 64)
    labels = torch.zeros(3, 20)
    labels[0, 2] = labels[0, 5] = labels[2, 7] = 1
    student_tiles = strategy in ("max", "uniform")
    teacher = None if student_tiles else copy.deepcopy(model).requires_grad_(False)
    out = object_aware_losses(model, teacher, images, labels, strategy)
    one_by_one = object_aware_losses(model, teacher, images, labels, strategy, tile_chunk=1)
    for key in ("class_loss", "p_class_loss", "re_loss"):
        torch.testing.assert_close(out[key], one_by_one[key])
    assert len(out["keypoints"]) == 3
    assert out["p_class_loss"].requires_grad == student_tiles


def test_who_gets_a_gradient():
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 20)
    labels[:, 3] = 1
    teacher = tiny().requires_grad_(False)
    gradients = {}
    for p_loss in ("teacher", "student", "full"):
        model = tiny()
        out = object_aware_losses(model, teacher, images, labels, "cMax", p_loss=p_loss)
        if out["p_class_loss"].requires_grad:
            out["p_class_loss"].backward()
        gradients[p_loss] = model.classifier.weight.grad
    assert gradients["teacher"] is None and gradients["student"].any() and gradients["full"].any()
    model = tiny()
    object_aware_losses(model, None, images, labels, "max")["re_loss"].backward()
    assert model.classifier.weight.grad.any() and model.model.conv1.weight.grad.any()


@pytest.mark.parametrize("strategy", ["cMax", "max"])
def test_p_loss_full_classifies_the_whole_image_and_leaves_the_tiles_logits(strategy):
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 20)
    labels[:, 3:5] = 1
    model, teacher = tiny(), tiny().requires_grad_(False) if strategy == "cMax" else None
    plain, full = (
        object_aware_losses(copy.deepcopy(model), teacher, images, labels, strategy, p_loss=p)
        for p in ("teacher", "full")
    )
    want = nn.functional.binary_cross_entropy_with_logits(full["features"].mean((2, 3)), labels)
    torch.testing.assert_close(full["p_class_loss"], want)
    torch.testing.assert_close(full["tile_logits"], full["merged"].mean((2, 3)))
    torch.testing.assert_close(full["tile_logits"], plain["tile_logits"])


@pytest.mark.parametrize(
    ("p_loss", "plain"), [("teacher", "class_loss"), ("full", "class_loss p_class_loss")]
)
def test_means_over_pairs_are_weighted_by_the_processes_pairs(p_loss, plain):
    names = ("class_loss", "p_class_loss", "re_loss", "conf_loss")
    found = {**dict.fromkeys(names, torch.tensor(1.0)), "num_pairs": torch.tensor(2.0)}
    both = SimpleNamespace(
        num_processes=2, reduce=lambda pairs, how: pairs + 6
    )  # the other process has six pairs
    weight_by_pairs(found, terms_of("cMax", p_loss, "cl_pcl_re_conf"), both)
    assert {name: float(found[name]) for name in names} == {
        n: 1.0 if n in plain.split() else 0.5 for n in names
    }


def test_out_of_memory_halves_the_tile_pass_once_and_for_good(monkeypatch, capsys):
    model, tiles, passes = tiny(), torch.randn(6, 4, 3, 32, 32), []
    real = Classifier.feature_map

    def run(most):
        def feature_map(network, images):
            passes.append(len(images) // 4)
            if passes[-1] > most:
                raise torch.OutOfMemoryError("no memory")
            return real(network, images)

        monkeypatch.setattr(Classifier, "feature_map", feature_map)

    want = tile_class_maps(model, tiles)
    run(most=3)
    tile_pass = TilePass()
    for _ in range(2):
        torch.testing.assert_close(tile_pass(model, tiles), want)
    assert passes == [6, 3, 3, 3, 3] and capsys.readouterr().out.count("--tile_chunk 3") == 1
    run(most=2)
    with pytest.raises(UserError, match="--tile_chunk 1"):
        TilePass(pairs=6)(model, tiles)
    run(most=0)
    with pytest.raises(UserError, match="1 pair.*--image_size"):
        TilePass(pairs=1)(model, tiles)


def test_options_of_the_reconstruction_loss():
    from oass.core.losses import reconstruction_loss

    full, merged = torch.rand(2, 4, 3, 3), torch.rand(2, 4, 3, 3)
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0.0]])
    difference = (full - merged).abs().mean((2, 3))
    torch.testing.assert_close(
        reconstruction_loss(full, merged, mask, option="none"), difference.mean()
    )
    torch.testing.assert_close(reconstruction_loss(full, merged, mask), (difference * mask).mean())
    selected = (difference[0, 0] + difference[1, :2].mean()) / 2
    torch.testing.assert_close(
        reconstruction_loss(full, merged, mask, option="selection"), selected
    )
    squares = ((full - merged) ** 2).mean((2, 3))
    torch.testing.assert_close(
        reconstruction_loss(full, merged, mask, "L2_Loss"), (squares * mask).mean()
    )


def test_no_label_at_all():
    model, teacher = tiny(), tiny().requires_grad_(False)
    out = object_aware_losses(
        model, teacher, torch.randn(2, 3, 64, 64), torch.zeros(2, 20), "cTopk"
    )
    assert out["re_loss"].item() == 0 and out["p_class_loss"].item() == 0
    (out["class_loss"] + out["re_loss"]).backward()
    assert model.model.conv1.weight.grad.any()
