"""Files of features: .npz, .mat, csv of numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from common import samples
from common.own import data_lines, read_own
from tests.common.own_pictures import refused, table

X = np.arange(12, dtype=float).reshape(6, 2)
Y = [0, 1, 2, 0, 1, 2]
CANDIDATES = [[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 1]]


def npz(root: Path, **arrays: Any) -> Path:
    np.savez(root / "a.npz", **arrays)
    return root / "a.npz"


def joined(data, name):
    order = np.argsort(data.train.ids + data.val.ids)
    return np.concatenate([getattr(data.train, name), getattr(data.val, name)])[order]


# --- npz ---


@pytest.mark.parametrize("keys", [("x", "y"), ("features", "labels"), ("data", "target")])
def test_features_and_labels(tmp_path, keys):
    data = read_own(npz(tmp_path, **{keys[0]: X, keys[1]: Y}))
    assert data.classes == ["0", "1", "2"] and data.is_single and data.train.paths == []
    assert data.train.features.dtype == np.float32
    assert joined(data, "features").tolist() == X.tolist()
    assert joined(data, "labels").tolist() == Y
    assert joined(data, "matrix").tolist() == np.eye(3)[Y].tolist()
    assert data.train.candidates is None and len(data.val) == 3
    assert "6 rows (3 train, 3 val" in data_lines(data)[0]
    assert "features" in data_lines(data)[0]


def test_candidates(tmp_path):
    data = read_own(npz(tmp_path, x=X, y=[0, -1, 2, 0, 1, -1], candidates=CANDIDATES))
    assert joined(data, "candidates").astype(int).tolist() == CANDIDATES
    assert joined(data, "labels").tolist() == [0, -1, 2, 0, 1, -1]
    assert joined(data, "matrix")[1].tolist() == [0, -1, 0]
    assert not data.has_labels or (data.val.labels >= 0).all()


def test_candidates_alone(tmp_path):
    data = read_own(npz(tmp_path, x=X, candidates=np.array(CANDIDATES, bool)))
    assert (joined(data, "labels") == -1).all() and data.num_classes == 3 and not data.has_labels


def test_ids_classes_and_split(tmp_path):
    path = npz(
        tmp_path,
        x=X,
        y=Y,
        ids=["f", "e", "d", "c", "b", "a"],
        classes=["cat", "dog", "owl"],
        split=["train"] * 3 + ["val"] * 3,
    )
    data = read_own(path)
    assert data.train.ids == ["f", "e", "d"] and data.val.ids == ["c", "b", "a"]
    assert data.classes == ["cat", "dog", "owl"] and data.val.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("labels", [np.eye(3)[Y], np.array(Y, float)[:, None], np.array(Y)[None]])
def test_forms_of_labels(tmp_path, labels):
    data = read_own(npz(tmp_path, x=X, y=labels))
    assert joined(data, "labels").tolist() == Y and data.num_classes == 3


def test_labels_that_are_names(tmp_path):
    data = read_own(npz(tmp_path, x=X, y=["b", "a", "b", "a", "b", "a"]))
    assert data.classes == ["a", "b"] and joined(data, "labels").tolist() == [1, 0] * 3


def test_class_names_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\nelk\n")
    data = read_own(npz(tmp_path, x=X, y=Y), classes=tmp_path / "names.txt")
    assert data.classes == ["cat", "dog", "owl", "elk"] and joined(data, "labels").tolist() == Y


def test_the_labels_are_the_noisy_ones(tmp_path):
    noisy = [[1, 0, 0]] * 6
    data = read_own(npz(tmp_path, x=X, y=Y, candidates=noisy))
    assert "4 of 6 rows have a label that is none of their candidates" in data.notes


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"y": Y}, ["no features", "the key x"]),
        ({"x": X}, ["neither labels nor candidates"]),
        ({"x": X, "lables": Y}, ["no key is called 'lables'", "'labels'"]),
        ({"x": X, "y": Y[:5]}, ["labels are (5,)"]),
        ({"x": X[:, 0], "y": Y}, ["features are float64 (6,)"]),
        ({"x": X.astype(str), "y": Y}, ["features are <U"]),
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, ["row 2, column 1 holds nan"]),
        ({"x": np.where(X == 5, 1e39, X), "y": Y}, ["row 2, column 1", "finite"]),
        ({"x": X, "y": [0, 1, 2, 0, 1, 0.5]}, ["whole numbers or names"]),
        ({"x": X, "y": [0, 1, 2, 0, 1, -2]}, ["row 5 has the label -2"]),
        ({"x": X, "y": [0, 1, 2, 0, 1, -1]}, ["row 5 has no label"]),
        ({"x": X, "candidates": [[1, 0]] * 5 + [[0, 0]]}, ["row 5 has no candidate"]),
        ({"x": X, "candidates": [[1, 2]] * 6}, ["other values than 0 and 1"]),
        ({"x": X, "candidates": [[1, 1]] * 4}, ["expected a row for each of 6"]),
        ({"x": X, "y": Y, "candidates": [[1, 1]] * 6}, ["the label '2' is none of 2 classes"]),
        ({"x": X, "y": [[1, 1, 0]] * 6}, ["row 0 has 2 true labels"]),
        ({"x": X, "y": Y, "classes": ["a"]}, ["the label '1' is none of 1 classes"]),
        ({"x": X, "y": np.eye(3)[Y], "classes": ["a"]}, ["1 class names for 3 columns"]),
        ({"x": X, "y": Y, "classes": ["a", "b", "a"]}, ["stands there twice"]),
        ({"x": X, "y": Y, "ids": ["a"]}, ["1 ids for 6 rows"]),
        ({"x": X, "y": Y, "ids": list("abcdea")}, ["'a' stands there twice", "rows 0 and 5"]),
        ({"x": X, "y": Y, "split": ["train"]}, ["1 entries of split"]),
        ({"x": X, "y": Y, "split": ["train"] * 5 + ["x"]}, ["row 5: split is 'x'"]),
        ({"x": np.array([None] * 6), "y": Y}, ["cannot be read"]),
    ],
)
def test_refusals(tmp_path, arrays, parts):
    refused(npz(tmp_path, **arrays), "a.npz", *parts)


def test_other_keys_are_counted(tmp_path):
    assert "a.npz: not read: weight" in read_own(npz(tmp_path, x=X, y=Y, weight=X)).notes


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    (tmp_path / "a.mat").write_bytes(content)
    refused(tmp_path / "a.npz", "a.npz: cannot be read")
    refused(tmp_path / "a.mat", "a.mat")


# --- mat ---


@pytest.mark.parametrize("names", ["data partial_target target", "features p_labels logitlabels"])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("form", [np.asarray, csc_matrix])
def test_matlab(tmp_path, names, is_first, form):
    target = np.eye(3)[Y]
    candidates = np.array(CANDIDATES, float)
    if is_first:
        target = target.T
        candidates = candidates.T
    arrays = dict(zip(names.split(), (X, form(candidates), form(target)), strict=True))
    savemat(tmp_path / "a.mat", arrays)
    data = read_own(tmp_path / "a.mat")
    assert joined(data, "labels").tolist() == Y and joined(data, "features").tolist() == X.tolist()
    assert joined(data, "candidates").astype(int).tolist() == CANDIDATES


def test_as_many_rows_as_classes(tmp_path):
    """The true labels say which way round the matrices are."""
    target = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], float)  # a row for each sample
    arrays = {"data": X[:3], "partial_target": np.ones((3, 3))}
    for name, stored in (("a.mat", target), ("b.mat", target.T)):
        savemat(tmp_path / name, {**arrays, "target": stored})
        assert joined(read_own(tmp_path / name), "labels").tolist() == [0, 0, 1]


def test_the_partial_label_sample(tmp_path):
    folder = samples.draw("PLL", tmp_path / "pll")
    data = read_own(folder / "lost.mat")
    stored = loadmat(folder / "lost.mat")
    rows = [int(name.split()[1]) for name in data.train.ids]
    assert (data.train.features == stored["data"][rows].astype(np.float32)).all()
    assert (data.train.candidates == stored["partial_target"].toarray().T[rows]).all()
    assert (data.train.labels == stored["target"].toarray().argmax(axis=0)[rows]).all()


# --- csv ---


def test_a_csv_of_features(tmp_path):
    rows = ["0.5,1e3,a", "1,2,b", "-1,0,a", "2,2,b"]
    data = read_own(table(tmp_path, "f0,f1,label", rows))
    assert data.classes == ["a", "b"] and data.train.paths == []
    found = np.concatenate([data.train.features, data.val.features])
    assert sorted(found.tolist()) == [[-1, 0], [0.5, 1000], [1, 2], [2, 2]]
    assert sorted(data.train.ids + data.val.ids) == ["line 2", "line 3", "line 4", "line 5"]


def test_a_csv_of_features_with_candidates_split_and_ids(tmp_path):
    rows = ['p;train;"a;b";a;1;2', 'q;train;"b;a";;3;4', "r;val;b;b;5;6"]
    data = read_own(table(tmp_path, "id;split;candidates;label;height;width", rows))
    assert data.train.ids == ["p", "q"] and data.val.ids == ["r"]
    assert data.train.candidates.tolist() == [[True, True]] * 2
    assert data.train.labels.tolist() == [0, -1] and data.val.features.tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("header", "rows", "parts"),
    [
        ("f0,label", ["x,a"], ["line 2: f0", "a finite number", "a column path"]),
        ("f0,lable", ["1,a"], ["line 2: lable", "did you mean 'label'"]),
        ("image,label", ["a.jpg,b"], ["line 2: image", "a csv of pictures has a column path"]),
        ("image_path,label", ["a.jpg,b"], ["line 2: image_path", "has a column path"]),
        ("f0,label", ["nan,a"], ["line 2: f0"]),
        ("f0,f1", ["1,2"], ["no column of labels"]),
        ("label,split", ["a,train"], ["no columns of numbers"]),
        ("f0,,label", ["1,2,a"], ["a column without a name"]),
        ("id,f0,label", ["x,1,a", "x,2,b"], ["the id 'x' stands there twice"]),
    ],
)
def test_csv_refusals(tmp_path, header, rows, parts):
    refused(table(tmp_path, header, rows), "labels.csv", *parts)
