"""Matrices of .mat files: what scipy writes is read as scipy reads it, and no damage ends the
process.
"""

import struct

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from cavl.data_mat import read_matrices
from cavl.data_pll import read_pll_mat
from common.cli import UserError

TARGET = scipy.sparse.csc_matrix(np.eye(3)[:, np.arange(12) % 3])
DTYPES = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?")


def save(path, **content):
    scipy.io.savemat(
        path, {"data": np.ones((12, 4)), "partial_target": TARGET, "target": TARGET, **content}
    )
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_are_those_that_scipy_reads(tmp_path, dtype, compressed):
    rng = np.random.default_rng(0)
    content = {
        "a": (rng.random((5, 3)) * 9).astype(dtype),
        "a_long_name_of_a_variable": np.arange(3).astype(dtype),
        "volume": rng.integers(0, 2, (2, 3, 4)).astype(dtype),
        "nothing": np.zeros((3, 0), dtype),
        "sparse": scipy.sparse.csc_matrix(rng.random((6, 4)) > 0.6).astype("f8"),
        "flags": scipy.sparse.csc_matrix(rng.random((6, 4)) > 0.6),
        "text": "abc",
        "cells": np.array([[1, "x"]], object),
        "record": {"q": 1},
        "imaginary": np.array([[1 + 2j]]),
    }
    scipy.io.savemat(tmp_path / "x.mat", content, do_compression=compressed)
    found = read_matrices(tmp_path / "x.mat")
    expected = scipy.io.loadmat(tmp_path / "x.mat")
    assert found.keys() == content.keys()
    for key in content:
        if key in ("text", "cells", "record", "imaginary"):
            assert found[key] is None
            continue
        one, two = (
            m.toarray() if scipy.sparse.issparse(m) else m for m in (found[key], expected[key])
        )
        assert np.array_equal(one, two) and one.shape == two.shape


def test_files_of_version_4_and_of_the_other_byte_order(tmp_path):
    scipy.io.savemat(tmp_path / "x.mat", {"a": np.eye(3)}, format="4")
    assert np.array_equal(read_matrices(tmp_path / "x.mat")["a"], np.eye(3))

    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    parts = (
        element(6, struct.pack(">II", 6, 0))
        + element(5, struct.pack(">ii", 1, 2))
        + element(1, b"name")
    )
    parts += element(9, struct.pack(">dd", 1.5, -2))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    (tmp_path / "y.mat").write_bytes(header + element(14, parts))
    assert read_matrices(tmp_path / "y.mat")["name"].tolist() == [[1.5, -2]]


def test_entries_that_a_sparse_matrix_has_in_reserve_are_left_out(tmp_path):
    path = save(tmp_path / "x.mat")
    data = path.read_bytes()
    starts = np.arange(13, dtype="<i4")
    assert data.count(starts.tobytes()) == 2
    starts[-1] = 11  # the last entry is there, and does not count
    path.write_bytes(data.replace(np.arange(13, dtype="<i4").tobytes(), starts.tobytes(), 1))
    assert read_matrices(path)["partial_target"].nnz == 11


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (np.array([0, 1, 2, 0], "<i4"), np.array([0, 1, 2**30, 0], "<i4")),  # a row far outside
        (np.array([0, 1, 2, 0], "<i4"), np.array([0, 1, -5, 0], "<i4")),
        (np.array([4, 5, 6, 7], "<i4"), np.array([4, 5, 2**30, 7], "<i4")),  # where a column starts
        (np.array([11, 12], "<i4"), np.array([11, 2**30], "<i4")),
        (np.array([11, 12], "<i4"), np.array([11, -12], "<i4")),
        (np.array([9, 96], "<i4"), np.array([0, 96], "<i4")),  # a type of values that is none
        (np.array([9, 96], "<i4"), np.array([9, 9600], "<i4")),
        (np.array([3, 12], "<i4"), np.array([3, -12], "<i4")),  # sizes
        (np.array([1, 14], "<i4"), np.array([1, 127], "<i4")),  # length of a name
        (np.array([12, 4], "<i4"), np.array([12, 5], "<i4")),
    ],
    ids=repr,
)
def test_a_damaged_number_is_an_error_and_not_the_end_of_the_process(tmp_path, old, new):
    path = save(tmp_path / "x.mat")
    data = path.read_bytes()
    assert old.tobytes() in data
    path.write_bytes(data.replace(old.tobytes(), new.tobytes(), 1))
    with pytest.raises(UserError, match="x.mat: not a readable MATLAB file") as caught:
        read_pll_mat(path)
    assert "\n" not in str(caught.value)


def test_random_damage_ends_in_one_line_or_in_matrices(tmp_path):
    good = save(tmp_path / "x.mat").read_bytes()
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(150):
        data = bytearray(good)
        for place in rng.integers(128, len(good), 3):
            data[place] = rng.choice([0, 1, 127, 255])
        (tmp_path / "x.mat").write_bytes(data)
        try:
            read_matrices(tmp_path / "x.mat")
        except UserError as error:
            errors += "\n" not in str(error)
    assert 20 < errors < 150


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"target": np.array([[1, "x"]], object)}, "'target' is not a matrix of numbers"),
        ({"partial_target": "text"}, "'partial_target' is not a matrix of numbers"),
        ({"data": np.full((12, 4), 1e200)}, "beyond float32"),
        ({"data": np.ones((12, 4)) * 1j}, "'data' is not a matrix of numbers"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_pll_mat(save(tmp_path / "x.mat", **content))


def test_a_name_that_comes_twice_is_refused(tmp_path):
    data = save(tmp_path / "x.mat").read_bytes()
    (tmp_path / "x.mat").write_bytes(data + data[128:])
    with pytest.raises(UserError, match="the variable 'data' stands there twice"):
        read_pll_mat(tmp_path / "x.mat")


def test_version_7_3_is_named(tmp_path):
    (tmp_path / "x.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(128) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UserError, match="7.3 files are not supported; save it with -v7"):
        read_pll_mat(tmp_path / "x.mat")
