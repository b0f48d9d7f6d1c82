"""Networks: other channels and sizes, class activation maps, initialisation, evaluation without
dropout.
"""

import pytest
import torch

from cavl.cifar_models import convnet, densenet, resnet
from cavl.cifar_models.resnet import ResNet
from cavl.utils.models import LeNet, linear_model, mlp_model

NETWORKS = {
    "resnet": lambda channels=3: resnet(depth=8, num_classes=7, in_channels=channels),
    "resnet_bottleneck": lambda channels=3: resnet(depth=44, num_classes=7, in_channels=channels),
    "densenet": lambda channels=3: densenet(num_classes=7, in_channels=channels),
    "convnet": lambda channels=3: convnet.Cnn(channels, 7, 0.25),
}


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def warmed_up(make, channels, size):
    """A network whose BatchNorm statistics have seen a batch, in eval mode, and images for it."""
    model, x = make(channels), torch.randn(3, channels, size, size)
    model.train()
    with torch.no_grad():
        model(x)
    return model.eval(), x


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28)])
def test_maps_belong_to_the_logits(name, channels, size):
    model, x = warmed_up(NETWORKS[name], channels, size)
    with torch.no_grad():
        logits, maps = model.class_activation_maps(x)
        assert torch.equal(logits, model(x))
        features, W, b = model.feature_maps(x), model.classifier.weight, model.classifier.bias
        unclipped = torch.einsum("bchw,kc->bkhw", features, W)
        torch.testing.assert_close(unclipped.mean(dim=(2, 3)) + b, logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps, unclipped.relu(), rtol=1e-4, atol=1e-5)
        area = model.forward_cam(x)
    assert area.is_floating_point() and area.shape == (3, 7)
    assert torch.equal(area, (maps > 0).flatten(2).sum(2).float())
    positions = {"convnet": {32: 4, 28: 1}}.get(name, {32: 64, 28: 49})[size]
    assert maps.shape[2] * maps.shape[3] == positions


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_is_repeatable_and_independent_of_the_batch(name):
    model, x = warmed_up(NETWORKS[name], 3, 32)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)


def test_convnet_drops_maps_in_training_only():
    model = convnet.Cnn(3, 10, 0.5)
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("make", [NETWORKS["resnet"], NETWORKS["densenet"]])
def test_he_initialisation(make):
    model = make()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.numel() > 2000:
            expected = (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert layer.bias is None
        elif isinstance(layer, torch.nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()


@pytest.mark.parametrize(
    ("depth", "blocks", "expansion"), [(8, 1, 1), (32, 5, 1), (38, 6, 1), (44, 7, 4)]
)
def test_resnet_depths(depth, blocks, expansion):
    model = ResNet(depth, 10)
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [blocks] * 3
    assert model.fc.in_features == 64 * expansion


@pytest.mark.parametrize("depth", [2, 18, 33])
def test_resnet_rejects_other_depths(depth):
    with pytest.raises(ValueError, match="6n"):
        resnet(depth)


def test_small_models_take_images_and_vectors():
    images = torch.rand(4, 1, 28, 28)
    assert linear_model(784, 10)(images).shape == (4, 10)
    assert mlp_model(784, 20, 10)(images).shape == (4, 10)
    assert mlp_model(13, 20, 3)(torch.rand(4, 13)).shape == (4, 3)
    assert LeNet(10)(images).shape == (4, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name):
    model = NETWORKS[name]().train()
    model(torch.randn(4, 3, 32, 32)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
