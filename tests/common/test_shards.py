"""Shards: packed once, read as the files were, by every reader."""

import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import samples, shards
from common.errors import UserError
from common.files import files_below, image_files, visible
from common.images import CorruptImage, check_images, read_image, read_mask, read_own_picture
from common.own import read_own
from common.shards_pack import main

LAYOUTS = ("folders", "labels.csv", "complete.csv", "multi.csv", "voc", "coco.json")


def picture(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade, 9, 200)).save(path)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Pictures in folders, a mask, a text beside them."""
    root = tmp_path / "plain"
    for number in range(30):
        picture(root / f"part{number % 3}" / "deep" / f"{number:02d}.png", number)
    picture(root / "first.jpg", 77)
    picture(root / "bär.png", 78)
    (root / "part0" / "notes.txt").write_text("not a picture")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(root / "mask.png")
    return root


@pytest.fixture
def packed(plain: Path, tmp_path: Path) -> Path:
    main(["pack", str(plain), str(tmp_path / "packed"), "--shard_mb", "1"])
    return tmp_path / "packed"


def small_shards(monkeypatch) -> None:
    """Shards of 5,000 bytes."""
    from common import shards_pack

    write = shards_pack._write
    monkeypatch.setattr(shards_pack, "_write", lambda a, b, c, _: write(a, b, c, 5000))


def relative(root: Path, paths) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_pictures_and_texts_are_where_they_were(plain, packed):
    assert not list(packed.rglob("*.png"))
    assert (packed / "part0" / "notes.txt").read_text() == "not a picture"
    pictures = image_files(plain, recursive=True)
    assert relative(packed, image_files(packed, recursive=True)) == relative(plain, pictures)
    assert relative(packed, visible(packed)) == relative(plain, visible(plain))
    deep = relative(packed, visible(packed / "part1" / "deep"))
    assert deep == relative(plain, visible(plain / "part1" / "deep"))
    below = sorted(files_below(packed, print))
    assert relative(packed, below) == relative(plain, sorted(files_below(plain, print)))


def test_pictures_and_masks_are_equal(plain, packed):
    for name in relative(plain, image_files(plain, recursive=True)):
        for reader in (read_image, read_own_picture):
            ours = np.asarray(reader(packed / name))
            assert (ours == np.asarray(reader(plain / name))).all()
    ids = read_mask(packed / "mask.png", palette=None)
    assert (ids == read_mask(plain / "mask.png", palette=None)).all()


def test_relative_paths_and_other_processes_find_them(plain, packed, monkeypatch):
    monkeypatch.chdir(packed.parent)
    assert read_image("packed/first.jpg").size == (8, 6)
    monkeypatch.chdir(packed)
    assert read_image("first.jpg").size == (8, 6)
    again = pickle.loads(pickle.dumps(packed / "first.jpg"))
    assert read_image(again).size == (8, 6)


def test_text_with_doubled_separators_names_the_same_picture(packed):
    wanted = shards.content(packed / "first.jpg")
    assert shards.content(f"{packed}//first.jpg") == wanted
    assert shards.content(f"{packed}/./first.jpg") == wanted


def test_tars_are_those_of_webdataset(plain, tmp_path, monkeypatch):
    small_shards(monkeypatch)
    out = tmp_path / "many"
    main(["pack", str(plain), str(out)])
    names = []
    tars = sorted((out / "shards").glob("*.tar"))
    assert [path.name for path in tars] == [f"shard-{k:06d}.tar" for k in range(len(tars))]
    assert len(tars) > 3
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                names.append(member.name)
                assert tar.extractfile(member).read() == (plain / member.name).read_bytes()
    assert sorted(names) == relative(plain, image_files(plain, recursive=True))
    assert (
        np.asarray(read_image(out / "bär.png")) == np.asarray(read_image(plain / "bär.png"))
    ).all()


def test_the_same_pictures_give_the_same_shards(plain, packed, tmp_path):
    for path in plain.rglob("*.png"):
        os.utime(path, (1, 1))
    main(["pack", str(plain), str(tmp_path / "again")])
    for path in (packed / "shards").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / "shards" / path.name).read_bytes()


def test_what_is_not_there_is_one_line(packed):
    with pytest.raises(UserError, match=r"none\.png: no such image"):
        read_image(packed / "none.png")
    with pytest.raises(UserError, match="part0: is a folder"):
        read_image(packed / "part0")
    with pytest.raises(UserError, match="1 of 2 listed images are not there"):
        check_images([packed / "first.jpg", packed / "none.png"], what="val")


def test_a_list_is_checked_and_damage_is_named(plain, tmp_path):
    path = plain / "part0" / "deep" / "00.png"
    path.write_bytes(path.read_bytes()[:40])
    main(["pack", str(plain), str(tmp_path / "packed")])
    pictures = image_files(tmp_path / "packed", recursive=True)
    found = check_images(pictures, what="val", skip_corrupt=True)
    assert [pictures[k].name for k in found] == ["00.png"]
    assert (check_images(pictures, what="val", skip_corrupt=True) == found).all()
    with pytest.raises(CorruptImage, match=r"00\.png: unreadable image"):
        read_image(pictures[int(found[0])])


def test_a_shard_that_is_cut_short_is_named(packed):
    shard = packed / "shards" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(CorruptImage, match="cut short"):
        read_image(image_files(packed, recursive=True)[-1])


def test_a_damaged_index_is_one_line(packed):
    shards.load_index.cache_clear()
    (packed / "shards" / "hash.npy").write_bytes(b"half")
    with pytest.raises(UserError, match="the index is damaged .*pack again"):
        read_image(packed / "first.jpg")


def test_another_version_is_one_line(packed):
    shards.load_index.cache_clear()
    marker = packed / shards.MARKER
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "version": 0}))
    with pytest.raises(UserError, match="another version"):
        read_image(packed / "first.jpg")


def test_names_with_one_hash_are_told_apart(packed, monkeypatch):
    """A search goes on through all names of a hash."""
    index = shards.load_index(packed)
    same = np.full(len(index), 5, np.uint64)
    crowded = shards.Index(index.shards, same, index.places, index.names, index.starts)
    monkeypatch.setattr(shards, "name_hash", lambda name: 5)
    for at in range(len(index)):
        name = index.name(at)
        assert crowded.find(name).offset == index.places[at, 1]
    assert crowded.find("none") is None


def test_a_csv_and_its_pictures(plain, tmp_path):
    table = plain / "labels.csv"
    table.write_text("path,label\nfirst.jpg,a\npart1/deep/01.png,b\nfirst.jpg,b\n")
    main(["pack", str(table), str(tmp_path / "packed")])
    assert (tmp_path / "packed" / "labels.csv").read_text() == table.read_text()
    assert relative(tmp_path / "packed", image_files(tmp_path / "packed", recursive=True)) == [
        "first.jpg",
        "part1/deep/01.png",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("path,label\n", "no column `path`, or no row"),
        ("file\nfirst.jpg\n", "no column `path`"),
        ("path\n../x.png\n", "line 2: .* outside of the csv's folder"),
        ("path\nnone.png\n", r"line 2: .*none\.png: no such picture"),
    ],
)
def test_a_csv_that_cannot_be_packed(plain, tmp_path, content, told):
    (plain / "labels.csv").write_text(content)
    with pytest.raises(UserError, match=told):
        main(["pack", str(plain / "labels.csv"), str(tmp_path / "packed")])
    assert not (tmp_path / "packed").exists()


def test_refusals(plain, packed, tmp_path):
    with pytest.raises(UserError, match="is there already"):
        main(["pack", str(plain), str(packed)])
    with pytest.raises(UserError, match="is packed already"):
        main(["pack", str(packed), str(tmp_path / "new")])
    with pytest.raises(UserError, match="no such folder or csv"):
        main(["pack", str(tmp_path / "none"), str(tmp_path / "new")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture to pack"):
        main(["pack", str(tmp_path / "empty"), str(tmp_path / "new")])
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_data_of_every_layout(tmp_path, layout):
    plain = samples.draw("own", tmp_path / "own")
    main(["pack", str(plain), str(tmp_path / "packed")])
    ours = read_own(tmp_path / "packed" / layout)
    files = read_own(plain / layout)
    assert ours.classes == files.classes
    for name in ("train", "val"):
        one = getattr(ours, name)
        two = getattr(files, name)
        assert relative(tmp_path / "packed", one.paths) == relative(plain, two.paths)
