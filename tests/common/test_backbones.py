"""Networks as feature maps: shapes, gradients, classifiers, class activation maps, refusals."""

import copy
import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from common import backbones
from common.backbones import (
    CamClassifier,
    StrideError,
    cam_classifier,
    feature_network,
    load_weights,
    source_of,
)
from common.backbones_names import require_spelling, split_name
from common.errors import UserError
from tests.common.test_light import heavy_modules_of

SLOW = pytest.mark.slow
# name, image size, map, channels, stride
MATRIX = [
    ("resnet18", 224, 7, 512, 32),
    ("resnet18", 96, 3, 512, 32),
    ("tf_efficientnet_lite0", 224, 7, 1280, 32),
    ("tf_efficientnet_lite0", 96, 3, 1280, 32),
    ("convnext_atto", 224, 7, 320, 32),
    ("convnext_atto", 96, 3, 320, 32),
    ("mobilenetv3_small_050", 224, 7, 288, 32),
    ("mobilenetv3_small_050", 96, 3, 288, 32),
    ("vit_tiny_patch16_224", 224, 14, 192, 16),
    ("vit_tiny_patch16_224", 96, 6, 192, 16),
    pytest.param("swin_tiny_patch4_window7_224", 224, 7, 768, 32, marks=SLOW),
    ("swin_tiny_patch4_window7_224", 96, 3, 768, 32),
    ("torchvision/resnet18", 96, 3, 512, 32),
    pytest.param("torchvision/vgg11", 96, 3, 512, 32, marks=SLOW),
    pytest.param("torchvision/convnext_tiny", 96, 3, 768, 32, marks=SLOW),
    pytest.param("torchvision/vit_b_16", 96, 6, 768, 16, marks=SLOW),
    pytest.param("torchvision/swin_t", 96, 3, 768, 32, marks=SLOW),
    ("deit_tiny_distilled_patch16_224", 96, 6, 192, 16),
    pytest.param("vit_small_patch14_reg4_dinov2", 98, 7, 384, 14, marks=SLOW),
    pytest.param("vit_small_patch16_dinov3", 96, 6, 384, 16, marks=SLOW),
    pytest.param("volo_d1_224", 96, 6, 384, 16, marks=SLOW),
    pytest.param("vit_base_patch16_siglip_224", 96, 6, 768, 16, marks=SLOW),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch, clean_surroundings):
    monkeypatch.setenv("WSL_OFFLINE", "1")


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "size", "side", "channels", "stride"), MATRIX)
def test_a_map_has_the_shape_of_its_grid_and_every_weight_a_gradient(
    name, size, side, channels, stride
):
    network = feature_network(name, image_size=size).eval()
    assert network.grid(size) == (side, side)
    assert (network.channels, network.stride) == (channels, stride)
    found = network(images(size))
    assert found.shape == (2, channels, side, side)
    assert network.pool(found).shape == (2, channels)

    network.pool(found).pow(2).sum().backward()
    without = [key for key, value in network.named_parameters() if value.grad is None]
    assert without == []
    assert all(value.requires_grad for value in network.parameters())


BARE = {
    "resnet18": lambda model, x: model.forward_features(x),
    "tf_efficientnet_lite0": lambda model, x: model.forward_features(x),
    "convnext_atto": lambda model, x: model.forward_features(x),
    "mobilenetv3_small_050": lambda model, x: model.forward_features(x),
    "vit_tiny_patch16_224": lambda model, x: model.forward_features(x)[:, 1:],
    "swin_tiny_patch4_window7_224": lambda model, x: model.forward_features(x),
}


SLOWEST = "swin_tiny_patch4_window7_224"
GRADIENTS = [pytest.param(name, marks=SLOW if name == SLOWEST else ()) for name in BARE]


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_is_the_same_without_the_wrapper(name):
    is_fixed = name.startswith(("vit", "swin"))
    arguments = {"img_size": 96} if is_fixed else {}
    torch.manual_seed(0)
    bare = timm.create_model(name, num_classes=0, **arguments).eval()
    torch.manual_seed(0)
    network = feature_network(name, image_size=96).eval()

    x = images(96)
    BARE[name](bare, x).sigmoid().sum().backward()
    network(x).sigmoid().sum().backward()
    wanted = {key: value.grad for key, value in bare.named_parameters()}
    for key, value in network.body.named_parameters():
        if key != "head.norm.weight" and key != "head.norm.bias":
            torch.testing.assert_close(value.grad, wanted[key], rtol=1e-5, atol=1e-6)


TORCHVISION = ["resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0"]
TORCHVISION += ["regnet_y_400mf", "shufflenet_v2_x0_5", "mnasnet0_5"]
TORCHVISION += [pytest.param("swin_t", marks=SLOW), pytest.param("googlenet", marks=SLOW)]
TORCHVISION += [pytest.param("inception_v3", marks=SLOW), pytest.param("convnext_tiny", marks=SLOW)]
TIMM = ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "pvt_v2_b0", "regnety_002"]
TIMM += [pytest.param("vit_medium_patch16_gap_240", marks=SLOW), "poolformer_s12"]
TIMM += [pytest.param("hiera_tiny_224", marks=SLOW)]
TIMM += [pytest.param("swin_tiny_patch4_window7_224", marks=SLOW), "mobilenetv2_050"]
TIMM += [pytest.param("beit_base_patch16_224", marks=SLOW), pytest.param("eva02_tiny_patch14_224")]


@pytest.mark.parametrize("name", TIMM)
def test_pooling_and_linear_layer_equal_timms_logits(name, tmp_path):
    classes = {} if name != "eva02_tiny_patch14_224" else {"num_classes": 7}
    published = timm.create_model(name, **classes).eval()
    vary(published)
    torch.save(published.state_dict(), tmp_path / "file.pth")
    model = cam_classifier(name, published.num_classes, weights=tmp_path / "file.pth").eval()
    assert model.features.head_fits
    assert "with the classifier" in str(model.features.report)

    x = images(model.features.native_size[0], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TORCHVISION)
def test_pooling_and_linear_layer_equal_torchvisions_logits(name, tmp_path):
    arguments = {"transform_input": True, "init_weights": False, "aux_logits": True}
    if name not in ("googlenet", "inception_v3"):
        arguments = {}
    published = torchvision.models.get_model(name, **arguments).eval()
    vary(published)
    torch.save(published.state_dict(), tmp_path / "file.pth")
    weights = tmp_path / "file.pth"
    model = cam_classifier(f"torchvision/{name}", 1000, weights=weights).eval()
    assert model.features.head_fits

    x = images(128, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x), rtol=1e-4, atol=1e-4)


def vary(model: nn.Module) -> None:
    """Norms and biases that are not 1 and 0."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_a_classifier_that_reads_something_else_starts_afresh(name, tmp_path):
    published = timm.create_model(name)
    torch.save(published.state_dict(), tmp_path / "file.pth")
    model = cam_classifier(name, 1000, weights=tmp_path / "file.pth")
    assert not model.features.head_fits
    assert "left out" in str(model.features.report)
    assert "conv_head" not in "".join(model.state_dict())


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"]
)
def test_the_average_of_a_class_map_is_its_logit_but_for_a_constant(name):
    model = CamClassifier(feature_network(name, image_size=96), 5).eval()
    vary(model)
    with torch.no_grad():
        logits, maps = model.forward_with_maps(images(96, 3))
        assert maps.shape == (3, 5, *model.features.grid(96))
        constant = logits - maps.mean((2, 3))
        torch.testing.assert_close(logits, model(images(96, 3)))
        torch.testing.assert_close(maps, model.maps(images(96, 3)))
        assert model.maps(images(96, 3), relu=True).min() >= 0
    torch.testing.assert_close(constant, constant[:1].expand(3, 5), rtol=1e-4, atol=1e-4)


def test_a_norm_behind_the_pooling_can_go_on_the_map():
    network = feature_network("convnext_atto", norm="map").eval()
    vary(network)
    with torch.no_grad():
        found = network(images(64))
        torch.testing.assert_close(
            found, network.body.head.norm(network.body.forward_features(images(64)))
        )
        torch.testing.assert_close(network.pool(found), found.mean((2, 3)))
    network(images(64)).sum().backward()
    assert network.body.head.norm.weight.grad is not None


def test_other_sizes_than_it_was_made_for():
    network = feature_network("vit_tiny_patch16_224", image_size=96)
    assert network.image_size is None
    assert network.grid((64, 160)) == (4, 10)
    found = network(torch.randn(1, 3, 64, 160))
    assert found.shape == (1, 192, 4, 10)


def test_tokens_lie_on_the_grid_row_by_row():
    network = feature_network("vit_tiny_patch16_224", image_size=96).eval()
    x = torch.randn(1, 3, 64, 160)
    with torch.no_grad():
        tokens = network.body.forward_features(x)
        found = network(x)
    for row, column in ((0, 0), (1, 2), (3, 9)):
        assert found[0, :, row, column].equal(tokens[0, 1 + row * 10 + column])


@pytest.mark.parametrize(
    ("name", "stride", "side"),
    [
        ("resnet18", 16, 6),
        ("resnet18", 8, 12),
        ("resnet18", 32, 3),
        ("tf_efficientnet_lite0", 16, 6),
        ("convnext_atto", 16, 6),
        ("vit_tiny_patch16_224", 16, 6),
        ("torchvision/resnet50", 16, 6),
    ],
)
def test_a_stride(name, stride, side):
    network = feature_network(name, stride=stride)
    assert network.stride == stride
    assert network.grid(96) == (side, side)


@pytest.mark.parametrize(
    ("name", "stride", "told"),
    [
        ("vit_tiny_patch16_224", 8, "its stride is 16 and cannot be 8"),
        ("swin_tiny_patch4_window7_224", 16, "its stride is 32 and cannot be 16"),
        ("torchvision/mobilenet_v2", 16, "its stride is 32"),
        ("torchvision/resnet18", 16, "timm/resnet18 takes a stride"),
    ],
)
def test_a_stride_that_it_cannot_have(name, stride, told):
    with pytest.raises(StrideError, match=told):
        feature_network(name, stride=stride)


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("vit_tiny_patch16_224", 100, "multiples of 16 px, not 100x100; choose 96 or 112"),
        ("swin_tiny_patch4_window7_224", 98, "multiples of 4 px"),
        ("torchvision/vit_b_16", (96, 128), "square images"),
        ("crossvit_tiny_240", 240, "no feature map"),
    ],
)
def test_a_size_that_it_cannot_take(name, size, told):
    with pytest.raises(UserError, match=told) as caught:
        feature_network(name, image_size=size)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_than_the_network_is_made_for():
    network = feature_network("mixer_s16_224", image_size=96)
    assert network.image_size == (96, 96)
    with pytest.raises(UserError, match="takes 96x96 px, not 64x64; make it for that size"):
        network(images(64))
    with pytest.raises(UserError, match="takes 96x96 px"):
        network.grid(64)


# --- names ---


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet18", ("timm", "resnet18")),
        ("resnet18.a1_in1k", ("timm", "resnet18.a1_in1k")),
        ("timm/resnet18", ("timm", "resnet18")),
        ("timm:resnet18", ("timm", "resnet18")),
        ("hf-hub:timm/resnet18.a1_in1k", ("timm", "hf-hub:timm/resnet18.a1_in1k")),
        ("torchvision/resnet18", ("torchvision", "resnet18")),
        ("torchvision:resnet50.IMAGENET1K_V2", ("torchvision", "resnet50.IMAGENET1K_V2")),
        ("shufflenet_v2_x0_5", ("torchvision", "shufflenet_v2_x0_5")),
        ("small", ("own", "small")),
    ],
)
def test_where_a_name_is_from(name, found):
    assert source_of(name, {"small": None}) == found


def test_an_own_network_comes_first_and_a_source_goes_around_it():
    own = {"resnet18": lambda: nn.Conv2d(3, 8, 3, stride=4, padding=1)}
    network = feature_network("resnet18", own=own)
    assert (network.channels, network.stride) == (8, 4)
    assert feature_network("timm/resnet18", own=own).channels == 512
    with pytest.raises(UserError, match="no published weights"):
        feature_network("resnet18", own=own, pretrained=True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet19", "did you mean resnet18"),
        ("smal", "did you mean small"),
        ("timm/vgg99", "timm has no such network; did you mean vgg"),
        ("torchvision/resnet", "torchvision has no such network; did you mean resnet"),
        ("xyzzy", "lists the names"),
    ],
)
def test_an_unknown_name_tells_the_nearest(name, told):
    with pytest.raises(UserError, match=told) as caught:
        source_of(name, {"small": None})
    assert "\n" not in str(caught.value)


def test_a_tag_that_there_is_not():
    with pytest.raises(UserError, match="'a9_in1k'; there are .*a1_in1k"):
        feature_network("resnet18.a9_in1k")
    with pytest.raises(UserError, match="called V9"):
        feature_network("torchvision/resnet50.V9")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "names no network"),
        ("timm/", "names no network"),
        (" resnet18", "names no network"),
        ("tim/resnet18", "no source of networks is called 'tim'"),
        ("hf-hub:resnet18", "expected hf-hub:ORGANISATION/NAME"),
        ("local-dir:nowhere", "there is no config.json"),
    ],
)
def test_a_spelling_that_no_name_has(name, told):
    with pytest.raises(UserError, match=told):
        require_spelling(name)


def test_spelling_is_checked_without_anything_heavy(tmp_path):
    code = "from common.backbones_names import require_spelling\nrequire_spelling('resnet18')"
    assert heavy_modules_of(code, tmp_path) == []
    assert split_name("timm:a") == ("timm", "a")


@pytest.mark.slow
def test_timm_is_imported_only_for_its_names(tmp_path):
    assert "timm" not in heavy_modules_of("import common.backbones", tmp_path)


# --- published weights ---


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_published_weights_offline_end_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="cannot be downloaded") as caught:
        feature_network(name, pretrained=True)
    assert "\n" not in str(caught.value)
    assert "give a weight file" in str(caught.value)


def test_the_hub_offline_ends_in_one_line():
    with pytest.raises(UserError, match="cannot be looked up on the hub") as caught:
        feature_network("hf-hub:nobody/nothing-of-the-kind")
    assert "\n" not in str(caught.value)


def test_weights_that_nobody_publishes():
    with pytest.raises(UserError, match="publishes no weights"):
        feature_network("vit_small_patch16_36x1_224", pretrained=True)
    with pytest.raises(UserError, match="not both"):
        feature_network("resnet18", pretrained=True, weights="file")
    with pytest.raises(UserError, match="not both"):
        cam_classifier("resnet18", 3, pretrained=True, weights="file")


def test_a_folder_that_timm_can_open(tmp_path):
    published = timm.create_model("resnet18", num_classes=7).eval()
    vary(published)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet18",
        "num_classes": 7,
        "num_features": 512,
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "num_classes": 7, "classifier": "fc"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = cam_classifier(f"local-dir:{tmp_path}", 7, pretrained=True).eval()
    assert model.features.mean == (0.1, 0.2, 0.3)
    x = images(64, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x), rtol=1e-4, atol=1e-4)

    afresh = cam_classifier(f"local-dir:{tmp_path}", 5, pretrained=True)
    assert afresh.head.weight.shape == (5, 512)


def test_timms_published_weights_come_from_the_cache(tmp_path, monkeypatch):
    published = timm.create_model("test_resnet").eval()
    vary(published)
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    save_file(published.state_dict(), snapshot / "model.safetensors")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    model = cam_classifier("test_resnet", 1000, pretrained=True).eval()
    x = images(64, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x), rtol=1e-4, atol=1e-4)
    other = cam_classifier("test_resnet", 3, pretrained=True)
    assert other.features.body.conv1[0].weight.equal(published.conv1[0].weight)


def test_torchvisions_published_weights_come_from_the_cache(tmp_path, monkeypatch):
    published = torchvision.models.resnet18().eval()
    vary(published)
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *a, **k: published.state_dict())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").touch()
    model = cam_classifier("torchvision/resnet18", 1000, pretrained=True).eval()
    x = images(64, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x), rtol=1e-4, atol=1e-4)


# --- beside ---


def test_the_description_makes_the_network_again():
    network = feature_network("vit_tiny_patch16_224", image_size=96, norm="map")
    described = json.loads(json.dumps(network.described()))
    again = feature_network(**described["make"])
    again.load_state_dict(network.state_dict())
    assert described["mean"] == [0.5, 0.5, 0.5]
    assert again.described() == network.described()
    assert again.eval()(images(96)).equal(network.eval()(images(96)))


def test_making_and_measuring_draws_no_random_numbers_of_its_own():
    torch.manual_seed(0)
    timm.create_model("resnet18", num_classes=0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    network = feature_network("resnet18").train()
    network.grid(64)
    assert torch.rand(3).equal(wanted)
    assert all(module.training for module in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "torchvision/resnet18"])
def test_it_compiles_in_one_piece(name):
    model = CamClassifier(feature_network(name), 3).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(64)), model(images(64)))


def test_a_copy_is_independent():
    model = CamClassifier(feature_network("convnext_atto"), 3).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        torch.testing.assert_close(other(images(64)), model(images(64)))
        other.head.weight.zero_()
    assert model.head.weight.abs().sum() > 0


def test_what_no_classifier_can_be():
    network = feature_network("resnet18", own={"resnet18": lambda: nn.Conv2d(3, 8, 1)})
    with pytest.raises(ValueError, match="num_classes 0"):
        CamClassifier(network, 0)
    with pytest.raises(ValueError, match="norm 'both'"):
        feature_network("resnet18", norm="both")
    assert set(backbones.__all__) >= {"feature_network", "load_weights"}
    assert load_weights is backbones.load_weights
