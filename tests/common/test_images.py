"""Pictures: which files are some, how they come out, masks, and the look at a whole list."""

import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common import images, images_check, samples
from common.cli import UserError
from common.images import (
    CorruptImage,
    check_images,
    image_files,
    is_hidden,
    is_image,
    left_out,
    read_image,
    read_mask,
    read_own_picture,
    visible,
)

ORIENTATION = 0x0112


def noise(width: int = 24, height: int = 20, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def refused(function, *arguments: object, kind: type = UserError, **options: object) -> str:
    """The one line of the error, which is of exactly this class."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / ".checked"


# --- which files are pictures ---


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPG", "x/b.Jpeg", "c.png", "d.tif", "e.ppm", "f.pgm", "g.GIF", "h.webp"]
)
def test_pictures_are_known_by_their_suffix_in_any_case(name):
    assert is_image(name) and is_image(Path(name))


@pytest.mark.parametrize(
    "name", ["a.txt", "a", "jpg", ".jpg", "._a.jpg", ".a.png", "a.jpg.part", "a.npy"]
)
def test_other_files_and_hidden_ones_are_none(name):
    assert not is_image(name)


def test_what_systems_leave_behind_is_hidden(tmp_path):
    left = [
        ".DS_Store",
        ".ipynb_checkpoints",
        "__MACOSX",
        "@eaDir",
        "Thumbs.db",
        "thumbs.DB",
        "desktop.ini",
    ]
    assert all(is_hidden(tmp_path / name) for name in left)
    assert not any(is_hidden(name) for name in ("a.jpg", "cat", "@home", "_a", "thumbs.jpg"))
    for name in (*left, "bee", "ant"):
        (tmp_path / name).touch()
    assert visible(tmp_path) == [tmp_path / "ant", tmp_path / "bee"]


def test_pictures_of_a_folder_and_of_its_folders(tmp_path):
    for name in (
        "b.JPG",
        "a.png",
        "notes.txt",
        "x/c.tif",
        "x/y/d.gif",
        ".hidden/e.png",
        "@eaDir/f.jpg",
        "x/.g.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "x" / "back").symlink_to(tmp_path)
    assert image_files(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    names = [str(path.relative_to(tmp_path)) for path in image_files(tmp_path, recursive=True)]
    assert names == ["a.png", "b.JPG", "x/c.tif", "x/y/d.gif"]


# --- pictures ---


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
@pytest.mark.parametrize("read", [read_image, read_own_picture])
def test_every_mode_comes_as_rgb(tmp_path, mode, read):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = read(path)
    assert image.mode == "RGB" and image.size == (5, 4)
    assert np.asarray(image).min() > 250


def test_a_picture_in_rgb_is_not_copied(tmp_path, monkeypatch):
    noise().save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.convert("RGB"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a copy")

    monkeypatch.setattr(Image.Image, "copy", refuse)
    monkeypatch.setattr(Image.Image, "getexif", refuse)  # nothing asks how it is turned
    result = read_image(tmp_path / "a.jpg", upright=False)
    assert result.mode == "RGB" and np.array_equal(np.asarray(result), expected)
    assert images.why_unreadable(tmp_path / "a.jpg") == ""


def test_a_picture_can_be_sent_to_another_process_and_changed(tmp_path):
    noise().save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    sent = pickle.loads(pickle.dumps(image))
    assert np.array_equal(np.asarray(sent), np.asarray(image))
    (tmp_path / "a.jpg").unlink()
    image.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (1, 2, 3) != sent.getpixel((0, 0))


@pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
def test_every_suffix_is_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    noise(7, 5).convert("1" if suffix == ".pbm" else "RGB").save(path)
    assert read_image(path).size == (7, 5)
    assert check_images([path], what="val").tolist() == []


@pytest.mark.parametrize("size", [(9000, 2), (1, 5000), (1, 1)])
def test_pictures_of_odd_sizes_are_read(tmp_path, size):
    for name in ("a.png", "a.jpg"):
        noise(*size).save(tmp_path / name)
        assert read_image(tmp_path / name).size == read_own_picture(tmp_path / name).size == size


def as_viewers_show(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF's definition: where the stored row 0 and the stored column 0 belong."""
    turned = {
        1: pixels,  # top, left
        2: pixels[:, ::-1],  # top, right
        3: pixels[::-1, ::-1],  # bottom, right
        4: pixels[::-1],  # bottom, left
        5: pixels.transpose(1, 0, 2),  # left, top
        6: pixels.transpose(1, 0, 2)[:, ::-1],  # right, top
        7: pixels[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: pixels.transpose(1, 0, 2)[::-1],  # left, bottom
    }
    return turned[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_pictures_are_turned_as_their_exif_data_say(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise().save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))

    stored = np.asarray(noise())
    upright = as_viewers_show(stored, orientation)
    assert (np.asarray(read_image(path)) == upright).all()
    assert (np.asarray(read_own_picture(path)) == upright).all()
    if suffix != "tif":  # Pillow itself turns a TIFF
        assert (np.asarray(read_image(path, upright=False)) == stored).all()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise().save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (24, 20)


def test_damaged_exif_data_do_not_make_a_picture_unreadable(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    noise().save(path, exif=exif)
    whole = path.read_bytes()
    begin = whole.index(b"Exif\0\0") + 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in range(begin, begin + 24):
            path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
            assert sorted(read_image(path).size) == [20, 24]


# --- transparency ---


def test_transparent_parts_of_an_own_picture_are_white(tmp_path):
    pixels = np.zeros((2, 4, 4), np.uint8)
    pixels[..., 3] = [[0, 255, 128, 0], [0, 255, 128, 0]]
    image = Image.fromarray(pixels)
    image.save(tmp_path / "rgba.png")
    image.convert("LA").save(tmp_path / "la.png")
    for name in ("rgba.png", "la.png"):
        assert np.asarray(read_own_picture(tmp_path / name))[0, :, 0].tolist() == [255, 0, 127, 255]
        assert np.asarray(read_image(tmp_path / name))[0, :, 0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_stands_for_transparent_is_white(tmp_path, mode):
    image = Image.new(mode, (3, 1), 0)
    image.putpixel((1, 0), 90 if mode != "RGB" else (90, 90, 90))
    image.save(tmp_path / "a.png", transparency=0 if mode != "RGB" else (0, 0, 0))
    row = np.asarray(read_own_picture(tmp_path / "a.png"))[0, :, 0].tolist()
    assert row[0] == row[2] == 255 and row[1] < 100
    assert np.asarray(read_image(tmp_path / "a.png"))[0, 0, 0] == 0


# --- more than 8 bits ---


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, mode):
    values = np.array([[0, 257, 20000, 65535]], np.uint16 if mode == "I;16" else np.int32)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with Image.open(tmp_path / "a.tiff") as image:
        assert image.mode == mode
    assert np.asarray(read_image(tmp_path / "a.tiff"))[..., 0].tolist() == [[0, 1, 78, 255]]


@pytest.mark.parametrize("white", [255, 4095, 65535])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_of_few_bits_in_a_file_of_sixteen_is_not_black(tmp_path, white, bands, suffix):
    path = tmp_path / f"a.{suffix}"
    share = np.random.default_rng(0).random((20, 30, bands))
    share[0, 0] = 1
    values = (share * white).round().astype(np.uint16)
    if bands == 4:
        values[..., 3] = 65535
    cv2.imwrite(str(path), values)

    result = np.asarray(read_image(path)) / 255
    expected = share[..., :3][..., ::-1]
    assert np.abs(result - expected).max() < 1.01 / 255
    assert (read_own_picture(path).size, read_image(path).mode) == ((30, 20), "RGB")


def test_sixteen_bits_a_colour_come_as_pillow_reads_them(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (9, 9, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    assert (np.asarray(read_image(tmp_path / "a.png")) == (values >> 8)[..., ::-1]).all()


def test_floating_point_pictures_are_not_black(tmp_path):
    share = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    for white in (1, 255, 65535):
        Image.fromarray(share * np.float32(white)).save(tmp_path / "a.tif")
        assert np.asarray(read_image(tmp_path / "a.tif"))[..., 0].ravel().tolist() == list(
            range(256)
        )
    share[0, 0] = np.nan
    Image.fromarray(share).save(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif"))[0, 0].tolist() == [0, 0, 0]


# --- files that are none ---


@pytest.mark.parametrize("read", [read_image, read_own_picture, read_mask])
def test_what_is_no_ordinary_file_is_refused_and_never_skipped(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    assert "is a pipe or a device" in refused(read, tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    assert "is a folder, expected a file" in refused(read, tmp_path / "folder.png")
    assert refused(read, tmp_path / "gone.png").startswith(f"{tmp_path}/gone.png: no such ")


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Truncated File Read)")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", ".ppm"])
def test_every_cut_picture_is_corrupt_and_named(tmp_path, suffix):
    good, bad = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}"
    noise().save(good)
    content = good.read_bytes()
    lengths = np.random.default_rng(0).integers(9, len(content) // 2, 20).tolist()
    for length in (0, 1, 8, *lengths):
        bad.write_bytes(content[:length])
        message = refused(read_image, bad, kind=CorruptImage)
        assert message.startswith(f"{bad}: unreadable image (") and "--skip_corrupt" in message
        message = refused(read_own_picture, bad, kind=CorruptImage)
        assert (
            message.startswith(f"{bad}: unreadable picture (") and "--skip_corrupt" not in message
        )
        assert refused(read_mask, bad, kind=CorruptImage).startswith(f"{bad}: unreadable mask (")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", ".ppm"])
def test_any_damage_is_a_users_error_or_harmless(tmp_path, suffix):
    rng = np.random.default_rng(1)
    path = tmp_path / f"a{suffix}"
    noise(12, 10).save(path)
    whole = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(200):
            damaged = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 200), 4):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            for read in (read_image, read_own_picture, read_mask):
                try:
                    read(path)
                except UserError as error:
                    assert str(path) in str(error)


def test_the_machines_own_trouble_is_not_a_corrupt_file(tmp_path, monkeypatch):
    noise().save(tmp_path / "a.png")

    def exhausted(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files", str(tmp_path / "a.png"))

    monkeypatch.setattr(Image, "open", exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        read_image(tmp_path / "a.png")


# --- masks ---

IDS = np.array([[0, 1, 2, 255], [20, 15, 0, 7]], np.uint8)
VOC_OF_THE_DEVKIT = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    7: (128, 128, 128),
}
VOC_OF_THE_DEVKIT |= {8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}


def test_colours_of_voc():
    assert images.VOC.shape == (256, 3) and images.VOC.dtype == np.uint8
    assert {k: tuple(images.VOC[k].tolist()) for k in VOC_OF_THE_DEVKIT} == VOC_OF_THE_DEVKIT
    assert len(np.unique(images.VOC, axis=0)) == 256


@pytest.mark.parametrize("kind", ["palette", "grey", "rgb", "rgba", "16 bits", "grey with alpha"])
def test_masks_of_every_kind_are_class_ids(tmp_path, kind):
    image = Image.fromarray(IDS)
    if kind in ("palette", "rgb", "rgba"):
        image = image.convert("P")
        image.putpalette(images.VOC.ravel().tolist())
    if kind in ("rgb", "rgba"):
        image = image.convert(kind.upper())
    if kind == "16 bits":
        image = Image.fromarray(IDS.astype(np.uint16))
    if kind == "grey with alpha":
        image = image.convert("LA")
    image.save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png", (4, 2), highest=20)
    assert mask.dtype == np.uint8 and mask.tolist() == IDS.tolist()


def test_few_ids_in_a_file_of_few_bits(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 3]], np.uint8)).convert("P")
    image.putpalette(images.VOC[:4].ravel().tolist())
    image.save(tmp_path / "a.png", bits=2)
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1, 3]]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "b.png")
    assert read_mask(tmp_path / "b.png").tolist() == [[0, 1]]


def test_a_mask_is_not_turned(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(IDS).save(tmp_path / "a.png", exif=exif)
    assert read_mask(tmp_path / "a.png", (4, 2)).tolist() == IDS.tolist()


def test_masks_that_fit_nothing_are_named(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(IDS).save(path)
    assert (
        refused(read_mask, path, (2, 4)) == f"{path}: the mask is 4 x 2, its picture 2 x 4 pixels"
    )
    message = refused(read_mask, path, highest=15)
    assert (
        message
        == f"{path}: the mask holds 20 at row 1, column 0; expected 0 to 15, or 255 for void"
    )

    Image.fromarray(np.full((2, 2), 128, np.uint8)).save(path)
    assert "the mask holds 128 at row 0, column 0; expected 0 to 20" in refused(
        read_mask, path, highest=20
    )
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(path)
    assert "the mask holds 300 at row 0, column 1; expected 0 to 255" in refused(read_mask, path)

    Image.fromarray(np.array([[[0, 0, 0], [128, 0, 1]]], np.uint8)).save(path)
    message = refused(read_mask, path)
    assert message.startswith(
        f"{path}: the colour (128, 0, 1) at row 0, column 1 is no class of the palette"
    )
    assert "a mask in colours; expected class ids" in refused(read_mask, path, palette=None)


def test_a_palette_of_ones_own(tmp_path):
    Image.fromarray(np.array([[[9, 9, 9], [1, 2, 3]]], np.uint8)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", palette=np.array([[1, 2, 3], [9, 9, 9]])).tolist() == [
        [1, 0]
    ]


# --- lists ---


@pytest.fixture
def listed(tmp_path: Path, cache: Path) -> list[Path]:
    """Six pictures of several formats."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [
        folder / f"{k}{suffix}"
        for k, suffix in enumerate((".jpg", ".png", ".jpg", ".gif", ".bmp", ".JPEG"))
    ]
    for k, path in enumerate(paths):
        noise(seed=k).save(path)
    return paths


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were looked into."""
    names = []
    trouble = images_check._trouble

    def watched(name: str) -> str:
        names.append(Path(name).name)
        return trouble(name)

    monkeypatch.setattr(images_check, "_trouble", watched)
    return names


def test_readable_lists_have_no_positions(listed):
    positions = check_images(listed, what="val")
    assert positions.dtype == np.int64 and positions.tolist() == []
    assert check_images(map(str, listed), what="val").tolist() == []
    assert check_images([], what="val").tolist() == []


def test_unreadable_pictures_are_named_or_returned(listed):
    for k in (1, 4):
        listed[k].write_bytes(listed[k].read_bytes()[:100])
    message = refused(check_images, listed, what="val", kind=CorruptImage)
    folder = listed[0].parent
    assert message.startswith(f"{listed[1]}: unreadable image (")
    assert "2 of 6 images of val" in message and "--skip_corrupt" in message
    assert f"python -m common.data check {folder}" in message
    assert check_images(listed, what="val", skip_corrupt=True).tolist() == [1, 4]
    assert left_out(listed, np.array([1, 4]), "val") == (
        f"val: 2 of 6 images cannot be read and are left out: {listed[1]}, {listed[4]}"
    )
    assert left_out(["a"] * 9, np.arange(7), "val").endswith("left out: a, a, a, a, a and 2 more")


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_missing_files_are_an_error_in_any_case(listed, skip_corrupt):
    listed[2].unlink()
    listed[5].unlink()
    message = refused(check_images, listed, what="the split val", skip_corrupt=skip_corrupt)
    assert message.startswith(
        f"the split val: 2 of 6 listed images are not there, the first is {listed[2]}"
    )


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_folders_and_pipes_in_a_list_are_refused(listed, tmp_path, skip_corrupt):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (("folder.jpg", "is a folder"), ("pipe.jpg", "is a pipe")):
        assert reason in refused(
            check_images, [*listed, tmp_path / name], what="val", skip_corrupt=skip_corrupt
        )


def test_what_was_readable_is_not_looked_into_again(listed, cache, opened):
    check_images(listed, what="val")
    assert sorted(opened) == sorted(path.name for path in listed)
    opened.clear()
    check_images(listed, what="val")
    assert opened == []

    whole = listed[2].read_bytes()
    listed[2].write_bytes(whole[:-40])
    assert check_images(listed, what="val", skip_corrupt=True).tolist() == [2]
    assert opened == ["2.jpg"]
    check_images(listed, what="val", skip_corrupt=True)
    assert opened == ["2.jpg", "2.jpg"]  # until it is mended
    listed[2].write_bytes(whole)
    check_images(listed, what="val")
    opened.clear()
    check_images(listed, what="val")
    assert opened == []


def test_a_file_of_the_same_size_and_another_time_is_looked_into(listed, opened):
    check_images(listed, what="val")
    opened.clear()
    content = bytearray(listed[0].read_bytes())
    content[-2:] = b"\0\0"
    listed[0].write_bytes(content)
    os.utime(listed[0], ns=(1, 1))
    assert check_images(listed, what="val", skip_corrupt=True).tolist() == [0]


def test_a_cache_that_is_damaged_or_cannot_be_written_is_no_error(
    listed, cache, tmp_path, monkeypatch
):
    check_images(listed, what="val")
    (kept,) = cache.glob("*.npy")
    for content in (b"", b"junk", kept.read_bytes()[:-3]):
        kept.write_bytes(content)
        assert check_images(listed, what="val").tolist() == []
    np.save(kept, np.zeros(3))
    assert check_images(listed, what="val").tolist() == []
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", "~nosuchuser/x"):
        monkeypatch.setenv("WSL_SAMPLE_DIR", str(place))
        assert check_images(listed, what="val").tolist() == []


def test_few_lists_are_kept(listed, cache, monkeypatch):
    monkeypatch.setattr(images_check, "LISTS_KEPT", 2)
    for count in range(1, 6):
        check_images(listed[:count], what="val")
    assert len(list(cache.iterdir())) == 2


def test_what_a_killed_process_left_in_the_cache_is_removed(listed, cache):
    cache.mkdir(parents=True)
    (cache / ".x.npy.1.part").write_bytes(b"half")
    check_images(listed, what="val")
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


@pytest.mark.parametrize(
    "suffix", [".jpg", ".png", ".gif", ".webp", ".bmp", ".ppm", ".pgm", ".tif"]
)
@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.9])
def test_cut_files_are_found(tmp_path, cache, suffix, share):
    path = tmp_path / f"a{suffix}"
    noise(90, 70).convert("L" if suffix == ".pgm" else "RGB").save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert check_images([path], what="val", skip_corrupt=True).tolist() == [0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif"])
@pytest.mark.parametrize(
    "trailer", [b"\0" * 700, b"\r\n", b"SEFT" + b"x" * 300, b"\xff\xd9" + b"\0" * 90]
)
def test_bytes_behind_the_end_are_no_damage(tmp_path, cache, suffix, trailer):
    path = tmp_path / f"a{suffix}"
    noise().save(path)
    path.write_bytes(path.read_bytes() + trailer)
    assert check_images([path], what="val").tolist() == []
    read_image(path)


def test_jpegs_of_every_make_are_whole_at_a_glance(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" * 30_000  # a header longer than what is read at once
    makes = [{}, {"progressive": True}, {"exif": exif}, {"comment": b"y" * 5000, "optimize": True}]
    for mode in ("RGB", "L", "CMYK"):
        for options in makes:
            noise(90, 70).convert(mode).save(tmp_path / "a.jpg", **options)
            assert images_check._looks_whole(str(tmp_path / "a.jpg"))
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\xff" + content[2:])  # fill bytes
    assert images_check._looks_whole(str(tmp_path / "a.jpg"))


FILLED = b"\xff\xd8" + b"\xff" * 3000 + b"\xff\xd9"


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xd9", FILLED, b"\xff\xd8x\xff\xd9"])
def test_a_jpeg_without_a_frame_is_not_whole(tmp_path, cache, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert check_images([tmp_path / "a.jpg"], what="val", skip_corrupt=True).tolist() == [0]


def test_a_png_without_pixels_is_not_whole(tmp_path, cache):
    header = struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )
    (tmp_path / "a.png").write_bytes(content)
    assert check_images([tmp_path / "a.png"], what="val", skip_corrupt=True).tolist() == [0]


def test_a_picture_with_another_formats_suffix_is_read(tmp_path, cache):
    noise().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert check_images([tmp_path / "a.jpg"], what="val").tolist() == []


def test_many_files_come_in_order(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(images_check, "CHUNK", 3)
    paths = []
    for k in range(20):
        paths.append(tmp_path / f"{k}.png")
        noise(3, 3).save(paths[-1])
    for k in (0, 7, 19):
        paths[k].write_bytes(b"junk")
    assert check_images(paths, what="val", skip_corrupt=True).tolist() == [0, 7, 19]


def test_the_cache_lies_with_the_samples(cache):
    assert samples.cache_root() == cache.parent
