"""The original's data sets."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import UserError
from mile.dataset import CollateFn, ImageNetReal, ImageNetTrain, train_samples
from tests.mile.helpers import conf_of


def test_labels_are_indices_in_the_full_imagenet(imagenet):
    conf = conf_of(image_size=32, batch_size=4)
    train = ImageNetTrain(imagenet / "train", "resnet18", conf)
    assert sorted({label for _, label in train.dataset.samples}) == [0, 217, 482]
    image, label = next(iter(train.getDataloader()))
    assert (
        image.shape == (4, 3, 32, 32)
        and image.dtype == torch.float32
        and label.dtype == torch.int64
    )
    val = ImageNetReal(imagenet / "val", imagenet / "real.json")
    assert len(val) == 6 and val[1]["real_label"] == [0, 217] and val[1]["original_label"] == 0
    assert val[1]["image"].shape == (3, 224, 224)
    assert val.targets == [0, 0, 217, 217, 482, 482] and val.imgs is val.samples
    assert val.class_to_idx == dict(zip(val.classes, (0, 217, 482), strict=True))
    batches = list(val.getDataloader("resnet18", conf))
    assert [len(labels) for _, labels, _ in batches] == [4, 2]
    assert batches[0][2] == [[0], [0, 217], [217], []]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


HIDDEN_FOLDERS = [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"]


def test_hidden_folders_are_no_imagenet_classes(imagenet):
    for name in HIDDEN_FOLDERS:
        for part in ("train", "val"):
            picture(imagenet / part / name / "ILSVRC2012_val_00000001.JPEG")
    assert len(train_samples(imagenet / "train", conf_of())) == 18
    real = ImageNetReal(imagenet / "val", imagenet / "real.json")
    assert len(real) == 6 and len(real.classes) == 3


def test_collate_fn_makes_grids_of_digits_and_batches_of_dicts():
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = list(range(10)) * 2
    conf = conf_of(mnist_size=84)
    torch.manual_seed(0)
    as_pictures = [(Image.fromarray(d), y) for d, y in zip(digits, labels, strict=True)]
    images, single, real = CollateFn(train=False, conf=conf)(as_pictures)
    torch.manual_seed(0)
    as_tensors = [(torch.tensor(d)[None] / 255, y) for d, y in zip(digits, labels, strict=True)]
    again, same = CollateFn(train=True, conf=conf)(as_tensors)
    assert images.shape == (2, 3, 84, 84) and torch.equal(images, again)
    assert torch.equal(single, same) and real[0].tolist() == [True] * 9 + [False]
    assert all(bool(row[label]) for row, label in zip(real, single, strict=True))
    with pytest.raises(UserError, match="nine digits, this batch has 8"):
        CollateFn()(as_pictures[:8])

    item = {"image": torch.zeros(3, 4, 4), "original_label": 2, "real_label": [2, 3]}
    images, label, lists = CollateFn(train=False)([item, item])
    assert images.shape == (2, 3, 4, 4) and label.tolist() == [2, 2] and lists == [[2, 3]] * 2
