"""Keypoints, tiles, merging and losses against the released code (tests/golden/oass/README.md)."""

import pytest
import torch

from oass.core.keypoints import detect_keypoints, topk_peaks, upsample_cams
from oass.core.losses import class_loss, puzzle_losses
from oass.core.puzzle_utils import merge_at_keypoints, tile_at_keypoints
from oass.tools.ai.torch_utils import make_cam
from tests.oass.conftest import load_golden, relative_error

KEYPOINTS, TILES, LOSSES = (
    load_golden("keypoints"),
    load_golden("tile_merge"),
    load_golden("losses"),
)
CASES = sorted({key.split("__")[0] for key in KEYPOINTS})


def keypoint_case(name):
    fields = {
        key.split("__")[1]: value for key, value in KEYPOINTS.items() if key.startswith(name + "__")
    }
    return fields, make_cam(fields["features"])


@pytest.mark.parametrize("strategy", ["max", "cMax", "cTopk", "cTopk-w"])
@pytest.mark.parametrize("case", CASES)
def test_released_keypoints(case, strategy):
    g, cams = keypoint_case(case)
    size, distance = int(g["image_size"]), int(g["min_distance"])
    found = detect_keypoints(
        cams, g["labels"], strategy, size, min_distance=distance, rule="released"
    )
    assert torch.equal(found.keypoints, g[f"keypoints_{strategy.replace('-', '_')}"])
    if strategy == "max":
        assert (
            found.image_index.tolist() == list(range(len(cams))) and (found.class_index == -1).all()
        )
    else:
        assert torch.equal(found.image_index, g["image_index"]) and torch.equal(
            found.class_index, g["class_index"]
        )


@pytest.mark.parametrize("case", CASES)
def test_peaks(case):
    g, cams = keypoint_case(case)
    up = upsample_cams(cams[g["image_index"], g["class_index"]], int(g["image_size"]))
    coords, values, count = topk_peaks(up, 6, int(g["min_distance"]))
    assert torch.equal(coords, g["peaks6"])
    assert torch.equal(count, g["peak_count"].clamp(max=6))
    assert relative_error(values, g["peak_values6"]) < 1e-5


@pytest.mark.parametrize("size", [512, 256, 128])
def test_tiles_and_merge_bit_exact(size):
    g = {key.split("__")[1]: value for key, value in TILES.items() if key.startswith(f"s{size}__")}
    which, keypoints = g["image_index"], g["keypoints"]
    images = torch.rand(
        int(which.max()) + 1, 3, size, size, generator=torch.Generator().manual_seed(0)
    )
    rows, columns = g["tile_rows"].long(), g["tile_cols"].long()
    tiles = tile_at_keypoints(images, which, keypoints)
    for p in range(len(which)):
        for t in range(4):
            wanted = images[which[p]][:, rows[p, t // 2]][:, :, columns[p, t % 2]]
            assert torch.equal(tiles[p, t], wanted)
    source = g["merge_source"].long()
    cells = source.shape[-1] // 2
    maps = torch.rand(len(which), 4, 5, cells, cells, generator=torch.Generator().manual_seed(1))
    merged = merge_at_keypoints(maps, keypoints, size)
    flat = maps.transpose(1, 2).flatten(2)
    wanted = flat.gather(2, source.flatten(1)[:, None].expand(-1, 5, -1)).reshape(merged.shape)
    assert torch.equal(merged, wanted)


def test_make_cam_and_its_gradient():
    x = LOSSES["make_cam__in"].requires_grad_()
    out = make_cam(x)
    (out * torch.arange(out.numel()).float().sin().reshape(out.shape)).sum().backward()
    assert relative_error(out.detach(), LOSSES["make_cam__out"]) < 1e-6
    assert relative_error(x.grad, LOSSES["make_cam__grad"]) < 1e-4


@pytest.mark.parametrize("re_loss", ["L1_Loss", "L2_Loss"])
@pytest.mark.parametrize("strategy", ["max", "cMax"])
def test_puzzle_losses_and_gradients(strategy, re_loss):
    g = {
        key.removeprefix(f"{strategy}__"): v
        for key, v in LOSSES.items()
        if key.startswith(strategy)
    }
    labels, size = LOSSES["labels"].float(), int(LOSSES["image_size"])
    features, tiles = (
        g["features"].clone().requires_grad_(),
        g["tile_features"].clone().requires_grad_(),
    )
    merged = merge_at_keypoints(tiles, g["keypoints"], size)
    p_class_loss, loss = puzzle_losses(
        features, merged, labels, g["image_index"], g["class_index"], re_loss
    )
    (p_class_loss + 2 * loss).backward()
    assert relative_error(p_class_loss.detach(), g[f"{re_loss}__p_class_loss"]) < 1e-5
    assert relative_error(loss.detach(), g[f"{re_loss}__re_loss"]) < 1e-5
    assert (
        relative_error(class_loss(g["logits"], labels).mean(), g[f"{re_loss}__class_loss"]) < 1e-5
    )
    assert relative_error(features.grad, g[f"{re_loss}__grad_features"]) < 1e-4
    assert relative_error(tiles.grad, g[f"{re_loss}__grad_tile_features"]) < 1e-4


@pytest.mark.parametrize("class_index", [[], [-1]])
def test_no_pair_gives_zero_losses_with_a_graph(class_index):
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    losses = puzzle_losses(features, torch.zeros(0, 3, 4, 4), torch.zeros(2, 3), none, none)
    sum(losses).backward()
    assert [float(v.detach()) for v in losses] == [0, 0] and not features.grad.any()
