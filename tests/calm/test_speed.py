"""What the fast ways do: equal results, few operations, no wait for the device."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from calm import evaluate_erasing, fast, network
from calm.build import build_optimizer
from calm.data import get_data_loader, normalizer
from calm.data_cub_trait import CUBTrait
from calm.network.util import without_batch_norm
from calm.options import parse
from calm.training import Trainer
from common.loading import Batch
from tests.calm.conftest import TRAIN
from tests.calm.training_runs import prepared

SIDE = 24


class Operations(TorchDispatchMode):
    """Counts what is dispatched inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


# ---- a step ----------------------------------------------------------------------------


@pytest.mark.parametrize("cache_images", [False, True])
def test_bytes_and_one_normalisation_give_the_pixels_of_the_transforms(
    birds: Path, tmp_path: Path, cache_images: bool
) -> None:
    _, data = prepared([*TRAIN, "--data_root", str(birds)])
    loaders = []
    for as_bytes in (False, True):
        loaders.append(
            get_data_loader(
                *(data.paths, data.metadata, 8, 0, 68, 64),
                accelerator=Accelerator(cpu=True),
                cache_images=cache_images,
                as_bytes=as_bytes,
            )
        )
    for split in ("train", "train", "test"):  # the second time from the cache
        for plain, small in zip(*(loader[split] for loader in loaders), strict=True):
            assert small.data[0].dtype == torch.uint8
            normalised = normalizer(torch.device("cpu"))(small.data[0])
            assert torch.equal(normalised, plain.data[0])


def trainer_of(birds: Path, folder: Path, *flags: str) -> Trainer:
    given = [*TRAIN, "--cache_images", *flags, "--data_root", str(birds)]
    if torch.cuda.is_available():
        given.remove("--cpu")
    return Trainer(parse([*given, "--output_dir", str(folder)]))


def batches(trainer: Trainer) -> Iterator[Batch]:
    """The batches of two epochs; those of the second come from the cache."""
    trainer.network.train()
    for epoch in range(2):
        trainer.loaders["train"].batch_sampler.set_epoch(epoch)
        yield from trainer.loaders["train"]


def test_a_step_dispatches_few_operations(birds: Path, tmp_path: Path) -> None:
    """Seven for each picture, and what the network, the objective and the optimiser need."""
    trainer = trainer_of(birds, tmp_path / "run", "--workers=0")
    walk = batches(trainer)
    for _ in range(len(trainer.loaders["train"])):
        trainer.learn(next(walk), 16)
    with Operations() as operations:
        batch = next(walk)
        trainer.learn(batch, 16)
    assert len(batch.index) == 16
    assert operations.count <= 7 * 16 + 205


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("teacher", ["none", "ema"])
def test_a_step_does_not_wait_for_the_gpu(birds: Path, tmp_path: Path, teacher: str) -> None:
    trainer = trainer_of(birds, tmp_path / "run", "--em_teacher", teacher)
    walk = batches(trainer)
    trainer.learn(next(walk), 16)
    batch = next(walk)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.learn(batch, 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_optimiser_rounds_as_a_loop_over_the_weights() -> None:
    """Also where the number of weights is no multiple of a vector's."""
    args = parse(TRAIN).args
    weights = []
    for is_plain in (False, True):
        torch.manual_seed(0)
        model = network.small(
            num_classes=7, attribution_method="CALM-EM", prior_activation="softplus"
        )
        optimizer = build_optimizer(args, model)
        for group in optimizer.param_groups:
            group["foreach"] = group["foreach"] and not is_plain
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


# ---- masks -----------------------------------------------------------------------------


def nearest_by_loop(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    found = np.empty((SIDE, SIDE), values.dtype)
    for row in range(SIDE):
        for column in range(SIDE):
            found[row, column] = values[((points - (column, row)) ** 2).sum(1).argmin()]
    return found


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 16])
@pytest.mark.parametrize("far", [0, 30, 100_000])
def test_the_nearest_point_is_the_first_of_equals(count: int, far: int) -> None:
    """Points on a coarse lattice are often as near as others; some lie outside of the picture."""
    rng = np.random.default_rng(count)
    points = 6 * rng.integers(0, SIDE // 6, (count, 2)) - far
    values = rng.permutation(count).astype(np.uint8)
    whole = slice(0, SIDE)
    expected = nearest_by_loop(points, values)
    assert np.array_equal(fast.nearest_value(points, values, whole, whole), expected)
    part = fast.nearest_value(points, values, slice(3, 9), slice(5, 24))
    assert np.array_equal(part, expected[3:9, 5:24])


def test_masks_are_those_of_the_whole_picture(birds: Path) -> None:
    trait = CUBTrait(birds / "CUB_200_2011")
    files = [file for file in trait.image_file2image_id if isinstance(file, str)]
    for file in files[:12]:
        points, parts = trait.points_and_parts(file, SIDE)
        is_bird = trait._foreground_mask(file, SIDE)
        for pair in ((1, 2), (2, 5), (3, 4)):
            mask = trait.get_pseudo_segment_mask(file, pair, SIDE)
            differing = trait.differing_parts(*pair)
            if not differing & set(parts.tolist()):
                assert mask is None
                continue
            nearest = nearest_by_loop(points, parts)
            assert mask.dtype == np.uint8
            assert np.array_equal(mask, np.isin(nearest, list(differing)) & is_bird)


def test_a_picture_without_points_and_one_without_a_bird(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trait = CUBTrait(birds / "CUB_200_2011")
    file = next(file for file in trait.image_file2image_id if isinstance(file, str))
    empty = np.zeros((SIDE, SIDE), bool)
    with monkeypatch.context() as patch:
        patch.setattr(trait, "_foreground_mask", lambda *_: empty)
        assert trait._nearest_parts(file, SIDE).sum() == 0
    trait.image_id2part_locs[trait.image_file2image_id[file]].clear()
    assert trait.get_pseudo_segment_mask(file, (1, 2), SIDE) is None


# ---- erasing ---------------------------------------------------------------------------


def made_uneven(model: torch.nn.Module) -> torch.nn.Module:
    """Statistics and weights of a trained network's kind in every BatchNorm."""
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.1, generator=generator)
    return model.eval()


@pytest.mark.parametrize("architecture", sorted(network.ARCHITECTURES))
def test_without_batch_norm_the_logits_are_equal(architecture: str) -> None:
    torch.manual_seed(0)
    model = made_uneven(
        network.ARCHITECTURES[architecture](
            num_classes=7, attribution_method="CALM-EM", use_bn=True
        )
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merged = without_batch_norm(model)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in merged.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)["logits"]
        found = merged(images)["logits"]
    assert (found - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())
    assert torch.equal(found.argmax(1), expected.argmax(1))
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("pixels", [1, 3 * SIDE * SIDE, 7 * SIDE * SIDE, 10**9])
@pytest.mark.parametrize("with_baseline", [False, True])
def test_rankings_share_forwards_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, pixels: int, with_baseline: bool
) -> None:
    """Whatever the bound is: every ranking, k and picture as by itself."""
    monkeypatch.setitem(evaluate_erasing.PIXELS_PER_FORWARD, "cpu", pixels)
    torch.manual_seed(0)
    model = network.small(num_classes=3, attribution_method="CALM-EM").eval()
    images = torch.randn(3, 3, SIDE, SIDE)
    other = torch.randn_like(images) if with_baseline else None
    labels = torch.arange(3)
    rankings = [evaluate_erasing.random_ranking(labels, SIDE * SIDE, seed) for seed in (0, 1)]
    ks = [0.0, 0.3, 0.9, 1.0]
    with torch.no_grad():
        found = evaluate_erasing.classify_rankings(model, images, labels, rankings, ks, other)
        assert found.shape == (2, 4, 3)
        for ranking, of_ranking in zip(rankings, found, strict=True):
            for k, of_k in zip(ks, of_ranking, strict=True):
                for row in range(3):
                    one = slice(row, row + 1)
                    mine = None if other is None else other[one]
                    alone = evaluate_erasing.classify_erased(
                        model, images[one], labels[one], ranking[one], [k], mine
                    )
                    assert alone.item() == of_k[row].item()
