"""The released code's data functions, on tiny files of the official layouts."""

import pickle
import struct

import numpy as np
import pytest
import torch
import torchvision

from cavl.utils.utils_data import (
    prepare_cv_datasets,
    prepare_train_loaders_for_uniform_cv_candidate_labels,
)
from common import samples
from common.cli import UserError


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist_root(tmp_path):
    folder = tmp_path / "mnist" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 30), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path


def test_prepare_cv_datasets(mnist_root):
    full, train, test, train_set, test_set, num_classes = prepare_cv_datasets(
        "mnist", 8, data_root=mnist_root
    )
    assert num_classes == 10 and len(train_set) == 30 and len(test_set) == 20
    image, label = train_set[3]
    assert image.shape == (1, 28, 28) and image.dtype == torch.float32 and label == 3
    assert 0 <= image.min() and 0.9 < image.max() <= 1
    assert [len(labels) for _, labels in train] == [8, 8, 8, 6]
    assert torch.cat([labels for _, labels in test]).tolist() == [i % 10 for i in range(20)]
    ((images, labels),) = list(full)
    assert images.shape == (30, 1, 28, 28) and labels.tolist() != list(range(10)) * 3


def test_prepare_train_loaders(mnist_root):
    full, *_ = prepare_cv_datasets("mnist", 8, data_root=mnist_root)
    loader, data, partialY, dim = prepare_train_loaders_for_uniform_cv_candidate_labels(
        "mnist", full, 8, num_classes=10, generator=np.random.default_rng(0)
    )
    assert dim == 784 and data.shape == (30, 1, 28, 28) and partialY.shape == (30, 10)
    seen = []
    for images, Y, labels, index in loader:
        assert torch.equal(images, data[index]) and torch.equal(Y, partialY[index])
        assert labels.dtype == torch.float32 and (Y.gather(1, labels.long()[:, None]) == 1).all()
        seen += index.tolist()
    assert sorted(seen) == list(range(30))


def test_cifar_images_are_normalised(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {"data": np.full((10, 3072), 255, dtype=np.uint8), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(batch))
    *_, train_set, _, num_classes = prepare_cv_datasets("cifar10", 8, data_root=tmp_path)
    image, _ = train_set[0]
    assert num_classes == 10 and len(train_set) == 50
    expected = torch.tensor([(1 - 0.4914) / 0.247, (1 - 0.4822) / 0.243, (1 - 0.4465) / 0.261])
    torch.testing.assert_close(image[:, 0, 0], expected)


def test_only_image_sets():
    with pytest.raises(UserError, match="lost"):
        prepare_cv_datasets("lost", 8)


@pytest.mark.parametrize("root", [None, "elsewhere"])
@pytest.mark.parametrize("dataname", ["mnist", "cifar10", "cifar100"])
def test_a_set_that_is_not_there_is_an_error_and_never_the_sample(
    tmp_path, monkeypatch, capsys, dataname, root
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{dataname}"):
        prepare_cv_datasets(dataname, 8, data_root=root and tmp_path / root)
    assert "offline sample" not in capsys.readouterr().out


def test_the_sample_is_taken_where_it_is_asked_for():
    *_, train, test, classes = prepare_cv_datasets("mnist", 8, sample=True)
    assert (len(train), len(test), classes) == (1300, 497, 10)


def test_data_and_targets_are_those_of_torchvisions_mnist(mnist_root):
    *_, train, test, _ = prepare_cv_datasets("mnist", 8, data_root=mnist_root)
    for ours, is_train in ((train, True), (test, False)):
        theirs = torchvision.datasets.MNIST(mnist_root / "mnist", train=is_train)
        assert torch.equal(ours.data, theirs.data) and ours.data.dtype == torch.uint8
        assert torch.equal(ours.targets, theirs.targets) and ours.targets.dtype == torch.int64
        assert torch.equal(ours[5][0], theirs.data[5][None] / 255)


def test_data_and_targets_are_those_of_torchvisions_cifar(monkeypatch):
    *_, train, test, _ = prepare_cv_datasets("cifar10", 8, sample=True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda self: None)
    for ours, is_train in ((train, True), (test, False)):
        theirs = torchvision.datasets.CIFAR10(samples.ensure("CIFAR10"), train=is_train)
        assert np.array_equal(ours.data, theirs.data) and ours.data.dtype == np.uint8
        assert ours.targets == theirs.targets and isinstance(ours.targets, list)
