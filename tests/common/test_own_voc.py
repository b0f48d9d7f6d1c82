"""A VOC devkit of own class names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import samples
from common.own import read_own, recognise
from tests.common.own_pictures import picture, refused

ONE_BOX = "<bndbox><xmin>2</xmin><ymin>1</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>"


def thing(name: str, difficult: int = 0, box: str = ONE_BOX) -> str:
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>{box}</object>"


def devkit(root: Path, things: dict[str, list[str]], lists: dict[str, str] | None = None) -> Path:
    """JPEGImages and Annotations, and ImageSets/Main with the names of each part."""
    (root / "Annotations").mkdir(parents=True)
    for name, found in things.items():
        picture(root / "JPEGImages" / f"{name}.jpg")
        text = f"<annotation>{''.join(found)}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    for part, names in (lists or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        path = root / "ImageSets" / "Main" / f"{part}.txt"
        path.write_text("\n".join(names.split()) + "\n")
    return root


THINGS = {
    "a": [thing("owl"), thing("stra\u00dfe 1", 1)],
    "b": [thing("stra\u00dfe 1"), thing("stra\u00dfe 1", 1)],
    "c": [thing("owl", box="")],
    "d": [thing("owl", box=ONE_BOX.replace("<xmax>5", "<xmax>2")), thing("stra\u00dfe 1")],
    "e": [],
}
LISTS = {"train": "a b e", "val": "c d"}


def test_a_devkit(tmp_path):
    data = read_own(devkit(tmp_path, THINGS, LISTS))
    assert data.classes == ["owl", "stra\u00dfe 1"] and data.kind.layout == "voc"
    assert data.train.ids == ["a", "b", "e"] and data.val.ids == ["c", "d"]
    assert data.train.matrix.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert data.train.difficult.tolist() == [[False, True], [False, False], [False, False]]
    assert data.train.boxes[0].tolist() == [[1, 0, 5, 4]] * 2
    assert data.train.box_labels[0].tolist() == [0, 1]
    assert [len(boxes) for boxes in data.val.boxes] == [0, 1]
    assert data.train.labels.tolist() == [-1, 1, -1] and not data.is_single
    assert data.how_split == "as the data say" and data.train.masks is None


@pytest.mark.parametrize("inside", [".", "VOC2012", "VOCdevkit/VOC2007", "VOCdevkit/mine"])
def test_places_of_a_devkit(tmp_path, inside):
    devkit(tmp_path / inside, THINGS, LISTS)
    assert recognise(tmp_path).layout == "voc"
    assert len(read_own(tmp_path).train) == 3
    if "/" in inside:
        assert len(read_own(tmp_path / "VOCdevkit" / inside.split("/")[1]).val) == 2


def test_several_devkits(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        devkit(tmp_path / "VOCdevkit" / year, THINGS, LISTS)
    refused(tmp_path, "several VOC devkits", "VOC2007", "VOC2012")


def test_without_lists_val_is_drawn(tmp_path):
    root = devkit(tmp_path, THINGS)
    picture(root / "JPEGImages" / "new.jpg")
    (root / "JPEGImages" / "notes.txt").write_text("x")
    data = read_own(root)
    assert len(data.train) + len(data.val) == 5 and data.how_split == "val drawn with seed 0"
    assert "1 pictures without annotation are left alone" in data.notes
    assert "1 files in JPEGImages are no pictures and are left alone" in data.notes


def test_lists_of_segmentation_where_main_has_none(tmp_path):
    root = devkit(tmp_path, THINGS, LISTS)
    (root / "ImageSets" / "Main").rename(root / "ImageSets" / "Segmentation")
    assert read_own(root).val.ids == ["c", "d"]


def test_pictures_of_other_formats(tmp_path):
    root = devkit(tmp_path, THINGS, LISTS)
    (root / "JPEGImages" / "a.jpg").unlink()
    picture(root / "JPEGImages" / "a.PNG")
    assert read_own(root).train.paths[0].name == "a.PNG"


def masks(root: Path, ids: dict[str, list[int]]) -> None:
    (root / "SegmentationClass").mkdir()
    for name, values in ids.items():
        array = np.array([values], np.uint8)
        Image.fromarray(array).save(root / "SegmentationClass" / f"{name}.png")


def test_masks(tmp_path):
    root = devkit(tmp_path, THINGS, LISTS)
    masks(root, {"a": [0, 1, 2, 255], "c": [1, 1]})
    data = read_own(root)
    assert data.train.mask(0).tolist() == [[0, 1, 2, -1]] and data.train.mask(1) is None
    assert data.val.mask(0).tolist() == [[1, 1]]


def test_a_mask_of_an_unknown_class(tmp_path):
    from common.cli import UserError

    root = devkit(tmp_path, THINGS, LISTS)
    masks(root, {"a": [0, 3]})
    with pytest.raises(UserError, match="a.png: the mask holds 3"):
        read_own(root).train.mask(0)


def test_masks_alone_tell_the_classes(tmp_path):
    root = devkit(tmp_path, THINGS, LISTS)
    (root / "Annotations").rename(root / "old")
    masks(root, {"a": [0, 1], "b": [2, 1], "c": [1, 255], "d": [2, 2], "e": [0, 0]})
    refused(root, "no object tells a class", "--classes FILE")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,0,0::\nowl:0,128,0::\n"
    )
    data = read_own(root)
    assert data.classes == ["road", "owl"] and data.train.boxes is None
    assert data.train.matrix.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert data.val.matrix.tolist() == [[1, 0], [0, 1]] and data.train.difficult is None


def test_classes_from_a_file(tmp_path):
    root = devkit(tmp_path / "set", THINGS, LISTS)
    names = tmp_path / "names.txt"
    names.write_text("stra\u00dfe 1\nowl\n", encoding="utf-8")
    assert read_own(root, classes=names).train.matrix[0].tolist() == [1, 1]
    names.write_text("owls\nstra\u00dfe 1\n", encoding="utf-8")
    refused(root, "the class 'owl' is not in", "did you mean 'owls'", classes=names)


def test_the_voc_sample(tmp_path):
    data = read_own(samples.draw("VOC2012", tmp_path / "voc"))
    assert data.kind.sample == "VOC2012" and data.num_classes == 20
    assert (len(data.train), len(data.val)) == (160, 300)
    assert data.classes[0] == "aeroplane" and data.classes[-1] == "tvmonitor"
    ids = np.unique(data.val.mask(0))
    assert (data.val.matrix[0][ids[ids > 0] - 1] == 1).all()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda root: (root / "Annotations" / "a.xml").unlink(), ["a.xml", "no such file"]),
        (lambda root: (root / "JPEGImages" / "c.jpg").unlink(), ["val.txt: line 1", "c.jpg"]),
        (
            lambda root: (root / "Annotations" / "a.xml").write_text("<annotation>"),
            ["a.xml: line 1", "not xml"],
        ),
        (
            lambda root: (root / "Annotations" / "a.xml").write_text(
                f"<annotation>{thing(' ')}</annotation>"
            ),
            ["a.xml", "an object without a name"],
        ),
        (
            lambda root: (root / "Annotations" / "a.xml").write_text(
                f"<annotation>{thing('owl', box='<bndbox><xmin>x</xmin></bndbox>')}</annotation>"
            ),
            ["a.xml: xmin", "a finite number"],
        ),
        (
            lambda root: (root / "ImageSets" / "Main" / "val.txt").write_text("c\na\n"),
            ["val.txt: line 2", "listed twice", "train.txt: line 1"],
        ),
        (lambda root: picture(root / "JPEGImages" / "a.png"), ["has the same name"]),
    ],
)
def test_refusals(tmp_path, change, parts):
    root = devkit(tmp_path, THINGS, LISTS)
    change(root)
    refused(root, *parts)
