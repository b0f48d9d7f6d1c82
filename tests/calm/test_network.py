"""Networks and their checkpoints (network/)."""

import gc
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from calm import network
from calm.build_checkpoint import find_checkpoint, read_checkpoint
from calm.evaluate_maps import ScoreMapper
from calm.network.util import initialize_weights, load_checkpoint, remove_layer
from calm.network.vgg import make_features, reindex_features
from calm.score_map_method import activation_map, gradients, integrated_grad
from common.cli import UserError


def tiny(method: str = "CALM-EM", **kwargs: object) -> network.AttributionNet:
    torch.manual_seed(0)
    return network.small(num_classes=4, attribution_method=method, **kwargs)


@pytest.mark.parametrize("name", network.ARCHITECTURES)
def test_grids_and_forward(name: str) -> None:
    size = 64
    for large, side in ((False, 4), (True, 8)):
        if name == "small":
            side = 16
        if name == "inception_v3":
            side = 4 if not large else 8
        model = network.ARCHITECTURES[name](
            num_classes=3, large_feature_map=large, use_bn=True
        ).eval()
        with torch.no_grad():
            f, f_former, attention = model.encode(torch.zeros(1, 3, size, size))
        assert f.shape == (1, 3, side, side) and attention.shape == (1, 1, side, side)
        if name in ("resnet18", "small") or large:
            break


def test_training_forward_is_the_loss_of_the_evaluation_forward() -> None:
    for method in network.METHODS:
        model, x, labels = tiny(method), torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 3])
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        loss = model(x, labels, with_loss=True)["loss"]
        out = model(x, labels)  # as the original's training calls it
        assert set(out) == {"logits", "probs", "features"}
        assert torch.allclose(
            nn.NLLLoss(reduction="none")(out["features"], labels), loss, rtol=1e-5
        )
        assert out["probs"].sum(1).tolist() == pytest.approx([1, 1, 1], rel=1e-5)


def test_autocast_keeps_the_heads_in_float32() -> None:
    model, x = tiny().eval(), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out, cam = model(x), model(x, torch.tensor([0, 1]), return_cam="jointll")
    assert out["features"].dtype == cam.dtype == torch.float32


@pytest.mark.slow
def test_map_code_leaves_model_and_memory_as_they_were() -> None:
    model, x, labels = tiny().train(), torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def maps() -> None:
        activation_map(model, x, labels, "jointll")
        integrated_grad(model, x, labels, 4, integrated_grad_nr_iter=2)
        ScoreMapper(model, "gtcond").of_classes(x, [0, 1, 1], [0, 1, 2])

    maps()
    gc.collect()
    count = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
    for _ in range(100):
        maps()
    gc.collect()
    assert sum(isinstance(o, torch.Tensor) for o in gc.get_objects()) == count
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training and x.grad is None and not x.requires_grad
    assert all(not m._forward_hooks and not m._backward_hooks for m in model.modules())


def test_score_mapper_agrees_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tiny().eval(), torch.randn(3, 3, 32, 32)
    groups = {c: [c, (c + 1) % 4] for c in range(4)}
    rows, classes = [0, 0, 2], [1, 3, 0]
    for process in (
        "vanilla",
        "vanilla-saliency",
        "gtcond-superclass",
        "jointll-superclass-mean",
        "saliency",
    ):
        mapper = ScoreMapper(model, process, superclass=groups)
        expected = model(x[rows], torch.tensor(classes), groups, return_cam=process)
        assert torch.allclose(mapper.of_classes(x, rows, classes), expected, atol=1e-6)
    gradient = ScoreMapper(model, "input_grad", "backprop")
    assert gradient.of_classes(x, rows, classes).shape == (3, 32, 32)
    maps, probs = gradient.with_probs(x, torch.tensor([0, 1, 2]))
    assert maps.shape == (3, 32, 32) and torch.allclose(probs, model(x)["probs"])
    monkeypatch.setattr(gradients, "PIXELS_PER_FORWARD", 2 * 32 * 32)  # two rows a forward
    assert torch.allclose(gradient(x, torch.tensor([0, 1, 2])), maps, atol=1e-6)


# --- checkpoints ---


@pytest.mark.parametrize("form", ["bare", "module", "original", "ours"])
def test_every_form_of_checkpoint_loads(tmp_path: Path, form: str) -> None:
    source, target = tiny(), network.small(num_classes=4, attribution_method="CALM-EM")
    state = source.state_dict()
    saved = {
        "bare": state,
        "module": {f"module.{k}": v for k, v in state.items()},
        "original": {"architecture": "small", "epoch": 40, "state_dict": state},
        "ours": {"state": {"model": state}, "settings": {"prior_activation": "relu"}},
    }[form]
    path = (
        tmp_path / "run" / ("checkpoints/last.pt" if form == "ours" else "last_checkpoint.pth.tar")
    )
    path.parent.mkdir(parents=True)
    torch.save(saved, path)
    load_checkpoint(target, "run", roots=[tmp_path])
    assert all(
        torch.equal(a, b) for a, b in zip(target.state_dict().values(), state.values(), strict=True)
    )


def test_missing_and_unfitting_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.*last_checkpoint.pth.tar.*save"):
        find_checkpoint("nowhere/", [tmp_path / "save"])
    torch.save(network.small(num_classes=7).state_dict(), tmp_path / "seven.pt")
    with pytest.raises(
        UserError, match=r"conv_last.weight \(7, 96, 1, 1\) instead of \(4, .*--architecture"
    ):
        load_checkpoint(tiny(), tmp_path / "seven.pt")
    load_checkpoint(tiny(), tmp_path / "seven.pt", is_different_checkpoint=True)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no state_dict"):
        read_checkpoint(tmp_path / "list.pt")


def test_a_relu_checkpoint_is_refused_by_a_softplus_model_unless_forced(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "relu.pt")
    with pytest.raises(UserError, match="trained with relu, not softplus"):
        load_checkpoint(tiny(prior_activation="softplus"), tmp_path / "relu.pt")
    load_checkpoint(
        tiny(prior_activation="softplus"), tmp_path / "relu.pt", is_different_checkpoint=True
    )
    load_checkpoint(tiny("CAM", prior_activation="softplus"), tmp_path / "relu.pt")


def test_imagenet_weights_from_a_file(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet18-f37072fd.pth")
    model = network.resnet18(
        pretrained=True, pretrained_path=str(tmp_path), num_classes=5, large_feature_map=True
    )
    assert torch.equal(model.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert torch.equal(
        model.layer3[0].downsample[1].running_var, theirs.layer3[0].downsample[1].running_var
    )
    with pytest.raises(UserError, match="vgg16-397923af.pth.*--pretrained=False"):
        network.vgg16(pretrained=True, pretrained_path=str(tmp_path / "none"), num_classes=5)


def test_imagenet_weights_from_the_cache_or_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"resnet18-f37072fd.pth are not in .*WSL_OFFLINE is set.*--pretrained=False",
    ):
        network.resnet18(pretrained=True, num_classes=5)
    theirs = torchvision.models.resnet18(weights=None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(theirs.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    model = network.resnet18(pretrained=True, num_classes=5)
    assert torch.equal(model.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


@pytest.mark.parametrize(("use_bn", "pool", "name"), [(False, 23, "vgg16"), (True, 33, "vgg16_bn")])
def test_vgg_reindexing_moves_every_entry_behind_the_pool(
    use_bn: bool, pool: int, name: str
) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None)
        ours = make_features(use_bn, large_feature_map=True)
    state = remove_layer(dict(theirs.state_dict()), "classifier.")
    moved = {k.removeprefix("features."): v.shape for k, v in reindex_features(state, pool).items()}
    assert moved == {k: v.shape for k, v in ours.state_dict().items()}


def test_initialisation() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 2)]
    for mode, bound in (("xavier", (6 / (27 + 72)) ** 0.5), ("he", None)):
        initialize_weights(layers, mode)
        assert (
            not layers[0].bias.any() and layers[1].weight.eq(1).all() and not layers[2].bias.any()
        )
        assert bound is None or layers[0].weight.abs().max() <= bound
    with pytest.raises(ValueError, match="he, xavier"):
        initialize_weights(layers, "magic")
