"""Composed pictures in VOC's layout (benchmarks/compose_objects.py) are read as a devkit."""

import numpy as np
import pytest
from PIL import Image

from common.cli import UserError
from oass.core.datasets import VOC_Dataset_For_Testing_CAM
from oass.data_voc import CLASS_DIC


@pytest.fixture(scope="module")
def compose(benchmark):
    return benchmark("compose_objects")


@pytest.fixture(scope="module")
def tiny_imagenet(compose, tmp_path_factory):
    """A folder in Tiny-ImageNet's layout: four classes and the scenes, three photographs each and
    split.
    """
    root, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    wnids, annotations = [*compose.FIRST[:4], *compose.SCENES], []
    for wnid in wnids:
        (root / "train" / wnid / "images").mkdir(parents=True)
        lines = []
        for k in range(3):
            pixels = Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))
            pixels.save(root / "train" / wnid / "images" / f"{wnid}_{k}.JPEG")
            lines.append(f"{wnid}_{k}.JPEG\t5\t5\t50\t60")
            (root / "val" / "images").mkdir(parents=True, exist_ok=True)
            pixels.save(root / "val" / "images" / f"{wnid}_{k}.JPEG")
            annotations.append(f"{wnid}_{k}.JPEG\t{wnid}\t5\t5\t50\t60")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("\n".join(lines))
    (root / "val" / "val_annotations.txt").write_text("\n".join(annotations))
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "words.txt").write_text("\n".join(f"{w}\tthing {w}, other" for w in wnids))
    return root


def write(compose, tiny_imagenet, to, *flags):
    paths = f"--tiny_imagenet {tiny_imagenet} --to {to}"
    argv = f"{paths} --layout voc --images 8 --classes 4 --size 64".split()
    compose.main([*argv, *flags])
    return VOC_Dataset_For_Testing_CAM(to, "train_aug")


def test_pictures_masks_and_boxes_agree_and_the_seed_decides(compose, tiny_imagenet, tmp_path):
    data, again = (write(compose, tiny_imagenet, tmp_path / name) for name in ("a", "b"))
    assert len(data) == 8 and 1 < data.split.labels.sum(1).max() <= 4
    for i in range(len(data)):
        mask = data.mask(i)
        assert np.array_equal(np.asarray(data.image(i)), np.asarray(again.image(i)))
        assert set(np.unique(mask)) - {0} == {c + 1 for c in np.flatnonzero(data.split.labels[i])}
        for o in data.split.objects[i]:  # boxes count from 1
            ys, xs = np.nonzero(mask == CLASS_DIC[o.name] + 1)
            assert o.box == (
                xs.min() + 1,
                ys.min() + 1,
                min(xs.max() + 1, 63),
                min(ys.max() + 1, 63),
            )


def test_whole_photographs(compose, tiny_imagenet, tmp_path):
    data = write(compose, tiny_imagenet, tmp_path / "one", "--photographs")
    assert (data.split.labels.sum(0)[:4] == 2).all() and (data.split.labels.sum(1) == 1).all()
    assert data.split.objects[0][0].box == (6, 6, 51, 61)
    photo = Image.open(next((tiny_imagenet / "train").glob(f"{compose.FIRST[0]}/images/*_0.JPEG")))
    assert (
        np.abs(np.asarray(data.image(0), int) - np.asarray(photo, int)).mean() < 30
    )  # JPEG once more


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--size 1", "--size 1: at least 32"),
        ("--seed -1", "--seed -1: must not be negative"),
        ("--classes 21", "--classes 21: .*voc.* has 20"),
    ],
)
def test_bounds_are_one_line_and_leave_no_folder(compose, tiny_imagenet, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        write(compose, tiny_imagenet, tmp_path / "out", *flags.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["words.txt", "train", "a word"])
def test_an_incomplete_tiny_imagenet_is_named_and_leaves_no_folder(
    compose, tiny_imagenet, tmp_path, missing
):
    for source in tiny_imagenet.iterdir():
        if source.name != missing:
            (tmp_path / source.name).symlink_to(source)
    if missing == "a word":
        (tmp_path / "words.txt").unlink()
        (tmp_path / "words.txt").write_text("n00000000\tthing\n\n")
    with pytest.raises(UserError, match=compose.FIRST[0] if missing == "a word" else missing):
        write(compose, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
