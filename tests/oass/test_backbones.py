"""The puzzle on any network: its grid, its tiles, its normalisation, and weights from a file."""

import pytest
import torch
from safetensors.torch import save_file

from common import checkpoint, samples
from common.cli import UserError
from oass import explain, inference_classification
from oass.build_trained import Trained
from oass.core.networks import Classifier
from oass.fast import tile_class_maps
from oass.method import (
    detect_keypoints,
    make_cam,
    merge_at_keypoints,
    puzzle_losses,
    tile_at_keypoints,
)
from oass.method import tile_class_maps as one_by_one
from oass.options import parse
from oass.train import train

FLAGS = (
    "--cpu --weights none --batch_size 4 --max_epoch 1 --max_steps 2 --num_workers 0 --pictures 0 "
    "--lr 0.001 --print_ratio 0.1"
)
slow = pytest.mark.slow
NETWORKS = [  # name, image size, G, h
    ("resnet18", 64, 4, 2),
    ("vit_tiny_patch16_224", 64, 4, 2),
    pytest.param("tf_efficientnet_lite0", 64, 4, 2, marks=slow),
    pytest.param("convnext_atto", 64, 4, 2, marks=slow),
    pytest.param("mobilenetv3_small_050", 64, 2, 1, marks=slow),
    pytest.param("swin_tiny_patch4_window7_224", 64, 2, 1, marks=slow),
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "x"
    samples.draw("own", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "grid", "cells"), NETWORKS)
def test_two_steps_and_what_follows(name, size, grid, cells, own, tmp_path):
    folder = tmp_path / "run"
    sizes = f"--image_size {size} --min_image_size {size} --max_image_size {size}"
    argv = f"{FLAGS} {sizes} --architecture {name} --data {own / 'multi.csv'}"
    summary = train(parse("cTopk-w", [*argv.split(), "--output_dir", str(folder)]))
    assert summary["steps"] == 2
    line = (folder / "metrics.jsonl").read_text().splitlines()[0]
    assert '"loss": ' in line and "NaN" not in line

    saved = checkpoint.load(folder / "checkpoints/last.pt")
    network = Trained(folder).network()
    if name != "resnet18":  # the paper's own
        assert saved["state"]["input"] == network.described_input()
    with torch.no_grad():
        assert network.class_maps(torch.zeros(1, 3, size, size)).shape == (1, 3, grid, grid)
        tiles = torch.zeros(2, 4, 3, size // 2, size // 2)
        assert tile_class_maps(network, tiles, mode="eval").shape == (2, 4, 3, cells, cells)
    flags = f"--checkpoint {folder} --cpu --num_workers 0 --output_dir {tmp_path / 'i'}"
    inference_classification.main(flags.split())
    picture = own / "pictures/one_00.jpg"
    flags = f"--image {picture} --checkpoint {folder} --cpu --output_dir {tmp_path / 'e'}"
    explain.main(flags.split())
    assert (tmp_path / "e/figures/explain.png").is_file()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_the_gradient_of_the_puzzle_is_that_of_the_bare_network(name):
    """Tiles of all pairs in one pass of our wrapper, against the network called pair by pair."""
    torch.manual_seed(0)
    model = Classifier(name, 3, pretrained=False, image_size=96).double().eval()
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    labels = torch.eye(3, dtype=torch.float64)[:2]
    maps = model.class_maps(images)
    points = detect_keypoints(make_cam(maps.detach()), labels, "cMax", 96)
    tiles = tile_at_keypoints(images, points.image_index, points.keypoints)
    gradients = []
    for tile_maps in (
        lambda: tile_class_maps(model, tiles, mode="eval"),
        lambda: one_by_one(model, tiles),
        lambda: torch.stack([model.classifier(model.model(pair)).float() for pair in tiles]),
    ):
        merged = merge_at_keypoints(tile_maps(), points.keypoints, 96, maps.shape[-1])
        losses = puzzle_losses(model.class_maps(images), merged, labels, *points[1:])
        weights = [p for p in model.model.parameters() if p.requires_grad]
        gradient = torch.autograd.grad(sum(losses), weights)
        gradients.append(torch.cat([part.flatten() for part in gradient]))
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, rtol=1e-5, atol=1e-8)
    assert gradients[0].abs().sum() > 0


def test_weights_of_any_origin(own, tmp_path, capsys):
    import timm

    source = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=224)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    checkpoint.save(tmp_path / "wrapped.pth", {"model": source.state_dict(), "epoch": 3})
    for name in ("vit.safetensors", "wrapped.pth"):
        model = Classifier("vit_tiny_patch16_224", 3, pretrained=tmp_path / name, image_size=64)
        out = capsys.readouterr().out
        assert "tensors loaded" in out and "its classifier (10, 192) left out" in out
        weight = model.model.body.blocks[0].attn.qkv.weight
        assert torch.equal(weight, source.blocks[0].attn.qkv.weight)
    with pytest.raises(UserError, match="(nothing in it fits|does not fit) convnext_atto"):
        Classifier("convnext_atto", 3, pretrained=tmp_path / "vit.safetensors")

    other = timm.create_model("resnet18", num_classes=7)
    prefixed = {f"module.{k}": v for k, v in other.state_dict().items()}
    checkpoint.save(tmp_path / "r.pth", {"state_dict": prefixed})
    own_one = Classifier("resnet18", 3, pretrained=tmp_path / "r.pth")
    assert torch.equal(own_one.model.layer4[1].conv2.weight, other.layer4[1].conv2.weight)


def test_names_and_published_weights(tmp_path, monkeypatch):
    sample = ["--sample", "--architecture", "resnet18"]
    assert parse("cMax", [*sample, "--pretrained"]).args.weights == "imagenet"
    assert parse("cMax", sample).args.weights == "none"
    with pytest.raises(UserError, match="--pretrained and --weights none: give one of them"):
        parse("cMax", [*sample, "--pretrained", "--weights", "none"])
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    told = "convnext_atto: its published weights are not in the cache and cannot be downloaded"
    with pytest.raises(UserError, match=told):
        Classifier("convnext_atto", 3, pretrained=True)


def test_an_unknown_network_ends_before_the_data_are_read(own, tmp_path):
    argv = f"{FLAGS} --architecture resnet51 --data {own / 'multi.csv'}".split()
    with pytest.raises(UserError, match="resnet51: timm and torchvision have no such network"):
        train(parse("cMax", [*argv, "--output_dir", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists()
