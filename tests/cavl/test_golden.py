"""Our functions against numbers of the released code (tests/golden/cavl/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cavl import method
from cavl.cifar_models import convnet, densenet, resnet
from cavl.utils.models import LeNet, linear_model, mlp_model
from cavl.utils.utils_algo import (
    accuracy_check,
    accuracy_check_cam,
    accuracy_check_train,
    confidence_update,
    confidence_update_lw,
)
from cavl.utils.utils_data import (
    generate_uniform_cv_candidate_labels,
    generate_uniform_cv_candidate_labels_case,
)
from cavl.utils.utils_loss import cc_loss, lws_loss, rc_loss
from tests.golden.weights import fill_hashed_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "cavl"
KEYS = json.loads((GOLDEN / "state_dict_keys.json").read_text())

NETWORKS = {
    "linear": (lambda: linear_model(784, 10), (2, 1, 28, 28)),
    "mlp": (lambda: mlp_model(784, 500, 10), (2, 1, 28, 28)),
    "mlp_tab": (lambda: mlp_model(108, 500, 16), (2, 108)),
    "lenet": (lambda: LeNet(10), (2, 1, 28, 28)),
    "convnet": (lambda: convnet.Cnn(3, 10, 0.25), (2, 3, 32, 32)),
    "resnet32": (lambda: resnet(depth=32, num_classes=10), (2, 3, 32, 32)),
    "resnet56_bottleneck": (lambda: resnet(depth=56, num_classes=7), (2, 3, 32, 32)),
    "densenet22": (lambda: densenet(num_classes=10), (2, 3, 32, 32)),
}
I = torch.nn.Identity()  # noqa: E741


def load(name):
    """The arrays of one golden file, numeric ones as tensors."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {
            key: torch.from_numpy(v) if v.dtype.kind in "biuf" else v for key, v in arrays.items()
        }


def assert_close(actual, expected, tolerance):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["uss_0", "uss_1", "uss_2", "uss_3"])
def test_uniform_candidates_repeat_the_global_stream(name):
    golden = load(name)
    np.random.seed(int(golden["seed"]))  # noqa: NPY002
    sets = generate_uniform_cv_candidate_labels("x", golden["labels"])
    assert sets.dtype == torch.float32
    assert torch.equal(sets, golden["partialY"].float())
    assert np.random.rand() == golden["next_uniform"].item()  # noqa: NPY002


@pytest.mark.parametrize("name", ["flip_01", "flip_02", "flip_03", "flip_04"])
def test_class_dependent_candidates_repeat_the_global_stream(name):
    golden = load(name)
    np.random.seed(int(golden["seed"]))  # noqa: NPY002
    sets = generate_uniform_cv_candidate_labels_case("x", golden["labels"], str(golden["case"]))
    assert torch.equal(sets, golden["partialY"].float())
    assert np.random.rand() == golden["next_uniform"].item()  # noqa: NPY002


def test_instance_dependent_flip_probability():
    golden = load("instance_dependent")
    actual = method.instance_dependent_flip_probability(
        golden["probs"], golden["labels"], golden["rate"].item()
    )
    assert actual.dtype == torch.float64
    assert_close(actual, golden["flip_probability"], 1e-6)


def test_rc_loss():
    golden = load("rc_loss")
    outputs = golden["outputs"].requires_grad_()
    loss = rc_loss(outputs, golden["confidence"], golden["index"])
    loss.backward()
    assert_close(loss, golden["loss"], 1e-5)
    assert_close(outputs.grad, golden["grad"], 1e-4)


def test_cc_loss():
    golden = load("cc_loss")
    outputs = golden["outputs"].requires_grad_()
    loss = cc_loss(outputs, golden["partialY"])
    loss.backward()
    assert_close(loss, golden["loss"], 1e-5)
    assert_close(outputs.grad, golden["grad"], 1e-4)


@pytest.mark.parametrize("name", ["lws_loss_1", "lws_loss_2"])
def test_lws_loss(name):
    golden = load(name)
    arguments = (
        golden[key]
        for key in ("outputs", "partialY", "confidence", "index", "lw_weight", "lw_weight0")
    )
    for actual, key in zip(lws_loss(*arguments, None), ("loss", "part", "nonpart"), strict=True):
        assert_close(actual, golden[key], 1e-5)


@pytest.mark.parametrize("kind", ["logit", "softmax", "grad"])
def test_class_activation_value(kind):
    golden = load("cav_values")
    assert_close(method.class_activation_value(golden["outputs"], kind), golden[kind], 1e-5)


@pytest.mark.parametrize("mask", ["candidates", "product"])
@pytest.mark.parametrize("name", ["cavl_update_regular", "cavl_update_nonmonotone"])
def test_confidence_update(name, mask):
    golden = load(name)
    table = golden["before"].clone()
    updated = confidence_update(
        I, table, golden["outputs"], golden["batchY"], golden["index"], mask=mask
    )
    assert updated is table
    assert torch.equal(updated, golden["after"])
    selected = method.select_by_cav(golden["outputs"], golden["batchY"], mask=mask)
    assert torch.equal(selected, golden["after"][golden["index"]].argmax(1))


def test_confidence_update_where_all_candidates_are_negative():
    golden = load("cavl_update_all_negative")
    arguments = (golden["outputs"], golden["batchY"], golden["index"])
    released = confidence_update(I, golden["before"].clone(), *arguments, mask="product")
    assert torch.equal(released, golden["after"])
    ours = confidence_update(I, golden["before"].clone(), *arguments)[golden["index"]]
    assert torch.equal((ours * golden["batchY"]).sum(1), torch.ones(len(ours)))
    assert torch.equal(ours.sum(1), torch.ones(len(ours)))


def test_confidence_update_lw():
    golden = load("lws_update")
    table = golden["before"].clone()
    updated = confidence_update_lw(I, table, golden["outputs"], golden["batchY"], golden["index"])
    assert updated is table
    assert_close(updated, golden["after"], 1e-5)


def test_label_smoothing():
    golden = load("label_smoothing")
    assert_close(
        method.label_smoothing(golden["onehot"], golden["epsion"].item()), golden["smoothed"], 1e-6
    )


class OutputsAndCam(torch.nn.Module):
    """Images are [outputs, cam]: the columns are read off."""

    def forward(self, x):
        return x[:, : x.shape[1] // 2]

    def forward_cam(self, x):
        return x[:, x.shape[1] // 2 :]


def test_accuracies():
    golden = load("accuracy")
    split = golden["split"].tolist()

    def loader(*columns):
        return list(zip(*(column.split(split) for column in columns), strict=True))

    outputs, Y, true = golden["outputs"], golden["partialY"], golden["true_labels"]
    index = torch.arange(len(outputs))
    plain = accuracy_check(loader(outputs, golden["labels"]), I, "cpu")
    assert plain == pytest.approx(golden["accuracy_check"].item(), abs=1e-9)
    train = accuracy_check_train(loader(outputs, Y, true, index), I, "cpu")
    assert train == pytest.approx(golden["accuracy_check_train"].item(), abs=1e-9)
    images = torch.cat([outputs, golden["cam"]], 1)
    both = accuracy_check_cam(
        loader(images, Y, true, index), OutputsAndCam(), "cpu", restrict=False
    )
    assert both == pytest.approx(golden["accuracy_check_cam_unrestricted"].tolist(), abs=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_has_the_released_keys_and_shapes(name):
    state = NETWORKS[name][0]().state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == KEYS[name]
    assert list(state) == list(KEYS[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_network_outputs(name):
    golden = load("networks")
    make, shape = NETWORKS[name]
    model = make().eval()
    fill_hashed_weights(model, list(KEYS[name]))
    flat = torch.sin(golden["input_w"] * torch.arange(np.prod(shape), dtype=torch.float64))
    x = flat.float().reshape(shape)
    with torch.no_grad():
        error = (model(x) - golden[name]).abs().max() / golden[name].abs().max()
        assert error <= 2e-4
        if f"{name}_forward_cam" in golden:
            assert (model.forward_cam(x) - golden[f"{name}_forward_cam"]).abs().max() <= 1


@pytest.mark.parametrize("mask", ["candidates", "product"])
def test_four_epochs_of_training(mask):
    golden = load(f"trajectory_{mask}")
    X, Y, batch = golden["X"], golden["partialY"], int(golden["batch"])
    model = mlp_model(*golden["dims"].tolist())
    fill_hashed_weights(model, ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"])
    model.fc2.weight.data *= golden["fc2_scale"].item()
    confidence = Y / Y.sum(1, keepdim=True)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=golden["lr"].item(), weight_decay=golden["wd"].item()
    )
    losses = []
    for order in golden["orders"]:
        for index in order.split(batch):
            optimiser.zero_grad()
            loss = rc_loss(model(X[index]), confidence, index)
            loss.backward()
            optimiser.step()
            confidence_update(model, confidence, X[index], Y[index], index, mask=mask)
            losses.append(loss.detach())
    assert_close(torch.stack(losses), golden["losses"], 2e-4)
    assert torch.equal(confidence, golden["confidence"])
    assert_close(model(X).detach(), golden["outputs"], 1e-3)
