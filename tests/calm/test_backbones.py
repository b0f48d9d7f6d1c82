"""--architecture with any network: two steps on own data, the map, gradients, weights, refusals."""

from pathlib import Path

import pytest
import torch

from calm.build_checkpoint import read_checkpoint
from calm.network import ARCHITECTURES
from calm.network.any import AnyCam, build_any, load_backbone
from calm.network.util import without_batch_norm
from calm.options import parse
from calm.training import Trainer
from common.cli import UserError
from tests.calm.test_own_data import TRAIN

SLOW = pytest.mark.slow
# Network, size of the input, places of its map at that size.
MATRIX = [
    pytest.param("resnet18", 64, 4),  # the paper's own
    pytest.param("timm/resnet18", 64, 4, marks=SLOW),
    pytest.param("tf_efficientnet_lite0", 64, 4, marks=SLOW),
    pytest.param("convnext_atto", 64, 4, marks=SLOW),
    pytest.param("mobilenetv3_small_050", 64, 2),
    pytest.param("vit_tiny_patch16_224", 64, 4),
    pytest.param("swin_tiny_patch4_window7_224", 64, 2, marks=SLOW),
    pytest.param("torchvision/resnet18", 64, 2, marks=SLOW),
]


@pytest.mark.parametrize(("name", "size", "places"), MATRIX)
def test_two_steps_on_own_data(
    own: Path,
    tmp_path: Path,
    name: str,
    size: int,
    places: int,
) -> None:
    flags = [*TRAIN, f"--architecture={name}", f"--crop_size={size}", f"--resize_size={size + 4}"]
    flags += ["--data", str(own / "folders"), "--output_dir", str(tmp_path / "r"), "--max_steps=2"]
    trainer = Trainer(parse(flags))
    trainer.train("train")
    loss = trainer.loss.compute()
    assert loss is not None and torch.isfinite(torch.tensor(loss))
    images = torch.randn(2, 3, size, size)
    trainer.model.eval()
    maps = trainer.model(images, torch.tensor([0, 2]), return_cam="jointll")
    assert maps.shape == (2, places, places)
    scores = trainer.evaluate_cls("val")
    assert 0 <= scores["accuracy"] <= 100


def any_cam(name: str, size: int = 64, **more: object) -> AnyCam:
    how: dict = {"pretrained": False, "weights": None, "num_classes": 3, "image_size": size}
    how |= {"large_feature_map": False, "attribution_method": "CALM-EM"}
    how |= {"prior_activation": "softplus", "prior_gradient": "full"}
    return build_any(name, **(how | more))


def test_a_gradient_is_that_of_the_bare_network() -> None:
    torch.manual_seed(0)
    model = any_cam("resnet18").eval()
    images = torch.randn(2, 3, 64, 64)
    labels = torch.tensor([0, 2])
    ours = model(images, labels, with_loss=True)["loss"].mean()
    weight = model.features.body.conv1.weight
    (gradient,) = torch.autograd.grad(ours, weight)

    features = model.features.body.forward_features(images)
    bare = model.process.loss(model.conv_last(features), features, labels)["loss"].mean()
    (expected,) = torch.autograd.grad(bare, weight)
    torch.testing.assert_close(gradient, expected)


def test_all_weights_get_a_gradient() -> None:
    model = any_cam("convnext_atto")
    loss = model(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]), with_loss=True)["loss"].mean()
    loss.backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None]
    assert not missing


def test_images_come_as_the_network_was_trained() -> None:
    model = any_cam("vit_tiny_patch16_224").eval()
    assert model.features.mean == (0.5, 0.5, 0.5) and not model.is_imagenet
    pixels = torch.rand(1, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    found = model.extract((pixels - mean) / std)
    torch.testing.assert_close(found, model.features((pixels - 0.5) / 0.5), atol=1e-4, rtol=1e-4)


def test_a_large_map() -> None:
    assert any_cam("timm/resnet18", large_feature_map=True).features.grid(64) == (8, 8)
    with pytest.raises(UserError, match="no map with a place every 8 px"):
        any_cam("vit_tiny_patch16_224", large_feature_map=True)


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(UserError, match="did you mean"):
        any_cam("resnet5o")
    with pytest.raises(UserError, match="vit_tiny_patch16_224"):
        any_cam("vit_tiny_patch16_224", size=60)


def test_weights_of_a_file(tmp_path: Path) -> None:
    import timm

    bare = timm.create_model("resnet18", num_classes=7)
    file = tmp_path / "bare.pt"
    torch.save({"state_dict": bare.state_dict()}, file)
    model = any_cam("timm/resnet18", weights=str(file))
    torch.testing.assert_close(model.features.body.conv1.weight, bare.conv1.weight)
    paper = ARCHITECTURES["resnet18"](num_classes=3)
    assert "tensors loaded" in str(load_backbone(paper, file))
    torch.testing.assert_close(paper.conv1.weight, bare.conv1.weight)
    with pytest.raises(UserError, match="does not fit|nothing in it fits"):
        any_cam("convnext_atto", weights=str(file))


def test_batch_norm_is_not_merged_where_the_order_is_not_known() -> None:
    model = any_cam("tf_efficientnet_lite0").eval()
    images = torch.randn(1, 3, 64, 64)
    labels = torch.tensor([1])
    merged = without_batch_norm(model)
    expected = model(images, labels, return_cam="jointll")
    torch.testing.assert_close(merged(images, labels, return_cam="jointll"), expected)


def test_the_checkpoint_says_the_input(own: Path, tmp_path: Path) -> None:
    from calm import main

    flags = [*TRAIN, "--architecture=mobilenetv3_small_050", "--data", str(own / "folders")]
    main.main([*flags, "--output_dir", str(tmp_path / "r")])
    _, settings = read_checkpoint(tmp_path / "r/checkpoints/last.pt")
    assert settings["network_input"]["interpolation"] == "bicubic"
    main.main(["--is_train=False", "--cpu", "--output_dir", str(tmp_path / "r"), "--workers=0"])
