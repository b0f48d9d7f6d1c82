"""COCO's json as arrays: the same records as json's, in little memory, once a machine."""

import json
import os
import random

import numpy as np
import pytest

from common import coco_json, json_stream
from common.coco_json import read_coco_arrays
from common.json_stream import NotStreamed, read_lists
from common.own_coco import read_coco
from csl.data_coco import Annotations, CocoDetection
from tests.peak import rise_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / ".kept"


def written(path, content, **how):
    path.write_text(json.dumps(content, **how), encoding="utf-8")
    return path


def coco(images=7, annotations=30):
    """Boxes, flat and null ones, crowds, polygons, run lengths, names of all alphabets."""
    draw = random.Random(0)
    found = []
    for number in range(annotations):
        item = {
            "id": number,
            "image_id": 10 + number % images,
            "category_id": 1 + number % 3,
            "iscrowd": int(number % 7 == 0),
            "bbox": [number, 1.5, draw.choice([0, 3.25, 8]), 4],
            "segmentation": [[draw.uniform(0, 20) for _ in range(8)]],
        }
        if number % 5 == 1:
            item["segmentation"] = {"size": [20, 20], "counts": [20, 60, 320]}
        if number % 11 == 3:
            item["bbox"] = None
        if number % 11 == 4:
            del item["bbox"]
        found.append(item)
    return {
        "info": {"description": 'brackets ] } " and {'},
        "images": [
            {"id": 10 + number, "file_name": f"ä{number}.png", "height": 20, "width": 20}
            for number in range(images)
        ],
        "annotations": found,
        "categories": [{"id": n, "name": name} for n, name in enumerate("abc", 1)],
    }


# ---- read element by element ---------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("how", [{}, {"indent": 1}, {"ensure_ascii": False}])
def test_elements_are_those_of_json(block, how, tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "BLOCK", block)
    content = {**coco(), "numbers": [1, -2.5e3, 123456789012, True, None, "x\\"], "n": 42}
    path = written(tmp_path / "a.json", content, **how)
    found = {"annotations": [], "numbers": []}
    rest = read_lists(path, {name: values.append for name, values in found.items()})
    assert {**rest, **found} == content


REFUSED = {
    "no object": "[1]",
    "cut short": '{"a": [1, 2',
    "a comma too much": '{"a": [1, 2,]}',
    "no comma": '{"a": [1 2]}',
    "more behind it": '{"a": [1]} {}',
    "a key twice": '{"a": [1], "b": 1, "b": 2}',
    "the list twice": '{"a": [1], "a": [2]}',
    "a key twice inside": '{"a": [{"x": 1, "x": 2}]}',
    "no list": '{"a": {"x": 1}}',
    "no such list": '{"b": [1]}',
    "no colon": '{"a" [1]}',
    "no key": "{1: [1]}",
    "a NUL": '{"a": [1]}\0',
    "deep": '{"a": ' + "[" * 100_000,
    "empty": "",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_json_refuses_is_not_streamed(kind, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(REFUSED[kind])
    with pytest.raises(NotStreamed):
        read_lists(path, {"a": [].append})


def test_another_encoding_is_not_streamed(tmp_path):
    path = tmp_path / "a.json"
    for data in ('{"a": ["ä"]}'.encode("latin-1"), '{"a": ["ä"]}'.encode("utf-16"), b"{\xc3"):
        path.write_bytes(data)
        with pytest.raises(NotStreamed):
            read_lists(path, {"a": [].append})


# ---- as arrays, and as both readers take them ----------------------------------------------------


@pytest.fixture
def kept_always(monkeypatch):
    monkeypatch.setattr(coco_json, "LARGE", 0)


def folder_of(tmp_path, content):
    from PIL import Image

    for record in content["images"]:
        Image.new("RGB", (20, 20)).save(tmp_path / record["file_name"])
    return written(tmp_path / "coco.json", content)


def rows_as_they_are(path):
    rows = read_coco(path).rows
    masks = [rows.mask(row) for row in range(len(rows))]
    return rows, masks


def test_own_data_are_the_same_as_from_the_whole(tmp_path, monkeypatch, kept_always):
    path = folder_of(tmp_path, coco())
    os.utime(path, (1e9, 1e9))
    found = [rows_as_they_are(path) for _ in range(2)]  # made, and from the cache
    monkeypatch.setattr("common.own_coco.read_coco_arrays", lambda path, shapes: None)
    wanted, masks = rows_as_they_are(path)
    for rows, own_masks in found:
        assert rows.ids == wanted.ids
        assert np.array_equal(rows.matrix, wanted.matrix)
        assert all(map(np.array_equal, rows.boxes, wanted.boxes))
        assert all(map(np.array_equal, rows.box_labels, wanted.box_labels))
        assert all(map(np.array_equal, own_masks, masks))


def test_csl_is_the_same_as_from_the_whole(tmp_path, monkeypatch, kept_always):
    path = written(tmp_path / "coco.json", coco())
    os.utime(path, (1e9, 1e9))
    found = [CocoDetection(tmp_path, path, keep_empty=True) for _ in range(2)]
    monkeypatch.setattr("csl.data_coco.read_coco_arrays", lambda path, shapes: None)
    wanted = CocoDetection(tmp_path, path, keep_empty=True)
    for data in found:
        assert data.ids == wanted.ids
        assert data.coco.imgs == wanted.coco.imgs
        assert data.coco.cats == wanted.coco.cats
        assert np.array_equal(data.targets_all.matrix, wanted.targets_all.matrix)


def test_a_file_is_read_once(tmp_path, monkeypatch, kept_always, cache):
    path = written(tmp_path / "coco.json", coco())
    os.utime(path, (1e9, 1e9))
    reads = []
    columns = coco_json._columns
    monkeypatch.setattr(coco_json, "_columns", lambda *a: reads.append(a) or columns(*a))
    Annotations(path)
    Annotations(path)
    assert len(reads) == 1
    assert len(list(cache.glob("coco-*.npz"))) == 1

    content = coco(annotations=12)
    written(path, content)  # another size
    os.utime(path, (1e9, 1e9))
    assert len(Annotations(path).image_ids) == 12
    content["annotations"][0]["image_id"] = 16
    written(path, content)  # another time
    assert Annotations(path).image_ids[0] == 16


def test_a_file_of_this_moment_is_read_again(tmp_path, kept_always):
    path = written(tmp_path / "coco.json", coco())
    assert Annotations(path).image_ids[0] == 10
    stat = path.stat()
    content = coco()
    content["annotations"][0]["image_id"] = 16
    written(path, content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Annotations(path).image_ids[0] == 16


ODD = {
    "an id as text": ("image_id", "11"),
    "an id with a fraction": ("image_id", 11.0),
    "a box as text": ("bbox", ["1", 2, 3, 4]),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_records_are_read_as_before(kind, tmp_path):
    content = coco()
    key, value = ODD[kind]
    content["annotations"][0][key] = value
    path = written(tmp_path / "coco.json", content)
    assert read_coco_arrays(path, shapes=True) is None
    assert len(Annotations(path).image_ids) == 30


BEFORE = """
import json, os, random, sys
from pathlib import Path
import csl.data_coco, common.own_coco
from PIL import Image
root = Path({root!r})
path = root / "instances.json"
with path.open("w") as file:
    file.write('{{"images": [')
    for n in range(4000):
        record = {{"id": n, "file_name": f"{{n:012d}}.jpg", "height": 480, "width": 640,
            "license": 3, "coco_url": f"http://images.cocodataset.org/train2017/{{n:012d}}.jpg",
            "date_captured": "2013-11-14 17:02:52", "flickr_url": "http://x.example/" + "x" * 40}}
        file.write(json.dumps(record) + ("," if n < 3999 else ""))
    file.write('], "annotations": [')
    draw = random.Random(0)
    for n in range(29000):
        outline = [round(draw.uniform(0, 640), 2) for _ in range(56)]
        record = {{"id": n, "image_id": n % 4000, "category_id": 1 + n % 80, "iscrowd": 0,
            "area": 54652.9556, "bbox": [1.25, 2.5, 300.75, 200.0], "segmentation": [outline]}}
        file.write(json.dumps(record) + ("," if n < 28999 else ""))
    names = [{{"id": 1 + n, "name": f"name {{n}}"}} for n in range(80)]
    file.write('], "categories": ' + json.dumps(names) + "}}")
(root / f"{{0:012d}}.jpg").write_text("x")
os.utime(path, (1e9, 1e9))
"""
READERS = {
    "csl": "csl.data_coco.CocoDetection(root, path)",
    "own": "common.own_coco.read_coco(path)",
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_the_peak_is_below_twice_the_file(reader, tmp_path):
    code = f"found = {READERS[reader]}\nresult = path.stat().st_size"
    for _ in range(2):  # read, and from the cache
        rise, size = rise_of(code, BEFORE.format(root=str(tmp_path)))
        assert size > 12_000_000
        assert rise < 2 * size + 12_000_000
