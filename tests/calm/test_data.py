"""Metadata lists, images and the sample (data_loaders.py, prepare_metadata.py,
common/samples/cub.py).
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from calm import logger, prepare_metadata, util
from calm.config import set_data_path
from calm.data_cub_trait import CUBTrait, has_segmentations
from calm.data_loaders import (
    ImageLabelDataset,
    get_data_loader,
    make_transforms,
)
from calm.prepare_metadata import (
    build_cub_metadata,
    build_ilsvrc_metadata,
    build_openimages_metadata,
)
from common.cli import UserError
from common.samples import cub as drawn


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "I;16", "RGBA", "1"])
def test_all_kinds_of_images_become_rgb(lists: Path, mode: str) -> None:
    (lists / "a").mkdir()
    image = (
        Image.fromarray(np.full((20, 10), 900, np.uint16))
        if mode == "I;16"
        else Image.new(mode, (10, 20), 1)
    )
    image.save(lists / "a" / "1.jpg", format="JPEG" if mode in ("L", "CMYK") else "PNG")
    data = ImageLabelDataset(
        lists, lists, make_transforms(12, 8)["test"], superclass_labels={0: 7, 1: 9}
    )
    pixels, label, image_id = data[0]
    assert pixels.shape == (3, 8, 8) and label == 7 and image_id == "a/1.jpg"
    with pytest.raises(UserError, match="a/2.jpg: no such image"):
        _ = data[1]


def test_held_out_images_are_not_trained_on_and_the_cache_changes_nothing(
    birds: Path, tmp_path: Path
) -> None:
    counts = build_cub_metadata(birds / "CUB_200_2011", tmp_path)
    assert counts == {"train": 48, "test": 18, "val": 30}
    roots = dict.fromkeys(("train", "val", "test"), birds / "CUB_200_2011/images")

    def loaders(**how: object) -> dict:
        return get_data_loader(
            roots, tmp_path, 8, 0, 68, 64, accelerator=Accelerator(cpu=True), num_classes=6, **how
        )

    plain, cached = loaders(), loaders(cache_images=True)
    ids = {split: set(loader.dataset.dataset.image_ids) for split, loader in plain.items()}
    assert (
        len(ids["train"]) == 18 and not ids["train"] & ids["val"] and not ids["train"] & ids["test"]
    )
    for loader in (plain["train"], cached["train"]):
        loader.batch_sampler.set_epoch(3)
    first = torch.cat([b.data[0] for b in plain["train"]])
    for _ in range(2):  # the second time from the cache
        assert torch.equal(torch.cat([b.data[0] for b in cached["train"]]), first)


def test_the_official_ilsvrc_and_openimages_folders(tmp_path: Path) -> None:
    def picture(path: Path, size: tuple[int, int] = (9, 7)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path, format="PNG" if path.suffix == ".png" else "JPEG")

    root = tmp_path / "ILSVRC"
    for wnid in ("n02", "n01"):
        picture(root / "train" / wnid / f"{wnid}_1.JPEG")
    picture(root / "val/ILSVRC2012_val_00000001.JPEG")
    xml = (
        "<annotation><object><name>n02</name>"
        "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
    )
    written = xml.replace("<xmax>5<", "<xmax>0.5e+01<")
    (root / "val/ILSVRC2012_val_00000001.xml").write_text(written + "</object></annotation>")
    for folder in ("0", "10", "2"):
        picture(root / "val2" / folder / "x.jpeg")
    assert build_ilsvrc_metadata(root, tmp_path / "i") == {"train": 2, "test": 1, "val": 3}
    assert (
        tmp_path / "i/test/class_labels.txt"
    ).read_text() == "val/ILSVRC2012_val_00000001.JPEG,1"
    assert (
        tmp_path / "i/test/localization.txt"
    ).read_text() == "val/ILSVRC2012_val_00000001.JPEG,1,2,5,6"
    assert (tmp_path / "i/val/class_labels.txt").read_text().split("\n")[1:] == [
        "val2/2/x.jpeg,2",
        "val2/10/x.jpeg,10",
    ]
    # ImageNetV2 beside ILSVRC, with val2/ in it or without: the loader finds every id; without it
    # val is held out
    for old, new in (
        (root / "val2", tmp_path / "ImageNetV2/val2"),
        (tmp_path / "ImageNetV2/val2", tmp_path / "other"),
    ):
        new.parent.mkdir(exist_ok=True)
        old.rename(new)
        if new.name == "other":
            (tmp_path / "ImageNetV2").rmdir()
            new.rename(tmp_path / "ImageNetV2")
        assert build_ilsvrc_metadata(root, tmp_path / "i")["val"] == 3
        ids = (tmp_path / "i/val/image_ids.txt").read_text().split("\n")
        assert all((Path(set_data_path("ILSVRC", tmp_path).val) / i).is_file() for i in ids)
    assert '"val": "ImageNetV2"' in (tmp_path / "i/source.json").read_text()
    shutil.rmtree(tmp_path / "ImageNetV2")
    picture(root / "train/n01/n01_2.JPEG")
    assert build_ilsvrc_metadata(root, tmp_path / "i") == {"train": 3, "test": 1, "val": 1}
    assert '"val": "held out of train"' in (tmp_path / "i/source.json").read_text()
    end = "</object></annotation>"
    for bad, message in (
        (xml, "line 1, column 110: not xml"),
        (f"{xml.replace('n02', 'n09')}{end}", "'n09' is no"),
        (f"{xml.replace('5', 'x')}{end}", "xmax: expected a whole number, found 'x'"),
    ):
        (root / "val/ILSVRC2012_val_00000001.xml").write_text(bad)
        with pytest.raises(UserError, match=f"ILSVRC2012_val_00000001.xml.*{message}"):
            build_ilsvrc_metadata(root, tmp_path / "i")

    root = tmp_path / "OpenImages"
    for split in ("train", "val", "test"):
        picture(root / split / "m_02" / "ab.jpg")
    picture(root / "test/m_02/ab_m02_00000001.png")
    picture(root / "test/m_02/ab_m02_00000002.png")
    picture(root / "test/m_02/ab_ignore.png")
    build_openimages_metadata(root, tmp_path / "o")
    lines = (tmp_path / "o/test/localization.txt").read_text().split("\n")
    assert lines == [
        "test/m_02/ab.jpg,test/m_02/ab_m02_00000001.png,test/m_02/ab_ignore.png",
        "test/m_02/ab.jpg,test/m_02/ab_m02_00000002.png,",
    ]
    shutil.rmtree(root / "val")
    picture(root / "train/m_02/cd.jpg")
    assert build_openimages_metadata(root, tmp_path / "o") == {"train": 2, "val": 1, "test": 1}
    assert (tmp_path / "o/val/image_ids.txt").read_text() == "train/m_02/cd.jpg"
    with pytest.raises(UserError, match="no class folders"):
        build_openimages_metadata(tmp_path / "none", tmp_path / "o")


LEFT_BEHIND = ("__MACOSX", ".ipynb_checkpoints", "@eaDir")


def leave_behind(folder: Path, picture: Path) -> None:
    """What archivers, notebooks and file managers leave in a folder and beside it."""
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", f"._{picture.name}"):
        (folder / name).write_bytes(b"not a picture")
    for name in LEFT_BEHIND:
        (folder.parent / name).mkdir(exist_ok=True)
        shutil.copy(picture, folder.parent / name / picture.name)


def test_hidden_files_and_folders_are_no_data(birds: Path, tmp_path: Path) -> None:
    """Neither a class, nor an image, nor a reason to stop; suffixes may be in capitals."""
    whole = tmp_path / "x.jpg"
    Image.new("RGB", (9, 7)).save(whole)

    root = tmp_path / "ILSVRC"
    for name in (
        "train/n01/a.JPEG",
        "train/n01/b.JPG",
        "train/n02/c.JPEG",
        "val2/0/x.jpeg",
        "val2/10/y.JPG",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole, root / name)
        leave_behind((root / name).parent, root / name)
    assert build_ilsvrc_metadata(root, tmp_path / "i") == {"train": 3, "test": 0, "val": 2}
    assert (tmp_path / "i/val/class_labels.txt").read_text() == "val2/0/x.jpeg,0\nval2/10/y.JPG,10"

    root = tmp_path / "OpenImages"
    for split in ("train", "val", "test"):
        for code in ("m_01", "m_02"):
            file = root / split / code / "ab.JPG"
            file.parent.mkdir(parents=True)
            shutil.copy(whole, file)
            leave_behind(file.parent, file)
    assert build_openimages_metadata(root, tmp_path / "o") == {"train": 2, "val": 2, "test": 2}
    assert (
        tmp_path / "o/test/class_labels.txt"
    ).read_text() == "test/m_01/ab.JPG,0\ntest/m_02/ab.JPG,1"
    (root / "test/m_03").mkdir()
    with pytest.raises(
        UserError, match="test/m_03: this class has no folder in .*train, so it has no label"
    ):
        build_openimages_metadata(root, tmp_path / "o")

    shutil.copytree(birds, tmp_path / "b")
    for name in LEFT_BEHIND:
        (tmp_path / "b/CUBV2" / name).mkdir(parents=True)
        shutil.copy(whole, tmp_path / "b/CUBV2" / name / "x.jpg")
    counts = build_cub_metadata(tmp_path / "b/CUB_200_2011", tmp_path / "c")
    assert counts["val"] == 30  # nothing in CUBV2 is data: held out as before
    (tmp_path / "b/CUBV2/002.Bird").mkdir()
    shutil.copy(whole, tmp_path / "b/CUBV2/002.Bird/x.JPG")
    leave_behind(tmp_path / "b/CUBV2/002.Bird", whole)
    assert build_cub_metadata(tmp_path / "b/CUB_200_2011", tmp_path / "c")["val"] == 1

    segmentations = tmp_path / "b/CUB_200_2011/segmentations"
    assert has_segmentations(segmentations.parent)
    shutil.rmtree(segmentations)
    (segmentations / "__MACOSX").mkdir(parents=True)
    Image.new("L", (9, 7)).save(segmentations / "__MACOSX" / "x.png")
    assert not has_segmentations(segmentations.parent)


def test_a_box_in_a_list_of_cubv2_stands_there_once(birds: Path, tmp_path: Path) -> None:
    shutil.copytree(birds, tmp_path / "b")
    (tmp_path / "b/CUBV2/002.Bird").mkdir(parents=True)
    Image.new("RGB", (9, 7)).save(tmp_path / "b/CUBV2/002.Bird/x.jpg")
    line = "002.Bird/x.jpg,3,4,1,1\n"
    (tmp_path / "b/CUBV2/CUBV2_boxes.txt").write_text(f"name,x0,y0,x1,y1\n{line}{line}")
    with pytest.raises(UserError, match="CUBV2_boxes.txt:3: '002.Bird/x.jpg' has a box already"):
        build_cub_metadata(tmp_path / "b/CUB_200_2011", tmp_path / "m")


def test_cubv2_columns_three_and_four_are_width_and_height(birds: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(birds, tmp_path / "b")
    second = tmp_path / "b/CUBV2/002.Bird"
    second.mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(second / "x.jpeg")
    (tmp_path / "b/CUBV2/CUBV2_boxes.txt").write_text(
        "name,x0,y0,x1,y1\n002.Bird/x.jpeg,3,4,10,50\n"
    )
    assert build_cub_metadata(tmp_path / "b/CUB_200_2011", tmp_path / "m")["val"] == 1
    assert (tmp_path / "m/val/localization.txt").read_text() == "002.Bird/x.jpeg,3,4,13,19"
    assert (tmp_path / "m/val/class_labels.txt").read_text() == "002.Bird/x.jpeg,1"


def test_prepare_metadata_command(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    prepare_metadata.main(["CUB", str(birds / "CUB_200_2011"), str(tmp_path / "m")])
    assert "train 48, test 18, val 30" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such folder"):
        prepare_metadata.main(["CUB", str(tmp_path / "none"), str(tmp_path / "m")])
    (tmp_path / "half").mkdir()
    with pytest.raises(UserError, match="images.txt is missing"):
        prepare_metadata.main(["CUB", str(tmp_path / "half"), str(tmp_path / "m")])


# --- the sample ---


def test_the_sample_has_what_cue_localisation_needs(birds: Path) -> None:
    trait = CUBTrait(birds / "CUB_200_2011")
    pairs = trait.diff2class_pair_dict
    assert all(pairs[d] for d in (1, 2, 3)) and (5, 6) not in sum(pairs.values(), [])
    assert np.array_equal(trait.class2attribute[5], trait.class2attribute[6])
    sizes = {Image.open(p).size for p in (birds / "CUB_200_2011/images").glob("*/*.jpg")}
    assert len(sizes) > 1
    masks = [
        np.asarray(Image.open(p)) for p in (birds / "CUB_200_2011/segmentations").glob("*/*.png")
    ]
    assert all(m.dtype == np.uint8 and ((m > 0) & (m < 255)).any() for m in masks)


def test_the_birds_masks_boxes_and_points_agree() -> None:
    rng, hidden, at_border = np.random.default_rng(3), 0, 0
    for n in range(200):
        bird = drawn._bird(list(drawn.CLASSES)[n % 6], rng)
        height, width = bird.mask.shape
        x0, y0, x1, y1 = bird.box
        assert (
            bird.picture.shape == (height, width, 3)
            and 0 <= x0 < x1 <= width
            and 0 <= y0 < y1 <= height
        )
        assert (bird.mask[y0:y1, x0:x1] >= 128).sum() == (bird.mask >= 128).sum()
        for number in (1, 3, 4, 14, 5):
            if number in bird.points:
                x, y = (int(v) for v in bird.points[number])
                assert bird.mask[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].max() > 0
        hidden += any(k not in bird.points for k in (1, 3, 4, 14))
        at_border += x1 == width or y1 == height
    assert hidden > 5 and at_border > 5


# --- small functions ---


def test_scoremap_validity() -> None:
    util.check_scoremap_validity(np.zeros((2, 2)))
    for bad, error, message in (
        (np.zeros((2, 2), np.float32), TypeError, "float64"),
        (np.zeros(3), ValueError, "two axes"),
        (np.full((2, 2), np.nan), ValueError, "NaN"),
        (np.full((2, 2), 1.5), ValueError, r"bird.jpg: outside \[0, 1\]: 1.5"),
    ):
        with pytest.raises(error, match=message):
            util.check_scoremap_validity(bad, "bird.jpg")


def test_loggers_and_reporter(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import sys

    before = sys.stdout
    with util.Logger(tmp_path / "log.txt"):
        print("said")
    assert (
        sys.stdout is before
        and (tmp_path / "log.txt").read_text() == "said\n"
        and "said" in capsys.readouterr().out
    )
    for kind in logger.LOGGER_TYPES:
        log = logger.load_logger(kind)(tmp_path / kind)
        log.report(step=3, loss=0.5)
        log.finalize_log()
        assert '"loss"' in (tmp_path / kind / "log.json").read_text()
    with pytest.raises(ValueError, match="PythonLogger, tensorboard"):
        logger.load_logger("Python")
    reporter = util.Reporter(tmp_path, 7)
    reporter.add("val/accuracy", np.float32(0.5))
    assert reporter.write().read_text() == '{\n "epoch": 7,\n "val/accuracy": 0.5\n}\n'


def test_more_small_functions() -> None:
    assert util.string_contains_any(
        "layer4.conv1", ["fc", "conv1"]
    ) and not util.string_contains_any("bn", ["fc"])
    assert util.resize_scoremap(np.ones((4, 4)), (8, 6)).shape == (8, 6)
    with pytest.raises(ValueError, match="even, log"):
        util.get_threshold_list(0.1, "cubic")
    with pytest.raises(ValueError, match="tensor, numpy"):
        util.resize_scoremaps(np.ones((1, 2, 2)), "list")
    with pytest.raises(ValueError, match="activation_map"):
        util.get_score_map("vanilla", "backprop")
