"""Own data: what a place is recognised as, how val is drawn, what is refused, what is told."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import samples
from common.cli import OneLineParser, UserError
from common.images import CorruptImage
from common.own import (
    add_own_flags,
    class_names_of,
    data_lines,
    read_own,
    recognise,
    require_one_label,
    require_own_flags,
    require_pictures,
    with_class_names,
)
from common.own_names import in_order, read_names
from common.own_split import draw_val, shuffled
from tests.common.own_pictures import folders, picture, pictures, refused, table, write_json
from tests.common.test_light import HEAVIER, heavy_modules_of

COCO = {"images": [], "annotations": [], "categories": []}


# --- what a place is ---


def test_the_order_of_recognition(tmp_path):
    """A place that could be several things is the first of them."""
    folders(tmp_path, {"cat": 2, "dog": 2})
    assert recognise(tmp_path).layout == "folders"
    table(tmp_path, "path,label", ["cat/0.jpg,a", "dog/0.jpg,b"])
    assert recognise(tmp_path) == ("csv", tmp_path / "labels.csv", "")
    write_json(tmp_path / "annotations" / "all.json", COCO)
    assert recognise(tmp_path).layout == "coco"
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir(exist_ok=True)
    assert recognise(tmp_path).layout == "voc"
    write_json(tmp_path / "SAMPLE.json", {"name": "VOC2012"})
    kind = recognise(tmp_path)
    assert kind == ("voc", tmp_path, "VOC2012")
    assert "offline sample VOC2012" in kind.describe()


@pytest.mark.parametrize(
    ("name", "layout"),
    [("a.CSV", "csv"), ("a.tsv", "csv"), ("a.mat", "mat"), ("a.npz", "npz"), ("a.json", "json")],
)
def test_files_are_known_by_their_suffix(tmp_path, name, layout):
    (tmp_path / name).write_text("[]")
    assert recognise(tmp_path / name).layout == layout


def test_a_json_is_cocos_by_its_keys(tmp_path):
    assert recognise(write_json(tmp_path / "a.json", COCO)).layout == "coco"
    assert recognise(write_json(tmp_path / "b.json", {"a.jpg": ["images"]})).layout == "json"
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.json").read_bytes())
    assert recognise(tmp_path / "c.json").layout == "coco"


def test_a_sample_with_a_layout_of_its_own(tmp_path):
    folder = samples.draw("MNIST_clean", tmp_path / "mnist")
    assert recognise(folder) == ("", folder, "MNIST_clean")
    refused(folder, "MNIST_clean", "layout of its own", "--sample")


def test_a_sample_whose_layout_is_known_is_read(tmp_path):
    folder = samples.draw("PLL", tmp_path / "pll")
    data = read_own(folder)
    assert data.kind.sample == "PLL" and data.kind.layout == "mat"
    assert len(data.train) + len(data.val) == 600 and data.num_classes == 11


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda root: root / "missing", ["does not exist"]),
        (lambda root: root, ["no pictures and no file of labels"]),
        (
            lambda root: picture(root / "a.jpg").parent,
            ["1 picture and no labels", "folders"],
        ),
        (lambda root: picture(root / "a.jpg"), ["not a file of labels", ".csv"]),
        (lambda root: "  ", ["the path is empty"]),
    ],
)
def test_places_without_data(tmp_path, make, parts):
    with pytest.raises(UserError) as caught:
        recognise(make(tmp_path))
    assert all(part in str(caught.value) for part in parts)


def test_a_folder_of_several_files_or_sets(tmp_path):
    table(tmp_path / "a", "path,label", ["0.jpg,a"], "one.csv")
    table(tmp_path / "a", "path,label", ["0.jpg,a"], "two.csv")
    refused(tmp_path / "a", "several files of labels", "one.csv, two.csv")
    folders(tmp_path / "b" / "set", {"train/x": 1, "val/x": 1})
    refused(tmp_path / "b", "data sets of its own", "set")


def test_recognition_and_flags_are_light(tmp_path):
    folders(tmp_path / "set", {"train/x": 1, "val/x": 1})
    code = "from common.own import recognise\nassert recognise('set').layout == 'folders'"
    assert heavy_modules_of(code, tmp_path) == []


def test_reading_needs_no_torch(tmp_path):
    folders(tmp_path / "set", {"x": 5, "y": 5})
    code = "from common.own import data_lines, read_own\ndata_lines(read_own('set'))"
    assert set(heavy_modules_of(code, tmp_path)) <= {"numpy", "PIL", "tqdm"}
    assert "torch" in HEAVIER and "pandas" in HEAVIER


# --- flags ---


def test_flags():
    parser = OneLineParser()
    add_own_flags(parser)
    args = parser.parse_args(["--data", "x", "--images", "y", "--classes", "z"])
    assert (args.data, args.images, args.classes) == ("x", "y", "z")
    assert parser.parse_args([]).data is None
    parser = OneLineParser()
    parser.add_argument("--data", default="./data")
    add_own_flags(parser, leave_out=["data"])
    assert parser.parse_args([]).data == "./data"


def test_data_and_the_originals_flag(tmp_path):
    rivals = {"data_dir": "--data_dir", "sample": "--sample"}
    require_own_flags({"data": "a", "data_dir": "./a"}, rivals)
    require_own_flags({"data_dir": "b"}, rivals)
    with pytest.raises(UserError, match="--data a and --data_dir b name different data"):
        require_own_flags({"data": "a", "data_dir": "b"}, rivals)
    with pytest.raises(UserError, match="--data a and --sample name different data"):
        require_own_flags({"data": "a", "sample": True}, rivals)
    with pytest.raises(UserError, match="--images belongs to --data"):
        require_own_flags({"images": "b"}, rivals)


def test_images_only_where_files_name_pictures(tmp_path):
    folders(tmp_path, {"x": 2, "y": 2})
    refused(tmp_path, "--images belongs to a csv or json", images=tmp_path)
    refused(tmp_path, "no such folder", images=tmp_path / "missing")


# --- how val is drawn ---


def test_val_is_a_fifth_of_every_class(tmp_path):
    data = read_own(folders(tmp_path, {"a": 10, "b": 20, "c": 5}))
    assert np.bincount(data.val.labels).tolist() == [2, 4, 1]
    assert np.bincount(data.train.labels).tolist() == [8, 16, 4]
    assert not set(data.train.ids) & set(data.val.ids)
    assert data.how_split == "val drawn with seed 0"


def test_val_depends_on_seed_and_names_alone(tmp_path):
    root = folders(tmp_path / "one", {"a": 10, "b": 10})
    other = folders(tmp_path / "two", {"a": 10, "b": 10})
    first = read_own(root)
    assert read_own(other).val.ids == first.val.ids
    assert read_own(root, seed=1).val.ids != first.val.ids
    # The same on every machine: these names came out of the hash when this was written.
    assert first.val.ids == ["a/3.jpg", "a/4.jpg", "b/0.jpg", "b/6.jpg"]


def test_the_order_is_that_of_a_hash_in_one_spelling():
    ids = ["b", "a", "caf\u00e9"]
    expected = sorted(range(3), key=lambda k: hashlib.sha256(f"7\0{ids[k]}".encode()).digest())
    assert shuffled(ids, 7).tolist() == expected
    assert shuffled(["b", "a", "cafe\u0301"], 7).tolist() == expected


def test_another_order_of_files_draws_the_same():
    ids = [f"{number}" for number in range(50)]
    labels = np.arange(50) % 3
    matrix = np.eye(3, dtype=np.int8)[labels]
    settings = {"seed": 3, "share": 0.2, "is_single": True}
    is_val = draw_val(ids, labels, matrix, **settings)
    back = draw_val(ids[::-1], labels[::-1], matrix[::-1], **settings)
    assert (back[::-1] == is_val).all()


def test_several_labels_are_balanced_rarest_first():
    rng = np.random.default_rng(0)
    chance = np.array([0.5, 0.2, 0.05, 0.02])
    matrix = (rng.random((400, 4)) < chance).astype(np.int8)
    ids = [f"{number}" for number in range(400)]
    labels = np.full(400, -1)
    is_val = draw_val(ids, labels, matrix, seed=0, share=0.2, is_single=False)
    counts = matrix.sum(axis=0)
    in_val = matrix[is_val].sum(axis=0)
    assert np.abs(in_val - 0.2 * counts).max() <= 8 and (in_val >= 1).all()
    assert (matrix[~is_val].sum(axis=0) >= 1).all()
    assert 0.17 < is_val.mean() < 0.23


def test_training_knows_every_class_of_several_labels():
    """Rare companions must not take all pictures of a class to val."""
    matrix = np.zeros((8, 5), np.int8)
    for column in range(4):
        matrix[[2 * column, 2 * column + 1], column] = 1
    for seed in range(20):
        rng = np.random.default_rng(seed)
        matrix[:, 4] = 0
        matrix[rng.choice(8, 2, replace=False), 4] = 1
        is_val = draw_val(
            list("abcdefgh"), np.full(8, -1), matrix, seed=seed, share=0.2, is_single=False
        )
        assert (matrix[~is_val].sum(axis=0) > 0).all() and is_val.any()


def test_a_class_with_one_picture_trains_and_is_told(tmp_path):
    data = read_own(folders(tmp_path, {"a": 5, "b": 1}))
    assert 1 in data.train.labels and 1 not in data.val.labels
    assert any("1 of 2 classes have one picture" in line and "b" in line for line in data.notes)


def test_nothing_left_for_val(tmp_path):
    refused(folders(tmp_path, {"a": 1, "b": 1}), "no class has two pictures")


# --- checks ---


def test_a_class_of_val_that_train_lacks(tmp_path):
    root = folders(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/zebra": 1})
    refused(root, "in val but not in train: zebra", "add training pictures")


def test_one_class_only(tmp_path):
    refused(folders(tmp_path, {"a": 5}), "only one class, a")


def test_the_same_picture_in_both_parts_is_a_warning(tmp_path):
    root = folders(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1})
    (root / "val" / "a" / "copy.jpg").write_bytes((root / "train" / "b" / "1.jpg").read_bytes())
    data = read_own(root)
    warnings = [line for line in data.notes if line.startswith("warning")]
    assert len(warnings) == 1
    assert "1 of 3 val pictures are in train as well" in warnings[0] and "copy.jpg" in warnings[0]


def test_many_pictures_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("common.own_checks.LEAKS_UP_TO", 3)
    data = read_own(folders(tmp_path, {"a": 4, "b": 4}))
    assert any("not looked for files that are in train and in val" in line for line in data.notes)


def test_unreadable_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    root = folders(tmp_path / "set", {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    (root / "train" / "a" / "1.jpg").write_bytes(b"broken")
    (root / "val" / "b" / "0.jpg").write_bytes(b"")
    with pytest.raises(CorruptImage, match="1.jpg"):
        read_own(root)
    data = read_own(root, skip_corrupt=True)
    assert data.skipped == {"train": 1, "val": 1}
    assert len(data.train) == len(data.train.labels) == len(data.train.matrix) == 5
    assert "train/a/1.jpg" not in data.train.ids and len(data.val.paths) == 3
    assert sum("cannot be read and are left out" in line for line in data.notes) == 2


def test_too_many_labels_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("common.own_data.LARGEST", 10)
    path = table(tmp_path, "path,labels", [f"{number}.jpg,a;b;c" for number in range(4)])
    refused(path, "4 pictures x 3 classes are too many")


@pytest.mark.parametrize("name", [b"x\xff", b" "])
def test_class_folders_without_a_proper_name(tmp_path, name):
    folders(tmp_path, {"a": 2, os.fsdecode(name): 2})
    refused(tmp_path, "class")


def test_file_names_that_are_no_text_are_told_in_one_line(tmp_path):
    root = folders(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    content = (root / "train" / "a" / "0.jpg").read_bytes()
    for name in ("\udcff.jpg", "line\nend.jpg"):
        (root / "val" / "b" / name).write_bytes(content)
    data = read_own(root)
    warning = next(line for line in data.notes if line.startswith("warning"))
    assert warning.encode("utf-8") and "\n" not in warning
    assert "line\\nend.jpg = train/a/0.jpg" in warning


# --- class names ---


def test_names_are_sorted_as_numbers_where_all_are():
    assert in_order(["10", "9", "1"]) == ["1", "9", "10"]
    assert in_order(["10", "9", "b"]) == ["10", "9", "b"]


def test_the_file_of_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffb \r\n\r\na\r\ncafe\u0301\r\n".encode())
    assert read_names(path) == ["b", "a", "caf\u00e9"]
    path.write_text("a\nb\na\n")
    with pytest.raises(UserError, match="the class 'a' stands there twice .lines 1 and 3"):
        read_names(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no class names"):
        read_names(path)


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        (with_class_names({"model": 1}, ["a", "b"]), ["a", "b"]),
        ({"classes": ("a", "b")}, ["a", "b"]),
        ({"says": {"classes": {"names": ["a"]}}}, ["a"]),
        ({"state": {"class_names": ["a"]}}, ["a"]),
        ({"classes": 20}, None),
        ({"classes": [1, 2]}, None),
        ({"config": None}, None),
        ({}, None),
    ],
)
def test_class_names_of_a_checkpoint(checkpoint, names):
    assert class_names_of(checkpoint) == names


def test_class_names_pass_through_a_checkpoint(tmp_path):
    from common import checkpoint

    checkpoint.save(tmp_path / "a.pt", with_class_names({"step": 1}, ["ä", "b c"]))
    assert class_names_of(checkpoint.load(tmp_path / "a.pt")) == ["ä", "b c"]


# --- what is told ---


def test_lines(tmp_path):
    root = folders(tmp_path, {"train/a": 24, "train/b": 2, "val/a": 2, "val/b": 1})
    lines = data_lines(read_own(root))
    assert lines[0] == (
        f"own data: class folders, {root}: 29 pictures (26 train, 3 val: as the data say), "
        "2 classes, one label each"
    )
    assert lines[1] == (
        "warning: classes are unequal; train: the rarest class 'b' has 2 pictures, "
        "the commonest 'a' 24 (12.0 times as many)"
    )
    assert len(lines) == 2


def test_lines_of_equal_classes_and_of_unknown_labels(tmp_path):
    rows = ["0.jpg,train,a,b", "1.jpg,train,b,", "2.jpg,val,a,b"]
    lines = data_lines(read_own(table(tmp_path, "path,split,positives,negatives", rows)))
    assert "positives, negatives and unknown" in lines[0]
    assert "train: every class has 1 picture" in lines
    assert "train: of 4 labels 50.0% positive, 25.0% negative, 25.0% unknown" in lines


def test_properties(tmp_path):
    data = read_own(folders(tmp_path, {"a": 5, "b": 5}))
    assert data.has_labels and data.is_complete and data.is_single and data.num_classes == 2
    assert data.train.upright and data.train.mask(0) is None
    assert data.train.labels.dtype == np.int64 and data.train.matrix.dtype == np.int8
    require_one_label(data)
    require_pictures(data)


def test_rows_of_a_part(tmp_path):
    rows = [f"{number}.jpg,{'ab'[number % 2]},0 0 {number + 1} 2" for number in range(10)]
    part = read_own(table(tmp_path, "path,label,boxes", rows)).train
    chosen = part.take([3, 0], "some")
    assert chosen.name == "some" and chosen.ids == [part.ids[3], part.ids[0]]
    assert chosen.labels.tolist() == part.labels[[3, 0]].tolist()
    assert chosen.boxes[0].tolist() == part.boxes[3].tolist() and chosen.masks is None
    assert part.take(part.labels == 1).ids == part.take(np.flatnonzero(part.labels == 1)).ids
    assert len(part.take([])) == 0 and part.take([]).paths == []


def test_what_a_program_needs(tmp_path):
    rows = [f"{number}.jpg,a;b" for number in range(4)]
    data = read_own(table(tmp_path, "path,labels", [*rows, "5.jpg,a"]))
    with pytest.raises(UserError, match="2 known labels; mile needs exactly one a picture"):
        require_one_label(data, "mile")
    np.savez(tmp_path / "a.npz", x=np.eye(6), y=[0, 1, 0, 1, 0, 1])
    with pytest.raises(UserError, match="features; oass needs pictures"):
        require_pictures(read_own(tmp_path / "a.npz"), "oass")


def test_a_picture_with_one_of_several_labels_has_that_label(tmp_path):
    rows = ["0.jpg,a", "1.jpg,b", "2.jpg,a;b", "3.jpg,", "4.jpg,a", "5.jpg,b"]
    data = read_own(table(tmp_path, "path,labels", rows))
    found = dict(zip(data.train.ids, data.train.labels.tolist(), strict=True))
    found.update(zip(data.val.ids, data.val.labels.tolist(), strict=True))
    assert [found[f"{number}.jpg"] for number in range(6)] == [0, 1, -1, -1, 0, 1]
    assert not data.is_single


def test_in_a_program_a_mistake_is_one_line(tmp_path):
    pictures(tmp_path, ["a.jpg"])
    code = (
        "from common.cli import run_main\nfrom common.own import read_own\n"
        f"run_main(lambda: read_own({str(tmp_path)!r}))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: --data")
