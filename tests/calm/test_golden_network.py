"""UniversalProcess, networks and gradient maps against numbers of the released code
(tests/golden/calm/README.md).
"""

import json

import numpy as np
import pytest
import torch
from torch import nn

from calm import network, score_map_method
from calm.network.universal import UniversalProcess
from calm.options_names import PROCESSES
from tests.calm.golden import GOLDEN, StandIn, close, fill, from_json, image, load, text

NAMES = ("universal_a", "universal_b", "universal_c")
METHODS = ("CAM", "CALM_EM", "CALM_ML")


def make(arrays: dict[str, np.ndarray], method: str) -> tuple[UniversalProcess, nn.Sequential]:
    attention = nn.Sequential(nn.Conv2d(arrays["f_former"].shape[1], 1, 1), nn.ReLU())
    with torch.no_grad():
        attention[0].weight.copy_(torch.from_numpy(arrays["att_weight"]))
        attention[0].bias.copy_(torch.from_numpy(arrays["att_bias"]))
    process = UniversalProcess(method)
    process.set_layers(None, attention)
    return process, attention


def inputs_of(arrays: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    f, f_former = (torch.from_numpy(arrays[k]).requires_grad_() for k in ("f", "f_former"))
    return f, f_former, torch.from_numpy(arrays["labels"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_input_for_loss(name: str, method: str) -> None:
    arrays = load(name)
    process, attention = make(arrays, method)
    f, f_former, labels = inputs_of(arrays)
    out = process.input_for_loss(f, f_former)
    for key in ("inputs", "probs", "logits"):
        if f"{method}/{key}" in arrays:
            close(out[key], arrays[f"{method}/{key}"], 1e-4)
    loss = nn.NLLLoss()(out["inputs"], labels)
    loss.backward()
    check_gradients(arrays, method, loss, f, f_former, attention)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_loss_from_the_labels_row_is_the_same_objective(name: str, method: str) -> None:
    arrays = load(name)
    process, attention = make(arrays, method)
    f, f_former, labels = inputs_of(arrays)
    out = process.loss(f, f_former, labels)
    close(out["probs"], arrays[f"{method}/probs"], 1e-4)
    loss = out["loss"].mean()
    loss.backward()
    check_gradients(arrays, method, loss, f, f_former, attention)


def check_gradients(arrays, method, loss, f, f_former, attention) -> None:
    close(loss, arrays[f"{method}/loss"], 2e-4)
    close(f.grad, arrays[f"{method}/grad_f"], 2e-4)
    if method != "CAM":
        close(f_former.grad, arrays[f"{method}/grad_f_former"], 2e-4)
        close(attention[0].weight.grad, arrays[f"{method}/grad_att_weight"], 2e-4)
        close(attention[0].bias.grad, arrays[f"{method}/grad_att_bias"], 2e-4)


@pytest.mark.parametrize("process_name", PROCESSES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_score_maps(name: str, method: str, process_name: str) -> None:
    arrays = load(name)
    process, _ = make(arrays, method)
    f, f_former, labels = inputs_of(arrays)
    before = f.detach().clone(), f_former.detach().clone()
    superclass = {int(k): v for k, v in from_json(arrays["superclass"]).items()}
    cam = process.get_cam(f, f_former, labels, superclass, process_name)
    assert torch.equal(before[0], f) and torch.equal(before[1], f_former)
    if f"{method}/cam/{process_name}" in arrays:
        close(cam, arrays[f"{method}/cam/{process_name}"], 1e-4)
    else:  # min-max of a single location: 0/0 in the released code, 0 here
        assert name == "universal_b" and not cam.any()


@pytest.mark.parametrize("file", sorted(p.stem for p in GOLDEN.glob("net_*.npz")))
def test_networks(file: str) -> None:
    arrays = load(file)
    torch.manual_seed(0)
    model = network.ARCHITECTURES[text(arrays["arch"])](
        num_classes=int(arrays["num_classes"]),
        large_feature_map=bool(arrays["large_feature_map"]),
        use_bn=bool(arrays["use_bn"]),
        attribution_method=text(arrays["attribution_method"]),
    ).eval()
    fill(model, float(arrays["gain"]))
    x = image(int(arrays["image_seed"]), tuple(arrays["size"]))
    labels = torch.from_numpy(arrays["labels"])
    with torch.no_grad():
        out = model(x)
        close(out["probs"], arrays["probs"], 1e-3)
        close(out["features"], arrays["features"], 1e-3)
        for process in ("vanilla", "saliency", "gtcond", "jointll"):
            close(model(x, labels, return_cam=process), arrays[f"cam/{process}"], 1e-3)


KEYS = json.loads((GOLDEN / "state_dict_keys.json").read_text())


@pytest.mark.parametrize("variant", KEYS)
def test_official_checkpoints_have_our_keys(variant: str) -> None:
    name, large, use_bn = (part.split("=")[-1] for part in variant.split("/"))
    entry = KEYS[KEYS[variant].get("same_as", variant)]
    with torch.device("meta"):
        model = network.ARCHITECTURES[name](
            num_classes=entry["num_classes"],
            large_feature_map=large == "True",
            use_bn=use_bn == "True",
        )
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert ours == entry["state_dict"]


@pytest.mark.parametrize(
    "name",
    ["backprop", "input_grad", "integrated_grad", "smooth_grad", "smooth_grad_square", "var_grad"],
)
@pytest.mark.parametrize("pixels", [1, 2 * 2 * 16 * 16, 10**9])
def test_gradient_maps(name: str, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calm.score_map_method.gradients.PIXELS_PER_FORWARD", pixels)
    arrays = load("gradmaps_a")
    model, images = StandIn(arrays), torch.from_numpy(arrays["images"])
    before = images.clone()
    settings = {
        key: arrays[key].item()
        for key in ("integrated_grad_nr_iter", "smooth_grad_nr_iter", "smooth_grad_sigma")
    }

    def call() -> torch.Tensor:
        torch.manual_seed(int(arrays["torch_seed"]))
        return getattr(score_map_method, name)(
            model=model,
            images=images,
            targets=torch.from_numpy(arrays["labels"]),
            num_classes=int(arrays["num_classes"]),
            method=score_map_method.backprop,
            **settings,
        )

    maps = call()
    close(maps, arrays[name], 1e-3 if name == "var_grad" else 2e-4)
    assert torch.equal(call(), maps) and torch.equal(images, before)
    assert not images.requires_grad and images.grad is None


def test_activation_map() -> None:
    arrays = load("gradmaps_a")
    maps = score_map_method.activation_map(
        model=StandIn(arrays),
        images=torch.from_numpy(arrays["images"]),
        targets=torch.from_numpy(arrays["labels"]),
        score_map_process="vanilla",
    )
    close(maps, arrays["activation_map_vanilla"], 2e-4)
