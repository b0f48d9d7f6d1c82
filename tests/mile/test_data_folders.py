"""Image folders: classes, subsets, lists; what is hidden; faulty lists named in one line."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from common.cli import UserError
from common.samples.imagenet import WNIDS
from mile.data_folders import (
    LabelledImages,
    balanced_subset,
    class_folders,
    class_weights,
    list_images,
    list_validation,
    listed_subset,
    webvision_lists,
    wnid_index,
)
from mile.dataset import train_samples
from tests.mile.helpers import conf_of


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
    with pytest.raises(UserError, match=r"class 0 \(folder n01440764\) has 6 images"):
        train_samples(imagenet / "train", conf_of(train_frac=0.1))
    (imagenet / "list.txt").write_text("\n")
    with pytest.raises(UserError, match="list.txt: names no file"):
        train_samples(imagenet / "train", conf_of(subset_file=str(imagenet / "list.txt")))
    assert class_weights([0, 0, 2], 4).tolist() == [0.5, 1.0, 1.0, 1.0]
    assert balanced_subset([("a", 5), ("b", 7)], 1.0) == [("a", 5), ("b", 7)]


def test_the_samples_wnids_are_imagenets():
    assert wnid_index(list(WNIDS), "sample") == WNIDS


def test_tiny_imagenets_validation_listing(tmp_path):
    (tmp_path / "val_annotations.txt").write_text(
        "val_0.JPEG\tn2\t0\t32\t44\t62\nval_1.JPEG\tn1\t0\t0\t1\t1\n"
    )
    images = str(tmp_path / "images")
    assert list_validation(tmp_path, {"n1": 0, "n2": 1}) == [
        (f"{images}/val_0.JPEG", 1),
        (f"{images}/val_1.JPEG", 0),
    ]
    with pytest.raises(UserError, match="class 'n2' has no folder"):
        list_validation(tmp_path, {"n1": 0})


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


def test_a_folder_of_hidden_files_alone_holds_no_class(tmp_path):
    picture(tmp_path / ".ipynb_checkpoints" / "a.png")
    with pytest.raises(UserError, match="no class folders, 0 images at its top"):
        class_folders(tmp_path, "the training images")


def test_images_of_every_suffix_are_listed_in_imagefolders_order(
    tmp_path,
):
    for name in ("b.JPG", "a.png", "below/c.Jpeg", "below/deeper/d.webp"):
        picture(tmp_path / "cat" / name)
    ours = list_images(tmp_path, {"cat": 0})
    theirs = torchvision.datasets.ImageFolder(str(tmp_path)).samples
    assert ours == theirs and len(ours) == 4


def test_pictures_of_a_data_set_are_read_as_stored(tmp_path):
    """The originals do not turn them; what EXIF says would change their numbers."""
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image, _ = LabelledImages([(str(tmp_path / "turned.png"), 0)], np.asarray)[0]
    assert np.array_equal(image, pixels)


SAMPLES = [("cat/1.png", 0), ("cat/2.png", 0), ("dog/1.png", 1), ("dog/3.png", 1)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("2.png\n3.png\n2.png\n", r"'2.png' stands there twice \(lines 1 and 3\)"),
        ("1.png\n", "1.png may be cat/1.png or dog/1.png; write CLASS/FILE"),
        ("2.png\ncat/2.png\n", "2.png and cat/2.png are one file; list it once"),
        ("bird/1.png\n", "1 of 1 names are not there: bird/1.png"),
    ],
)
def test_a_subset_list_that_can_be_read_in_two_ways_is_refused(tmp_path, lines, message):
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        listed_subset(SAMPLES, tmp_path / "list.txt")


def test_a_subset_list_names_files_or_class_and_file(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfdog/1.png\r\n2.png\r\n")
    assert listed_subset(SAMPLES, tmp_path / "list.txt") == [SAMPLES[1], SAMPLES[2]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.png\tcat\nb.png\tcat\na.png\tdog\n", r"'a.png' stands there twice \(lines 1 and 3\)"),
        ("a.png\n", "line 1: expected FILE, a tab and CLASS"),
        ("../a.png\tcat\n", "may lead out of its folder"),
        ("\n", "names no image"),
    ],
)
def test_a_faulty_validation_listing_is_named(tmp_path, lines, message):
    (tmp_path / "val_annotations.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        list_validation(tmp_path, {"cat": 0, "dog": 1})


@pytest.mark.parametrize("empty", ["train_filelist_flickr", "val_filelist"])
def test_empty_lists_and_names_that_lead_out_of_webvision_are_refused(tmp_path, empty):
    (tmp_path / "info").mkdir()
    names = ("train_filelist_flickr", "train_filelist_google", "val_filelist")
    contents = {
        name: "a.png 1\n" if name.startswith("val") == (empty != "val_filelist") else ""
        for name in names
    }
    for name, content in contents.items():
        (tmp_path / "info" / f"{name}.txt").write_text(content)
    part = "validation" if empty == "val_filelist" else "training"
    with pytest.raises(UserError, match=f"the lists of {part} images are empty"):
        webvision_lists(tmp_path)
    (tmp_path / "info" / f"{empty}.txt").write_text("../a.png 1\n")
    with pytest.raises(UserError, match="line 1: the name '../a.png' may lead out of its folder"):
        webvision_lists(tmp_path)
