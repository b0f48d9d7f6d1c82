"""Own pictures as files, folders and patterns; one json a picture, and a contact sheet."""

import json

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.pictures import Answers, draw_sheet, find_pictures, read_pictures, readable_pictures


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pics"
    folder.mkdir()
    for name, colour in (("b.PNG", "red"), ("a b.jpg", "green"), ("ü.jpeg", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def names(paths):
    return [path.name for path in paths]


def test_a_folder_stands_for_its_pictures(pictures):
    assert names(find_pictures([str(pictures)], "--image")) == ["a b.jpg", "b.PNG", "ü.jpeg"]


def test_a_pattern_stands_for_the_pictures_that_it_matches(pictures):
    assert names(find_pictures([f"{pictures}/*.jp*g"], "--image")) == ["a b.jpg", "ü.jpeg"]


def test_what_is_named_twice_is_listed_once_in_the_order_given(pictures):
    given = [f"{pictures}/b.PNG", str(pictures)]
    assert names(find_pictures(given, "--image")) == ["b.PNG", "a b.jpg", "ü.jpeg"]


@pytest.mark.parametrize("place", ["missing.jpg", "*.gif", "pics/*.txt"])
def test_a_place_without_pictures_is_named_with_its_flag(pictures, place):
    with pytest.raises(UserError, match="--image .*no picture there"):
        find_pictures([str(pictures.parent / place)], "--image")


def test_unreadable_pictures_are_refused_or_left_out_and_told(pictures):
    (pictures / "z.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(UserError, match=r"z\.jpg"):
        readable_pictures([str(pictures)], "--image")
    kept, told = readable_pictures([str(pictures)], "--image", skip_corrupt=True)
    assert len(kept) == 3
    assert len(told) == 1 and "--image" in told[0]


def test_where_no_picture_can_be_read_nothing_goes_on(tmp_path):
    (tmp_path / "z.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(UserError, match="none of the pictures can be read"):
        readable_pictures([str(tmp_path)], "--image", skip_corrupt=True)


def test_pictures_are_read_in_colour(pictures):
    images, told = read_pictures(find_pictures([str(pictures)], "--image"))
    assert [image.mode for image in images.values()] == ["RGB"] * 3
    assert told == []


def test_each_picture_has_a_json_and_arrays_and_all_have_a_sheet(pictures, tmp_path):
    answers = Answers(tmp_path / "out")
    for path, image in read_pictures(find_pictures([str(pictures)], "--image"))[0].items():
        arrays = {"maps": np.ones((2, 3), np.float32)}
        answers.add(path, {"class": "cat"}, shown=image, caption=["cat 0.9"], arrays=arrays)
    answers.finish(tmp_path / "out" / "sheet.png")

    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name for name in written if name.endswith(".json")] == [
        "0000_a b.json",
        "0001_b.json",
        "0002_ü.json",
        "answers.json",
    ]
    one = json.loads((tmp_path / "out" / "0001_b.json").read_text(encoding="utf-8"))
    assert one == {"picture": str(pictures / "b.PNG"), "class": "cat"}
    everything = json.loads((tmp_path / "out" / "answers.json").read_text(encoding="utf-8"))
    assert everything[1] == one
    with np.load(tmp_path / "out" / "0001_b.npz") as arrays:
        assert arrays["maps"].shape == (2, 3)
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (3 * 170, 170 + 2 * 13)


def test_a_sheet_shows_each_picture_in_its_own_cell(tmp_path):
    cells = [(Image.new("RGB", (160, 160), colour), ["name " * 40]) for colour in ("red", "blue")]
    draw_sheet(tmp_path / "sheet.png", cells, columns=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = sheet.convert("RGB")
        assert pixels.getpixel((85, 85)) == (255, 0, 0)
        assert pixels.getpixel((85, pixels.height // 2 + 85)) == (0, 0, 255)
