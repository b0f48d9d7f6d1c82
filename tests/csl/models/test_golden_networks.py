"""TResNet against the reference networks: names, shapes, outputs, gradients, running statistics."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from csl.src.models import create_model
from tests.csl.golden import GOLDEN, assert_close, load
from tests.csl.models.filled import filled_input, filled_state

NETWORKS = ("tresnet_m", "tresnet_l", "tresnet_l_v2", "tresnet_m_bottleneck")
ENTRIES = {"tresnet_m": 434, "tresnet_l": 620, "tresnet_l_v2": 746}
PARAMETERS = {"tresnet_m": 29_503_952, "tresnet_l": 53_750_896, "tresnet_l_v2": 44_289_744}


def build(name, num_classes=80, **kwargs):
    return create_model(Namespace(model_name=name, num_classes=num_classes, **kwargs))


@pytest.mark.parametrize("name", ENTRIES)
def test_keys_and_shapes_are_the_official_ones(name):
    with torch.device("meta"):
        model = build(name)
    expected = json.loads((GOLDEN / f"keys_{name}.json").read_text())
    ours = [[key, list(value.shape)] for key, value in model.state_dict().items()]
    assert ours == expected and len(ours) == ENTRIES[name]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs(name):
    g = load(f"net_{name}")
    model = build(
        str(g["name"]), int(g["num_classes"]), do_bottleneck_head=bool(g["do_bottleneck_head"])
    ).eval()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    model.load_state_dict(filled_state(shapes, int(g["fill_seed"])))
    with torch.inference_mode():
        logits = model(filled_input(g["shape"], int(g["fill_seed"])))
    assert_close(logits, g["logits"], 2e-4)
    assert_close(model.embeddings, g["embeddings"], 2e-4)


@pytest.mark.slow
def test_training_mode_gradients_and_statistics():
    g = load("net_tresnet_m")
    model = build("tresnet_m").double().train()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    model.load_state_dict(filled_state(shapes, int(g["fill_seed"])))
    x = filled_input(g["shape"], int(g["fill_seed"])).double().requires_grad_()
    logits = model(x)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)
    (logits * weights).sum().backward()
    assert_close(logits.detach(), g["train_logits"], 1e-5)
    assert_close(x.grad[:, :, ::4, ::4], g["grad_input"], 1e-4)
    parameters, buffers = dict(model.named_parameters()), model.state_dict()
    checked = 0
    for key, expected in g.items():
        kind, _, name = key.partition("_")
        if kind == "grad" and name in parameters:
            assert_close(parameters[name].grad.flatten()[:500], expected, 1e-4)
            checked += 1
        elif kind == "after":
            assert_close(buffers[name], expected, 1e-5)
            checked += 1
    assert checked == sum(k.startswith(("grad_body", "after_")) for k in g) > 5
    assert buffers["body.conv1.1.num_batches_tracked"] == 1


def test_branches_that_start_at_zero_train():
    model = create_model(Namespace(model_name="tresnet_tiny", num_classes=5))
    model(torch.rand(2, 3, 32, 32)).square().sum().backward()
    norm = model.body.layer1[0].conv2[1]
    assert not norm.weight.any() and norm.weight.grad.any()  # torch.abs would give 0 here


def test_names_and_sizes():
    assert type(build("TResNet_V2_L")).__name__ == "TResNet"
    with pytest.raises(ValueError, match="tresnet_m"):
        build("tresnet_q")
    with pytest.raises(ValueError, match="the nearest are 32 or 36"):
        create_model(Namespace(model_name="tresnet_tiny", num_classes=5))(torch.rand(1, 3, 34, 34))
    with pytest.raises(ValueError, match="at least 20 pixels"):
        create_model(Namespace(model_name="tresnet_tiny", num_classes=5))(torch.rand(1, 3, 16, 32))
    assert np.prod(build("timm/resnet18")(torch.rand(1, 3, 64, 64)).shape) == 80
