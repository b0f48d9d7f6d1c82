"""The idx format, images, unreadable files, `python -m common.data check`."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import data
from common.cli import UserError
from common.files import IMAGE_SUFFIXES
from common.locate import IDX_FILES, holds_idx
from common.readers import read_idx, read_mnist

# --- idx ---


def idx(array: np.ndarray, code: int = 8) -> bytes:
    return (
        bytes([0, 0, code, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.mark.parametrize(
    "code, dtype", [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
def test_every_type_of_the_format_is_read(tmp_path, code, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    (tmp_path / "x-ubyte").write_bytes(idx(array, code))
    result = read_idx(tmp_path / "x-ubyte")
    assert result.dtype == array.dtype and (result == array).all()


def test_a_packed_file_has_either_name_and_the_plain_one_comes_first(tmp_path):
    one, two = np.arange(3, dtype=np.uint8), np.arange(5, dtype=np.uint8)
    (tmp_path / "x-ubyte.gz").write_bytes(gzip.compress(idx(one)))
    assert (
        read_idx(tmp_path / "x-ubyte").tolist()
        == read_idx(tmp_path / "x-ubyte.gz").tolist()
        == [0, 1, 2]
    )
    (tmp_path / "x-ubyte").write_bytes(idx(two))
    assert len(read_idx(tmp_path / "x-ubyte")) == 5 and len(read_idx(tmp_path / "x-ubyte.gz")) == 3


GOOD = idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    "content, message",
    [
        (GOOD[:-1], r"23 bytes, expected 24 for shape \(3, 4\)"),
        (GOOD + b"\0", r"25 bytes, expected 24 for shape \(3, 4\)"),
        (GOOD[:7], r"truncated in its header \(7 bytes\)"),
        (b"\x89PNG" + GOOD, "not an idx file .magic 89504e47, expected 0000"),
        (b"\0\0\x07" + GOOD[3:], "not an idx file"),
        (b"", "not an idx file"),
        (b"\0\0\x08\x04" + b"\x80\0\0\0" * 4, "16 bytes|20 bytes"),  # a product beyond 64 bits
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_idx_file_is_named_with_what_was_expected(tmp_path, content, message, packed):
    path = tmp_path / ("x-ubyte.gz" if packed else "x-ubyte")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match=f"{path.name}: .*(?:{message})"):
        read_idx(path)


def test_a_damaged_archive_and_a_missing_file_are_named(tmp_path):
    whole = gzip.compress(idx(np.random.default_rng(0).integers(0, 255, 5000, dtype=np.uint8)))
    damaged = [
        whole[:100],
        b"no gzip",
        whole[:50] + b"\xff" * 200 + whole[250:],
        whole[:-8] + bytes(8),
        b"",
    ]
    for content in damaged:
        (tmp_path / "x-ubyte.gz").write_bytes(content)
        with pytest.raises(UserError, match="x-ubyte.*: "):
            read_idx(tmp_path / "x-ubyte")
    with pytest.raises(UserError, match="gone-ubyte: cannot be read .*fetch the file again"):
        read_idx(tmp_path / "gone-ubyte")


def test_any_flipped_byte_of_an_archive_is_a_users_error_or_harmless(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x-ubyte.gz"
    whole = gzip.compress(idx(rng.integers(0, 9, (20, 20), dtype=np.uint8)))
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert read_idx(path).shape == (20, 20)
        except UserError:
            pass


def mnist(folder: Path, *, train: int = 3, labels: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in zip(IDX_FILES, (train, labels, 2, 2), strict=True):
        shape = (n, 28, 28) if "idx3" in name else (n,)
        (folder / name).write_bytes(idx(np.zeros(shape, dtype=np.uint8)))
    return folder


def test_mnist_is_four_files_that_belong_together(tmp_path):
    assert [a.shape for a in read_mnist(mnist(tmp_path / "a"))] == [
        (3, 28, 28),
        (3,),
        (2, 28, 28),
        (2,),
    ]
    assert holds_idx(tmp_path / "a")
    with pytest.raises(
        UserError, match=r"images \(3, 28, 28\) and labels \(4,\) do not belong together"
    ):
        read_mnist(mnist(tmp_path / "b", labels=4))
    file = tmp_path / "a" / IDX_FILES[1]
    file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    assert holds_idx(tmp_path / "a") and len(read_mnist(tmp_path / "a")[1]) == 3
    file.with_name(file.name + ".gz").unlink()
    assert not holds_idx(tmp_path / "a") and not holds_idx(tmp_path / "none")


@pytest.mark.parametrize("spelling", ["{}", "{}.gz"])
@pytest.mark.parametrize("infix", ["-idx", ".idx"])
def test_names_with_a_dot_are_mnist_too(tmp_path, spelling, infix):
    whole = read_mnist(mnist(tmp_path))
    for name in IDX_FILES:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        other = spelling.format(name.replace("-idx", infix))
        (tmp_path / other).write_bytes(gzip.compress(content) if other.endswith(".gz") else content)
        if other != name:
            (tmp_path / name).mkdir()  # some archives unpack into folders of the files' names
    assert holds_idx(tmp_path)
    assert [a.shape for a in read_mnist(tmp_path)] == [a.shape for a in whole]


def test_the_content_says_whether_a_file_is_packed(tmp_path):
    content = idx(np.arange(3, dtype=np.uint8))
    (tmp_path / "a-ubyte").write_bytes(gzip.compress(content))
    (tmp_path / "b-ubyte.gz").write_bytes(content)
    for name in ("a-ubyte", "b-ubyte", "b-ubyte.gz"):
        assert read_idx(tmp_path / name).tolist() == [0, 1, 2]


def test_pipes_and_folders_are_no_idx_files(tmp_path):
    os.mkfifo(tmp_path / "x-ubyte")
    with pytest.raises(UserError, match="x-ubyte: is a pipe"):
        read_idx(tmp_path / "x-ubyte")
    (tmp_path / "y-ubyte").mkdir()
    with pytest.raises(UserError, match="y-ubyte: is a folder"):
        read_idx(tmp_path / "y-ubyte")


@pytest.mark.parametrize(
    "place, part", [(0, "training"), (1, "training"), (2, "test"), (3, "test")]
)
@pytest.mark.parametrize("shape", [(0, 28, 28), (3, 0, 0), (0,)])
def test_empty_files_are_refused(tmp_path, place, part, shape):
    path = mnist(tmp_path) / IDX_FILES[place]
    path.write_bytes(idx(np.zeros(shape, np.uint8)))
    with pytest.raises(
        UserError,
        match=rf"^{tmp_path}: holds no {part} images \({IDX_FILES[place // 2 * 2]}: ",
    ):
        read_mnist(tmp_path)


def test_other_types_and_shapes_are_refused(tmp_path):
    images, labels, *_ = (mnist(tmp_path) / name for name in IDX_FILES)
    images.write_bytes(idx(np.zeros((3, 28, 28), ">f4"), 13))
    with pytest.raises(
        UserError,
        match="train-images-idx3-ubyte: images of float32, labels of uint8, expected uint8",
    ):
        read_mnist(tmp_path)
    images.write_bytes(idx(np.zeros((3, 784), np.uint8)))
    with pytest.raises(UserError, match="do not belong together"):
        read_mnist(tmp_path)
    mnist(tmp_path)
    labels.write_bytes(idx(np.zeros(3, ">i4"), 12))
    with pytest.raises(UserError, match="labels of int32, expected uint8"):
        read_mnist(tmp_path)


# --- check ---


@pytest.fixture
def mixed_folder(tmp_path: Path) -> tuple[Path, list[str]]:
    """A folder with good files, and the names of its bad ones."""
    folder = mnist(tmp_path / "set")
    (folder / "images").mkdir()
    Image.new("RGB", (5, 5)).save(folder / "images" / "good.png")
    (folder / "images" / "cut.png").write_bytes((folder / "images" / "good.png").read_bytes()[:40])
    (folder / "images" / "text.JPEG").write_text("<html>not found</html>")
    (folder / "t10k-images-idx3-ubyte").write_bytes(GOOD[:-1])
    np.save(folder / "good.npy", np.arange(3))
    np.savez_compressed(folder / "good.npz", a=np.arange(3))
    (folder / "empty.npy").touch()
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-4])
    packed = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(packed[:-30])
    (folder / "flipped.npz").write_bytes(packed[:60] + b"\xff" * 9 + packed[69:])
    np.save(folder / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "notes.txt").write_text("not an image")
    bad = [
        "cut.png",
        "text.JPEG",
        "t10k-images-idx3-ubyte",
        "empty.npy",
        "cut.npy",
        "cut.npz",
        "flipped.npz",
    ]
    return folder, [*bad, "pickled.npy"]


def test_check_lists_a_folder_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    def scandir(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    assert data.main(["check", str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{tmp_path}: Permission denied\n1 unreadable file\n"


def test_check_lists_every_unreadable_file_with_its_path(mixed_folder, capsys):
    folder, bad = mixed_folder
    assert data.main(["check", str(folder)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert sorted(Path(line.split(": ")[0]).name for line in lines) == sorted(bad)
    assert all(line.startswith(str(folder)) for line in lines)
    assert last == f"{len(bad)} unreadable files"


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".JPG", ".Tif"])
def test_check_looks_at_every_format_that_is_read(tmp_path, capsys, suffix):
    good, bad = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    Image.new("1" if suffix == ".pbm" else "RGB", (5, 5)).save(good)
    bad.write_bytes(good.read_bytes()[:6])
    assert data.main(["check", str(tmp_path)]) == 1
    line, count = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{bad}: unreadable image (") and count == "1 unreadable file"


def test_check_leaves_hidden_files_out_follows_links_and_opens_no_pipe(tmp_path, capsys):
    folder = tmp_path / "set"
    for name in ("set/a", "set/@eaDir", "set/.ipynb_checkpoints", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "bad.jpg").write_bytes(b"junk")
    (folder / "._a.jpg").write_bytes(b"junk")
    (folder / "train.idx3-ubyte").write_bytes(b"junk")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "back").symlink_to(folder)
    for name in ("pipe.jpg", "pipe-ubyte", "pipe.npy"):
        os.mkfifo(folder / name)
    assert data.main(["check", str(folder)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    names = [str(Path(line.split(": ")[0]).relative_to(folder)) for line in lines]
    assert names == [
        "a/bad.jpg",
        "link/bad.jpg",
        "pipe-ubyte",
        "pipe.jpg",
        "pipe.npy",
        "train.idx3-ubyte",
    ]
    assert last == "6 unreadable files"


def test_check_of_good_folders_is_status_0(tmp_path, capsys):
    mnist(tmp_path / "a"), mnist(tmp_path / "b")
    assert data.main(["check", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out == "0 unreadable files\n"


def test_check_of_no_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="gone: no such folder"):
        data.main(["check", str(tmp_path / "gone")])


def test_the_command_itself(mixed_folder):
    folder, bad = mixed_folder
    run = [sys.executable, "-m", "common.data", "check"]
    done = subprocess.run([*run, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == f"{len(bad)} unreadable files"
