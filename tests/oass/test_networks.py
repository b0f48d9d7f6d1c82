"""Networks, steps, optimiser, AP and transforms against the released code
(tests/golden/oass/README.md).
"""

import json
import random

import pytest
import torch
from PIL import Image

from oass.core.losses import class_loss, object_aware_losses, re_loss_weight
from oass.core.networks import Classifier
from oass.tools.ai import augment_utils as A
from oass.tools.ai.evaluate_utils import average_precision, mean_average_precision
from oass.tools.ai.optim_utils import PolyOptimizer, update_ema_variables
from tests.golden.oass.weights import fill, image
from tests.oass.conftest import GOLDEN, load_golden, relative_error

KEYS = {
    n: json.loads((GOLDEN / f"{n}_keys.json").read_text())
    for n in ("resnet50", "resnet101", "resnest50", "resnest101")
}


@pytest.mark.parametrize("architecture", list(KEYS))
def test_official_names_and_groups(architecture):
    with torch.device("meta"):
        model = Classifier(architecture, 20, pretrained=False)
    assert [[name, list(value.shape)] for name, value in model.state_dict().items()] == KEYS[
        architecture
    ]["keys"]
    groups = model.get_parameter_groups(print_fn=None)
    assert [len(group) for group in groups] == KEYS[architecture]["groups"]
    if architecture == "resnet50":
        assert [sum(p.numel() for p in group) for group in groups] == [
            23_481_472,
            26_560,
            122_880,
            40_960,
        ]


@pytest.fixture(scope="module")
def resnet50():
    return Classifier("resnet50", 20, pretrained=False)


def named_gradient(model, name):
    return dict(model.named_parameters())[name].grad


def test_network_forward_backward_and_statistics(resnet50):
    g = load_golden("network_resnet50")
    model = fill(resnet50, KEYS["resnet50"]["keys"], int(g["phase"])).eval()
    x = image(int(g["batch"]), int(g["image_size"]), int(g["image_stream"]))
    with torch.no_grad():
        logits, features = model(x, with_cam=True)
        assert relative_error(model(x), g["eval_logits_plain"]) < 1e-3
    assert (
        relative_error(logits, g["eval_logits"]) < 1e-3
        and relative_error(features, g["eval_features"]) < 1e-3
    )

    model.train().zero_grad()
    logits, features = model(x, with_cam=True)
    loss = class_loss(logits, g["labels"]).mean()
    loss.backward()
    for name, value in {"logits": logits, "features": features, "class_loss": loss}.items():
        assert relative_error(value.detach(), g[f"train_{name}"]) < 1e-3, name
    state = model.state_dict()
    for key, wanted in g.items():
        if key.startswith("after__"):
            assert relative_error(state[key[7:]], wanted) < 1e-3, key
        elif key.startswith("grad__"):
            gradient = named_gradient(model, key[6:])
            flat = gradient.flatten()[: wanted.numel()].reshape(wanted.shape)
            assert relative_error(flat, wanted) < 5e-3, key
        elif key.startswith("gradnorm__"):
            assert relative_error(named_gradient(model, key[10:]).norm(), wanted) < 5e-3, key


def run_step(g, strategy, student, **options):
    keys = KEYS["resnet50"]["keys"]
    student = fill(student, keys, int(g["student_phase"])).train()
    student.zero_grad()
    teacher = None
    if strategy != "max":
        teacher = fill(
            Classifier("resnet50", 20, pretrained=False), keys, int(g["teacher_phase"])
        ).train()
        teacher.requires_grad_(False)
    name = strategy.replace("-", "_")
    x = image(int(g["batch"]), int(g["image_size"]), int(g[f"{name}__image_stream"]))
    return object_aware_losses(
        student,
        teacher,
        x,
        g[f"{name}__labels"],
        strategy,
        rule="released",
        min_distance=5,
        **options,
    )


@pytest.mark.parametrize("strategy", ["max", "cMax", "cTopk", "cTopk-w"])
def test_step(resnet50, strategy):
    g, name = load_golden("step_resnet50"), strategy.replace("-", "_")
    out = run_step(g, strategy, resnet50)
    want = {key.removeprefix(f"{name}__"): v for key, v in g.items() if key.startswith(f"{name}__")}
    assert torch.equal(out["keypoints"], want["keypoints"])
    for key in ("class_loss", "p_class_loss", "re_loss"):
        assert relative_error(out[key].detach(), want[key]) < 2e-4, key
    assert out["p_class_loss"].requires_grad == bool(want["p_class_loss_has_grad"])
    (out["class_loss"] + 0.5 * out["p_class_loss"] + 2 * out["re_loss"]).backward()
    state = resnet50.state_dict()
    for key, value in want.items():
        if key.startswith("gradnorm__"):
            assert relative_error(named_gradient(resnet50, key[10:]).norm(), value) < 5e-3, key
        elif key.startswith("after_full__"):
            assert relative_error(state[key[12:]], value) < 1e-3, key
    per_class = named_gradient(resnet50, "classifier.weight").double().sum((1, 2, 3))
    assert relative_error(per_class, want["grad__classifier.weight_sum_per_class"]) < 5e-3


def test_tile_statistics_move_as_released(resnet50):
    g = load_golden("step_resnet50")
    with torch.no_grad():
        run_step(g, "max", resnet50, tile_bn_stats=True)
    state = resnet50.state_dict()
    for key, value in g.items():
        if key.startswith("max__after_released__"):
            assert relative_error(state[key.removeprefix("max__after_released__")], value) < 1e-3, (
                key
            )


@pytest.mark.parametrize("number", [0, 1, 2])
def test_poly_optimizer(number):
    g = {
        key.split("__")[1]: v
        for key, v in load_golden("optim").items()
        if key.startswith(f"opt{number}")
    }
    lr, decay, warmup, max_step, nesterov = g["args"].tolist()
    parameters = [torch.nn.Parameter(p.clone()) for p in g["p0"]]
    groups = [
        {"params": [p], "lr": lr * scale, "weight_decay": wd}
        for p, scale, wd in zip(parameters, (1, 2, 10, 20), (decay, 0, decay, 0), strict=True)
    ]
    optimizer = PolyOptimizer(
        groups, lr, decay, int(warmup), int(max_step), nesterov=bool(nesterov)
    )
    assert all(group["momentum"] == float(g["sgd_momentum"]) for group in optimizer.param_groups)
    rates = []
    for i in range(len(g["lrs"])):
        for p, gradient in zip(parameters, g["grads"][i % 8], strict=True):
            p.grad = gradient.clone()
        optimizer.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
        if i < 8:
            assert (
                relative_error(torch.stack([p.detach() for p in parameters]), g["params"][i]) < 1e-5
            )
    assert (
        (torch.tensor(rates, dtype=torch.float64) - g["lrs"]).abs()
        <= 1e-9 * g["lrs"].abs() + 1e-300
    ).all()


def test_ema_and_ramp():
    g = load_golden("optim")
    student, teacher = torch.nn.BatchNorm1d(5, affine=True), torch.nn.BatchNorm1d(5, affine=True)
    teacher.weight.data.copy_(g["ema__teachers"][0])
    for k, step in enumerate(g["ema__steps"].tolist()):
        student.weight.data.copy_(g["ema__students"][k])
        student.running_mean += 1
        update_ema_variables(student, teacher, float(g["ema__alpha"]), step)
        assert relative_error(teacher.weight.detach(), g["ema__teachers"][k + 1]) < 1e-5
    assert not teacher.running_mean.any()
    for (alpha, schedule), wanted in zip(
        g["ramp__alpha_schedule"].tolist(), g["ramp__values"].tolist(), strict=True
    ):
        for i, value in zip(g["ramp__iterations"].tolist(), wanted, strict=True):
            assert re_loss_weight(
                alpha, schedule, i, int(g["ramp__max_iteration"])
            ) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("case", "abcd")
def test_average_precision(case):
    g = load_golden("map")
    scores, labels = g[f"{case}__scores"], g[f"{case}__labels"]
    assert (
        relative_error(average_precision(scores.numpy(), labels.numpy()), g[f"{case}__ap"]) < 1e-6
    )
    assert relative_error(average_precision(scores, labels), g[f"{case}__ap"]) < 1e-6
    assert mean_average_precision(scores, labels) == pytest.approx(
        float(g[f"{case}__map"]), rel=1e-6
    )


def test_transforms():
    g = load_golden("transforms")
    picture, mask = Image.fromarray(g["image"].numpy()), Image.fromarray(g["mask"].numpy())
    normalised = A.Normalize()(picture)
    assert relative_error(normalised, g["normalize"]) < 1e-6
    for size in (24, 37, 48, 64):
        random.seed(11 + size)
        assert relative_error(A.RandomCrop(size)(normalised), g[f"random_crop_{size}"]) < 1e-6
        data = A.Normalize_For_Segmentation()({"image": picture, "mask": mask})
        data = A.Top_Left_Crop_For_Segmentation(size)(data)
        assert relative_error(data["image"], g[f"top_left_image_{size}"]) < 1e-6
        assert (torch.from_numpy(data["mask"]) == g[f"top_left_mask_{size}"]).all()
    for seed, w, h, out_w, out_h, flip in g["random_resize"].tolist():
        random.seed(seed)
        ramp = Image.linear_gradient("L").resize((w, h)).rotate(90, expand=False)
        out = A.RandomResize(320, 640)(ramp)
        assert out.size == (out_w, out_h)
        flipped = A.RandomHorizontalFlip()(out)
        assert (flipped is not out) == bool(flip)
