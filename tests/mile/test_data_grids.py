"""Grids of digits: composition by hand, order of batches, held-out digits, faulty files."""

import gzip
import struct

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from common.cli import UserError
from mile.build import open_source
from mile.data_grids import GridLoader, annotated_cell, read_digits
from mile.dataset import LABEL_PROBABILITIES, MultilabelMNIST, compose_grids, mnist_preprocess
from mile.options import parse
from tests.mile.helpers import conf_of

DIGITS = torch.arange(100)[:, None, None].expand(100, 2, 3).to(torch.uint8).contiguous()
LABELS = torch.arange(100) % 10
CPU = {"train": True, "batch_size": 4, "size": 6}


def loader_of(digits=DIGITS, labels=LABELS, **more):
    return GridLoader(digits, labels, **{**CPU, **more})


def index_of(loader, number):
    return torch.cat([batch.ids for batch in loader.batches(number)]).tolist()


def test_composition_by_hand():
    grids, single, real = compose_grids(
        DIGITS[:20], LABELS[:20], torch.tensor([0.5, 0.95], dtype=torch.float64)
    )
    assert grids.shape == (2, 6, 9) and grids.dtype == torch.uint8
    assert grids[0, ::2, ::3].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]  # row by row
    assert single.tolist() == [4, 6]  # the centre; cell 7 of the second grid (digits 9..17)
    assert real[0].tolist() == [True] * 9 + [False]
    with pytest.raises(UserError, match="8 digits"):
        compose_grids(DIGITS[:8], LABELS[:8], torch.zeros(0))


def test_cells_are_named_with_the_published_probabilities():
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.bincount(annotated_cell(u), minlength=9) / len(u)
    assert torch.allclose(shares, LABEL_PROBABILITIES, atol=0.003)
    assert LABEL_PROBABILITIES.sum().item() == pytest.approx(1)


def test_preprocessing_has_three_equal_channels_before_normalising():
    grids = torch.randint(
        0, 256, (2, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for size in (84, 224, 30):
        x = mnist_preprocess(grids, size)
        assert x.shape == (2, 3, size, size) and x.dtype == torch.float32
        grey = x * std.view(3, 1, 1) + mean.view(3, 1, 1)
        assert (
            torch.allclose(grey[:, 0], grey[:, 1], atol=1e-5)
            and grey.min() > -1e-3
            and grey.max() < 1.001
        )
    assert torch.allclose(mnist_preprocess(grids)[:, 0] * 0.229 + 0.485, grids / 255, atol=1e-5)


def test_each_digit_is_used_once_and_each_pass_has_another_order():
    loader = loader_of()
    assert len(loader) == 2 and loader.grids == 11
    assert loader.table.flatten().unique().numel() == 99
    assert index_of(loader, 0) != index_of(loader, 1)
    assert index_of(loader, 1) == index_of(loader_of(), 1) != index_of(loader_of(seed=1), 1)
    again = [batch.ids.tolist() for batch in loader.batches(1, 1)]
    assert again == [batch.ids.tolist() for batch in loader.batches(1)][1:]


def test_labels_are_drawn_once_or_with_redraw_in_each_pass():
    fixed, redrawn = loader_of(), loader_of(redraw=True)
    before = fixed.single.clone()
    list(fixed.batches(1))
    assert torch.equal(before, fixed.single)
    tables = []
    for number in (0, 1, 0):
        list(redrawn.batches(number))
        tables.append(redrawn.table.clone())
    assert torch.equal(tables[0], tables[2]) and not torch.equal(tables[0], tables[1])


def test_a_batch_is_the_composition_of_its_digits():
    loader = loader_of(torch.randint(0, 256, (100, 28, 28), dtype=torch.uint8), size=84)
    batch = next(loader.batches(3))
    for row, k in enumerate(batch.ids.tolist()):
        u = torch.tensor([0.5], dtype=torch.float64)
        grid, _, real = compose_grids(loader.digits[loader.table[k]], LABELS[loader.table[k]], u)
        assert torch.equal(mnist_preprocess(grid)[0], batch.input[row])
        assert torch.equal(real[0], batch.real[row]) and batch.real[row, batch.label[row]]


def test_processes_share_each_batch_and_each_test_grid_is_seen_once():
    whole = index_of(loader_of(), 0)
    parts = [[b.ids.tolist() for b in loader_of(rank=r, world=2).batches(0)] for r in range(2)]
    assert [i for pair in zip(*parts, strict=True) for part in pair for i in part] == whole
    seen = [i for r in range(2) for i in index_of(loader_of(train=False, rank=r, world=2), 0)]
    assert sorted(seen) == list(range(11))


def test_test_grids_do_not_depend_on_the_seed(tmp_path):
    write_mnist(tmp_path, 60)
    one, two = (
        MultilabelMNIST(tmp_path, "resnet18-10", conf_of(seed=s)).getDataloader(False)
        for s in (0, 1)
    )
    assert torch.equal(one.table, two.table) and len(one) == 1
    x, single, real = next(iter(one))
    assert x.shape == (6, 3, 84, 84) and real.shape == (6, 10) and real.dtype == torch.bool
    train = MultilabelMNIST(tmp_path, "resnet18-10", conf_of(batch_size=2)).getDataloader(True)
    first, second = ([y.tolist() for _, y in train] for _ in range(2))
    assert len(train) == len(first) == 3 and first != second


def write_mnist(root, n, pack=False):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        for name, array in (
            (f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28))),
            (f"{part}-labels-idx1-ubyte", rng.integers(0, 10, n)),
        ):
            data = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            data += array.astype(np.uint8).tobytes()
            (raw / (name + ".gz" * pack)).write_bytes(gzip.compress(data) if pack else data)
    return raw


def test_packed_files_alone_are_read(tmp_path):
    write_mnist(tmp_path / "plain", 30)
    write_mnist(tmp_path / "packed", 30, pack=True)
    plain, packed = (read_digits(tmp_path / name) for name in ("plain", "packed"))
    for a, b in zip(plain, packed, strict=True):
        assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)


def test_faulty_mnist_files_are_named(tmp_path):
    raw = write_mnist(tmp_path, 30)
    images = raw / "train-images-idx3-ubyte"
    good = images.read_bytes()
    for content, message in ((good[:-5], "expected 23536"), (b"\1" + good[1:], "magic 01000803")):
        images.write_bytes(content)
        with pytest.raises(UserError, match=message):
            MultilabelMNIST(tmp_path)
    images.write_bytes(good)
    (raw / "train-labels-idx1-ubyte").write_bytes(
        b"\0\0\x08\1" + struct.pack(">I", 29) + b"\0" * 29
    )
    with pytest.raises(UserError, match="do not belong together"):
        MultilabelMNIST(tmp_path)
    with pytest.raises(UserError, match="no MNIST/raw"):
        MultilabelMNIST(tmp_path / "nowhere")
    for count, message in ((8, "8 digits, a grid needs 9"), (0, "holds no training images")):
        write_mnist(tmp_path, count)
        with pytest.raises(UserError, match=message):
            MultilabelMNIST(tmp_path, conf=conf_of()).getDataloader(True)


def test_digits_set_aside_are_in_no_training_grid(tmp_path):
    write_mnist(tmp_path, 120)
    flags = ["--dataset", "mnist", "--mnist_path", str(tmp_path), "--batch_size", "2"]
    flags += ["--model", "small-10"]
    settings = parse([*flags, "--mnist_redraw", "--rho_cover", "0.9"])
    source = open_source(settings, Accelerator(cpu=True))
    images = torch.from_numpy(read_digits(tmp_path).train.images.copy())
    assert torch.equal(source.train.digits, images[:108]) and source.train.grids == 12
    sets_of_nine = [batch.real.shape for batch in source.held_out()]
    assert sets_of_nine == [(1, 10)]


def test_the_last_share_of_the_digits_is_set_aside(tmp_path):
    write_mnist(tmp_path, 120)
    digits = read_digits(tmp_path).train
    kept, held = digits.set_aside(0.2)
    assert np.array_equal(kept.images, digits.images[:96])
    assert np.array_equal(held.images, digits.images[96:])
    assert len(held.labels) == 24


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [30, 84, 224])
def test_half_precision_grids_are_resized_and_normalised_in_float32(dtype, size):
    """Grey levels up to 255 are exact in both types."""
    pixels = torch.randint(
        0, 256, (2, 84, 84), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    half = mnist_preprocess(pixels.to(dtype), size)
    assert half.dtype == torch.float32
    assert torch.equal(half, mnist_preprocess(pixels, size))
