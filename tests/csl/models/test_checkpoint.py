"""Published files in every form load whole; anything else says what it is."""

import pickle
from argparse import Namespace
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import timm
import torch

from common.cli import UserError
from csl.src.models import create_model
from csl.src.models.tresnet.fold import fold
from csl.src.models.tresnet.layers.general_layers import ABN
from csl.src.models.utils import convert
from csl.src.models.utils.checkpoint import load_weights, network_of, official, read_checkpoint
from tests.csl.models.filled import filled_state


def build(name="tresnet_tiny", num_classes=7, **kwargs):
    return create_model(Namespace(model_name=name, num_classes=num_classes, **kwargs)).eval()


@pytest.fixture(scope="module")
def source():
    model = build()
    model.load_state_dict(filled_state({k: v.shape for k, v in model.state_dict().items()}, 3))
    return model


NAMES = {k: f"n{k}" for k in range(7)}
FORMS = {
    "csl": lambda s: {"model": s, "num_classes": 7, "idx_to_class": NAMES},
    "21k": lambda s: {"state_dict": s},
    "bare": dict,
    "module": lambda s: {f"module.{k}": v for k, v in s.items()},
    "no counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "numpy scalars": lambda s: {"model": s, "num_classes": np.int64(7), "mAP": np.float64(86.7)},
}


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a if not k.endswith("num_batches_tracked"))


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_loads(form, source, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(FORMS[form](source.state_dict()), path)
    model = build()
    found = load_weights(model, path)
    assert same(model, source) and found.num_classes == 7 and found.head == "plain"
    assert found.architecture == "tresnet_tiny"
    assert (found.idx_to_class == NAMES) if form == "csl" else (found.idx_to_class is None)
    state, count, _, architecture, head = read_checkpoint(path)
    assert (len(state), count, architecture, head) == (
        len(found.state_dict),
        7,
        "tresnet_tiny",
        "plain",
    )
    built, _ = network_of(
        tmp_path / "weights", "tresnet_m"
    )  # suffix found, architecture recognised
    assert same(built, source)


def test_safetensors(source, tmp_path):
    from safetensors.torch import save_file

    save_file(
        {k: v.contiguous() for k, v in source.state_dict().items()}, tmp_path / "w.safetensors"
    )
    model = build()
    load_weights(model, tmp_path / "w")
    assert same(model, source)


@pytest.mark.parametrize(
    "name", ["tresnet_m", pytest.param("tresnet_l_v2", marks=pytest.mark.slow)]
)
def test_timm_and_back(name, tmp_path):
    """timm's own network, with our weights under timm's names, gives our logits.

    And the other way round.
    """
    ours = build(name, 3)
    ours.load_state_dict(filled_state({k: v.shape for k, v in ours.state_dict().items()}, 1))
    theirs = timm.create_model(
        {"tresnet_l_v2": "tresnet_v2_l"}.get(name, name), num_classes=3
    ).eval()
    theirs.load_state_dict(convert.to_timm(ours.state_dict()))
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
        back = build(name, 3)
        load_weights(back, theirs.state_dict())
        assert torch.allclose(back(x), ours(x), atol=1e-5)


def test_convert_command(source, tmp_path, capsys):
    torch.save(official(source.state_dict(), num_classes=7, idx_to_class=NAMES), tmp_path / "a.pth")
    convert.main([str(tmp_path / "a.pth"), str(tmp_path / "timm.pth")])
    convert.main([str(tmp_path / "timm.pth"), str(tmp_path / "b.pth"), "--to", "official"])
    back = build()
    load_weights(back, tmp_path / "b.pth")
    with torch.inference_mode():
        x = torch.rand(2, 3, 32, 32)
        assert torch.allclose(back(x), source(x), atol=1e-5)
    assert "tresnet_tiny, 7 classes" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tresnet_tiny", "tresnet_l_v2"])
def test_folded_networks_are_the_same_function(name):
    model = build(name, 5)
    model.load_state_dict(filled_state({k: v.shape for k, v in model.state_dict().items()}, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded, x = fold(model), torch.rand(2, 3, 64, 48)
    assert not any(isinstance(m, (ABN, torch.nn.BatchNorm2d)) for m in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert fold(torch.nn.Linear(3, 2)).weight.shape == (2, 3)


def test_onnx(source, tmp_path, capsys):
    """Written for one size and any batch; OpenCV's reader computes our logits.

    Without the package: one line.
    """
    torch.save(official(source.state_dict(), num_classes=7), tmp_path / "a.pth")
    command = [str(tmp_path / "a.pth"), str(tmp_path / "a.onnx"), "--image_size", "32"]
    if find_spec("onnx") is None:
        with pytest.raises(UserError, match="pip install onnx"):
            convert.main(command)
        return
    convert.main(command)
    net, x = cv2.dnn.readNetFromONNX(str(tmp_path / "a.onnx")), torch.rand(3, 3, 32, 32)
    net.setInput(x.numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(net.forward(), source(x).numpy(), atol=1e-5)


def test_only_the_body(source):
    model = build(num_classes=5)
    head = model.head.fc.weight.clone()
    load_weights(model, {"state_dict": source.state_dict()}, load_head=False)
    assert torch.equal(model.head.fc.weight, head)
    assert torch.equal(model.body.conv1[0].weight, source.body.conv1[0].weight)


def test_bottleneck_head(tmp_path):
    source = build(do_bottleneck_head=True)
    torch.save({"model": source.state_dict(), "idx_to_class": NAMES}, tmp_path / "b.pth")
    found = read_checkpoint(tmp_path / "b.pth")
    assert (found.head, found.num_classes) == ("bottleneck", 7)
    model, _ = network_of(tmp_path / "b.pth", "tresnet_tiny")
    assert same(model, source)
    with pytest.raises(ValueError, match="a bottleneck head, the network has a plain one"):
        load_weights(build(), tmp_path / "b.pth")


def test_misfits_are_named(source, tmp_path):
    state = source.state_dict()
    with pytest.raises(
        ValueError,
        match="head of 7 classes, the network has 5; use --num-classes 7, or load_head=False",
    ):
        load_weights(build(num_classes=5), {"model": state})
    lacking = {k: v for k, v in state.items() if k != "body.conv1.0.weight"}
    with pytest.raises(
        ValueError, match="body.conv1.0.weight is missing .*looks like tresnet_tiny$"
    ):
        load_weights(build(), lacking)
    with pytest.raises(ValueError, match=r"looks like tresnet_tiny: use --model-name tresnet_tiny"):
        with torch.device("meta"):
            other = build("tresnet_m")
        load_weights(other, state)
    decoder = {k: v for k, v in state.items() if not k.startswith("head")} | {
        "head.decoder.x.weight": torch.zeros(1)
    }
    with pytest.raises(ValueError, match="ML-Decoder head"):
        load_weights(build(), decoder)


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


DAMAGED = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git-LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html></html>", "HTML page"),
    "truncated": (None, "damaged"),
    "pickle": (pickle.dumps({"model": Payload()}), "never executed"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_say_what_they_are(kind, source, tmp_path, capsys):
    content, match = DAMAGED[kind]
    path = tmp_path / "w.pth"
    if content is None:
        torch.save(source.state_dict(), path)
        content = path.read_bytes()[:50_000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        read_checkpoint(path)
    assert "executed\n" not in capsys.readouterr().out


FOREIGN = {
    "no weights": lambda s: {"model": 3},
    "no state": lambda s: {"state_dict": None},
    "names without numbers": lambda s: {"model": s, "idx_to_class": {"a": 1}},
    "empty run": lambda s: {"state": {}, "progress": {}},
    "run of nothing": lambda s: {"state": None, "progress": {}},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_another_content(kind, source, tmp_path):
    torch.save(FOREIGN[kind](source.state_dict()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth: (holds no weights|num_classes or idx_to_class)"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("path", ["", ".", "/", ".."])
def test_a_path_that_is_no_file(path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(path)


def test_missing_file_names_the_suffixes(tmp_path):
    with pytest.raises(FileNotFoundError, match=".pth, .pt, .ckpt, .safetensors"):
        read_checkpoint(tmp_path / "none")
