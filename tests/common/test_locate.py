"""Where data sets are looked for, what serves where they are not, and downloads."""

import json
import os
import shutil
import socket
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from common import samples
from common.cli import UserError
from common.download import connection_limits
from common.locate import ENVIRONMENT, Location, locate
from common.text import expanded

# --- places ---


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


def find(**changed: object) -> Location:
    how = "get it from example.org and unpack it there"
    settings = dict(given=None, default="data/mnist", holds=holds, how_to_get=how, sample="MNIST")
    return locate("MNIST", **{**settings, **changed})


def test_the_flag_comes_before_the_variable_before_the_default(
    working_directory, cached, monkeypatch
):
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


def test_the_sample_says_what_is_missing_where_it_belongs_and_the_flag(
    working_directory, cached, capsys
):
    find(flag="--data_dir")
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "MNIST is not in data/mnist: put it there, or give its folder with --data_dir; "
        "this run uses the offline sample"
    )
    assert len(first) <= 120 and second == str(cached)
    find()
    assert "data/mnist: put it there, or give its path; this run" in capsys.readouterr().out
    find(want_sample=True)
    assert capsys.readouterr().out.split() == [
        "--sample:",
        "this",
        "run",
        "uses",
        "the",
        "offline",
        "sample",
        str(cached),
    ]


def test_a_short_note_stands_on_one_line(working_directory, monkeypatch, capsys):
    monkeypatch.setattr(samples, "ensure", lambda name: Path("/cache/MNIST-v1"))
    assert find(want_sample=True).path == Path("/cache/MNIST-v1")
    assert capsys.readouterr().out == "--sample: this run uses the offline sample /cache/MNIST-v1\n"


def test_one_folder_is_named_with_the_variable_too(working_directory, cached, monkeypatch, capsys):
    monkeypatch.setenv("WSL_DATA_DIR", "env")
    find(flag="--data_dir")
    out = capsys.readouterr().out
    assert out.startswith("MNIST is not in env/mnist: put it there") and "data/mnist" not in out


def test_every_message_fits_two_lines_however_long_the_advice_is(working_directory, cached, capsys):
    (working_directory / "empty").mkdir()
    long = "wanted one of " + ", ".join(f"/a/long/path/to/file{k}.json" for k in range(9))
    find(how_to_get=long, flag="--data")
    assert all(len(line) <= 120 for line in capsys.readouterr().out.splitlines())
    every = [
        {"given": "gone"},
        {"given": "empty"},
        {"sample": None},
        {"want_sample": True, "sample": None},
        {"may_fall_back": False},
    ]
    for changed in every:
        for how in (long, "unpack it there"):
            with pytest.raises(UserError) as caught:
                find(**{"how_to_get": how, "flag": "--data", **changed})
            message = f"error: {caught.value}"
            assert len(message) <= 240 and "\n" not in message and "wanted one of" not in message
            assert ("unpack it there" in message) == (how != long and "want_sample" not in changed)
            assert (
                "--sample" in message or "sample of it" in message or "no offline sample" in message
            )


def test_the_sample_is_named_shortly_where_space_is_short(working_directory, cached):
    how = "unpack it " * 17
    message = str(pytest.raises(UserError, find, given="gone", how_to_get=how).value)
    assert message == f"gone does not exist (MNIST); {how}; or --sample"


def test_want_sample_uses_it_even_where_real_data_exists(working_directory, cached):
    flag = put(working_directory / "flag")
    put(working_directory / "data" / "mnist")
    assert find(want_sample=True, given=flag) == (cached, True)


def test_a_given_path_that_is_missing_or_empty_is_never_the_sample(working_directory, cached):
    (working_directory / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"gone does not exist \(MNIST\); get it from example.org.* --sample"
    ):
        find(given=working_directory / "gone")
    with pytest.raises(UserError, match=r"^--data gone does not exist \(MNIST\); "):
        find(given="gone", flag="--data")
    with pytest.raises(UserError, match="^MNIST is not in --data empty; get it"):
        find(given="empty", flag="--data")
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


def test_a_library_does_not_fall_back(working_directory, cached):
    with pytest.raises(
        UserError,
        match="^MNIST is not in data/mnist.*a sample of it: python -m common.samples MNIST DIR",
    ):
        find(may_fall_back=False)
    assert find(may_fall_back=False, want_sample=True) == (cached, True)
    put(working_directory / "data" / "mnist")
    assert find(may_fall_back=False) == (Path("data/mnist"), False)


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


def test_nothing_is_downloaded_offline(working_directory, cached, monkeypatch):
    monkeypatch.setenv("WSL_OFFLINE", "1")
    assert find(download=lambda path: pytest.fail("a download")) == (cached, True)


def test_the_home_of_nobody_is_a_path_that_does_not_exist(
    working_directory, cached, monkeypatch, tmp_path
):
    with pytest.raises(
        UserError, match="^~nosuchuser/mnist does not exist: there is no home ~nosuchuser$"
    ):
        find(given="~nosuchuser/mnist")
    monkeypatch.setenv("WSL_DATA_DIR", "~nosuchuser")
    with pytest.raises(UserError, match="^~nosuchuser does not exist"):
        find()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x") == tmp_path / "x" and expanded("a/~b") == Path("a/~b")


def test_nothing_is_downloaded_for_a_sample_run_or_where_the_set_is(working_directory, cached):
    def never(path: Path) -> None:
        raise AssertionError

    assert find(download=never, want_sample=True) == (cached, True)
    put(working_directory / "data" / "mnist")
    assert find(download=never) == (Path("data/mnist"), False)


@pytest.mark.parametrize(
    "error",
    [
        URLError(OSError("unreachable")),
        RuntimeError("bad checksum"),
        TimeoutError("late"),
        IncompleteRead(b""),
    ],
)
def test_a_failing_download_falls_back_only_from_the_default(
    working_directory, cached, error, capsys
):
    def fails(path: Path) -> None:
        (path / "MNIST" / "raw").mkdir(parents=True)
        raise error

    assert find(download=fails) == (cached, True)
    assert "download into data/mnist failed (" in capsys.readouterr().err
    with pytest.raises(UserError, match="other does not exist"):
        find(given="other", download=fails)
    assert socket.getdefaulttimeout() is None
    assert (
        not (working_directory / "data" / "mnist").exists()
        and not (working_directory / "other").exists()
    )


def test_a_failing_download_says_why_in_one_line(working_directory, cached, capsys):
    def fails(path: Path) -> None:  # torchvision's words, with every mirror
        raise RuntimeError("Error downloading a.gz:\nTried http://x, got:\n<no such host>\n")

    find(download=fails)
    told = "download into data/mnist failed (Error downloading a.gz: <no such host>)"
    assert told in capsys.readouterr().err.splitlines()


def test_a_failing_download_leaves_a_folder_as_it_was(working_directory):
    def fails(path: Path) -> None:
        (path / "mnist" / "raw").mkdir(parents=True)
        raise TimeoutError

    kept = working_directory / "given" / "my" / "notes"
    kept.mkdir(parents=True)
    with pytest.raises(UserError, match="MNIST is not in given"):
        find(given="given", download=fails)
    assert list((working_directory / "given").iterdir()) == [kept.parent] and kept.is_dir()


def test_a_default_folder_that_is_closed_to_us_falls_back_to_the_sample(
    working_directory, cached, monkeypatch
):
    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (working_directory / "data" / "mnist").mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", closed)
    assert find(download=closed) == (cached, True)


def test_a_download_that_brings_something_else_is_no_data_set(working_directory, cached):
    assert find(download=lambda path: (path / "readme").touch()) == (cached, True)
    with pytest.raises(UserError, match="MNIST is not in given"):
        find(given="given", download=lambda path: (path / "readme").touch())


def test_a_download_gives_the_network_seconds_and_offline_nothing(monkeypatch):
    resolve = socket.getaddrinfo
    monkeypatch.setenv("WSL_OFFLINE", "1")
    with pytest.raises(URLError, match="WSL_OFFLINE is set"), connection_limits():
        urlopen("http://localhost:1")
    assert socket.getaddrinfo is resolve and socket.getdefaulttimeout() is None
    monkeypatch.delenv("WSL_OFFLINE")
    with connection_limits():
        assert socket.getaddrinfo is resolve and socket.getdefaulttimeout() == 15


def test_the_shell_variable_is_the_documented_one():
    assert ENVIRONMENT == "WSL_DATA_DIR" and ENVIRONMENT not in os.environ
