"""The sources of a run: the order of batches, what is set aside, faulty data named in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from common.cli import UserError
from common.samples.imagenet import WNIDS
from mile.build import open_source
from mile.data_labels import labels_of_val_files
from mile.dataset import ImageNetReal
from mile.options import parse
from tests.cavl.test_data_loaders import write_idx
from tests.mile.helpers import folder_conf


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
