"""Keypoints, tiles and merging: hand-made cases, both rules, odd sizes, gradients."""

import pytest
import torch
from torch.nn import functional as F

from oass.core.keypoints import (
    STRATEGIES,
    detect_keypoints,
    positive_pairs,
    topk_peaks,
    upsample_cams,
)
from oass.core.puzzle_utils import (
    merge_at_keypoints,
    merge_features,
    tile_at_keypoints,
    tile_features,
)


def two_peaks(values=((3, 4, 1.0), (12, 10, 0.5))):
    """One image, one class, 16 cells; the map has peaks at cells (y, x) of a value."""
    cams = torch.zeros(1, 1, 16, 16)
    for y, x, value in values:
        cams[0, 0, y, x] = value
    return cams, torch.ones(1, 1)


def test_arg_max_lies_in_the_highest_cell():
    cams, labels = two_peaks()
    for strategy in ("max", "cMax"):
        for rule in ("paper", "released"):
            (y, x) = detect_keypoints(cams, labels, strategy, 256, rule=rule).keypoints[0].tolist()
            assert (y // 16, x // 16) == (3, 4)


def test_paper_centres_of_two_peaks():
    cams, labels = two_peaks()
    up = upsample_cams(cams[0], 256)
    coords, values, count = topk_peaks(up, 5, 10)
    assert count.tolist() == [2] and (coords[0, 2:] == -1).all() and (values[0, 2:] == 0).all()
    p, w = coords[0, :2].double(), values[0, :2].double()
    options = {"min_distance": 10, "rule": "paper"}
    plain = detect_keypoints(cams, labels, "cTopk", 256, **options).keypoints[0].tolist()
    assert plain == (p.sum(0) // 2).long().tolist()
    weighted = detect_keypoints(cams, labels, "cTopk-w", 256, **options).keypoints[0].tolist()
    assert weighted == ((w[:, None] * p).sum(0) / w.sum()).floor().long().tolist()
    assert weighted[0] < plain[0]  # the higher peak pulls


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_void_maps_give_the_centre_and_paper_clips_by_one_cell(strategy):
    void = torch.zeros(1, 1, 16, 16)
    for rule in ("paper", "released"):
        assert detect_keypoints(
            void, torch.ones(1, 1), strategy, 256, rule=rule
        ).keypoints.tolist() == [[128, 128]]
    corner, labels = two_peaks(((0, 15, 1.0),))
    (y, x) = detect_keypoints(corner, labels, strategy, 256, rule="paper").keypoints[0].tolist()
    assert (y, x) == ((16, 240) if strategy in ("max", "cMax") else (128, 128))


def test_pairs_are_row_major_and_images_without_labels_yield_none():
    cams, labels = (
        torch.rand(3, 4, 8, 8),
        torch.tensor([[0, 1, 0, 1.0], [0, 0, 0, 0], [1, 0, 0, 0]]),
    )
    found = detect_keypoints(cams, labels, "cMax", 64)
    assert found.image_index.tolist() == [0, 0, 2] and found.class_index.tolist() == [1, 3, 0]
    again = detect_keypoints(cams, labels, "cMax", 64, pairs=positive_pairs(labels))
    assert torch.equal(found.keypoints, again.keypoints)
    per_image = detect_keypoints(cams, labels, "max", 64)
    assert per_image.keypoints[1].tolist() == [32, 32] and (per_image.class_index == -1).all()
    for strategy in STRATEGIES[1:]:
        none = detect_keypoints(cams, torch.zeros(3, 4), strategy, 64)
        assert none.keypoints.shape == (0, 2) and none.image_index.numel() == 0


def test_peaks_near_the_border_and_equal_ones():
    maps = torch.zeros(1, 40, 40)
    maps[0, 2, 20] = 2.0  # nearer than 5 to the border: no peak, but suppresses its neighbours
    maps[0, 6, 20] = 1.0
    maps[0, 20, 10], maps[0, 20, 30] = 1.0, 1.0
    coords, _, count = topk_peaks(maps, 5, 5)
    assert count.item() == 2 and coords[0, :2].tolist() == [[20, 10], [20, 30]]
    coords, _, count = topk_peaks(maps, 5, 5, exclude_border=False)
    assert count.item() == 3 and coords[0, 0].tolist() == [2, 20]
    assert topk_peaks(torch.ones(1, 40, 40), 5, 5)[2].item() == 0  # a constant map has none


def test_unknown_strategy_or_rule():
    with pytest.raises(ValueError, match="choose from"):
        detect_keypoints(torch.zeros(1, 1, 4, 4), torch.ones(1, 1), "cmax", 64)


def loop_tiles(image, y, x, patch):
    """The released way: four slices, each resized by itself."""
    parts = (image[:, :y, :x], image[:, :y, x:], image[:, y:, :x], image[:, y:, x:])
    return torch.stack(
        [F.interpolate(part[None], (patch, patch), mode="nearest")[0] for part in parts]
    )


def loop_merge(tiles, y, x, size, G):
    """The released way: four resized maps, concatenated."""
    cell = size // G
    y, x = min(max(y // cell, 1), G - 1), min(max(x // cell, 1), G - 1)
    shapes = ((y, x), (y, G - x), (G - y, x), (G - y, G - x))
    a, b, c, d = (
        F.interpolate(t[None], shape, mode="nearest")[0]
        for t, shape in zip(tiles, shapes, strict=True)
    )
    return torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)


@pytest.mark.parametrize("size", [64, 96, 160, 192, 320])
def test_any_size_equals_the_loop_over_cuts(size):
    generator = torch.Generator().manual_seed(size)
    images = torch.rand(3, 3, size, size, generator=generator)
    keypoints = torch.randint(1, size, (20, 2), generator=generator)
    keypoints[:4] = torch.tensor(
        [[1, 1], [size - 1, size - 1], [1, size - 1], [size // 2, size // 2]]
    )
    which = torch.arange(20) % 3
    G, h = size // 16, size // 32
    maps = torch.rand(20, 4, 2, h, h, generator=generator)
    tiles, merged = (
        tile_at_keypoints(images, which, keypoints),
        merge_at_keypoints(maps, keypoints, size),
    )
    for p, (y, x) in enumerate(keypoints.tolist()):
        assert torch.equal(tiles[p], loop_tiles(images[which[p]], y, x, size // 2))
        assert torch.equal(merged[p], loop_merge(maps[p], y, x, size, G))


def test_gradients_of_tiles_and_merge_are_scatter_adds():
    images = torch.rand(2, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    which, keypoints = torch.tensor([0, 1, 1]), torch.tensor([[3, 9], [20, 31], [16, 16]])
    tile_at_keypoints(images, which, keypoints).sum().backward()
    assert images.grad.sum() == 3 * 4 * 16 * 16
    maps = torch.rand(3, 4, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: merge_at_keypoints(m, keypoints, 32), maps)


def test_uniform_pieces_are_a_cut_at_the_centre():
    images = torch.rand(3, 2, 8, 8)
    pieces = tile_features(images, 4)
    centre = torch.full((3, 2), 4)
    tiles = tile_at_keypoints(images, torch.arange(3), centre)
    assert torch.equal(pieces.view(4, 3, 2, 4, 4).transpose(0, 1), tiles)
    assert torch.equal(merge_features(pieces, 4, 3), images)
    assert torch.equal(merge_at_keypoints(tiles, centre, 8, 8), images)
