"""Files of label sets."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from common.cli import UserError
from mile.build import open_source
from mile.data_folders import (
    list_images,
)
from mile.data_labels import BUNDLED, labels_by_name, read_real_labels
from mile.dataset import ImageNetReal
from tests.mile.helpers import folder_conf


def test_the_bundled_real_labels_have_the_released_statistics():
    sizes = torch.tensor([len(labels) for labels in read_real_labels(BUNDLED)])
    assert (len(sizes), int((sizes == 0).sum()), int((sizes == 1).sum()), int(sizes.max())) == (
        50000,
        3163,
        39394,
        9,
    )


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


def test_a_label_file_that_can_be_read_in_two_ways_is_refused(tmp_path):
    files = [Path("val/cat/1.png"), Path("val/dog/1.png")]
    path = tmp_path / "real.json"
    path.write_text('{"1.png": ["cat"]}')
    with pytest.raises(UserError, match="'1.png' may be any of 2 files; write CLASS/FILE"):
        labels_by_name(files, path, ["cat", "dog"])
    path.write_text('{"cat/1.png": ["cat"], "dog/1.png": [1], "dog/1.png": [0]}')
    with pytest.raises(UserError, match="'dog/1.png' stands twice"):
        labels_by_name(files, path, ["cat", "dog"])
    path.write_text('{"cat/1.png": ["cat"], "dog/1.png": [1]}')
    assert labels_by_name(files, path, ["cat", "dog"]) == [[0], [1]]


def test_folders_of_one_name_in_two_classes_keep_their_sets_apart(tmp_path):
    """`cat/a/1.png` and `dog/a/1.png` were both exported as `a/1.png`, and one set was lost."""
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            for number in (1, 2):
                picture(tmp_path / part / name / "a" / f"{number}.png")
    conf = folder_conf(tmp_path, "--dataset", "folder", "--batch_size", "2")
    source = open_source(conf, Accelerator(cpu=True))
    names = source.names_of_training_images()
    assert names == ["cat/a/1.png", "cat/a/2.png", "dog/a/1.png", "dog/a/2.png"]

    files = [Path(path) for path, _ in list_images(tmp_path / "train", {"cat": 0, "dog": 1})]
    path = tmp_path / "label_sets.json"
    path.write_text(json.dumps({name: [number % 2] for number, name in enumerate(names)}))
    assert labels_by_name(files, path, ["cat", "dog"]) == [[0], [1], [0], [1]]
    path.write_text(json.dumps({"a/1.png": [0], "a/2.png": [1]}))
    with pytest.raises(UserError, match="'a/1.png' may be any of 2 files; write CLASS/FILE"):
        labels_by_name(files, path, ["cat", "dog"])


def test_two_validation_images_of_one_number_are_refused(imagenet):
    source = next((imagenet / "val").rglob("*00000001.JPEG"))
    picture(imagenet / "val" / "n03888257" / source.name)
    with pytest.raises(UserError, match="number 1 is that of .*n01440764.* too; keep one"):
        ImageNetReal(imagenet / "val", imagenet / "real.json")


def test_a_class_that_a_label_set_lists_twice_counts_once_and_is_said(imagenet):
    (imagenet / "real.json").write_text(json.dumps([[0, 0], [1], [2, 3, 2], [], [5], [6]]))
    with pytest.warns(
        UserWarning, match="real.json: 2 label sets list a class twice; it counts once"
    ):
        real = ImageNetReal(imagenet / "val", imagenet / "real.json")
    assert real.real[0] == [0] and real.real[2] == [2, 3]
