"""Data sets that cannot be trained on: every fault is one line that names the file."""

import os
import pickle
import shutil
import struct
import warnings

import numpy as np
import pytest
import scipy.io

from cavl.data import fold_of, load_dataset
from cavl.data_pickle import read_pickle
from cavl.options import parse
from common.cli import UserError

N = 10  # images of the small sets


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def idx_root(
    root, *, train_images=(N, 28, 28), test_images=(N, 28, 28), train_labels=None, test_labels=None
):
    shapes = {"train": train_images, "t10k": test_images}
    for (part, shape), given in zip(shapes.items(), (train_labels, test_labels), strict=True):
        write_idx(root / f"{part}-images-idx3-ubyte", np.zeros(shape))
        write_idx(
            root / f"{part}-labels-idx1-ubyte",
            np.arange(shape[0]) % 10 if given is None else np.array(given),
        )
    return root


def load(ds, root):
    settings = parse(["-ds", ds, "--data_dir", str(root)])
    return load_dataset(ds, settings.location)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"test_images": (0, 28, 28)}, r": holds no test images \(t10k-images-idx3-ubyte"),
        (
            {"train_images": (N, 0, 0), "test_images": (N, 0, 0)},
            r": holds no training images \(train-images",
        ),
        (
            {"train_images": (N, 28, 0), "test_images": (N, 28, 0)},
            r": holds no training images \(train-images",
        ),
        ({"train_images": (0, 28, 28)}, r": holds no training images \(train-images-idx3-ubyte"),
        (
            {"test_images": (N, 20, 20)},
            r": the test images are \(1, 20, 20\), the training images \(1, 28, 28\)",
        ),
        ({"test_labels": [11] * N}, ": test labels from 11 to 11, expected 0 to 9"),
        ({"train_labels": [11] * N}, ": training labels from 11 to 11, expected 0 to 9"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_idx_files_that_do_not_belong_together(tmp_path, fault, message):
    with pytest.raises(UserError, match=f"{tmp_path}{message}"):
        load("mnist", idx_root(tmp_path, **fault))


def test_the_folder_of_one_set_serves_as_well_as_the_folder_of_all(tmp_path, cifar, monkeypatch):
    root = tmp_path / "MNIST"
    (root / "raw").mkdir(parents=True)
    idx_root(root / "raw")
    assert len(load("mnist", tmp_path).train_y) == len(load("mnist", root).train_y) == N
    assert len(load("cifar10", cifar / "cifar-10-batches-py").train_y) == 10
    monkeypatch.setenv("WSL_OFFLINE", "1")
    with pytest.raises(UserError, match="fashion is not in --data_dir .*MNIST; .*--sample"):
        load("fashion", root)  # one idx set does not pass for another


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    (root / "cifar-10-batches-py").mkdir()
    (root / "plcifar10").mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        content = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
        (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(content))
    return root


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": "x", "labels": ["a"]}, "data_batch_3: 'data' is not made of whole numbers"),
        ({"data": [[1], [1, 2]], "labels": [0, 1]}, "data_batch_3: 'data' is not made of numbers"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [12]}, "training labels from 0 to 12"),
        (
            {"data": np.zeros((1, 3072)), "labels": [1]},
            "'data' is not made of whole numbers but of float64",
        ),
        (
            {"data": np.full((1, 3072), 256), "labels": [1]},
            "'data' holds values from 256 to 256, expected 0 to 255",
        ),
        (
            {"data": np.zeros((1, 3072), np.uint8), "labels": [1.5]},
            "'labels' is not made of whole numbers",
        ),
    ],
    ids=["text", "ragged", "label", "float", "beyond", "half"],
)
def test_a_cifar_batch_without_numbers_or_of_other_labels(tmp_path, cifar, content, message):
    root = shutil.copytree(cifar, tmp_path / "root")
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=message):
        load("cifar10", root)


def test_a_cifar_part_without_images_is_refused(tmp_path, cifar):
    empty = pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []})
    for names, part in (
        (("test_batch",), "test"),
        ([f"data_batch_{i}" for i in range(1, 6)], "training"),
    ):
        root = shutil.copytree(cifar, tmp_path / part)
        for name in names:
            (root / "cifar-10-batches-py" / name).write_bytes(empty)
        with pytest.raises(UserError, match=f"holds no {part} images"):
            load("cifar10", root)


def test_a_mat_file_without_samples_is_refused(tmp_path):
    nothing = np.zeros((3, 0))
    scipy.io.savemat(
        tmp_path / "mine.mat", {"data": nothing.T, "partial_target": nothing, "target": nothing}
    )
    with pytest.raises(ValueError, match="'data' is not a matrix of numbers"):
        load("lost", tmp_path / "mine.mat")


def load_answers(cifar, answers, name="aggregate"):
    (cifar / "plcifar10" / "plcifar10.pkl").write_bytes(pickle.dumps(answers))
    return load(f"plcifar10_{name}", cifar)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_plcifar_takes_lists_tuples_and_arrays(cifar, kind):
    answers = {i: [kind([0, 1]), kind([1, 2, 3])] for i in range(N)}
    assert load_answers(cifar, answers).own_sets[4].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert load_answers(cifar, answers, "vaguest").own_sets[4].nonzero().flatten().tolist() == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("name", ["aggregate", "vaguest"])
@pytest.mark.parametrize(
    ("index", "lists"),
    [
        (5, [[10]]),
        (5, [[-1]]),
        (N, [[1]]),
        (-1, [[1]]),
        (5, []),
        (5, [[]]),
        (5, [1, 2]),
        ("a5", [[1]]),
        (5, None),
    ],
    ids=str,
)
def test_plcifar_answers_that_are_none(cifar, name, index, lists):
    answers = {i: [[1, 2], [3]] for i in range(N)}
    answers.pop(5)
    with pytest.raises(
        UserError,
        match=rf"plcifar10.pkl: image {index!r}: .*; expected an index below {N} -> lists",
    ):
        load_answers(cifar, {**answers, index: lists}, name)


def test_a_mat_file_has_any_name_and_only_the_run_reports_its_noise(tmp_path):
    partial = np.eye(3)[np.arange(12) % 3]
    target = np.roll(partial, 1, axis=0)
    scipy.io.savemat(
        tmp_path / "mine.mat",
        {"data": np.ones((12, 4)), "partial_target": partial, "target": target},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load("lost", tmp_path / "mine.mat")
    assert data.has_folds and data.train_x.shape == (12, 4) and len(data.test_y) == 0


def pickled(*instructions):
    """A batch made of instructions of the pickle machine."""
    return b"\x80\x02" + b"".join(instructions) + b"."


def touch(path):
    return b"cpathlib\nPath.touch\n" + b"cpathlib\nPath\n" + f"(V{path}\ntR".encode() + b"\x85R"


MALICE = {
    "function": lambda path: pickled(touch(path)),
    "function in the data": lambda path: pickled(b"}V", b"data\n", touch(path), b"s"),
    "module that runs when it is imported": lambda path: pickled(b"cnumpy.f2py.__main__\ndtype\n"),
    "numpy's own loader": lambda path: pickled(b"cnumpy\nload\n", f"(V{path}\ntR".encode()),
    "object": lambda path: pickled(b"ios\nsystem\n"),
    "state of a function": lambda path: pickled(b"c_codecs\nencode\n}V__doc__\nVx\nsb"),
    "array of 10^15 elements": lambda path: pickled(
        b"cnumpy\nndarray\n(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft\x85R"
    ),
    "place 2^32 of the memory": lambda path: pickled(b"Vx\nr\xff\xff\xff\xff"),
    "pointers": lambda path: pickled(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nI0\n\x85Vb\ntR",
        b"(I1\nI1\n\x85cnumpy\ndtype\n(VO8\nI0\nI1\ntRI00\nVabcdefgh\ntb",
    ),
    "persistent id": lambda path: pickled(b"Pabc\n"),
    "nothing": lambda path: b"",
    "half": lambda path: pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]})[
        :3000
    ],
}


@pytest.mark.parametrize("part", ["data_batch_2", "test_batch"])
@pytest.mark.parametrize("malice", MALICE)
def test_a_pickle_that_is_no_plain_data_executes_nothing(tmp_path, cifar, malice, part):
    root = shutil.copytree(cifar, tmp_path / "root")
    (root / "cifar-10-batches-py" / part).write_bytes(MALICE[malice](tmp_path / "owned"))
    with pytest.raises(UserError, match=f"{part}: ") as caught:
        load("cifar10", root)
    assert "\n" not in str(caught.value) and not (tmp_path / "owned").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol_are_read_as_they_are(tmp_path, protocol):
    columns_first = np.asfortranarray(np.arange(6).reshape(2, 3))
    lists = np.empty(2, object)
    lists[0] = [1, 2]
    lists[1] = [3]
    content = {
        "data": np.arange(256, dtype=np.uint8).reshape(2, 128),
        "labels": [0, 1, -5, 10**20],
        "scalar": np.float64(0.5),
        "big-endian": np.arange(3, dtype=">i4"),
        "columns": columns_first,
        "texts": ["a", "ü"],
        "names": np.array(["ab", "c"]),
        "lists": lists,
        5: (True, None, 1.5, b"bytes \xff"),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(tmp_path / "x.pkl")
    assert found.keys() == content.keys()
    for key, value in content.items():
        assert (
            np.array_equal(found[key], value)
            if isinstance(value, np.ndarray)
            else found[key] == value
        )


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0", b"no idx file at all"], ids=repr
)
def test_damaged_idx_files_of_both_parts_are_named(tmp_path, name, content):
    idx_root(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: "):
        load("mnist", tmp_path)


@pytest.mark.parametrize("what", ["pipe", "folder"])
@pytest.mark.parametrize(("ds", "name"), [("cifar10", "test_batch"), ("lost", "lost.mat")])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_does_not_wait(tmp_path, cifar, ds, name, what):
    root = shutil.copytree(cifar, tmp_path / "root")
    path = root / name if ds == "lost" else root / "cifar-10-batches-py" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path) if what == "pipe" else path.mkdir()
    with pytest.raises(UserError, match=f"{name}: is a {what}"):
        load(ds, root)


def test_a_fold_takes_every_seed(tmp_path):
    target = np.eye(3)[:, np.arange(12) % 3]
    scipy.io.savemat(
        tmp_path / "MINE.MAT",
        {"data": np.ones((12, 4)), "partial_target": target, "target": target},
    )
    data = load("lost", tmp_path / "MINE.MAT")
    parts = [
        fold_of(data, 0, 3, seed, "train").test_y.tolist() for seed in (7, 7 + 2**32, 2**63 - 1)
    ]
    assert parts[0] == parts[1] and len(parts[2]) == 4
