"""Which pictures of a long list are there: kept until a folder changes."""

import os

import numpy as np
import pytest

from common.shards_pack import pack
from csl import data_listing
from csl.data_listing import FolderListing, places_of_names
from csl.data_openimages import LONG_FOLDERS

NAMES = ["a.jpg", "sub/b.jpg", "./c.jpg", "none.jpg", "sub/none.jpg", "missing/d.jpg"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(data_listing, "LONG", 1)
    root = tmp_path / "data"
    for name in ("validation/a.jpg", "train/sub/b.jpg", "c.jpg", "test/a.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    aged(root)
    return root


def aged(root):
    for folder, *_ in os.walk(root):
        os.utime(folder, (1e9, 1e9))


def listed(monkeypatch):
    """Counts the folders that are listed."""
    folders = []
    of = FolderListing._listed

    def counting(self, folder):
        folders.append(folder)
        return of(self, folder)

    monkeypatch.setattr(FolderListing, "_listed", counting)
    return folders


def by_paths(root):
    """As it was found before: a path for every name and folder."""
    listing = FolderListing()
    found = []
    for name in NAMES:
        there = [n for n, folder in enumerate(LONG_FOLDERS) if root / folder / name in listing]
        found.append(there[0] if there else -1)
    return found


def test_the_second_start_lists_nothing(root, monkeypatch):
    wanted = by_paths(root)
    folders = listed(monkeypatch)
    assert places_of_names(root, NAMES, LONG_FOLDERS).tolist() == wanted == [2, 1, 0, -1, -1, -1]
    assert folders
    folders.clear()
    assert places_of_names(root, NAMES, LONG_FOLDERS).tolist() == wanted
    assert not folders


CHANGES = {
    "added": lambda root: (root / "none.jpg").write_text("x"),
    "taken away": lambda root: (root / "validation" / "a.jpg").unlink(),
    "a new folder": lambda root: (root / "missing").mkdir(),
    "renamed": lambda root: (root / "c.jpg").rename(root / "e.jpg"),
    "a folder gone": lambda root: (root / "train").rename(root / "train2"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_seen(kind, root):
    places_of_names(root, NAMES, LONG_FOLDERS)
    CHANGES[kind](root)
    wanted = by_paths(root)
    for _ in range(2):
        assert places_of_names(root, NAMES, LONG_FOLDERS).tolist() == wanted
    aged(root)
    for _ in range(2):
        assert places_of_names(root, NAMES, LONG_FOLDERS).tolist() == wanted


def test_a_link_is_looked_at_every_time(root):
    target = root.parent / "target.jpg"
    target.write_text("x")
    (root / "none.jpg").symlink_to(target)
    aged(root)
    assert places_of_names(root, NAMES, LONG_FOLDERS)[3] == 0
    target.unlink()
    assert places_of_names(root, NAMES, LONG_FOLDERS)[3] == -1


def test_a_folder_that_changed_just_now_is_listed_again(root, monkeypatch):
    os.utime(root)
    folders = listed(monkeypatch)
    places_of_names(root, NAMES, LONG_FOLDERS)
    count = len(folders)
    places_of_names(root, NAMES, LONG_FOLDERS)
    assert len(folders) == 2 * count > 0


def test_packed_pictures_are_there(root, tmp_path):
    wanted = places_of_names(root, NAMES, LONG_FOLDERS)
    out = tmp_path / "packed"
    pack(root, out, shard_bytes=1000)
    assert not list(out.rglob("*.jpg"))
    for _ in range(2):
        assert np.array_equal(places_of_names(out, NAMES, LONG_FOLDERS), wanted)


def test_short_lists_leave_nothing_behind(root, monkeypatch, tmp_path):
    monkeypatch.setattr(data_listing, "LONG", len(NAMES) + 1)
    places_of_names(root, NAMES, LONG_FOLDERS)
    assert not (tmp_path / "cache").exists()
