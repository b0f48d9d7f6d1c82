"""Weight files of any origin: wrappers, prefixes, heads, names, what does not fit."""

import collections
import re

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from common.backbones import CamClassifier, cam_classifier, feature_network, load_weights
from common.backbones_weights import fill
from common.errors import UserError

NAME = "resnet18"
FIRST = "conv1.weight"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(5)
    model = timm.create_model(NAME, num_classes=10)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "bn1.weight")):
            value.uniform_(0.5, 1.5)
    return model.state_dict()


@pytest.fixture(scope="module")
def shared():
    return feature_network(NAME)


@pytest.fixture
def network(shared):
    with torch.no_grad():
        for value in shared.state_dict().values():
            value.zero_()
    return shared


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def without(state, *ends):
    return {key: value for key, value in state.items() if not key.endswith(ends)}


def is_loaded(network, state):
    own = network.body.state_dict()
    counted = {key: value for key, value in own.items() if not key.endswith("tracked")}
    return all(value.equal(state[key]) for key, value in counted.items())


WRAPPERS = ("state_dict", "model", "ema", "state_dict_ema", "model_ema", "teacher", "student")
WRAPPERS += ("network",)
PREFIXES = ("module.", "backbone.", "encoder.", "encoder_q.", "module.encoder_q.", "_orig_mod.")
PREFIXES += ("teacher.backbone.", "student.", "model.", "backbone.module.", "net.features.body.")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper(wrapper, network, state, tmp_path):
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "file.pth")
    report = load_weights(network, tmp_path / "file.pth")
    assert is_loaded(network, state)
    assert report.place == wrapper


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix(prefix, network, state, tmp_path):
    torch.save({"state_dict": prefixed(state, prefix)}, tmp_path / "file.pth")
    report = load_weights(network, tmp_path / "file.pth")
    assert is_loaded(network, state)
    assert report.place == f"state_dict/{prefix}"
    assert report.head == "(10, 512)"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".tar", ".safetensors"])
def test_a_bare_file(suffix, network, state, tmp_path):
    path = tmp_path / f"file{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(collections.OrderedDict(state), path)
    report = load_weights(network, path)
    assert is_loaded(network, state)
    assert report.tensors == len(network.body.state_dict())
    assert "its classifier (10, 512) left out" in str(report)
    assert "\n" not in str(report)


def test_no_head_and_no_counts_of_batches(network, state, tmp_path):
    torch.save(without(state, "num_batches_tracked", "fc.weight", "fc.bias"), tmp_path / "f.pth")
    report = load_weights(network, tmp_path / "f.pth")
    assert is_loaded(network, state)
    assert report.head == "none"
    assert report.kept == ()


def test_half_precision_and_other_parts(network, state, tmp_path):
    halves = {key: value.half() for key, value in state.items() if value.is_floating_point()}
    halves |= {"projector.0.weight": torch.zeros(4, 4), "queue": torch.zeros(3)}
    torch.save(halves, tmp_path / "file.pth")
    report = load_weights(network, tmp_path / "file.pth")
    assert network.body.conv1.weight.dtype == torch.float32
    assert network.body.conv1.weight.equal(state[FIRST].half().float())
    assert report.left_out == ("projector.0.weight", "queue")


def test_among_several_the_averaged_ones_the_teacher_the_query(network, state):
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    for content in (
        {"state_dict": other, "model_ema": state},
        {"state_dict_ema": state, "state_dict": other},
        {"student": prefixed(other, "backbone."), "teacher": prefixed(state, "backbone.")},
        {"state_dict": prefixed(other, "encoder_k.") | prefixed(state, "encoder_q.")},
        {"state_dict": prefixed(other, "teacher.") | prefixed(state, "backbone.module.")},
        {"optimizer": {"state": other}, "network": state},
    ):
        fill(network.weight_target(), content, "file")
        assert is_loaded(network, state), content.keys()


def test_checkpoints_of_this_repository(network, state):
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    for parts in (
        {"model": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
        {"learner": prefixed(other, "teacher.") | prefixed(state, "student.")},
        {"model": other, "ema": prefixed(state, "module.") | {"n_averaged": torch.tensor(3)}},
    ):
        run = {"state": parts, "progress": {"epoch": 1}, "settings": {}, "metrics": []}
        fill(network.weight_target(), run, "file")
        assert is_loaded(network, state)


def test_a_run_directory(network, state, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state": {"model": state}}, tmp_path / "checkpoints" / "last.pt")
    assert load_weights(network, tmp_path).source.endswith("last.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no weight file in this folder"):
        load_weights(network, tmp_path / "empty")


# --- classifiers ---


def test_a_classifier_is_taken_where_it_fits(state, shared, tmp_path):
    torch.save(prefixed(state, "module."), tmp_path / "file.pth")
    model = CamClassifier(shared, 10)
    assert load_weights(model, tmp_path / "file.pth").head == "loaded"
    assert model.head.weight.equal(state["fc.weight"])

    other = CamClassifier(shared, 3)
    start = other.head.weight.clone()
    report = load_weights(other, tmp_path / "file.pth")
    assert report.head == "(10, 512)"
    assert other.head.weight.equal(start)
    with pytest.raises(
        UserError, match=r"no classifier that fits resnet18: head.weight \(3, 512\)"
    ):
        load_weights(other, tmp_path / "file.pth", strict_head=True)


def test_a_checkpoint_of_the_whole_classifier(shared, tmp_path):
    model = CamClassifier(shared, 4)
    wanted = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save({"state": {"model": prefixed(wanted, "net.")}}, tmp_path / "file.pth")
    with torch.no_grad():
        model.head.weight.zero_()
    assert load_weights(model, tmp_path / "file.pth", strict_head=True).head == "loaded"
    assert model.head.weight.equal(wanted["head.weight"])
    assert load_weights(shared, tmp_path / "file.pth").head == "(4, 512)"


def test_any_module_with_its_own_classifier(tmp_path):
    model = torchvision.models.resnet18(num_classes=4)
    source = torchvision.models.resnet18(num_classes=4)
    torch.save({"model": source.state_dict()}, tmp_path / "file.pth")
    assert load_weights(model, tmp_path / "file.pth").head == "loaded"
    assert model.fc.weight.equal(source.fc.weight)

    other = torchvision.models.resnet18(num_classes=5)
    assert load_weights(other, tmp_path / "file.pth").head == "(4, 512)"
    assert other.conv1.weight.equal(source.conv1.weight)


def test_any_module_whose_classifier_is_named(tmp_path):
    parts = {"trunk": nn.Conv2d(3, 4, 1), "last": nn.Conv2d(4, 2, 1)}
    torch.save(
        {"trunk.weight": torch.ones(4, 3, 1, 1), "trunk.bias": torch.ones(4)}, tmp_path / "f"
    )
    model = nn.ModuleDict(parts)
    load_weights(model, tmp_path / "f", head=("last",))
    assert model["trunk"].bias.sum() == 4
    with pytest.raises(UserError, match="2 missing: last.weight"):
        load_weights(model, tmp_path / "f")


# --- what does not fit ---


def test_a_file_of_another_network(network, tmp_path):
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "f.pth")
    with pytest.raises(UserError, match="does not fit|nothing in it fits") as caught:
        load_weights(network, tmp_path / "f.pth")
    assert "\n" not in str(caught.value)


def test_a_file_of_a_deeper_network(network, tmp_path):
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "f.pth")
    with pytest.raises(UserError, match="of another network than resnet18.*layer1.2.conv1.weight"):
        load_weights(network, tmp_path / "f.pth")


def test_first_keys_and_shapes_are_named_and_nothing_is_changed(network, state, tmp_path):
    damaged = dict(state)
    damaged["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    del damaged["layer4.1.conv2.weight"]
    torch.save(damaged, tmp_path / "f.pth")
    told = r"1 of another shape: conv1.weight \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)"
    with pytest.raises(UserError, match=f"{told}; 1 missing: layer4.1.conv2.weight"):
        load_weights(network, tmp_path / "f.pth")
    assert network.body.bn1.weight.abs().sum() == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "holds a list, expected weights by name"),
        ({"a": 1}, "a mapping of 'a' without tensors"),
        ({"a.weight": torch.zeros(2)}, "nothing in it fits resnet18; it holds a.weight"),
    ],
)
def test_a_file_that_fits_nothing(content, told, network, tmp_path):
    torch.save(content, tmp_path / "f.pth")
    with pytest.raises(UserError, match=told):
        load_weights(network, tmp_path / "f.pth")


def test_files_that_are_none(network, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load_weights(network, tmp_path / "missing.pth")
    with pytest.raises(UserError, match="no such file"):
        load_weights(network, tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not at all")
    with pytest.raises(UserError, match="damaged or no safetensors"):
        load_weights(network, tmp_path / "bad.safetensors")
    torch.save(nn.Linear(1, 1), tmp_path / "pickled.pth")
    with pytest.raises(UserError, match="it holds torch.nn.modules.linear.Linear; pickled objects"):
        load_weights(network, tmp_path / "pickled.pth")
    with pytest.raises(UserError, match="reads no .npz"):
        load_weights(network, tmp_path / "file.npz")
    (tmp_path / "file.npz").write_bytes(b"not at all")
    vit = feature_network("vit_tiny_patch16_224")
    with pytest.raises(UserError, match="does not fit vit_tiny_patch16_224"):
        load_weights(vit, tmp_path / "file.npz")


# --- names and sizes of originals ---


def to_efficientnet_pytorch(state):
    """timm's tf_efficientnet_lite0 under the names of the package efficientnet_pytorch."""
    stem = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv"}
    first["bn2"] = "_bn2"
    rest = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    rest |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    numbers: dict[tuple[str, str], int] = {}
    renamed = {}
    for key, value in state.items():
        words = key.split(".")
        if words[0] != "blocks":
            part = stem.get(words[0], "_fc")
            renamed[f"{part}.{words[1]}"] = value
            continue
        number = numbers.setdefault((words[1], words[2]), len(numbers))
        parts = first if words[1] == "0" else rest
        renamed[f"_blocks.{number}.{parts[words[3]]}.{words[4]}"] = value
    return renamed


def test_efficientnet_lite_under_other_names(tmp_path):
    published = timm.create_model("tf_efficientnet_lite0", num_classes=9).eval()
    torch.save(to_efficientnet_pytorch(published.state_dict()), tmp_path / "file.pth")
    model = cam_classifier("tf_efficientnet_lite0", 9, weights=tmp_path / "file.pth").eval()
    assert "names of efficientnet_pytorch translated" in str(model.features.report)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), published(x), rtol=1e-4, atol=1e-4)


def test_the_first_densenets_names(tmp_path):
    state = torchvision.models.densenet121().state_dict()
    old = {}
    for key, value in state.items():
        old[re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)] = value
    torch.save(without(old, "num_batches_tracked"), tmp_path / "file.pth")
    network = feature_network("torchvision/densenet121", weights=tmp_path / "file.pth")
    assert is_loaded(network, state)


def test_position_embeddings_are_resized(tmp_path):
    published = timm.create_model("vit_tiny_patch16_224")
    torch.save({"model": published.state_dict()}, tmp_path / "file.pth")
    network = feature_network("vit_tiny_patch16_224", image_size=96, weights=tmp_path / "file.pth")
    assert network.body.pos_embed.shape == (1, 37, 192)
    assert network.body.pos_embed[:, 0].equal(published.pos_embed[:, 0])
    assert network.body.blocks[3].mlp.fc1.weight.equal(published.blocks[3].mlp.fc1.weight)
    assert network.report.renamed is None


@pytest.mark.slow
def test_sizes_of_swin_and_of_torchvisions_transformer(tmp_path):
    swin = timm.create_model("swin_tiny_patch4_window7_224")
    torch.save(prefixed(swin.state_dict(), "encoder."), tmp_path / "swin.pth")
    network = feature_network(
        "swin_tiny_patch4_window7_224", image_size=96, weights=tmp_path / "swin.pth"
    )
    assert network(torch.randn(1, 3, 96, 96)).shape == (1, 768, 3, 3)

    vit = torchvision.models.vit_b_16()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    weights = tmp_path / "vit.pth"
    network = feature_network("torchvision/vit_b_16", image_size=96, weights=weights)
    assert network.body.encoder.pos_embedding.shape == (1, 37, 768)


def test_an_originals_names(tmp_path):
    """ConvNeXt as its authors name it."""
    published = timm.create_model("convnext_atto", num_classes=6)
    words = {"stem.0": "downsample_layers.0.0", "stem.1": "downsample_layers.0.1"}
    for stage in range(1, 4):
        for part in (0, 1):
            words[f"stages.{stage}.downsample.{part}"] = f"downsample_layers.{stage}.{part}"
    original = {}
    for key, value in published.state_dict().items():
        for new, old in words.items():
            if key.startswith(f"{new}."):
                key = key.replace(new, old, 1)
        key = key.replace(".blocks.", ".").replace("conv_dw", "dwconv")
        key = key.replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        key = key.replace("head.norm", "norm").replace("head.fc", "head")
        original[key] = value
    torch.save({"model": original}, tmp_path / "file.pth")
    network = feature_network("convnext_atto", weights=tmp_path / "file.pth")
    assert network.report.renamed == "an original"
    own = network.body.state_dict()
    assert all(value.equal(published.state_dict()[key]) for key, value in own.items())


def to_jax(state, heads):
    """timm's vision transformer under the names and shapes of the original's .npz."""
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    for number in range(12):
        own = {key: state[f"blocks.{number}.{key}"] for key in BLOCK}
        block = f"Transformer/encoderblock_{number}/"
        attention = f"{block}MultiHeadDotProductAttention_1/"
        weights = own["attn.qkv.weight"].chunk(3)
        biases = own["attn.qkv.bias"].chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}{name}/kernel"] = weight.T.unflatten(1, (heads, -1))
            arrays[f"{attention}{name}/bias"] = bias.unflatten(0, (heads, -1))
        arrays[f"{attention}out/kernel"] = own["attn.proj.weight"].T.unflatten(0, (heads, -1))
        arrays[f"{attention}out/bias"] = own["attn.proj.bias"]
        for layer, norm in ((0, "norm1"), (2, "norm2")):
            arrays[f"{block}LayerNorm_{layer}/scale"] = own[f"{norm}.weight"]
            arrays[f"{block}LayerNorm_{layer}/bias"] = own[f"{norm}.bias"]
        for layer, dense in ((0, "mlp.fc1"), (1, "mlp.fc2")):
            arrays[f"{block}MlpBlock_3/Dense_{layer}/kernel"] = own[f"{dense}.weight"].T
            arrays[f"{block}MlpBlock_3/Dense_{layer}/bias"] = own[f"{dense}.bias"]
    return {key: value.contiguous().numpy() for key, value in arrays.items()}


PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
BLOCK = [f"{part}.{kind}" for part in PARTS for kind in ("weight", "bias")]


def test_an_npz_of_the_original_vision_transformer(tmp_path):
    published = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    for parameter in published.parameters():
        nn.init.normal_(parameter)
    np.savez(tmp_path / "file.npz", **to_jax(published.state_dict(), heads=3))
    network = feature_network("vit_tiny_patch16_224", weights=tmp_path / "file.npz")
    for name, value in network.body.state_dict().items():
        torch.testing.assert_close(value, published.state_dict()[name])


def test_a_norm_behind_the_pooling_may_be_absent(tmp_path):
    state = timm.create_model("convnext_atto").state_dict()
    kept = {key: value for key, value in state.items() if not key.startswith("head.")}
    torch.save(kept, tmp_path / "file.pth")
    network = feature_network("convnext_atto", weights=tmp_path / "file.pth")
    assert network.report.kept == ("head.norm.weight", "head.norm.bias")
    assert "as initialised: head.norm.weight" in str(network.report)
