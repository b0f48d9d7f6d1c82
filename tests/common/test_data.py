"""Where data sets are looked for, the idx format, unreadable files, `python -m common.data check`."""

import gzip
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from common import data, samples
from common.cli import UserError
from common.data import CorruptImage, locate, read_idx, read_image, read_mnist

# --- idx ---


def idx(array: np.ndarray, code: int = 8) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("code, dtype", [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_every_type_of_the_format_is_read(tmp_path, code, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    (tmp_path / "x-ubyte").write_bytes(idx(array, code))
    result = read_idx(tmp_path / "x-ubyte")
    assert result.dtype == array.dtype and (result == array).all()


def test_a_packed_file_is_found_by_either_name_and_the_plain_one_comes_first(tmp_path):
    one, two = np.arange(3, dtype=np.uint8), np.arange(5, dtype=np.uint8)
    (tmp_path / "x-ubyte.gz").write_bytes(gzip.compress(idx(one)))
    assert read_idx(tmp_path / "x-ubyte").tolist() == read_idx(tmp_path / "x-ubyte.gz").tolist() == [0, 1, 2]
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
    damaged = [whole[:100], b"no gzip", whole[:50] + b"\xff" * 200 + whole[250:], whole[:-8] + bytes(8), b""]
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
    for name, n in zip(data.IDX_FILES, (train, labels, 2, 2), strict=True):
        shape = (n, 28, 28) if "idx3" in name else (n,)
        (folder / name).write_bytes(idx(np.zeros(shape, dtype=np.uint8)))
    return folder


def test_mnist_is_four_files_that_belong_together(tmp_path):
    assert [a.shape for a in read_mnist(mnist(tmp_path / "a"))] == [(3, 28, 28), (3,), (2, 28, 28), (2,)]
    assert data.holds_idx(tmp_path / "a")
    with pytest.raises(UserError, match=r"images \(3, 28, 28\) and labels \(4,\) do not belong together"):
        read_mnist(mnist(tmp_path / "b", labels=4))
    file = tmp_path / "a" / data.IDX_FILES[1]
    file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    assert data.holds_idx(tmp_path / "a") and len(read_mnist(tmp_path / "a")[1]) == 3
    file.with_name(file.name + ".gz").unlink()
    assert not data.holds_idx(tmp_path / "a") and not data.holds_idx(tmp_path / "none")


# --- images ---


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_images_come_as_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 4), (9, 9, 9)).convert(mode).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (5, 4)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, mode):
    values = np.array([[0, 257, 20000, 65535]], np.uint16 if mode == "I;16" else np.int32)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with Image.open(tmp_path / "a.tiff") as image:
        assert image.mode == mode
    assert np.asarray(read_image(tmp_path / "a.tiff"))[..., 0].tolist() == [[0, 1, 78, 255]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_every_cut_image_is_corrupt_and_named(tmp_path, suffix):
    rng = np.random.default_rng(0)
    good, bad = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(good)
    content = good.read_bytes()
    for length in [0, 1, 8, *rng.integers(9, len(content) // 2, 20).tolist()]:
        bad.write_bytes(content[:length])
        with pytest.raises(CorruptImage, match=f"bad{suffix}: unreadable image .*--skip_corrupt"):
            read_image(bad)


def test_a_missing_image_is_an_error_that_is_never_skipped(tmp_path):
    with pytest.raises(UserError, match="gone.png: no such image") as caught:
        read_image(tmp_path / "gone.png")
    assert not isinstance(caught.value, CorruptImage)


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
    bad = ["cut.png", "text.JPEG", "t10k-images-idx3-ubyte", "empty.npy", "cut.npy", "cut.npz", "flipped.npz"]
    return folder, [*bad, "pickled.npy"]


def test_check_lists_every_unreadable_file_with_its_path(mixed_folder, capsys):
    folder, bad = mixed_folder
    assert data.main(["check", str(folder)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert sorted(Path(line.split(": ")[0]).name for line in lines) == sorted(bad)
    assert all(line.startswith(str(folder)) for line in lines)
    assert last == f"{len(bad)} unreadable files"


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


# --- locate ---


def holds(path: Path) -> bool:
    return (path / "set.txt").is_file()


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "set.txt").touch()
    return folder


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample MNIST in the cache, without drawing it."""
    folder = tmp_path / "cache" / f"MNIST-v{samples.REGISTRY['MNIST'].version}"
    folder.mkdir(parents=True)
    (folder / samples.MARKER).write_text(json.dumps({"name": "MNIST"}))
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return folder


def find(**changed: object) -> data.Location:
    how = "get it from example.org and unpack it there"
    settings = dict(given=None, default="data/mnist", holds=holds, how_to_get=how, sample="MNIST")
    return locate("MNIST", **{**settings, **changed})


def test_the_flag_comes_before_the_variable_before_the_default(working_directory, cached, monkeypatch):
    here = working_directory
    flag, default = put(here / "flag"), put(here / "data" / "mnist")
    inside, root = put(here / "env" / "mnist"), here / "env"
    (root / "set.txt").touch()
    monkeypatch.setenv("WSL_DATA_DIR", str(root))
    assert find(given=flag) == (flag, False)
    assert find() == (inside, False)
    shutil.rmtree(inside)
    assert find() == (root, False)
    (root / "set.txt").unlink()
    assert find() == (Path("data/mnist"), False)
    shutil.rmtree(default)
    assert find() == (cached, True)


def test_the_sample_says_where_was_looked_and_how_to_get_the_set(working_directory, cached, monkeypatch, capsys):
    monkeypatch.setenv("WSL_DATA_DIR", str(working_directory / "env"))
    find()
    out = capsys.readouterr().out
    for part in ("env/mnist", "data/mnist", "example.org", "this run uses the offline sample", str(cached)):
        assert part in out
    assert out.count("\n") == 1


def test_want_sample_uses_it_even_where_real_data_exists(working_directory, cached):
    flag = put(working_directory / "flag")
    put(working_directory / "data" / "mnist")
    assert find(want_sample=True, given=flag) == (cached, True)


def test_a_given_path_that_is_missing_or_empty_is_an_error_and_never_the_sample(working_directory, cached):
    (working_directory / "empty").mkdir()
    with pytest.raises(UserError, match=r"gone does not exist \(MNIST\); get it from example.org.* --sample") as caught:
        find(given=working_directory / "gone")
    assert "python -m common.samples MNIST DIR" in str(caught.value)
    with pytest.raises(UserError, match="MNIST is not in .*empty; get it from example.org"):
        find(given=working_directory / "empty")
    assert "--sample" not in str(pytest.raises(UserError, find, given="gone", sample=None).value)


def test_a_set_without_a_sample_names_those_that_have_one(working_directory):
    for changed in ({}, {"want_sample": True}):
        with pytest.raises(UserError, match="has no offline sample, these have one: ") as caught:
            find(sample=None, **changed)
        assert all(name in str(caught.value) for name in samples.names())
    assert "data/mnist" in str(pytest.raises(UserError, find, sample=None).value)
    assert "example.org" in str(pytest.raises(UserError, find, sample=None).value)


def test_a_path_with_a_marker_makes_a_sample_run(working_directory, cached):
    folder = put(working_directory / "data" / "mnist")
    (folder / samples.MARKER).write_text("{}")
    assert find() == (Path("data/mnist"), True)
    assert find(given=folder) == (folder, True)


def test_a_home_directory_is_expanded(working_directory, monkeypatch):
    put(working_directory / "mine")
    monkeypatch.setenv("HOME", str(working_directory))
    assert find(given="~/mine").path == working_directory / "mine"


# --- downloads ---


def fetch(path: Path) -> None:
    assert socket.getdefaulttimeout() == 15
    (path / "set.txt").touch()


def test_a_download_serves_the_default_and_a_given_path(working_directory, cached):
    assert find(download=fetch) == (Path("data/mnist"), False)
    assert find(given="other/place", download=fetch) == (Path("other/place"), False)
    assert socket.getdefaulttimeout() is None


def test_nothing_is_downloaded_for_a_sample_run_or_where_the_set_is(working_directory, cached):
    def never(path: Path) -> None:
        raise AssertionError

    assert find(download=never, want_sample=True) == (cached, True)
    put(working_directory / "data" / "mnist")
    assert find(download=never) == (Path("data/mnist"), False)


@pytest.mark.parametrize(
    "error", [URLError(OSError("unreachable")), RuntimeError("bad checksum"), TimeoutError("late"), IncompleteRead(b"")]
)
def test_a_failing_download_falls_back_only_from_the_default(working_directory, cached, error, capsys):
    def fails(path: Path) -> None:
        (path / "MNIST" / "raw").mkdir(parents=True)
        raise error

    assert find(download=fails) == (cached, True)
    assert "download into data/mnist failed (" in capsys.readouterr().err
    with pytest.raises(UserError, match="other does not exist"):
        find(given="other", download=fails)
    assert socket.getdefaulttimeout() is None
    assert not (working_directory / "data" / "mnist").exists() and not (working_directory / "other").exists()


def test_a_download_that_brings_something_else_is_no_data_set(working_directory, cached):
    assert find(download=lambda path: (path / "readme").touch()) == (cached, True)
    with pytest.raises(UserError, match="MNIST is not in given"):
        find(given="given", download=lambda path: (path / "readme").touch())


def test_the_shell_variable_is_the_documented_one():
    assert data.ENVIRONMENT == "WSL_DATA_DIR" and data.ENVIRONMENT not in os.environ
