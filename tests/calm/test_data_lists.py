"""Metadata lists and official lists: what they hold; errors name file, line and content."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calm.data_loaders import (
    ImageLabelDataset,
    configure_metadata,
    get_bounding_boxes,
    get_class_labels,
    get_image_ids,
    get_image_sizes,
    get_mask_paths,
)
from calm.data_metadata import SOURCES, build_cub_metadata
from calm.evaluation import BoxEvaluator, MaskEvaluator
from calm.util_cub_trait import CUBTrait
from common.cli import UserError


def test_lists_of_windows_editors(lists: Path) -> None:
    """A byte-order mark, CRLF, coordinates as floating-point numbers."""
    (lists / "image_ids.txt").write_bytes("\ufeffa/1.jpg\r\n\r\na/2.jpg\r\n".encode())
    (lists / "localization.txt").write_bytes(b"a/1.jpg,1.0,2,1.2e+01,4\r\n")
    metadata = configure_metadata(lists)
    assert get_image_ids(metadata) == ["a/1.jpg", "a/2.jpg"]
    assert get_bounding_boxes(metadata) == {"a/1.jpg": [(1, 2, 12, 4)]}


def test_lists(lists: Path) -> None:
    metadata = configure_metadata(lists)
    assert metadata.image_ids == metadata["image_ids"] and get_image_ids(metadata) == [
        "a/1.jpg",
        "a/2.jpg",
    ]
    assert get_class_labels(metadata)["a/2.jpg"] == 1 and get_image_sizes(metadata)["a/2.jpg"] == (
        30,
        40,
    )
    assert get_bounding_boxes(metadata)["a/1.jpg"] == [(1, 2, 3, 4), (5, 6, 7, 8)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("image_ids", "a/1.jpg\na/1.jpg", r"image_ids.txt:2: 'a/1.jpg' stands already in line 1"),
        (
            "image_ids",
            "a/1.jpg\nb.jpg",
            r"image_ids.txt:2: 'b.jpg' has no label in .*class_labels.txt",
        ),
        ("class_labels", "a/1.jpg,0\na/2.jpg", r"class_labels.txt:2: 'a/2.jpg' is not id,label"),
        (
            "class_labels",
            "a/1.jpg,0\na/2.jpg,x",
            r"class_labels.txt:2: 'a/2.jpg,x' is not id,label",
        ),
        (
            "class_labels",
            "a/1.jpg,0\na/2.jpg,5",
            r"class_labels.txt:2: 'a/2.jpg,5': label 5 is outside 0..1",
        ),
        ("class_labels", "a/1.jpg,0\na/1.jpg,0", "has a label already"),
        (
            "image_ids",
            "a/1.jpg\n../2.jpg",
            r"image_ids.txt: line 2: the name '../2.jpg' may lead out of its folder",
        ),
        ("image_ids", "/etc/1.jpg", r"line 1: the name '/etc/1.jpg' may lead out"),
        ("image_ids", "a//1.jpg", r"line 1: the name 'a//1.jpg' may lead out"),
    ],
)
def test_bad_lines_name_file_line_and_content(
    lists: Path, name: str, text: str, message: str
) -> None:
    (lists / f"{name}.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        ImageLabelDataset("x", lists, None, num_classes=2)


@pytest.mark.parametrize(
    ("read", "name", "line", "message"),
    [
        (
            get_image_sizes,
            "image_sizes",
            "a/1.jpg,10,0",
            r"image_sizes.txt:1: 'a/1.jpg' is 10 x 0 pixels",
        ),
        (
            get_image_sizes,
            "image_sizes",
            "a/1.jpg,9,9\na/1.jpg,9,8",
            "image_sizes.txt:2: 'a/1.jpg' has a size already",
        ),
        (
            get_bounding_boxes,
            "localization",
            "a/1.jpg,5,5,4,9",
            r"localization.txt:1: 5,5,4,9 is no box",
        ),
        (
            get_bounding_boxes,
            "localization",
            "a/1.jpg,-1,5,4,9",
            r"localization.txt:1: -1,5,4,9 is no box",
        ),
        (
            get_bounding_boxes,
            "localization",
            "a/1.jpg,1.5,5,4,9",
            r"localization.txt:1: .* is not id,x0,y0,x1,y1",
        ),
        (
            get_mask_paths,
            "localization",
            "a,../m.png,",
            r"localization.txt: line 1: the name '../m.png' may lead",
        ),
        (
            get_mask_paths,
            "localization",
            "a,m.png,/i.png",
            r"localization.txt: line 1: the name '/i.png' may lead",
        ),
    ],
)
def test_bad_sizes_boxes_and_masks_are_named(
    lists: Path, read: Callable, name: str, line: str, message: str
) -> None:
    (lists / f"{name}.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        read(configure_metadata(lists))


def test_ids_from_a_caller_stay_inside_as_well(lists: Path) -> None:
    with pytest.raises(UserError, match="may lead out of its folder"):
        ImageLabelDataset("x", lists, None, image_ids=["a/../../b.jpg"])


def test_a_list_that_is_no_text(lists: Path) -> None:
    (lists / "class_labels.txt").write_bytes(b"a/1.jpg,0\na/\xff.jpg,1")
    with pytest.raises(UserError, match=r"class_labels.txt: line 2: not UTF-8"):
        ImageLabelDataset("x", lists, None)


def test_an_id_without_a_line_is_named_by_its_list(lists: Path) -> None:
    metadata = configure_metadata(lists)
    for read in (get_class_labels, get_image_sizes, get_bounding_boxes):
        with pytest.raises(UserError, match=r"\.txt: no line of 'b.jpg'"):
            read(metadata)["b.jpg"]
    (lists / "localization.txt").write_text("a/1.jpg,1,2,3,4")
    evaluator = BoxEvaluator(metadata, "CUB", "test", [0.5], [50])
    with pytest.raises(UserError, match="localization.txt: no line of 'a/2.jpg'"):
        evaluator.accumulate(np.eye(224), "a/2.jpg")
    (lists / "localization.txt").write_text("a/1.jpg,gone.png,")
    masks = MaskEvaluator(metadata, "OpenImages", "test", [0.5], lists)
    with pytest.raises(UserError, match="localization.txt: no line of 'a/2.jpg'"):
        masks.accumulate(np.eye(224), "a/2.jpg")
    with pytest.raises(UserError, match="gone.png: no such mask.*--mask_root"):
        masks.accumulate(np.eye(224), "a/1.jpg")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("images.txt", "garbage", r"images.txt:\d+: 'garbage' is not number path"),
        ("images.txt", "one two", r"images.txt:\d+: 'one two' is not number path"),
        ("images.txt", "1 again.jpg", r"images.txt:\d+: image 1 has a line already"),
        (
            "bounding_boxes.txt",
            "70 1 2 3",
            r"bounding_boxes.txt:\d+: '70 1 2 3' is not number x y w h",
        ),
        ("bounding_boxes.txt", "70 1 2 3 nan", "is not number x y w h"),
        ("bounding_boxes.txt", None, r"bounding_boxes.txt: no line of 66"),
        (
            "images.txt",
            "70 ../../secret.jpg",
            r"images.txt: line 67: the name '../../secret.jpg' may lead out",
        ),
        ("images.txt", "70 FIRST", r"images.txt:67: '.*jpg' is image 1 already"),
        (
            "train_test_split.txt",
            "70 2",
            r"train_test_split.txt:67: image 70 is 2, expected 0 \(test\) or 1",
        ),
        (
            "image_class_labels.txt",
            "70 0",
            r"image_class_labels.txt:67: image 70 has class 0; classes count from 1",
        ),
    ],
)
def test_bad_lines_of_the_official_lists(
    birds: Path, tmp_path: Path, file: str, line: str, message: str
) -> None:
    root = tmp_path / "CUB"
    root.mkdir()
    (root / "images").symlink_to(birds / "CUB_200_2011/images")
    for name in SOURCES:
        text = (birds / "CUB_200_2011" / name).read_text().rstrip("\n")
        if name == file:
            line = line and line.replace("FIRST", text.split("\n")[0].split(" ")[1])
            text = text.rpartition("\n")[0] if line is None else f"{text}\n{line}"
        (root / name).write_text(text)
    with pytest.raises(UserError, match=message):
        build_cub_metadata(root, tmp_path / "m")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "parts/part_locs.txt",
            ("", "\n3 1 2.0"),
            r"part_locs.txt:\d+: '3 1 2.0' is not image part x y visible",
        ),
        (
            "attributes/class_attribute_labels_continuous.txt",
            ("100", "lots"),
            "continuous.txt:1: .* is not 38 percent",
        ),
        ("images.txt", ("", "\nx"), r"images.txt:\d+: 'x' is not number path"),
        (
            "parts/part_locs.txt",
            ("", "\n3 1 2.0 2.0 1"),
            "part_locs.txt: part 1 of image 3 stands there twice",
        ),
        (
            "parts/parts.txt",
            ("", "\n1 tail"),
            r"parts.txt: 1 stands there twice \(entries 1 and 16\)",
        ),
        ("classes.txt", ("", "\n1 001.Again"), "classes.txt: 1 stands there twice"),
    ],
)
def test_bad_lines_of_the_traits(
    birds: Path, tmp_path: Path, file: str, change: tuple[str, str], message: str
) -> None:
    root = tmp_path / "CUB"
    shutil.copytree(birds / "CUB_200_2011", root, ignore=shutil.ignore_patterns("*.jpg", "*.png"))
    shutil.copy(birds / "attributes.txt", tmp_path)
    old, new = change
    text = (root / file).read_text().rstrip("\n")
    (root / file).write_text(text.replace(old, new, 1) if old else text + new)
    with pytest.raises(UserError, match=message):
        CUBTrait(root)


def test_missing_lists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prepare_metadata.py"):
        get_image_ids(configure_metadata(tmp_path))
