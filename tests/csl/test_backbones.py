"""Networks of timm and torchvision in training, scoring and activation maps."""

import time

import pytest
import torch

from common import samples
from common.errors import UserError
from csl import method
from csl.data_pixels import Pixels
from csl.src.models.utils.checkpoint import load_weights, network_of, official
from csl.src.models.utils.factory import activation_maps, build_network, input_of
from csl.train import main as train

FAST = ("resnet18", "vit_tiny_patch16_224")
SIZES = {  # the smallest at which each of them trains, and its map there
    "resnet18": (32, 1),
    "torchvision/resnet18": (32, 1),
    "tf_efficientnet_lite0": (32, 1),
    "convnext_atto": (32, 1),
    "mobilenetv3_small_050": (32, 1),
    "vit_tiny_patch16_224": (32, 2),
    "swin_tiny_patch4_window7_224": (32, 1),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return samples.draw("own", tmp_path_factory.mktemp("own") / "x", samples.SEED)


def flags_of(place, name, size, out, *more):
    fixed = "--batch_size 8 --epochs 1 --max_steps 2 --workers 0 --cpu --augment none"
    flags = ["--data", str(place / "partial.csv"), "--model_name", name, "--image_size", str(size)]
    mode = ["--partial_loss_mode", "selective", "--likelihood_topk", "1"]
    return [*flags, *fixed.split(), *mode, "--output_dir", str(out), *more]


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SIZES]
)
def test_two_steps_and_maps(name, place, tmp_path, capsys):
    size, side = SIZES[name]
    out = tmp_path / "run"
    train(flags_of(place, name, size, out, "--checkpoint_every", "1", "--print_freq", "1"))
    state = torch.load(out / "checkpoints" / "last.pt", weights_only=True)
    assert state["progress"]["step"] == 2
    printed = capsys.readouterr().out
    losses = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("step ")]
    assert len(losses) == 2
    assert all(0 < loss < 1e4 for loss in losses)

    model, found = network_of(out / "checkpoints" / "last.pt", "tresnet_m")
    assert found.architecture == name
    assert list(found.idx_to_class.values()) == ["one", "three", "two"]
    images = torch.rand(2, 3, size, size)
    model.eval()
    began = time.perf_counter()
    maps = activation_maps(model, images)
    print(
        f"{name} {size} px: map {tuple(maps.shape)}, {1000 * (time.perf_counter() - began):.0f} ms"
    )
    assert maps.shape == (2, 3, side, side)
    # The average of a map is its logit but for the bias and those of a norm behind the pooling.
    rest = model(images) - maps.mean((2, 3))
    torch.testing.assert_close(rest[0], rest[1], atol=1e-4, rtol=1e-4)


def test_the_gradient_is_that_of_the_network_without_the_wrapper():
    import timm

    torch.manual_seed(0)
    ours = build_network("resnet18", 4).eval()
    plain = timm.create_model("resnet18", num_classes=4).eval()
    plain.load_state_dict(
        {
            name.removeprefix("features.body.").replace("head.", "fc."): value
            for name, value in ours.state_dict().items()
        }
    )
    images = torch.rand(2, 3, 32, 32)
    targets = torch.tensor([[1, 0, -1, -1], [-1, 1, 0, -1]])
    for network in (ours, plain):
        method.partial_asymmetric_loss(network(images), targets).backward()
    ours_first = ours.features.body.conv1.weight.grad
    torch.testing.assert_close(ours_first, plain.conv1.weight.grad)


def test_input_is_that_of_the_configuration():
    assert input_of("vit_tiny_patch16_224", 32).interpolation == "bicubic"
    assert input_of("vit_tiny_patch16_224", 32).statistics.mean == (0.5, 0.5, 0.5)
    assert input_of("torchvision/resnet18").statistics.mean[0] == pytest.approx(0.485)
    assert input_of("tresnet_m", 448) == (None, "bilinear")


def test_the_checkpoint_tells_the_input(place, tmp_path):
    out = tmp_path / "run"
    train(flags_of(place, "vit_tiny_patch16_224", 32, out, "--checkpoint_every", "1"))
    from csl.src.models.utils.checkpoint_input import pixels_for

    _, found = network_of(out / "checkpoints" / "last.pt", "tresnet_m")
    pixels = pixels_for(
        found,
        size=448,
        interpolation="bilinear",
        is_size_given=False,
        is_interpolation_given=False,
    )
    assert pixels == Pixels(32, "bicubic", input_of("vit_tiny_patch16_224").statistics)


@pytest.mark.parametrize("wrapper", ["bare", "state_dict", "module", "run"])
def test_weights_of_a_file_start_the_body(wrapper, place, tmp_path, capsys):
    import timm

    torch.manual_seed(1)
    source = timm.create_model("resnet18", num_classes=7)
    state = dict(source.state_dict())
    wanted = state["conv1.weight"].clone()
    if wrapper == "state_dict":
        state = {"state_dict": state}
    if wrapper == "module":
        state = {"model": {f"module.{name}": value for name, value in state.items()}}
    if wrapper == "run":
        ours = build_network("resnet18", 5)
        wanted = ours.features.body.conv1.weight.detach().clone()
        state = official(ours.state_dict(), num_classes=5, model_name="resnet18")
    torch.save(state, tmp_path / "w.pth")
    model = build_network("resnet18", 3)
    load_weights(model, tmp_path / "w.pth", load_head=False)
    assert torch.equal(model.features.body.conv1.weight, wanted)


MISTAKES = {
    "an unknown name": ("resnet81", 32, (), "did you mean"),
    "a size that a ViT does not take": ("vit_tiny_patch16_224", 40, (), "multiples of 16"),
    "a bottleneck head": ("resnet18", 32, ("--do_bottleneck_head",), "has no"),
    "weights of another network": ("resnet18", 32, ("--weights", "{deeper}"), "resnet"),
    "no such weights": ("resnet18", 32, ("--weights", "{none}"), "no such file"),
    "published weights without a network": (
        "resnet18.a1_in1k",
        32,
        ("--pretrained",),
        "offline|WSL",
    ),
    "published weights of our tiny one": ("tresnet_tiny", 32, ("--pretrained",), "no published"),
    "two sources": ("resnet18", 32, ("--pretrained", "--weights", "{none}"), "give one"),
}


@pytest.mark.parametrize("case", MISTAKES, ids=[case.replace(" ", "-") for case in MISTAKES])
def test_mistakes_are_one_line(case, place, tmp_path):
    import timm

    name, size, more, message = MISTAKES[case]
    deeper = tmp_path / "deeper.pth"
    if "{deeper}" in more:
        torch.save(timm.create_model("resnet34", num_classes=2).state_dict(), deeper)
    filled = [flag.format(deeper=deeper, none=tmp_path / "none.pth") for flag in more]
    with pytest.raises(UserError, match=message) as caught:
        train(flags_of(place, name, size, tmp_path / "run", *filled))
    assert "\n" not in str(caught.value)


def test_published_weights_of_a_tresnet_come_from_timm(monkeypatch, place, tmp_path):
    from csl import build
    from csl.src.models.utils import factory

    original = factory.feature_network
    monkeypatch.setattr(
        factory,
        "feature_network",
        lambda name, **more: original(name, **more | {"pretrained": False}),
    )
    state = factory.published_body("tresnet_m")
    model = build.build_network("tresnet_m", 3)
    load_weights(model, state, load_head=False)
    wanted = state["body.conv1.conv.weight"]
    assert torch.equal(model.state_dict()["body.conv1.0.weight"], wanted)
