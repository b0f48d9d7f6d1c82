"""What a training step leaves out, and that its shorter ways give the very same numbers."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from csl import fast
from csl.build import build, build_loaders, loaders_of
from csl.build_optimizer import ModelEma
from csl.data_augment import RandomShift
from csl.data_pixels import Pixels, Statistics, stack_pictures
from csl.options import parse
from csl.src.models.tresnet.layers.anti_aliasing import AntiAliasDownsampleLayer
from csl.src.models.tresnet.layers.general_layers import ABN
from csl.src.models.utils.factory import build_network
from csl.train import train_batch
from tests.csl.tiny import arguments, write_coco

IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FLAGS = ("--partial_loss_mode", "selective", "--image_size", "64", "--batch_size", "32")
FLAGS += ("--augment", "shift", "--mixed_precision", "no")


class Operations(TorchDispatchMode):
    """Counts what is dispatched, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))

    @property
    def total(self):
        return sum(self.counts.values())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data", train=65, size=64)


def ready(data, folder):
    """The first steps of train.py: a function that takes one, its loader included."""
    given = arguments(data, folder, *FLAGS)
    settings = parse([flag for flag in given if flag != "--cpu" or not torch.cuda.is_available()])
    accelerator = make_accelerator(settings.args)
    run = start_run(settings.args, folder, accelerator)
    seed_everything(0)
    loaded = build_loaders(settings.args, settings.found, accelerator)
    parts = build(settings, run, loaded.train_set, loaded.sampler.batches, None)
    network, optimizer = accelerator.prepare(parts.model, parts.optimizer)
    parts = parts._replace(optimizer=optimizer)
    network.train()
    batches = itertools.chain.from_iterable(itertools.repeat(loaded.train_loader))
    run.close()
    return lambda: train_batch(run, parts, network, next(batches))


def test_operations_of_a_step(data, tmp_path):
    step = ready(data, tmp_path / "run")
    step()
    with Operations() as operations:
        step()
    assert operations.total <= 590, operations.counts.most_common(20)
    assert operations.counts["aten._foreach_lerp_.Scalar"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_waits_for_no_gpu(data, tmp_path):
    step = ready(data, tmp_path / "run")
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


# --- pictures ---


def pictures(count=5, side=24):
    rng = np.random.default_rng(0)
    shape = (count, side, side, 3)
    return [Image.fromarray(rows) for rows in rng.integers(0, 256, shape, dtype=np.uint8)]


@pytest.mark.parametrize("statistics", [None, IMAGENET])
def test_whole_numbers_become_the_same_input(statistics):
    pixels = Pixels(24, statistics=statistics)
    batch = stack_pictures([pixels.whole(picture) for picture in pictures()])
    assert batch.dtype == torch.uint8 and batch.shape == (5, 3, 24, 24)
    assert batch.is_contiguous(memory_format=torch.channels_last)

    numbers = pixels.to_numbers()
    found = numbers(batch)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, torch.stack([pixels.tensor(picture) for picture in pictures()]))
    assert numbers(found) is found
    assert not numbers.state_dict()


def test_every_value_of_a_pixel():
    column = np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 1, 3)
    picture = Image.fromarray(column)
    pixels = Pixels(256, statistics=IMAGENET)
    assert torch.equal(pixels.to_numbers()(pixels.whole(picture)[None])[0], pixels.tensor(picture))


def test_what_loaders_hand_out(data, tmp_path):
    """Bytes in training and evaluation; numbers to those who take the released loaders."""
    settings = parse(arguments(data, tmp_path / "run", *FLAGS))
    accelerator = make_accelerator(settings.args)
    loaded = build_loaders(settings.args, settings.found, accelerator)
    public = loaders_of(settings.args, accelerator)
    for ours, theirs in zip((loaded.train_loader, loaded.val_loader), public, strict=True):
        (pixels, labels), (numbers, same_labels) = next(iter(ours)).data, next(iter(theirs)).data
        assert pixels.dtype == torch.uint8 and numbers.dtype == torch.float32
        assert torch.equal(pixels / 255, numbers)
        assert labels.dtype == torch.int8 and torch.equal(labels, same_labels)


def test_shifts():
    """As cut out of a picture with its border repeated; the same draws."""
    picture = pictures(1)[0]
    for seed in range(40):
        random.seed(seed)
        found = np.asarray(RandomShift(6)(picture))
        random.seed(seed)
        dx, dy = random.randint(-6, 6), random.randint(-6, 6)
        padded = np.pad(np.asarray(picture), ((6, 6), (6, 6), (0, 0)), mode="edge")
        assert np.array_equal(found, padded[6 + dy : 30 + dy, 6 + dx : 30 + dx])


# --- network ---


def test_gamma_and_its_derivative():
    """|w| + 1e-5, derivative +1 at 0 and at -0."""
    values = torch.tensor([-2.5, -1e-30, -0.0, 0.0, 1e-30, 0.7, torch.nan])
    norm = ABN(7, None)
    norm.weight.data.copy_(values)
    norm.gamma().sum().backward()
    expected = torch.where(values < 0, -values, values) + norm.eps
    assert torch.equal(norm.gamma()[:-1], expected[:-1])
    assert norm.gamma()[-1].isnan()
    assert norm.weight.grad[:-1].tolist() == [-1, -1, 1, 1, 1, 1]


def test_the_blur_is_no_state_and_of_any_precision():
    blur = AntiAliasDownsampleLayer()
    assert not blur.state_dict()
    images = torch.rand(1, 2, 6, 6, dtype=torch.float64)
    assert blur(images).dtype == torch.float64
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    inner = (images[0, 1, 1:4, 1:4].numpy() * weights).sum()
    assert blur(images)[0, 1, 1, 1].item() == pytest.approx(inner)


# --- averages and choices ---


def test_the_average_takes_two_operations_and_follows_replaced_tensors():
    torch.manual_seed(0)
    model = build_network("tresnet_tiny", 5)
    average = ModelEma(model, decay=0.9)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(3):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(1)
        if step == 1:
            model.to(torch.float64).to(torch.float32)  # puts new tensors into the buffers
            average.module.to(torch.float64).to(torch.float32)
        if step == 2:
            average.load_state_dict(average.state_dict())
        with Operations() as operations:
            average.update(model)
        assert operations.total == 2, operations.counts
        for name, value in model.state_dict().items():
            mean = expected[name]
            expected[name] = value if not mean.is_floating_point() else mean.lerp(value, 1 - 0.9)
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
        assert value.dtype == expected[name].dtype


def test_an_average_follows_another_model_of_the_same_form():
    first, second = build_network("tresnet_tiny", 5), build_network("tresnet_tiny", 5)
    average = ModelEma(first, decay=0)
    for model in (second, first, second):
        average.update(model)
        for name, value in average.module.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


@pytest.mark.parametrize("count", [1, 7, 99, 100])
def test_the_smallest_values(count):
    values = torch.randperm(100, generator=torch.Generator().manual_seed(0)).float()
    with torch.inference_mode():
        found = fast._smallest(values, count)
    assert sorted(values[found].tolist()) == list(range(count))
