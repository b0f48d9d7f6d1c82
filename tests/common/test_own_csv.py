"""A csv of pictures and labels, and json records: what columns mean, what rows are refused."""

import shutil

import numpy as np
import pytest
from PIL import Image

from common.own import read_own
from tests.common.own_pictures import folders, picture, pictures, refused, table, write_json

ONE = ["0.jpg,a", "1.jpg,b", "2.jpg,a", "3.jpg,b"]


def both(data, name):
    """The rows of an array of train and val, by id."""
    found = {}
    for part in (data.train, data.val):
        for row, key in enumerate(part.ids):
            found[key] = getattr(part, name)[row]
    return [found[key] for key in sorted(found)]


# --- columns ---


def test_one_label(tmp_path):
    data = read_own(table(tmp_path, "path,label", ONE))
    assert data.classes == ["a", "b"] and data.is_single and data.is_complete
    assert both(data, "labels") == [0, 1, 0, 1]
    assert np.array(both(data, "matrix")).tolist() == [[1, 0], [0, 1]] * 2
    assert data.train.candidates is None and len(data.val) == 2


def test_several_labels_the_rest_is_negative(tmp_path):
    rows = ["0.jpg,train,b;a", "1.jpg,train, c ; ;a", "2.jpg,val,", "3.jpg,val,a"]
    data = read_own(table(tmp_path, "path,split,labels", rows))
    assert data.classes == ["a", "b", "c"] and not data.is_single and data.is_complete
    assert data.train.matrix.tolist() == [[1, 1, 0], [1, 0, 1]]
    assert data.val.matrix.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert data.val.labels.tolist() == [-1, 0]
    assert "1 of 4 pictures show none of the classes" in data.notes


def test_positives_and_negatives_the_rest_is_unknown(tmp_path):
    rows = ["0.jpg,train,a,b", "1.jpg,train,c;b,", "2.jpg,val,b,a;c", "3.jpg,train,,"]
    data = read_own(table(tmp_path, "path,split,positives,negatives", rows))
    assert data.train.matrix.tolist() == [[1, 0, -1], [-1, 1, 1], [-1, -1, -1]]
    assert data.val.matrix.tolist() == [[0, 1, 0]] and data.is_complete
    assert data.val.labels.tolist() == [1] and not data.is_single
    assert "1 of 4 pictures have no known label" in data.notes


def test_positives_alone(tmp_path):
    data = read_own(table(tmp_path, "path,positives", ONE))
    assert set(np.unique(data.train.matrix)) == {-1, 1}


def test_candidates(tmp_path):
    rows = ["0.jpg,train,a;b,a", "1.jpg,train,b;c,", "2.jpg,val,,b", "3.jpg,val,a;c,b"]
    data = read_own(table(tmp_path, "path,split,candidates,label", rows))
    assert data.is_single and data.classes == ["a", "b", "c"]
    assert data.train.candidates.dtype == bool
    assert data.train.candidates.tolist() == [[True, True, False], [False, True, True]]
    assert data.train.labels.tolist() == [0, -1]
    assert data.train.matrix.tolist() == [[1, 0, 0], [0, -1, -1]]
    assert data.val.candidates.tolist() == [[False, True, False], [True, False, True]]
    assert data.has_labels and data.val.labels.tolist() == [1, 1]
    assert "1 of 4 pictures have a label that is none of their candidates" in data.notes


def test_candidates_without_labels(tmp_path):
    rows = [f"{number}.jpg,a;b" for number in range(5)]
    data = read_own(table(tmp_path, "path,candidates", rows))
    assert not data.has_labels and (data.train.labels == -1).all()
    assert len(data.val) == 1


def test_one_label_and_the_complete_set(tmp_path):
    rows = ["0.jpg,train,a,", "1.jpg,train,b,", "2.jpg,val,a,a;b", "3.jpg,val,b,a"]
    data = read_own(table(tmp_path, "path,split,label,labels", rows))
    assert data.is_single and data.train.labels.tolist() == [0, 1]
    assert data.train.matrix.tolist() == [[1, -1], [-1, 1]]
    assert data.val.matrix.tolist() == [[1, 1], [1, 0]] and data.val.labels.tolist() == [0, 1]
    assert "1 of 4 pictures have a label that is not in labels" in data.notes


def test_boxes_and_masks(tmp_path):
    Image.fromarray(np.array([[0, 255], [0, 0]], np.uint8)).save(tmp_path / "m.png")
    rows = ["0.jpg,train,a,1 2 3 4;0 0 5 5.5,m.png", "1.jpg,train,b,,", "2.jpg,val,b,0 0 1 1,m.png"]
    data = read_own(table(tmp_path, "path,split,label,boxes,mask", rows))
    assert data.train.boxes[0].tolist() == [[1, 2, 3, 4], [0, 0, 5, 5.5]]
    assert data.train.boxes[0].dtype == np.float32 and data.train.boxes[1].shape == (0, 4)
    assert [labels.tolist() for labels in data.train.box_labels] == [[0, 0], []]
    assert data.train.mask(0).tolist() == [[0, 1], [0, 0]] and data.train.mask(1) is None
    assert data.val.mask(0).tolist() == [[0, 2], [0, 0]] and not data.val.upright


# --- files ---


@pytest.mark.parametrize("mark", [";", "\t", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"])
def test_delimiters_line_ends_and_marks(tmp_path, mark, end, begin):
    pictures(tmp_path, ["a b.jpg", "1.jpg", "2.jpg", "3.jpg"])
    rows = [["path", " Labels "], ["a b.jpg", '"x;y"'], ["1.jpg", "y"], [], ["2.jpg", "x"]]
    text = end.join(mark.join(row) for row in [*rows, ["3.jpg", "y"]])
    path = tmp_path / "labels.csv"
    path.write_bytes(begin + text.encode())
    data = read_own(path)
    assert data.classes == ["x", "y"]
    assert np.array(both(data, "matrix")).tolist() == [[0, 1], [1, 0], [0, 1], [1, 1]]


def test_paths(tmp_path):
    """Relative to the csv, absolute, `..`, and with the backslash of Windows."""
    root = folders(tmp_path, {"one": 2, "lists": 0, "two": 2})
    absolute = root / "one" / "0.jpg"
    rows = [f"{absolute},a", "../one/1.jpg,b", "..\\two\\0.jpg,a", "../two/1.jpg,b"]
    path = root / "lists" / "labels.csv"
    path.write_text("\n".join(["path,label", *rows]))
    data = read_own(path)
    assert len(data.train) + len(data.val) == 4
    assert absolute in data.train.paths + data.val.paths


def test_absolute_paths_below_the_csv_draw_the_same_val(tmp_path):
    path = table(tmp_path, "path,label", ONE)
    first = read_own(path)
    path.write_text("\n".join(["path,label", *(f"{tmp_path}/{row}" for row in ONE)]))
    assert read_own(path).val.ids == first.val.ids


def test_white_space_in_names_of_classes(tmp_path):
    rows = ["0.jpg, a  b ", '1.jpg,"a\nb"', "2.jpg,c", "3.jpg,c"]
    assert read_own(table(tmp_path, "path,label", rows)).classes == ["a b", "c"]


def test_the_folder_of_the_pictures(tmp_path):
    path = table(tmp_path / "set", "path,label", ONE)
    shutil.move(path, tmp_path / "labels.csv")
    refused(
        tmp_path / "labels.csv", "labels.csv: line 2", "0.jpg", "4 of 4 pictures", "with --images"
    )
    data = read_own(tmp_path / "labels.csv", images=tmp_path / "set")
    assert data.train.paths[0].parent == tmp_path / "set"


def test_awkward_names(tmp_path):
    names = ["sp ace.jpg", "gr\u00fcn.JPEG", "it's.png", "\u732b.jpg", "a#b%20.jpg", "~x.jpg"]
    rows = [f"{name},{'it is;that'[:5]}" for name in names[:3]]
    rows += [f'"{name}","say ""x"""' for name in names[3:]]
    data = read_own(table(tmp_path, "path,label", rows))
    assert data.classes == ["it is", 'say "x"']
    assert sorted(data.train.ids + data.val.ids) == sorted(names)


@pytest.mark.parametrize(
    ("words", "val", "left"),
    [
        (["train", "TRAIN", "val", " valid "], 2, 0),
        (["train", "training", "test", "test"], 2, 0),
        (["train", "train", "val", "test"], 1, 1),
        (["train", "train", "train", "train"], 2, 0),
        (["", "", "", ""], 2, 0),
    ],
)
def test_split(tmp_path, words, val, left):
    rows = [f"{n}.jpg,{'abbb'[n] if n < 2 else 'ab'[n % 2]},{words[n]}" for n in range(4)]
    data = read_own(table(tmp_path, "path,label,split", rows))
    assert len(data.val) == val and len(data.train) == 4 - val - left
    assert any("of the test part" in note for note in data.notes) == bool(left)


def test_unknown_columns_are_counted(tmp_path):
    rows = [f"{n}.jpg,{'ab'[n % 2]},{n},x," for n in range(4)]
    data = read_own(table(tmp_path, "path,label,width,author,", rows))
    assert "labels.csv: 3 columns not read: width, author, (no name)" in data.notes


def test_classes_from_a_file(tmp_path):
    path = table(tmp_path, "path,label", ONE)
    (tmp_path / "names.txt").write_text("b\nx\na\n")
    data = read_own(path, classes=tmp_path / "names.txt")
    assert data.classes == ["b", "x", "a"] and both(data, "labels") == [2, 0, 2, 0]
    (tmp_path / "names.txt").write_text("a\nbb\n")
    refused(
        path,
        "labels.csv: line 3: the class 'b' is not in",
        "did you mean 'bb'",
        classes=tmp_path / "names.txt",
    )


@pytest.mark.parametrize(
    ("header", "rows", "parts"),
    [
        ("path,label", ["0.jpg,a", "1.jpg,"], ["line 3", "the label is empty"]),
        ("path,label", ["0.jpg,a;b"], ["line 2", "call the column labels"]),
        ("path,label", ["0.jpg,a", "0.jpg,b"], ["line 3", "listed twice", "line 2"]),
        ("path,label", ["0.jpg,a", "./0.jpg,b"], ["line 3", "listed twice"]),
        ("path,label", ["0.jpg,a,b"], ["line 2", "3 cells, the header has 2", "quotes"]),
        ("path,label", ["0.jpg"], ["line 2", "1 cells, the header has 2"]),
        ("path,label", ['0.jpg,"a'], ["line 2", "not a row of csv"]),
        ("path,label", [], ["holds no rows"]),
        ("path,label,label", ["0.jpg,a,b"], ["line 1", "'label' stands there twice"]),
        ("path,lable", ["0.jpg,a"], ["no column is called 'lable'", "did you mean 'label'"]),
        ("path,postives,negatives", ["0.jpg,a,b"], ["'postives'", "did you mean 'positives'"]),
        ("path,label,splits", ["0.jpg,a,x"], ["'splits'", "did you mean 'split'"]),
        ("path,width", ["0.jpg,3"], ["no column of labels"]),
        ("path,labels,positives", ["0.jpg,a,b"], ["either labels, or positives"]),
        ("path,labels,candidates", ["0.jpg,a,b"], ["candidates go with label only"]),
        ("path,positives,negatives", ["0.jpg,a;b,b;c"], ["line 2", "'b' is both"]),
        ("path,label,negatives", ["0.jpg,a,a"], ["line 2", "'a' is both"]),
        ("path,candidates,label", ["0.jpg,a;b,a", "1.jpg,,"], ["line 3", "neither candidates"]),
        ("path,label,labels", ["0.jpg,a,a", "1.jpg,,"], ["line 3", "neither label nor labels"]),
        ("path,labels", ["0.jpg,", "1.jpg,"], ["no row names a class"]),
        ("path,label,split", ["0.jpg,a,train", "1.jpg,b,3"], ["line 3", "split is '3'"]),
        ("path,label,split", ["0.jpg,a,train", "1.jpg,b,"], ["line 3", "split is ''"]),
        ("path,label,split", ["0.jpg,a,val", "1.jpg,b,val"], ["the train part is empty"]),
        ("path,label,boxes", ["0.jpg,a,1 2 3"], ["line 2", "is not x0 y0 x1 y1"]),
        ("path,label,boxes", ["0.jpg,a,5 5 1 9"], ["line 2", "with an area"]),
        ("path,label,boxes", ["0.jpg,a,5 5 x 9"], ["line 2", "a finite number"]),
        ("path,positives,boxes", ["0.jpg,a,1 1 2 2"], ["line 2", "boxes without a label"]),
        ("path,label,mask", ["0.jpg,a,no.png"], ["line 2", "no.png", "not there"]),
        ("path,label", [" ,a"], ["line 2", "the path is empty"]),
    ],
)
def test_refusals(tmp_path, header, rows, parts):
    folder = tmp_path / "set"
    folder.mkdir()
    pictures(folder, ["0.jpg", "1.jpg"])
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    refused(path, "labels.csv", *parts)


def test_an_empty_file(tmp_path):
    (tmp_path / "a.csv").write_text("\n\n")
    refused(tmp_path / "a.csv", "is empty")


def test_missing_pictures_are_counted(tmp_path):
    path = table(tmp_path, "path,label", ONE)
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "3.jpg").unlink()
    (tmp_path / "3.jpg").mkdir()
    refused(path, "labels.csv: line 3", "'1.jpg'"[1:-1], "2 of 4 pictures are missing")


# --- json ---


def test_json_records(tmp_path):
    pictures(tmp_path, [f"{number}.jpg" for number in range(5)])
    records = [
        {"path": "0.jpg", "label": "a", "labels": ["a", "b"], "split": "train"},
        {"path": "1.jpg", "label": "b", "labels": None, "split": "train"},
        {"path": "2.jpg", "label": "a", "labels": [], "split": "val"},
        {"path": "3.jpg", "label": "b", "split": "val"},
    ]
    data = read_own(write_json(tmp_path / "a.json", records))
    assert data.train.matrix.tolist() == [[1, 1], [-1, 1]]
    assert data.val.matrix.tolist() == [[0, 0], [-1, 1]] and data.val.labels.tolist() == [0, 1]


def test_a_json_of_names_and_sets(tmp_path):
    root = folders(tmp_path / "pictures", {"x": 2, "y": 2})
    content = {"x/0.jpg": ["1", "2"], "x/1.jpg": ["2"], "y/0.jpg": [], "y/1.jpg": ["1"]}
    data = read_own(write_json(tmp_path / "sets.json", content), images=root)
    assert data.classes == ["1", "2"] and not data.is_single
    assert np.array(both(data, "matrix")).tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]


def test_a_json_of_names_and_labels(tmp_path):
    pictures(tmp_path, ["0.jpg", "1.jpg", "2.jpg", "3.jpg"])
    data = read_own(
        write_json(tmp_path / "a.json", {"0.jpg": 3, "1.jpg": 12, "2.jpg": 3, "3.jpg": 12})
    )
    assert data.classes == ["3", "12"] and data.is_single


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("text", ["expected a list or an object"]),
        ([1], ["entry 1", "expected an object"]),
        ([{"path": "0.jpg", "label": 1.5}], ["entry 1", "label is a number"]),
        ([{"path": "0.jpg", "label": ["a"]}], ["entry 1", "label is a list"]),
        ([{"path": "0.jpg", "labels": [["a"]]}], ["entry 1", "labels is a list"]),
        ([{"path": ["0.jpg"], "label": "a"}], ["entry 1", "path is a list"]),
        ([{"file": "0.jpg", "label": "a"}], ["no column is called 'path'", "file, label"]),
        ([{"path": "nul\0.jpg", "label": "a"}], ["entry 1", "is not there"]),
        ([{"path": "\ud800.jpg", "label": "a"}], ["entry 1", "is not there"]),
    ],
)
def test_json_refusals(tmp_path, content, parts):
    picture(tmp_path / "0.jpg")
    refused(write_json(tmp_path / "a.json", content), "a.json", *parts)
