"""Some classes of a devkit as one of its own (benchmarks/voc_subset.py), read by --data."""

import numpy as np
import pytest
from PIL import Image

from common.cli import UserError
from common.own import read_own

PICTURES = {"a": "train", "b": "train", "c": "val"}
OBJECT = """<object><name>{name}</name><pose>{pose}</pose><bndbox><xmin>1</xmin><ymin>2</ymin>
<xmax>{right}</xmax><ymax>7</ymax></bndbox></object>"""
DRAWN = "Left"
NOT_DRAWN = "whole image: no box known"


@pytest.fixture
def devkit(tmp_path):
    """Three pictures: a dog with a box, a chair without one, and a bus."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    objects = OBJECT.format(name="dog", pose=DRAWN, right=5)
    objects += OBJECT.format(name="chair", pose=NOT_DRAWN, right=9)
    objects += OBJECT.format(name="bus", pose=DRAWN, right=9)
    for name in PICTURES:
        Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        text = f"<annotation><size><width>9</width></size>{objects}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for split in ("train", "val"):
        ids = [name for name, part in PICTURES.items() if part == split]
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(ids))
    return root


def write(benchmark, devkit, to, classes="dog,chair"):
    argv = ["--voc", str(devkit), "--to", str(to), "--classes", classes]
    benchmark("voc_subset").main(argv)


def test_other_classes_and_boxes_that_nobody_drew_are_gone(benchmark, devkit, tmp_path, capsys):
    for _ in range(2):  # written again it is the same
        write(benchmark, devkit, tmp_path / "some")
    data = read_own(tmp_path / "some")

    assert data.classes == ["chair", "dog"]
    assert data.train.ids == ["a", "b"] and data.val.ids == ["c"]
    assert data.train.matrix.tolist() == [[1, 1], [1, 1]]
    assert data.train.box_labels[0].tolist() == [1]
    assert data.train.boxes[0].tolist() == [[0, 1, 5, 7]]
    assert "val: dog 1, chair 1" in capsys.readouterr().out


def test_a_class_that_no_picture_shows_is_named(benchmark, devkit, tmp_path):
    with pytest.raises(UserError, match="no picture of train shows cat"):
        write(benchmark, devkit, tmp_path / "some", "dog,cat")


def test_a_folder_without_pictures_is_named(benchmark, tmp_path):
    with pytest.raises(UserError, match="no JPEGImages"):
        write(benchmark, tmp_path, tmp_path / "some")
