"""COCO's and LVIS's json: layouts, what is positive and what is unknown, boxes, shapes."""

import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]

from common import samples
from common.own import read_own, recognise
from common.own_masks import decode_runs
from tests.common.own_pictures import pictures, refused, write_json


def content(numbers=range(4), **more: Any) -> dict[str, Any]:
    """Pictures 0.jpg ... with a cat (id 7) each, every second one with a dog (id 3) as well."""
    images = []
    annotations = []
    for number in numbers:
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 8, "height": 6})
        for category in (7, 3)[: 1 + number % 2]:
            box = {"bbox": [1, 2, 3, 4], "iscrowd": 0, "id": len(annotations) + 1}
            annotations.append({"image_id": number, "category_id": category, **box})
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories, **more}


NAMES = [f"{number}.jpg" for number in range(4)]


def all_rows(data):
    order = np.argsort(data.train.ids + data.val.ids)
    return np.concatenate([data.train.matrix, data.val.matrix])[order]


# --- layouts ---


def test_a_file_alone(tmp_path):
    pictures(tmp_path, NAMES)
    data = read_own(write_json(tmp_path / "coco.json", content()))
    assert data.classes == ["dog", "cat"]  # by category id
    assert all_rows(data).tolist() == [[0, 1], [1, 1], [0, 1], [1, 1]]
    assert not data.is_single and data.is_complete and data.how_split == "val drawn with seed 0"
    row = data.train.ids.index(next(name for name in data.train.ids if name in ("1.jpg", "3.jpg")))
    assert data.train.boxes[row].tolist() == [[1, 2, 4, 6]] * 2
    assert data.train.box_labels[row].tolist() == [1, 0] and data.train.masks is None
    assert not data.train.upright


@pytest.mark.parametrize(
    ("jsons", "folders"),
    [
        (("instances_train2017", "instances_val2017"), ("train2017", "val2017")),
        (("instances_train2014", "instances_val2014"), ("images/train2014", "images/val2014")),
        (("train", "val"), ("train", "val")),
        (("lvis_v1_train", "lvis_v1_val"), ("train", "valid")),
        (("instances_train", "instances_test"), ("images", "images")),
        (("train", "validation"), (".", ".")),
    ],
)
def test_a_folder_with_annotations(tmp_path, jsons, folders):
    for name, folder, numbers in zip(jsons, folders, ((0, 1, 2), (3,)), strict=True):
        pictures(tmp_path / folder, [f"{number}.jpg" for number in numbers])
        write_json(tmp_path / "annotations" / f"{name}.json", content(numbers))
    write_json(tmp_path / "annotations" / "captions_train2017.json", {"images": [], "x": 1})
    data = read_own(tmp_path)
    assert recognise(tmp_path).layout == "coco"
    assert data.train.ids == ["train/0.jpg", "train/1.jpg", "train/2.jpg"]
    assert data.val.ids == ["val/3.jpg"] and data.how_split == "as the data say"
    assert len(data.train.boxes) == 3 and len(data.val.boxes) == 1


def test_roboflows_export(tmp_path):
    for folder, numbers in (("train", (0, 1, 2)), ("valid", (3,))):
        pictures(tmp_path / folder, [f"{number}.jpg" for number in numbers])
        write_json(tmp_path / folder / "_annotations.coco.json", content(numbers))
    data = read_own(tmp_path)
    assert len(data.train) == 3 and len(data.val) == 1 and data.kind.layout == "coco"


def test_the_same_names_in_train_and_val(tmp_path):
    for folder in ("train", "val"):
        pictures(tmp_path / folder, NAMES)
        write_json(tmp_path / "annotations" / f"{folder}.json", content())
    data = read_own(tmp_path)
    assert len(set(data.train.ids + data.val.ids)) == 8


def test_pictures_elsewhere(tmp_path):
    pictures(tmp_path / "elsewhere", NAMES)
    path = write_json(tmp_path / "set" / "coco.json", content())
    refused(path, "coco.json", "its pictures (0.jpg, ...) are not in", "--images")
    data = read_own(path, images=tmp_path / "elsewhere")
    assert data.train.paths[0].parent == tmp_path / "elsewhere"


@pytest.mark.slow
def test_the_coco_sample(tmp_path):
    data = read_own(samples.draw("COCO_2014", tmp_path / "coco"))
    assert data.kind.sample == "COCO_2014" and data.num_classes == 20
    assert (len(data.train), len(data.val)) == (1200, 450)
    mask = data.train.mask(0)
    assert mask.shape == (64, 64) and mask.dtype == np.int16
    x0, y0, x1, y1 = data.train.boxes[0][-1].astype(int).tolist()
    top = mask == data.train.box_labels[0][-1] + 1
    assert top[y0:y1, x0:x1].sum() == top.sum() > 0


# --- labels ---


def test_lvis_knows_few_absent_classes(tmp_path):
    pictures(tmp_path / "train2017", NAMES)
    found = content()
    found["categories"].append({"id": 9, "name": "owl"})
    for image in found["images"]:
        image["coco_url"] = "http://images.cocodataset.org/train2017/" + image.pop("file_name")
        image["neg_category_ids"] = [9] if image["id"] == 0 else []
        image["not_exhaustive_category_ids"] = [7]
    data = read_own(write_json(tmp_path / "lvis_v1_train.json", found))
    assert data.classes == ["dog", "cat", "owl"]
    assert all_rows(data).tolist() == [[-1, 1, 0], [1, 1, -1], [-1, 1, -1], [1, 1, -1]]
    assert not data.is_complete


def test_classes_from_a_file_leave_others_out(tmp_path):
    pictures(tmp_path, NAMES)
    path = write_json(tmp_path / "coco.json", content())
    (tmp_path / "names.txt").write_text("cat\n")
    data = read_own(path, classes=tmp_path / "names.txt")
    assert data.classes == ["cat"] and (data.train.matrix == 1).all()
    assert "1 categories are left out (--classes)" in data.notes
    (tmp_path / "names.txt").write_text("cats\n")
    refused(path, "'cats' is no category", "did you mean 'cat'", classes=tmp_path / "names.txt")


def test_crowds_and_flat_boxes(tmp_path):
    pictures(tmp_path, NAMES)
    found = content()
    found["annotations"][0]["iscrowd"] = 1
    found["annotations"][1]["bbox"] = [1, 1, 0, 5]
    data = read_own(write_json(tmp_path / "coco.json", found))
    assert all_rows(data).tolist() == [[0, 1], [1, 1], [0, 1], [1, 1]]
    boxes = sum(len(one) for part in (data.train, data.val) for one in part.boxes)
    assert boxes == 4 and "coco.json: 1 boxes without an area are left out" in data.notes


def test_no_boxes_at_all(tmp_path):
    pictures(tmp_path, NAMES)
    found = content()
    for item in found["annotations"]:
        del item["bbox"]
    data = read_own(write_json(tmp_path / "coco.json", found))
    assert data.train.boxes is None and data.train.upright


# --- shapes ---


def test_shapes(tmp_path):
    pictures(tmp_path, NAMES)
    found = content()
    found["annotations"][0]["segmentation"] = [[1, 1, 5, 1, 5, 4, 1, 4]]
    found["annotations"][3]["segmentation"] = {"counts": [6, 6, 36], "size": [6, 8]}
    data = read_own(write_json(tmp_path / "coco.json", found), val_share=0.2)
    masks = {}
    for part in (data.train, data.val):
        for row, name in enumerate(part.ids):
            masks[name] = part.mask(row)
    expected = np.zeros((6, 8), int)
    expected[1:5, 1:6] = 2
    assert masks["0.jpg"].tolist() == expected.tolist()
    assert masks["1.jpg"] is None  # its dog has no shape
    expected = np.zeros((6, 8), int)
    expected[:, 1] = 2
    assert masks["2.jpg"].tolist() == expected.tolist()


@pytest.mark.parametrize("shape", [{"counts": [1]}, {"size": [6, 8]}, [["x"] * 6], 5, ["abc"]])
def test_a_damaged_shape(tmp_path, shape):
    from common.cli import UserError

    pictures(tmp_path, NAMES)
    found = content()
    for item in found["annotations"]:
        item["segmentation"] = shape
    data = read_own(write_json(tmp_path / "coco.json", found))
    with pytest.raises(UserError, match="coco.json: images: entry .: not a segmentation"):
        data.train.mask(0)


@pytest.mark.parametrize("side", [0, -5, 10**30])
def test_a_size_that_no_picture_has(tmp_path, side):
    pictures(tmp_path, NAMES)
    found = content()
    found["annotations"][0]["segmentation"] = [[1, 1, 5, 1, 5, 4]]
    found["images"][0]["height"] = side
    refused(write_json(tmp_path / "coco.json", found), "images: entry 1: 8 x", "no size")


def test_packed_runs():
    """As pycocotools packs them."""
    rng = np.random.default_rng(0)
    for size in ((1, 1), (6, 8), (40, 33), (200, 300)):
        for chance in (0.0, 0.02, 0.5, 1.0):
            bits = (rng.random(size) < chance).astype(np.uint8)
            packed = coco_mask.encode(np.asfortranarray(bits))
            found = decode_runs(packed["counts"].decode(), *size)
            assert (found == bits).all()


def test_a_packed_text():
    assert decode_runs([2, 1, 3], 2, 3).tolist() == [[False, True, False], [False] * 3]
    # Seventeen outside, one inside, six outside: the first needs two characters.
    assert decode_runs("a016", 4, 6).sum() == 1
    with pytest.raises(ValueError, match="runs of"):
        decode_runs("a016", 4, 7)


# --- refusals ---


def changed(path: str, value: Any) -> dict[str, Any]:
    """The content with another value at a path such as "images/0/id"; None takes it away."""
    found: Any = content()
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    inner = found
    for step in steps:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return json.loads(json.dumps(found))


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("annotations", None, ["'annotations' is not a list"]),
        ("categories", [], ["there are none"]),
        ("images", [], ["images: there are none"]),
        ("images/1", [], ["'images' is not a list of objects"]),
        ("images/1/id", 0, ["images: the id 0 stands there twice", "entries 1 and 2"]),
        ("images/1/id", "x", ["images: entry 2: id", "a whole number"]),
        ("images/1/file_name", None, ["entry 2: file_name"]),
        ("images/1/file_name", "../1.jpg", ["entry 2: file_name", "may lead out"]),
        ("images/1/file_name", "0.jpg", ["listed twice"]),
        ("images/1/file_name", "9.jpg", ["9.jpg", "1 of 4 pictures are missing"]),
        ("categories/1/name", None, ["categories: entry 2 has no name"]),
        ("categories/1/name", "cat", ["the name 'cat' stands there twice"]),
        ("annotations/1/image_id", 99, ["annotations: entry 2", "no image 99"]),
        ("annotations/1/category_id", 99, ["annotations: entry 2", "no category 99"]),
        ("annotations/1/category_id", None, ["annotations: entry 2: category_id"]),
        ("annotations/1/bbox", [1, 2], ["annotations: entry 2", "not x, y, width, height"]),
        ("annotations/1/bbox", [1, 2, "x", 3], ["annotations: entry 2: bbox", "finite number"]),
        ("annotations/1/bbox", [1, 2, 1e99, 3], ["annotations: entry 2: bbox", "1e+99 pixels"]),
        ("annotations/1", 3, ["'annotations' is not a list of objects"]),
    ],
)
def test_refusals(tmp_path, path, value, parts):
    pictures(tmp_path, NAMES)
    refused(write_json(tmp_path / "coco.json", changed(path, value)), "coco.json", *parts)


def test_other_categories_in_val(tmp_path):
    pictures(tmp_path, NAMES)
    write_json(tmp_path / "annotations" / "train.json", content())
    other = changed("categories/0/name", "tiger")
    write_json(tmp_path / "annotations" / "val.json", other)
    refused(tmp_path, "val.json: other categories than train.json", "tiger")


def test_several_files_of_a_part(tmp_path):
    for year in (2014, 2017):
        write_json(tmp_path / "annotations" / f"instances_train{year}.json", content())
    refused(tmp_path, "several files of the train part", "give one file")


def test_no_file_of_the_training_part(tmp_path):
    for name in ("one", "two"):
        write_json(tmp_path / "annotations" / f"{name}.json", content())
    refused(tmp_path, "which file is the training part? one.json, two.json")
