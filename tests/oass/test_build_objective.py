"""The losses of a step: pairs by pairs or at once, who gets a gradient, memory that is short."""

import copy

import pytest
import torch
from torch import nn

from common.cli import UserError
from oass.build_objective import TilePass
from oass.core.losses import object_aware_losses, reconstruction_loss
from oass.core.networks import Classifier
from oass.fast import tile_class_maps
from tests.oass.conftest import tiny


@pytest.mark.parametrize("strategy", ["max", "cMax", "cTopk", "cTopk-w", "uniform"])
def test_batched_step_equals_a_loop_over_pairs(strategy):
    """The whole step: tiles one pair at a time through the network, against one batched pass."""
    model, images = tiny(), torch.randn(3, 3, 64, 64)
    labels = torch.zeros(3, 20)
    labels[0, 2] = labels[0, 5] = labels[2, 7] = 1
    student_tiles = strategy in ("max", "uniform")
    teacher = None if student_tiles else copy.deepcopy(model).requires_grad_(False)
    out = object_aware_losses(model, teacher, images, labels, strategy)
    one_by_one = object_aware_losses(model, teacher, images, labels, strategy, tile_chunk=1)
    for key in ("class_loss", "p_class_loss", "re_loss"):
        torch.testing.assert_close(out[key], one_by_one[key])
    assert len(out["keypoints"]) == 3
    assert out["p_class_loss"].requires_grad == student_tiles


def test_who_gets_a_gradient():
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 20)
    labels[:, 3] = 1
    teacher = tiny().requires_grad_(False)
    gradients = {}
    for p_loss in ("teacher", "student", "full"):
        model = tiny()
        out = object_aware_losses(model, teacher, images, labels, "cMax", p_loss=p_loss)
        if out["p_class_loss"].requires_grad:
            out["p_class_loss"].backward()
        gradients[p_loss] = model.classifier.weight.grad
    assert gradients["teacher"] is None and gradients["student"].any() and gradients["full"].any()
    model = tiny()
    object_aware_losses(model, None, images, labels, "max")["re_loss"].backward()
    assert model.classifier.weight.grad.any() and model.model.conv1.weight.grad.any()


@pytest.mark.parametrize("strategy", ["cMax", "max"])
def test_p_loss_full_classifies_the_image_and_keeps_the_tiles_logits(strategy):
    images, labels = torch.randn(2, 3, 64, 64), torch.zeros(2, 20)
    labels[:, 3:5] = 1
    model, teacher = tiny(), tiny().requires_grad_(False) if strategy == "cMax" else None
    plain, full = (
        object_aware_losses(copy.deepcopy(model), teacher, images, labels, strategy, p_loss=p)
        for p in ("teacher", "full")
    )
    want = nn.functional.binary_cross_entropy_with_logits(full["features"].mean((2, 3)), labels)
    torch.testing.assert_close(full["p_class_loss"], want)
    torch.testing.assert_close(full["tile_logits"], full["merged"].mean((2, 3)))
    torch.testing.assert_close(full["tile_logits"], plain["tile_logits"])


def test_out_of_memory_halves_the_tile_pass_once_and_for_good(monkeypatch, capsys):
    model, tiles, passes = tiny(), torch.randn(6, 4, 3, 32, 32), []
    real = Classifier.feature_map

    def run(most):
        def feature_map(network, images):
            passes.append(len(images) // 4)
            if passes[-1] > most:
                raise torch.OutOfMemoryError("no memory")
            return real(network, images)

        monkeypatch.setattr(Classifier, "feature_map", feature_map)

    want = tile_class_maps(model, tiles)
    run(most=3)
    tile_pass = TilePass()
    for _ in range(2):
        torch.testing.assert_close(tile_pass(model, tiles), want)
    assert passes == [6, 3, 3, 3, 3] and capsys.readouterr().out.count("--tile_chunk 3") == 1
    run(most=2)
    with pytest.raises(UserError, match="--tile_chunk 1"):
        TilePass(pairs_at_once=6)(model, tiles)
    run(most=0)
    with pytest.raises(UserError, match="1 pair.*--image_size"):
        TilePass(pairs_at_once=1)(model, tiles)


def test_options_of_the_reconstruction_loss():
    full, merged = torch.rand(2, 4, 3, 3), torch.rand(2, 4, 3, 3)
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0.0]])
    difference = (full - merged).abs().mean((2, 3))
    torch.testing.assert_close(
        reconstruction_loss(full, merged, mask, option="none"), difference.mean()
    )
    torch.testing.assert_close(reconstruction_loss(full, merged, mask), (difference * mask).mean())
    selected = (difference[0, 0] + difference[1, :2].mean()) / 2
    torch.testing.assert_close(
        reconstruction_loss(full, merged, mask, option="selection"), selected
    )
    squares = ((full - merged) ** 2).mean((2, 3))
    torch.testing.assert_close(
        reconstruction_loss(full, merged, mask, "L2_Loss"), (squares * mask).mean()
    )


def test_no_label_at_all():
    model, teacher = tiny(), tiny().requires_grad_(False)
    out = object_aware_losses(
        model, teacher, torch.randn(2, 3, 64, 64), torch.zeros(2, 20), "cTopk"
    )
    assert out["re_loss"].item() == 0 and out["p_class_loss"].item() == 0
    (out["class_loss"] + out["re_loss"]).backward()
    assert model.model.conv1.weight.grad.any()
