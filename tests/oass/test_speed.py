"""What makes steps fast: few operations, kept layouts, nothing that waits; and the same numbers."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from oass import fast, method
from oass.build_optimizer import PolyOptimizer
from oass.data import Picture, normalise
from oass.data_transforms import IMAGENET_MEAN, IMAGENET_STD
from oass.fast import grouped_in_one_call, tile_class_maps
from oass.options import parse
from oass.train import prepare, train_step
from tests.oass.conftest import tiny

CPU = torch.device("cpu")
channels_last = torch.channels_last
COPIES = ("aten.clone", "aten.copy_", "aten._to_copy", "aten.cat")


class Operations(TorchDispatchMode):
    """Counts what torch dispatches inside, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))

    def copies(self):
        return sum(n for name, n in self.counts.items() if name.startswith(COPIES))


def ready(strategy, flags, folder):
    """A run before its first step, and its batches."""
    made = prepare(parse(strategy, [*flags, "--output_dir", str(folder)]))
    made.network.train()
    return made, iter(made.loader)


# --- operations of a step ---


@pytest.mark.parametrize(
    ("strategy", "most", "of_a_pair"), [("none", 570, 0), ("cTopk-w", 980, 10)]
)
def test_operations_of_a_step(strategy, most, of_a_pair, small, tmp_path):
    """Reading included; each of the ten norms of the teacher takes a pair at a time."""
    made, batches = ready(strategy, small, tmp_path)
    train_step(made, next(batches))
    with Operations() as found:
        batch = next(batches)
        train_step(made, batch)
    pairs = int(batch.data[1].sum())
    total = sum(found.counts.values())
    assert total <= most + of_a_pair * pairs, found.counts.most_common(12)


# --- the optimiser ---


def test_the_fused_update_is_the_plain_one(small, tmp_path):
    """Two steps with momentum, clipping and four groups; loss and every weight within 1e-6."""
    flags = [*small, *"--sgd_momentum 0.9 --nesterov True --clip_grad 1 --lr 0.02".split()]
    runs = []
    for is_fused in (True, False):
        made, batches = ready("cTopk-w", flags, tmp_path / str(is_fused))
        assert len(made.optimizer.param_groups) == 4
        for group in made.optimizer.param_groups:
            assert group["fused"] is True
            group["fused"] = is_fused
        for _ in range(2):
            train_step(made, next(batches))
        runs.append(made)
    fused, plain = runs
    assert fused.meter.get() == pytest.approx(plain.meter.get(), rel=1e-6)
    for network in ("student", "teacher"):
        pairs = zip(
            getattr(fused, network).named_parameters(),
            getattr(plain, network).parameters(),
            strict=True,
        )
        for (name, mine), theirs in pairs:
            furthest = (mine - theirs).abs().max()
            assert furthest <= 1e-6 * theirs.abs().max(), name


def test_the_state_of_an_unfused_optimiser_goes_on_fused():
    weight = nn.Parameter(torch.ones(3))
    old = PolyOptimizer([weight], 0.1, 0, 0, 10, sgd_momentum=0.9)
    state = old.state_dict()
    state["param_groups"][0]["fused"] = None
    new = PolyOptimizer([weight], 0.1, 0, 0, 10, sgd_momentum=0.9)
    new.load_state_dict(state)
    assert new.param_groups[0]["fused"] is True


# --- pictures ---


def test_pictures_are_normalised_as_one_by_one_in_the_networks_format():
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    inside = torch.tensor([[0, 0, 8, 8], [2, 0, 8, 5], [3, 1, 4, 7]])
    images = normalise(Picture(pixels, inside), CPU)
    assert images.dtype == torch.float32 and images.is_contiguous(memory_format=channels_last)
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    for picture, (top, left, bottom, right), image in zip(
        pixels, inside.tolist(), images, strict=True
    ):
        wanted = torch.zeros(3, 8, 8)
        part = (slice(None), slice(top, bottom), slice(left, right))
        wanted[part] = ((picture.float() / 255 - mean) / std)[part]
        assert torch.equal(image, wanted)


def test_nothing_constant_is_made_at_a_later_step():
    picture = Picture(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[0, 0, 8, 8]]))
    normalise(picture, CPU)
    with Operations() as found:
        normalise(picture, CPU)
    assert not [name for name in found.counts if "arange" in name or "lift" in name]


# --- tiles ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("graph", [True, False])
def test_the_form_for_gpus_keeps_layout_and_dtype_and_copies_nothing(dtype, graph):
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(5)
    nn.init.normal_(bn.weight)
    nn.init.normal_(bn.bias)
    x = (3 * torch.randn(12, 5, 6, 6) + 1).to(dtype).contiguous(memory_format=channels_last)
    wanted = torch.cat([bn(part.float()) for part in x.split(4)]).to(dtype)
    with torch.set_grad_enabled(graph), Operations() as found:
        out = grouped_in_one_call(bn, x)
    assert out.dtype == dtype and out.is_contiguous(memory_format=channels_last)
    assert found.copies() == (graph and dtype != torch.float32)  # what a graph must round
    if dtype == torch.float32:
        assert (out - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    else:
        torch.testing.assert_close(out, wanted, rtol=0.02, atol=0.02)


def test_the_tile_pass_of_a_gpu_copies_no_feature_map(monkeypatch):
    """As on a GPU: every norm in one call. Tiles come in channels_last from the cut."""
    model = tiny().requires_grad_(False).to(memory_format=channels_last)
    points = torch.tensor([[10, 20], [30, 30], [40, 25]])
    tiles = method.tile_at_keypoints(torch.randn(2, 3, 64, 64), torch.tensor([0, 0, 1]), points)
    with torch.no_grad():
        wanted = tile_class_maps(model, tiles)
        monkeypatch.setattr(fast, "_group_forward", lambda bn, x, _: grouped_in_one_call(bn, x))
        with Operations() as found:
            maps = tile_class_maps(model, tiles)
    assert found.copies() == 1  # the parts of the tiles, put together
    torch.testing.assert_close(maps, wanted, rtol=1e-5, atol=1e-5)


def test_tiles_of_the_plain_way_are_ours_to_the_last_bit(benchmark, monkeypatch):
    bench = benchmark("bench_oass")
    images = torch.randn(2, 3, 64, 64)
    which = torch.tensor([0, 1, 1])
    points = torch.tensor([[10, 20], [33, 41], [60, 4]])
    for tiles, b, (y, x) in zip(
        method.tile_at_keypoints(images, which, points), which, points.tolist(), strict=True
    ):
        assert torch.equal(tiles, bench.plain_tiles(images[b], y, x))


# --- a GPU ---


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("strategy", ["none", "max", "cTopk-w"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_no_step_waits_for_the_gpu(strategy, precision, small, tmp_path):
    flags = [flag for flag in small if flag != "--cpu"]
    flags += ["--mixed_precision", precision, "--clip_grad", "1"]
    made, batches = ready(strategy, flags, tmp_path)
    train_step(made, next(batches))  # constants, momentum, cuDNN
    batch = next(batches)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(made, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
