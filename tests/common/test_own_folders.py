"""Class folders: split or not, and everything that lies in real ones."""

import pytest

from common.own import read_own, recognise
from tests.common.own_pictures import folders, picture, refused


@pytest.mark.parametrize(
    ("train", "val"),
    [
        *(("train", "val"), ("Train", "Valid"), ("training", "validation"), ("train", "test")),
        ("TRAIN", "testing"),
    ],
)
def test_parts(tmp_path, train, val):
    counts = {f"{train}/b": 3, f"{train}/a": 2, f"{val}/a": 1, f"{val}/b": 1}
    data = read_own(folders(tmp_path, counts))
    assert data.classes == ["a", "b"] and data.is_single
    assert data.train.ids == [f"{train}/a/{n}.jpg" for n in (0, 1)] + [
        f"{train}/b/{n}.jpg" for n in (0, 1, 2)
    ]
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.train.matrix.tolist() == [[1, 0]] * 2 + [[0, 1]] * 3
    assert len(data.val) == 2 and data.how_split == "as the data say"
    assert all(path.is_file() for path in data.train.paths + data.val.paths)
    assert data.train.candidates is None and data.train.boxes is None and data.train.masks is None


def test_val_before_test(tmp_path):
    counts = {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "test/a": 3}
    data = read_own(folders(tmp_path, counts))
    assert len(data.val) == 2
    assert "test/ is left alone (3 pictures)" in data.notes


def test_train_alone(tmp_path):
    data = read_own(folders(tmp_path, {"train/a": 5, "train/b": 5}))
    assert data.classes == ["a", "b"] and len(data.val) == 2
    assert data.how_split == "val drawn with seed 0"


def test_a_class_folder_named_train(tmp_path):
    data = read_own(folders(tmp_path, {"bus": 3, "boat": 3, "train": 3}))
    assert data.classes == ["boat", "bus", "train"]
    assert len(data.train) + len(data.val) == 9


def test_a_class_train_with_folders_in_it(tmp_path):
    data = read_own(folders(tmp_path, {"bus": 3, "boat": 3, "train/steam": 2, "train/diesel": 2}))
    assert data.classes == ["boat", "bus", "train"]


def test_parts_without_class_folders(tmp_path):
    refused(folders(tmp_path, {"train": 3, "val": 2}), "train/, val/", "no class folders")


def test_nested_folders_count_for_the_top_one(tmp_path):
    data = read_own(folders(tmp_path, {"cat/siamese/old": 3, "cat": 2, "dog": 5}))
    assert data.classes == ["cat", "dog"]
    assert sorted(data.train.ids + data.val.ids)[2] == "cat/siamese/old/0.jpg"
    assert len(data.train) + len(data.val) == 10


def test_what_is_no_picture(tmp_path):
    root = folders(tmp_path, {"a": 2, "b": 2, "empty": 0, ".ipynb_checkpoints": 2, "__MACOSX/a": 1})
    (root / "a" / "notes.txt").write_text("x")
    (root / "a" / "Thumbs.db").write_text("x")
    (root / "b" / ".DS_Store").write_text("x")
    (root / "b" / "._0.jpg").write_text("x")
    picture(root / "stray.jpg")
    data = read_own(root)
    assert data.classes == ["a", "b"] and len(data.train) + len(data.val) == 4
    assert "2 files beside the pictures of the classes, left alone" in data.notes
    assert "1 folder without pictures, no classes: empty" in data.notes


def test_suffixes_in_any_case(tmp_path):
    for name in ("1.JPEG", "2.Jpg", "3.PNG", "4.jpeg", "5.png"):
        picture(tmp_path / "a" / name)
        picture(tmp_path / "b" / name)
    data = read_own(tmp_path)
    assert len(data.train) + len(data.val) == 10


def test_awkward_names(tmp_path):
    names = ["gr\u00fcn & blau", "it's", 'a "b"', "caf\u00e9", "\u732b", "a;b", "x,y", "-1", "%d"]
    data = read_own(folders(tmp_path, dict.fromkeys(names, 2)))
    assert data.classes == sorted(names)
    assert len(data.train) == len(data.val) == len(names)


def test_a_name_in_two_spellings_is_one_class(tmp_path):
    counts = {"train/caf\u00e9": 2, "train/b": 2, "val/cafe\u0301": 1, "val/b": 1}
    data = read_own(folders(tmp_path, counts))
    assert data.classes == ["b", "caf\u00e9"] and data.val.labels.tolist() == [0, 1]


def test_numeric_names_are_in_order_of_numbers(tmp_path):
    data = read_own(folders(tmp_path, {str(number): 2 for number in (0, 1, 2, 10)}))
    assert data.classes == ["0", "1", "2", "10"]


def test_names_from_a_file(tmp_path):
    root = folders(tmp_path / "set", {"a": 2, "b": 2})
    names = tmp_path / "names.txt"
    names.write_text("b\na\nnever\n")
    data = read_own(root, classes=names)
    assert data.classes == ["b", "a", "never"] and data.train.matrix.shape == (2, 3)
    assert "1 of 3 classes have no picture: never" in data.notes
    names.write_text("aa\nb\n")
    refused(root, "the folder 'a' is no class of", "did you mean 'aa'?", classes=names)


def test_links_are_followed(tmp_path):
    real = folders(tmp_path / "real", {"a": 3, "b": 3})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x").symlink_to(real / "a")
    (tmp_path / "set" / "y").symlink_to(real / "b")
    data = read_own(tmp_path / "set")
    assert data.classes == ["x", "y"] and len(data.val) == 2


def test_a_csv_that_lists_no_pictures_does_not_count(tmp_path):
    root = folders(tmp_path, {"a": 2, "b": 2})
    (root / "notes.csv").write_text("name,age\nx,3\n")
    assert recognise(root).layout == "folders"
    assert len(read_own(root).classes) == 2


def test_pictures_beside_their_csv_are_no_class(tmp_path):
    root = folders(tmp_path, {"images": 4})
    rows = [f"images/{number}.jpg,{'ab'[number % 2]}" for number in range(4)]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows]))
    data = read_own(root)
    assert data.kind.layout == "csv" and data.classes == ["a", "b"]
