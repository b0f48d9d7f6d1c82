"""CAM arithmetic, score-map normalisation, pictures."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from common.cam import (
    class_activation_map,
    normalize_maps,
    normalize_scoremap,
    overlay,
    resize_maps,
)

# --- maps ---


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 1, 1)])
def test_maps_equal_the_loop_of_the_paper(shape):
    torch.manual_seed(0)
    features, weight = torch.randn(2, 3, 4, 6), torch.randn(shape)
    wanted = torch.zeros(2, 5, 4, 6)
    for k in range(5):
        for c in range(3):
            wanted[:, k] += weight.reshape(5, 3)[k, c] * features[:, c]
    torch.testing.assert_close(class_activation_map(features, weight, relu=False), wanted)
    torch.testing.assert_close(class_activation_map(features, weight), wanted.clamp(min=0))


def test_the_mean_of_a_map_is_the_logit_of_a_pooled_head():
    torch.manual_seed(0)
    features, head = torch.randn(2, 3, 4, 4), nn.Linear(3, 5, bias=False)
    maps = class_activation_map(features, head.weight, relu=False)
    torch.testing.assert_close(maps.mean((2, 3)), head(features.mean((2, 3))))


def test_maps_are_differentiable_and_resized_without_aligned_corners():
    features = torch.rand(1, 2, 2, 2, requires_grad=True)
    maps = resize_maps(class_activation_map(features, torch.ones(1, 2)), (4, 4))
    wanted = nn.functional.interpolate(
        features.sum(1, keepdim=True), size=(4, 4), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(maps, wanted)
    maps.sum().backward()
    assert features.grad.abs().sum() > 0
    blocks = torch.eye(2).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(resize_maps(torch.eye(2)[None, None], (4, 4), "nearest")[0, 0], blocks)


# --- normalisation ---

M = np.array([[-1.0, 0.0], [1.0, 4.0]], dtype=np.float32)


@pytest.mark.parametrize(
    "kind, wanted",
    [
        ("max", [[0, 0], [0.25, 1]]),
        ("minmax", [[0, 0.2], [0.4, 1]]),
        ("clipping", [[0, 0], [1, 1]]),
    ],
)
def test_normalisations(kind, wanted):
    given = M.copy()
    result = normalize_scoremap(given, kind)
    np.testing.assert_allclose(result, wanted, rtol=1e-6)
    assert result.dtype == np.float32 and result.shape == (2, 2)
    assert (given == M).all()


@pytest.mark.parametrize("kind", ["max", "minmax", "clipping"])
@pytest.mark.parametrize("values", [[np.nan, 1.0], [3.0, 3.0], [0.0, 0.0]])
def test_nan_and_constant_maps_become_zero(kind, values):
    assert not normalize_scoremap(np.array([values]), kind).any()


def test_max_of_a_map_without_positive_values():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not normalize_scoremap(np.array([[-1.0, 0.0]]), "max").any()


def test_max_of_a_negative_map_flips_the_sign_and_warns_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            assert (
                normalize_scoremap(np.array([[-4.0, -2.0]]), "max") == 1
            ).all()  # as in the original
    assert [str(w.message)[:13] for w in caught] == ["norm_type max"]


@pytest.mark.parametrize("norm_type", ["max", "minmax", "clipping"])
def test_maps_of_a_batch_are_normalised_each_by_itself(norm_type):
    rng = np.random.default_rng(0)
    maps = np.stack(
        [
            rng.normal(size=(5, 4)),
            np.full((5, 4), 2.0),
            rng.random((5, 4)) * 3,
            rng.normal(size=(5, 4)),
        ]
    )
    maps[3, 0, 0] = np.nan
    before = maps.copy()
    for ours, one in zip(
        normalize_maps(torch.from_numpy(maps), norm_type).numpy(), maps, strict=True
    ):
        assert np.array_equal(
            ours, normalize_scoremap(map=one[:, ::-1], norm_type=norm_type)[:, ::-1]
        )
    assert np.array_equal(maps, before, equal_nan=True)


@pytest.mark.parametrize("kind", ["max", "minmax", "clipping"])
def test_results_lie_in_zero_one(kind):
    rng = np.random.default_rng(0)
    for _ in range(50):
        result = normalize_scoremap(rng.normal(size=(3, 4)) * 10 ** rng.uniform(-6, 6), kind)
        assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


def test_an_unknown_normalisation_lists_the_known():
    with pytest.raises(ValueError, match="'mean': choose from max, minmax, clipping"):
        normalize_scoremap(M, "mean")


# --- pictures ---


def test_overlay_keeps_the_aspect_and_mixes_by_alpha():
    image = np.full((6, 8, 3), 100, dtype=np.uint8)
    score = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert (overlay(image, score, alpha=0) == image).all()
    hot = overlay(image, np.ones((3, 4)), alpha=1.0)
    cold = overlay(image, np.zeros((3, 4)), alpha=1.0)
    assert hot.shape == (6, 8, 3) and hot.dtype == np.uint8
    assert (
        hot[0, 0, 0] > hot[0, 0, 2] and cold[0, 0, 2] > cold[0, 0, 0]
    )  # RGB: red is high, blue low
    assert (overlay(image, np.full((3, 4), 9.0), alpha=1.0) == hot).all()  # clipped
