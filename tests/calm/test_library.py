"""calm.CALM and calm.attach: other people's networks, precisions, transforms, mistakes."""

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.func import functional_call, grad

import calm
from calm import library, method

METHODS = ("CAM", "EM", "ML")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 6, 3, 2, 1))


def model_of(name: str = "EM", **more: object) -> library.CALM:
    settings: dict = {"channels": 6, "prior_activation": "softplus"} | more
    return calm.CALM(network(), 3, name, **settings)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([2, 0])


@pytest.mark.parametrize("name", METHODS)
def test_the_answers_belong_together(name: str, images: torch.Tensor) -> None:
    model = model_of(name, class_names=["a", "b", "c"])
    probabilities, maps, names = model.explain(images)
    assert names == ["a", "b", "c"] and maps.shape == (2, 3, 4, 4) and model.training
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    torch.testing.assert_close(model.eval()(images).exp(), probabilities)
    if name != "CAM":
        torch.testing.assert_close(maps.sum((2, 3)), probabilities)


def test_the_loss_is_the_papers(images: torch.Tensor) -> None:
    model = model_of("EM")
    f, attention = model.scores(images)
    log_s = method.log_conditional_likelihood(f)
    expected = method.expected_log_joint(log_s, method.latent_prior(attention))
    torch.testing.assert_close(
        model.loss(images, LABELS), -expected[torch.arange(2), LABELS].mean()
    )
    posterior = torch.full((2, 4, 4), 1 / 16)
    assert model.loss(images, LABELS, posterior) != model.loss(images, LABELS)


def test_names_of_the_original() -> None:
    assert model_of("CALM_EM").method == model_of("CALM-EM").method == "EM"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_half_precision(name: str, dtype: torch.dtype, images: torch.Tensor) -> None:
    model = model_of(name)
    half = copy.deepcopy(model).to(dtype)
    loss = half.loss(images.to(dtype), LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, model.loss(images, LABELS), atol=0.05, rtol=0.05)
    loss.backward()
    assert half.conv_last.weight.grad is not None


@pytest.mark.parametrize("name", METHODS)
def test_double_backward(name: str, images: torch.Tensor) -> None:
    model = model_of(name, prior_gradient="full").double()
    x = images.double().requires_grad_()
    (first,) = torch.autograd.grad(model.loss(x, LABELS), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.isfinite().all() and second.abs().sum() > 0


@pytest.mark.parametrize("name", METHODS)
def test_functional_gradient(name: str, images: torch.Tensor) -> None:
    model = Loss(model_of(name))
    values = {key: value.detach() for key, value in model.named_parameters()}
    found = grad(lambda given: functional_call(model, given, (images, LABELS)))(values)
    model(images, LABELS).backward()
    for key, value in model.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(found[key], value.grad)


class Loss(nn.Module):
    def __init__(self, model: library.CALM) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.model.loss(images, labels)


@pytest.mark.parametrize("name", METHODS)
def test_compiled(name: str, images: torch.Tensor) -> None:
    model = model_of(name)
    compiled = torch.compile(Loss(model), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images, LABELS), model.loss(images, LABELS))


def attached(make: Callable[[], nn.Module], layer: str, **more: object) -> tuple:
    torch.manual_seed(0)
    classifier = make().eval()
    settings: dict = {"method": "CAM"} | more
    return classifier, calm.attach(classifier, layer, **settings).eval()


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda: torchvision.models.resnet18(num_classes=5), "layer4"),
        (lambda: timm.create_model("resnet18", num_classes=5), "layer4"),
        (lambda: timm.create_model("mobilenetv3_small_050", num_classes=5), "act2"),
        (
            lambda: timm.create_model(
                "vit_tiny_patch16_224", num_classes=5, img_size=64, global_pool="avg", fc_norm=False
            ),
            "norm",
        ),
    ],
)
def test_a_trained_classifier_keeps_its_answer(make: Callable, layer: str) -> None:
    if layer == "act2":
        with pytest.raises(ValueError, match="has no layer"):
            attached(make, "act3")
    classifier, model = attached(make, layer)
    x = torch.randn(2, 3, 64, 64)
    if layer == "act2":  # a wide layer between pooling and classifier: not linear after pooling
        with torch.no_grad():
            assert model(x).shape == (2, 5)
        return
    with torch.no_grad():
        expected = classifier(x).softmax(1)
    torch.testing.assert_close(model.explain(x).probabilities, expected, atol=1e-5, rtol=1e-5)


def test_an_attached_model_trains_and_is_copied(images: torch.Tensor) -> None:
    _, model = attached(lambda: torchvision.models.resnet18(num_classes=5), "layer4", method="EM")
    maps = model.explain(torch.randn(2, 3, 64, 64)).maps
    assert maps.shape == (2, 5, 2, 2)
    copied = copy.deepcopy(model)
    loss = copied.loss(torch.randn(2, 3, 64, 64), torch.tensor([0, 4]))
    loss.backward()
    assert copied.network.model.conv1.weight.grad is not None
    assert model.network.model.conv1.weight.grad is None
    _, other = attached(lambda: torchvision.models.resnet18(num_classes=5), "layer4", num_classes=2)
    assert other.explain(torch.randn(1, 3, 64, 64)).probabilities.shape == (1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "EMA"}, "choose from CAM, EM, ML"),
        ({"num_classes": 0}, "num_classes 0"),
        ({"channels": None}, "channels None"),
        ({"prior_activation": "exp"}, "choose from relu, softplus"),
        ({"prior_gradient": "half"}, "choose from detach, full"),
        ({"class_names": ["a"]}, "1 class_names for 3"),
    ],
)
def test_mistakes_of_the_settings(settings: dict, message: str) -> None:
    given = {"num_classes": 3, "channels": 6} | settings
    with pytest.raises(ValueError, match=message):
        calm.CALM(network(), **given)


def test_mistakes_of_the_inputs(images: torch.Tensor) -> None:
    model = model_of()
    with pytest.raises(ValueError, match=r"0\.\.2"):
        model.loss(images, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="expected"):
        calm.CALM(network(), 3, channels=7)(images)
    with pytest.raises(ValueError, match=r"\(B, h, w\)"):
        model.loss(images, LABELS, torch.ones(2, 3, 3))
    with pytest.raises(ValueError, match="belongs to method EM"):
        model_of("ML").loss(images, LABELS, torch.ones(2, 4, 4))
    with pytest.raises(ValueError, match="kind"):
        model.maps(images, "joint")
    with pytest.raises(ValueError, match=r"no nn\.Linear"):
        calm.attach(network(), "0")


@pytest.mark.slow
def test_the_library_needs_torch_alone() -> None:
    code = (
        "import sys; sys.modules['common'] = None; import calm; calm.CALM; calm.attach; "
        "assert not {'timm', 'torchvision', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    light = "import sys, calm; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", light], check=True)


def test_keywords_of_the_original() -> None:
    from calm.util import get_threshold_list, resize_scoremaps

    assert len(get_threshold_list(cam_curve_interval=0.1)) == 10
    assert resize_scoremaps(torch.ones(1, 4, 4).numpy(), dtype="numpy").shape == (1, 224, 224)
