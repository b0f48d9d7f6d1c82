"""Networks of timm and torchvision under -mo: two steps of main.py's own loop, and the maps."""

import json

import pytest
import torch

from cavl import main
from cavl.build_deployed import deployed
from cavl.build_named import NamedNetwork, named_network, picture_input
from cavl.build_saved import load_run
from common import samples
from common.backbones import CamClassifier, feature_network

NETWORKS = {  # the smallest size that is sensible, and the side of its map
    "resnet18": (32, 1),
    "tf_efficientnet_lite0": (32, 1),
    "convnext_atto": (32, 1),
    "mobilenetv3_small_050": (32, 1),
    "vit_tiny_patch16_224": (32, 2),
    "swin_tiny_patch4_window7_224": (32, 1),
}
FAST = ("mobilenetv3_small_050",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return samples.draw("own", tmp_path_factory.mktemp("own") / "x")


def marked(names):
    params = []
    for name in names:
        marks = [] if name in FAST else [pytest.mark.slow]
        params.append(pytest.param(name, marks=marks))
    return params


def trained(place, folder, name, size, *flags):
    given = ["--data", str(place / "folders"), "-mo", name, "-size", str(size), "-bs", "12"]
    main.main([*given, "--cpu", "-ep", "1", "--output_dir", str(folder), *flags])
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])


@pytest.mark.parametrize("name", marked(NETWORKS))
def test_two_steps_and_the_maps(place, tmp_path, name):
    size, side = NETWORKS[name]
    line = trained(place, tmp_path / "r", name, size, "-select", "cam", "-cam_vis", "1")
    assert line["step"] == 2 and 0 < line["loss"] < 50
    saved = load_run(tmp_path / "r")
    takes = picture_input(name, size, is_own=False)
    assert (saved.takes.mean, saved.takes.std) == (takes.mean, takes.std)
    assert saved.takes.interpolation == takes.interpolation
    x = deployed(tmp_path / "r").example(2)
    with torch.inference_mode():
        outputs, maps = saved.model.class_activation_maps(x)
        assert torch.allclose(outputs, saved.model(x), atol=1e-5)
    assert maps.shape == (2, 3, side, side) and (maps >= 0).all()


@pytest.mark.parametrize("name", marked(("mobilenetv3_small_050", "convnext_atto")))
def test_the_gradient_is_that_of_the_network_without_our_wrapper(name):
    wrapped = named_network(name, (3, 32, 32), 3).eval()
    plain = CamClassifier(feature_network(name, image_size=32), 3).eval()
    plain.load_state_dict(wrapped.classifier_network.state_dict())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for network in (wrapped, plain):
        network(x).square().sum().backward()
    for one, two in zip(wrapped.parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        assert one.grad is None or torch.equal(one.grad, two.grad)


def test_grey_images_are_taken_in_three_colours():
    network = named_network("mobilenetv3_small_050", (1, 32, 32), 3).eval()
    x = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(x), network(x.expand(-1, 3, -1, -1)))


@pytest.mark.slow
def test_a_sample_of_mnist_is_trained_with_a_named_network(tmp_path):
    flags = ["--sample", "--cpu", "-mo", "mobilenetv3_small_050", "-ep", "1", "--max_steps", "2"]
    main.main([*flags, "--output_dir", str(tmp_path / "r")])
    saved = load_run(tmp_path / "r")
    assert isinstance(saved.model, NamedNetwork) and saved.takes.shape == (1, 28, 28)
    assert saved.takes.mean is not None and len(saved.takes.mean) == 1


@pytest.mark.slow
def test_weights_come_from_a_file_of_another_run(place, tmp_path, capsys):
    name = "mobilenetv3_small_050"
    trained(place, tmp_path / "a", name, 32)
    weights = tmp_path / "a" / "checkpoints" / "last.pt"
    capsys.readouterr()
    trained(place, tmp_path / "b", name, 32, "-weights", str(weights), "-lr", "1e-12")
    assert "last.pt" in capsys.readouterr().out
    one, two = (load_run(tmp_path / run).model.state_dict() for run in "ab")
    key = "classifier_network.head.weight"
    assert torch.allclose(one[key], two[key], atol=1e-6)
