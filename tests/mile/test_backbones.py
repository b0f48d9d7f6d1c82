"""Networks of timm and torchvision: two steps on own pictures, maps, weights there and back."""

import pytest
import timm
import torch
from accelerate import Accelerator

from common import samples
from common.cli import UserError
from mile import build
from mile.MILe import one_step
from mile.models import build_model, load_weights, start_from
from mile.models_backbones import Backbone, has_maps, logits_and_maps, whole_network
from mile.options import parse
from tests.mile.helpers import flags

MATRIX = {  # name -> (side in pixels, side of the map)
    "small": (32, 3),
    "resnet18": (64, 2),
    "tf_efficientnet_lite0": (64, 2),
    "convnext_atto": (64, 2),
    "mobilenetv3_small_050": (64, 2),
    "vit_tiny_patch16_224": (64, 4),
    "swin_tiny_patch4_window7_224": (96, 3),
    "torchvision/mobilenet_v2": (64, 2),
}
CASES = [pytest.param(name, *sizes, id=name) for name, sizes in MATRIX.items()]


@pytest.mark.parametrize(("name", "size", "side"), CASES)
def test_two_steps_and_a_map(name, size, side):
    shape = {"model": name, "image_size": size, "batch_size": 4, "num_workers": 0}
    place = samples.ensure("own") / "complete.csv"
    settings = parse(["--cpu", *flags(data=place, **shape)], lambda line: None)
    accelerator = Accelerator(cpu=True)
    source = build.open_source(settings, accelerator)
    learner = build.build_learner(settings.args, source.num_classes, accelerator)
    stream = source.stream(0)
    losses = [one_step(learner, next(stream))]
    learner.begin_imitation()
    losses.append(one_step(learner, next(stream)))
    assert torch.stack(losses).isfinite().all()

    network = learner.student.eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        logits, maps = logits_and_maps(network, images)
        assert logits.allclose(network(images), atol=1e-4)
    assert maps.shape == (2, 3, side, side) and has_maps(network)
    if isinstance(network, Backbone):
        assert source.statistics == network.statistics


@pytest.mark.parametrize("name", ["small", "resnet18", "vit_tiny_patch16_224"])
def test_a_map_adds_up_to_its_logit_but_for_a_constant(name):
    torch.manual_seed(0)
    network = build_model(name, 3, image_size=64).eval()
    with torch.no_grad():
        logits, maps = logits_and_maps(network, torch.randn(4, 3, 64, 64))
    whole = maps.sum((2, 3)) if name == "small" else maps.mean((2, 3))
    rest = logits - whole
    assert rest.allclose(rest[:1].expand_as(rest), atol=1e-4)


def test_a_step_is_that_of_the_bare_network():
    torch.manual_seed(0)
    wrapped = build_model("resnet18d", 3).double()
    bare = timm.create_model("resnet18d", num_classes=3).double()
    bare.load_state_dict(wrapped.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for network in (wrapped, bare):
        network(x).square().sum().backward()
    bare_gradients = {name: value.grad for name, value in bare.named_parameters()}
    for name, value in wrapped.named_parameters():
        plain = name.removeprefix("features.body.").replace("head.", "fc.")
        assert value.grad.allclose(bare_gradients[plain], rtol=1e-9)


@pytest.mark.parametrize("name", ["resnet18d", "convnext_atto"])
def test_weights_have_the_names_of_timm_and_go_both_ways(tmp_path, name):
    network = build_model(name, 3)
    bare = timm.create_model(name, num_classes=3)
    assert set(network.state_dict()) == set(bare.state_dict())
    torch.save(bare.state_dict(), tmp_path / "w.pth")
    load_weights(network, tmp_path / "w.pth")  # as existing runs wrote it
    for key, value in bare.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert network.eval()(x).allclose(bare.eval()(x), atol=1e-4)


def test_another_classifier_is_left_out_and_said(tmp_path):
    for name in ("small", "mobilenetv3_small_050", "resnet18"):
        file = tmp_path / f"{name}.pth"
        torch.save(whole_or_own(name, 7).state_dict(), file)
        network = build_model(name, 3, image_size=64)
        assert "left out" in start_from(network, file)
    with pytest.raises(UserError, match="does not fit SmallNet"):
        start_from(build_model("small", 3), file)


def whole_or_own(name, classes):
    return build_model(name, classes) if name != "mobilenetv3_small_050" else whole_network(name, 7)


def test_weights_with_a_classifier_of_timms_own_are_evaluated_with_it(tmp_path):
    bare = whole_network("vit_tiny_patch16_224", 3, 64)
    torch.save({"state_dict": bare.state_dict()}, tmp_path / "w.pth")

    def network(is_trained):
        return build.build_network(
            "vit_tiny_patch16_224",
            3,
            Accelerator(cpu=True),
            bias_init="prior",
            pretrained=str(tmp_path / "w.pth"),
            image_size=64,
            is_trained=is_trained,
        ).eval()

    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert network(True)(x).allclose(bare.eval()(x), atol=1e-4)
    assert not has_maps(network(True)) and has_maps(network(False))
    with pytest.raises(UserError, match="no maps"):
        logits_and_maps(network(True), x)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_tiny_patch16_224", 50, "multiples of 16 px"),
        ("no_such_network", 64, "no such network"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(name, size, message):
    with pytest.raises(UserError, match=message):
        build_model(name, 3, image_size=size)
