"""Readers of image folders: indices, subsets, the order of batches, faulty files named in one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from accelerate import Accelerator
from PIL import Image

from common import samples
from common.cli import UserError
from common.samples.imagenet import WNIDS
from mile.build import open_source
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
from mile.data_grids import read_digits
from mile.data_labels import BUNDLED, labels_by_name, labels_of_val_files, read_real_labels
from mile.data_location import idx_folder
from mile.dataset import ImageNetReal, ImageNetTrain, train_samples
from mile.options import parse
from tests.cavl.test_loaders import write_idx
from tests.mile.helpers import conf_of


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
                name = (
                    f"{wnid}_{i}.JPEG" if part == "train" else f"ILSVRC2012_val_{number:08d}.JPEG"
                )
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(
                    folder / name
                )
    (tmp_path / "real.json").write_text(json.dumps([[0], [0, 217], [217], [], [482], [482, 999]]))
    return tmp_path


def folder_conf(root, *more):
    paths = ["--data_path", str(root / "train"), "--val_path", str(root / "val")]
    shape = ["--image_size", "32", "--batch_size", "4", "--num_workers", "0"]
    return parse([*paths, *shape, *more])


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


def test_the_streams_order_is_a_function_of_the_step(imagenet):
    source = open_source(folder_conf(imagenet), Accelerator(cpu=True))
    stream = source.stream(0)
    batches = [next(stream) for _ in range(9)]
    assert source.pass_steps == 4 and source.num_classes == 1000
    later = source.stream(6)
    for batch in batches[6:]:
        other = next(later)
        assert torch.equal(batch.ids, other.ids) and torch.equal(batch.input, other.input)
    assert sorted(i for b in batches[:4] for i in b.ids.tolist()) != sorted(range(16))


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


def test_faulty_folders_and_real_labels_are_named(imagenet, tmp_path):
    def read():
        open_source(folder_conf(imagenet), Accelerator(cpu=True))

    with pytest.raises(UserError, match="val_path .*nowhere does not exist.*--sample"):
        folder_conf(imagenet, "--val_path", str(imagenet / "nowhere"))
    for content, message in (
        (b"{}", "expected a list of lists"),
        (b"[[0], 5]", "entry 1 is 5"),
        (b"[[0], [1000]]", "entry 1"),
        (b"[", "line 1, column 2: not json"),
        (b"\xff\xfe\x00bad", "line 1: UTF-16, not UTF-8"),
        (b"[[0], [1]]", "number 3, but .* has 2 entries"),
    ):
        (imagenet / "real.json").write_bytes(content)
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
    assert (len(sizes), int((sizes == 0).sum()), int((sizes == 1).sum()), int(sizes.max())) == (
        50000,
        3163,
        39394,
        9,
    )


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
    for labels in (5, "cat", [["cat"]], [True], [1.0], [2], {"cat": 1}):
        (tmp_path / "real.json").write_text(json.dumps({"cat_c.png": labels}))
        with pytest.raises(UserError, match="real.json: .*cat_c.png"):
            open_source(conf, Accelerator(cpu=True))
    (tmp_path / "real.json").write_text(json.dumps({"cat/cat_c.png": ["dog"], "dog_c.png": []}))
    assert [b.real for b in open_source(conf, Accelerator(cpu=True)).evaluation()] == [[[1], []]]
    (tmp_path / "real.json").unlink()
    conf = folder_conf(tmp_path, "--dataset", "folder")
    assert next(open_source(conf, Accelerator(cpu=True)).evaluation()).real == [[0], [1]]


@pytest.mark.filterwarnings("ignore:.*stand twice in the lists")
def test_webvision_lists(imagenet, tmp_path):
    (tmp_path / "info").mkdir()
    for name, line in (("train_filelist_flickr", "0"), ("train_filelist_google", "1")):
        lines = [f"train/{w}/{w}_{i}.JPEG {line}" for w in list(WNIDS)[:2] for i in range(3)]
        (tmp_path / "info" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "val_images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "val_images" / "v.jpg")
    (tmp_path / "info" / "val_filelist.txt").write_text("v.jpg 3\n")
    flags = [
        "--dataset",
        "webvision",
        "--data_path",
        str(tmp_path),
        "--image_size",
        "32",
        "--num_workers",
        "0",
    ]
    conf = parse([*flags, "--batch_size", "4", "--reweight", "uniform"])
    with pytest.warns(UserWarning, match="6 training images stand twice in the lists; each counts"):
        source = open_source(conf, Accelerator(cpu=True))
    assert source.second_evaluation() is None
    batch = next(source.stream(0))
    assert source.train_size == 12 and batch.weight.tolist() == pytest.approx([1 / 6] * 4)
    assert next(source.evaluation()).real == [[3]]
    # Its own validation set, and ImageNet's.
    conf = replace(conf, data=replace(conf.data, imagenet=imagenet / "val"))
    second = torch.cat(
        [batch.label for batch in open_source(conf, Accelerator(cpu=True)).second_evaluation()]
    )
    assert second.tolist() == [0, 0, 217, 217, 482, 482]
    for line in ("v.jpg", "v.jpg 1000", "v.jpg -1", "v.jpg ²"):
        (tmp_path / "info" / "val_filelist.txt").write_text(f"v.jpg 999\n\n{line}\n")
        with pytest.raises(UserError, match=r"line 3 is not 'PATH LABEL', LABEL in 0..999"):
            open_source(conf, Accelerator(cpu=True))


def test_a_corrupt_image_is_named_or_skipped(imagenet):
    path = imagenet / "train" / "n01440764" / "n01440764_0.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="n01440764_0.JPEG: unreadable image"):
        open_source(folder_conf(imagenet, "--augment", "none"), Accelerator(cpu=True))
    stream = open_source(folder_conf(imagenet, "--skip_corrupt"), Accelerator(cpu=True)).stream(0)
    batches = [next(stream) for _ in range(20)]
    assert sum(batch.skipped for batch in batches) > 0
    assert all(len(batch.label) + batch.skipped == 4 for batch in batches)


def test_the_images_set_aside_are_never_trained_on(imagenet):
    conf = folder_conf(imagenet, "--rho_cover", "0.9", "--augment", "none")
    source = open_source(conf, Accelerator(cpu=True))
    held = torch.cat([batch.input for batch in source.held_out()])
    stream = source.stream(0)
    seen = torch.cat([next(stream).input for _ in range(3 * source.pass_steps)])
    assert len(held) == 1 and source.train_size == 17
    assert not any(torch.equal(picture, held[0]) for picture in seen)
    conf.args.train_frac = 0.5
    with pytest.raises(UserError, match="rho_cover: a tenth of the 9 training images is none"):
        open_source(conf, Accelerator(cpu=True))


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


# ---- what is no data, and what is ambiguous -------------------------------------------------------


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


HIDDEN_FOLDERS = [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"]
HIDDEN_FILES = [".DS_Store", "Thumbs.db", "desktop.ini", "._cat_0.png", ".hidden.jpg"]


@pytest.fixture
def littered(tmp_path):
    """Two class folders with what file managers leave in and beside them."""
    for part in ("train", "val"):
        for animal in ("cat", "dog"):
            picture(tmp_path / part / animal / f"{animal}_0.png")
            for name in HIDDEN_FILES:
                (tmp_path / part / animal / name).write_bytes(b"no picture")
            for name in HIDDEN_FOLDERS:
                picture(tmp_path / part / animal / name / "cat_0.png")
        for name in HIDDEN_FOLDERS:
            picture(tmp_path / part / name / "cat_0.png")
        (tmp_path / part / "Thumbs.db").write_bytes(b"no picture")
    return tmp_path


def test_hidden_folders_are_no_classes_and_hidden_files_no_images(littered):
    conf = folder_conf(littered, "--dataset", "folder", "--batch_size", "2")
    source = open_source(conf, Accelerator(cpu=True))
    assert source.class_names == ["cat", "dog"]
    assert source.names_of_training_images() == ["cat/cat_0.png", "dog/dog_0.png"]
    assert source.test_size == 2 and next(source.evaluation()).real == [[0], [1]]


def test_hidden_folders_are_no_imagenet_classes(imagenet):
    for name in HIDDEN_FOLDERS:
        for part in ("train", "val"):
            picture(imagenet / part / name / "ILSVRC2012_val_00000001.JPEG")
    assert len(train_samples(imagenet / "train", conf_of())) == 18
    real = ImageNetReal(imagenet / "val", imagenet / "real.json")
    assert len(real) == 6 and len(real.classes) == 3


def test_a_folder_of_hidden_files_alone_holds_no_class(tmp_path):
    picture(tmp_path / ".ipynb_checkpoints" / "a.png")
    with pytest.raises(UserError, match="no class folders, 0 images at its top"):
        class_folders(tmp_path, "the training images")


def test_images_of_every_suffix_in_any_case_and_in_folders_below_are_listed_in_imagefolders_order(
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


def test_folders_of_one_name_below_two_classes_keep_their_label_sets_apart(tmp_path):
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


@pytest.mark.parametrize("below", [".", "MNIST", "MNIST/raw"])
def test_the_folder_of_mnist_is_taken_at_any_depth(below):
    root = samples.ensure("MNIST_clean")
    assert idx_folder(root / below) == root / "MNIST" / "raw"
    data = parse(["--dataset", "mnist", "--mnist_path", str(root / below)]).data
    assert data.is_sample and len(read_digits(data.root).train.labels) == 1300


# ---- empty sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("dataset", ["imagenet", "folder"])
def test_a_part_without_images_is_refused_at_the_start(imagenet, part, dataset):
    for path in (imagenet / part).rglob("*.JPEG"):
        path.unlink()
    (imagenet / "real.json").unlink()
    with pytest.raises(UserError, match=f"{part}: the class folders hold no image"):
        open_source(folder_conf(imagenet, "--dataset", dataset), Accelerator(cpu=True))


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_fewer_digits_than_a_grid_has_cells_are_refused_at_the_start(tmp_path, part):
    for name, count in (("train", 90), ("t10k", 90)):
        n = 8 if name == part else count
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", np.zeros((n, 28, 28)))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", np.arange(n) % 10)
    conf = parse(
        [
            "--dataset",
            "mnist",
            "--mnist_path",
            str(tmp_path),
            "--model",
            "small-10",
            "--batch_size",
            "2",
        ]
    )
    with pytest.raises(UserError, match="8 digits, a grid needs 9"):
        open_source(conf, Accelerator(cpu=True))


def test_class_folders_without_a_training_image_are_named(tmp_path, capsys):
    for part in ("train", "val"):
        picture(tmp_path / part / "cat" / "a.png")
        picture(tmp_path / part / "dog" / "b.png")
    for name in ("hen", "cow"):
        (tmp_path / "train" / name).mkdir()
    source = open_source(
        folder_conf(tmp_path, "--dataset", "folder", "--batch_size", "2"), Accelerator(cpu=True)
    )
    assert source.num_classes == 4
    assert "warning: 2 of 4 classes have no training image: cow, hen" in capsys.readouterr().out
