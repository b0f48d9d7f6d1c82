"""Grids and folders: the composition by hand, the order of batches, faulty files named in one line."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from common.cli import UserError
from common.samples.imagenet import WNIDS
from mile.config import config, parse_config
from mile.dataset import (
    LABEL_PROBABILITIES,
    ImageNetReal,
    ImageNetTrain,
    MultilabelMNIST,
    compose_grids,
    mnist_preprocess,
    train_samples,
)
from mile.folders import balanced_subset, class_weights, wnid_index
from mile.grids import GridLoader, annotated_cell
from mile.locate import locate_data
from mile.real_labels import BUNDLED, labels_of_val_files, read_real_labels
from mile.sources import FolderSource, open_source

DIGITS = torch.arange(100)[:, None, None].expand(100, 2, 3).to(torch.uint8).contiguous()
LABELS = torch.arange(100) % 10
CPU = {"train": True, "batch_size": 4, "size": 6}


def loader_of(digits=DIGITS, labels=LABELS, **more):
    return GridLoader(digits, labels, **{**CPU, **more})


def index_of(loader, number):
    return torch.cat([batch.index for batch in loader.batches(number)]).tolist()


# ---- grids ----------------------------------------------------------------------------------------


def test_composition_by_hand():
    grids, single, real = compose_grids(DIGITS[:20], LABELS[:20], torch.tensor([0.5, 0.95], dtype=torch.float64))
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
    grids = torch.randint(0, 256, (2, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for size in (84, 224, 30):
        x = mnist_preprocess(grids, size)
        assert x.shape == (2, 3, size, size) and x.dtype == torch.float32
        grey = x * std.view(3, 1, 1) + mean.view(3, 1, 1)
        assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-5) and grey.min() > -1e-3 and grey.max() < 1.001
    assert torch.allclose(mnist_preprocess(grids)[:, 0] * 0.229 + 0.485, grids / 255, atol=1e-5)


def test_each_digit_is_used_once_and_each_pass_has_another_order():
    loader = loader_of()
    assert len(loader) == 2 and loader.grids == 11
    assert loader.table.flatten().unique().numel() == 99
    assert index_of(loader, 0) != index_of(loader, 1)
    assert index_of(loader, 1) == index_of(loader_of(), 1) != index_of(loader_of(seed=1), 1)
    again = [batch.index.tolist() for batch in loader.batches(1, 1)]
    assert again == [batch.index.tolist() for batch in loader.batches(1)][1:]


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
    for row, k in enumerate(batch.index.tolist()):
        u = torch.tensor([0.5], dtype=torch.float64)
        grid, _, real = compose_grids(loader.digits[loader.table[k]], LABELS[loader.table[k]], u)
        assert torch.equal(mnist_preprocess(grid)[0], batch.input[row])
        assert torch.equal(real[0], batch.real[row]) and batch.real[row, batch.label[row]]


def test_processes_share_each_batch_and_each_test_grid_is_seen_once():
    whole = index_of(loader_of(), 0)
    parts = [[b.index.tolist() for b in loader_of(rank=r, world=2).batches(0)] for r in range(2)]
    assert [i for pair in zip(*parts, strict=True) for part in pair for i in part] == whole
    seen = [i for r in range(2) for i in index_of(loader_of(train=False, rank=r, world=2), 0)]
    assert sorted(seen) == list(range(11))


def test_test_grids_do_not_depend_on_the_seed(tmp_path):
    write_mnist(tmp_path, 60)
    one, two = (MultilabelMNIST(tmp_path, "resnet18-10", conf_of(seed=s)).getDataloader(False) for s in (0, 1))
    assert torch.equal(one.table, two.table) and len(one) == 1
    x, single, real = next(iter(one))
    assert x.shape == (6, 3, 84, 84) and real.shape == (6, 10) and real.dtype == torch.bool
    train = MultilabelMNIST(tmp_path, "resnet18-10", conf_of(batch_size=2)).getDataloader(True)
    first, second = ([y.tolist() for _, y in train] for _ in range(2))
    assert len(train) == len(first) == 3 and first != second


def conf_of(**settings):
    return type("conf", (config,), {"device": "cpu", "num_workers": 0, **settings})


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
    a, b = (MultilabelMNIST(tmp_path / name).arrays for name in ("plain", "packed"))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_faulty_mnist_files_are_named(tmp_path):
    raw = write_mnist(tmp_path, 30)
    images = raw / "train-images-idx3-ubyte"
    good = images.read_bytes()
    for content, message in ((good[:-5], "expected 23536"), (b"\1" + good[1:], "magic 01000803")):
        images.write_bytes(content)
        with pytest.raises(UserError, match=message):
            MultilabelMNIST(tmp_path)
    images.write_bytes(good)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1" + struct.pack(">I", 29) + b"\0" * 29)
    with pytest.raises(UserError, match="do not belong together"):
        MultilabelMNIST(tmp_path)
    with pytest.raises(UserError, match="no MNIST/raw"):
        MultilabelMNIST(tmp_path / "nowhere")
    write_mnist(tmp_path, 8)
    with pytest.raises(UserError, match="8 digits, a grid needs 9"):
        MultilabelMNIST(tmp_path, conf=conf_of()).getDataloader(True)


# ---- folders ----------------------------------------------------------------------------------------


@pytest.fixture
def imagenet(tmp_path):
    """Three classes: 6 training images each, 2 validation images each, real.json of 6 entries."""
    rng = np.random.default_rng(0)
    number = 0
    for wnid in list(WNIDS)[:3]:
        for part, count in (("train", 6), ("val", 2)):
            folder = tmp_path / part / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                number += part == "val"
                name = f"{wnid}_{i}.JPEG" if part == "train" else f"ILSVRC2012_val_{number:08d}.JPEG"
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (tmp_path / "real.json").write_text(json.dumps([[0], [0, 217], [217], [], [482], [482, 999]]))
    return tmp_path


def folder_conf(root, *more):
    paths = ["--data_path", str(root / "train"), "--val_path", str(root / "val")]
    conf = parse_config([*paths, "--image_size", "32", "--batch_size", "4", "--num_workers", "0", *more])
    locate_data(conf)
    return conf


def test_labels_are_indices_in_the_full_imagenet(imagenet):
    conf = conf_of(image_size=32, batch_size=4)
    train = ImageNetTrain(imagenet / "train", "resnet18", conf)
    assert sorted({label for _, label in train.dataset.samples}) == [0, 217, 482]
    image, label = next(iter(train.getDataloader()))
    assert image.shape == (4, 3, 32, 32) and image.dtype == torch.float32 and label.dtype == torch.int64
    val = ImageNetReal(imagenet / "val", imagenet / "real.json")
    assert len(val) == 6 and val[1]["real_label"] == [0, 217] and val[1]["original_label"] == 0
    assert val[1]["image"].shape == (3, 224, 224)
    batches = list(val.getDataloader("resnet18", conf))
    assert [len(labels) for _, labels, _ in batches] == [4, 2]
    assert batches[0][2] == [[0], [0, 217], [217], []]


def test_the_streams_order_is_a_function_of_the_step(imagenet):
    source = open_source(folder_conf(imagenet), Accelerator(cpu=True))
    stream = source.stream(0)
    batches = [next(stream) for _ in range(9)]
    assert source.pass_steps == 4 and source.num_classes == 1000
    later = source.stream(6)
    for batch in batches[6:]:
        other = next(later)
        assert torch.equal(batch.index, other.index) and torch.equal(batch.input, other.input)
    assert sorted(i for b in batches[:4] for i in b.index.tolist()) != sorted(range(16))


def test_subsets_by_share_by_file_and_class_weights(imagenet):
    conf = conf_of(train_frac=0.5)
    chosen = train_samples(imagenet / "train", conf)
    assert torch.bincount(torch.tensor([t for _, t in chosen]))[[0, 217, 482]].tolist() == [3, 3, 3]
    (imagenet / "list.txt").write_text("n01440764_2.JPEG\nn02102040_0.JPEG\n")
    listed = train_samples(imagenet / "train", conf_of(subset_file=str(imagenet / "list.txt")))
    assert [t for _, t in listed] == [0, 217]
    (imagenet / "list.txt").write_text("n01440764_99.JPEG\n")
    with pytest.raises(UserError, match="n01440764_99.JPEG"):
        train_samples(imagenet / "train", conf_of(subset_file=str(imagenet / "list.txt")))
    with pytest.raises(UserError, match="class 0 has 6 images"):
        train_samples(imagenet / "train", conf_of(train_frac=0.1))
    assert class_weights([0, 0, 2], 4).tolist() == [0.5, 1.0, 1.0, 1.0]
    assert balanced_subset([("a", 5), ("b", 7)], 1.0) == [("a", 5), ("b", 7)]


def test_faulty_folders_and_real_labels_are_named(imagenet, tmp_path):
    def read(**more):
        FolderSource(folder_conf(imagenet, *more), Accelerator(cpu=True))

    with pytest.raises(UserError, match="val_path .*nowhere does not exist.*--sample"):
        folder_conf(imagenet, "--val_path", str(imagenet / "nowhere"))
    for content, message in (
        ("{}", "expected a list of lists"),
        ("[[0], 5]", "entry 1 is 5"),
        ("[[0], [1000]]", "entry 1"),
        ("[", "not JSON"),
        ("[[0], [1]]", "number 3, but .* has 2 entries"),
    ):
        (imagenet / "real.json").write_text(content)
        with pytest.raises(UserError, match=message):
            read()
    with pytest.raises(UserError, match="expected a name ILSVRC2012_val_"):
        labels_of_val_files([imagenet / "a.JPEG"], imagenet / "real.json")
    (imagenet / "val" / "strange").mkdir()
    with pytest.raises(UserError, match="no ImageNet class .*strange"):
        read()
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (8, 8)).save(flat / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match="no class folders, 1 images at its top"):
        ImageNetReal(flat, imagenet / "real.json")


def test_batches_must_fit(imagenet):
    conf = folder_conf(imagenet, "--batch_size", "19")
    with pytest.raises(UserError, match="batch_size 19: more than the 18"):
        open_source(conf, Accelerator(cpu=True))
    accelerator = type("Two", (), {"num_processes": 2})()
    with pytest.raises(UserError, match="19 is not divisible by the 2 processes"):
        open_source(conf, accelerator)


def test_the_bundled_real_labels_have_the_released_statistics():
    sizes = torch.tensor([len(labels) for labels in read_real_labels(BUNDLED)])
    assert (len(sizes), int((sizes == 0).sum()), int((sizes == 1).sum()), int(sizes.max())) == (50000, 3163, 39394, 9)


def test_the_samples_wnids_are_imagenets():
    assert wnid_index(list(WNIDS), "sample") == WNIDS


def test_any_class_folders_with_a_multi_label_file(tmp_path):
    for part, name in (("train", "a.png"), ("train", "b.png"), ("val", "c.png")):
        for animal in ("cat", "dog"):
            (tmp_path / part / animal).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20)).save(tmp_path / part / animal / f"{animal}_{name}")
    table = {"cat_c.png": ["cat", "dog"], "dog_c.png": [1]}
    (tmp_path / "real.json").write_text(json.dumps(table))
    conf = folder_conf(tmp_path, "--dataset", "folder")
    source = open_source(conf, Accelerator(cpu=True))
    assert source.num_classes == 2 and [b.real for b in source.evaluation()] == [[[0, 1], [1]]]
    (tmp_path / "real.json").write_text(json.dumps({"cat_c.png": ["bird"]}))
    with pytest.raises(UserError, match="'bird', which has no train folder"):
        open_source(conf, Accelerator(cpu=True))
    (tmp_path / "real.json").unlink()
    conf = folder_conf(tmp_path, "--dataset", "folder")
    assert next(open_source(conf, Accelerator(cpu=True)).evaluation()).real == [[0], [1]]


def test_webvision_lists(imagenet, tmp_path):
    (tmp_path / "info").mkdir()
    for name, line in (("train_filelist_flickr", "0"), ("train_filelist_google", "1")):
        lines = [f"train/{w}/{w}_{i}.JPEG {line}" for w in list(WNIDS)[:2] for i in range(3)]
        (tmp_path / "info" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "val_images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "val_images" / "v.jpg")
    (tmp_path / "info" / "val_filelist.txt").write_text("v.jpg 3\n")
    flags = ["--dataset", "webvision", "--data_path", str(tmp_path), "--image_size", "32", "--num_workers", "0"]
    conf = parse_config([*flags, "--batch_size", "4", "--reweight", "uniform"])
    locate_data(conf)
    source = open_source(conf, Accelerator(cpu=True))
    batch = next(source.stream(0))
    assert source.train_size == 12 and batch.weight.tolist() == pytest.approx([1 / 6] * 4)
    assert next(source.evaluation()).real == [[3]]
    (tmp_path / "info" / "val_filelist.txt").write_text("v.jpg\n")
    with pytest.raises(UserError, match="line 1 is not"):
        open_source(conf, Accelerator(cpu=True))


def test_a_corrupt_image_is_named_or_skipped(imagenet):
    path = imagenet / "train" / "n01440764" / "n01440764_0.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    stream = open_source(folder_conf(imagenet, "--augment", "none"), Accelerator(cpu=True)).stream(0)
    with pytest.raises(UserError, match="n01440764_0.JPEG: unreadable image"):
        [next(stream) for _ in range(20)]
    stream = open_source(folder_conf(imagenet, "--skip_corrupt"), Accelerator(cpu=True)).stream(0)
    batches = [next(stream) for _ in range(20)]
    assert sum(batch.skipped for batch in batches) > 0
    assert all(len(batch.label) + batch.skipped == 4 for batch in batches)
