"""The layouts, end to end: official COCO, hyperml, LVIS, Open Images in both forms, the samples.

Augmentations.
"""

import json
import random
from argparse import Namespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from common import samples
from common.cli import UserError
from csl import train, validate
from csl.build import loaders_of
from csl.data import targets_of
from csl.data_augment import OPERATIONS, CutoutPIL, RandAugment, RandomShift
from csl.data_coco import CocoDetection, LVISDetection
from csl.data_locate import locate_data
from csl.data_openimages_csv import read_openimages_csv
from tests.csl.golden import GOLDEN
from tests.csl.tiny import arguments, write_coco


def settings(root, **changed):
    values = {
        "data": root,
        "metadata": root,
        "debug_mode": "auto",
        "dataset": "auto",
        "sample": False,
    }
    values |= {"image_size": 32, "batch_size": 4, "workers": 0, "seed": 0, "augment": "none"}
    return Namespace(**(values | changed))


def located(args):
    return locate_data(args.data, is_given=True, metadata=args.metadata, debug_mode=args.debug_mode)


def first_batch(args):
    loaders = loaders_of(args, Accelerator(cpu=True))
    return loaders, next(iter(loaders[0])).data


def grey(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30), value, np.uint8)).save(path)  # grey: must become RGB


def test_official_coco_and_hyperml_are_the_same(tmp_path, capsys):
    root = write_coco(tmp_path / "a")
    (train_loader, val_loader), (images, targets) = first_batch(settings(root))
    assert (
        images.shape == (4, 3, 32, 32)
        and 0 <= images.min()
        and images.max() <= 1
        and targets.shape == (4, 5)
    )
    assert "train: 44 of 45 images" in capsys.readouterr().out
    assert list(train_loader.dataset.classes) == list(range(5)) == list(val_loader.dataset.classes)
    metadata = tmp_path / "meta"
    metadata.mkdir()
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}2014.json").read_text())
        for image in content["images"]:
            image["file_name"] = f"{split}2014/{image['file_name']}"
        (metadata / f"{split}.json").write_text(json.dumps(content))
    args = settings(root, metadata=metadata, debug_mode="hyperml")
    assert located(args).layout == "hyperml"
    _, (again, same) = first_batch(args)
    assert (again == images).all() and (same == targets).all()
    kept, _ = first_batch(settings(root, keep_empty=True))
    assert len(kept[0].dataset) == 45


@pytest.mark.slow
def test_lvis_trains_and_validates_with_the_partial_metric(tmp_path, capsys):
    root = tmp_path / "lvis"
    (root / "annotations").mkdir(parents=True)
    content = json.loads((GOLDEN / "lvis_tiny.json").read_text())
    for split in ("train", "val"):
        (root / "annotations" / f"lvis_v1_{split}.json").write_text(json.dumps(content))
    for k, image in enumerate(content["images"]):
        grey(root / "/".join(image["coco_url"].split("/")[-2:]), 20 * k)
    flags = [f for f in arguments(root, tmp_path / "run", "--epochs", "1")]
    at = flags.index("--simulate_partial_type")
    train.main([*flags[:at], *flags[at + 4 :], "--partial_loss_mode", "selective"])
    assert "classes; un-annotated as negative " in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (
        "mAP_unannotated_as_negative_ema_final" in summary
        and summary["classes_counted_ema_final"] >= 1
    )
    best = str(tmp_path / "run" / "checkpoints" / "best_ema.pth")
    weights = ["--model_path", best, "--output_dir", str(tmp_path / "v")]
    capsys.readouterr()
    validate.main([str(root), *weights, "--image_size", "32", "--workers", "0", "--cpu"])
    told = capsys.readouterr().out
    counted = f"{summary['classes_counted_ema_final']} of {summary['classes']} classes"
    assert (
        f"mAP (annotated labels only, {counted}): " in told
        and "un-annotated as negative: mAP " in told
    )
    with pytest.raises(UserError, match="complete labels"):
        train.main([*flags, "--overwrite"])


@pytest.fixture(scope="module")
def openimages(tmp_path_factory):
    return samples.draw("OpenImages", tmp_path_factory.mktemp("oi") / "OpenImages")


@pytest.mark.slow
def test_openimages_sample_measures_both_ways(openimages, tmp_path):
    """-1 as negative would say something else than the annotated labels.

    Val_complete.csv tells the truth.
    """
    flags = arguments(
        openimages, tmp_path / "run", "--epochs", "1", "--stop_epoch", "1", "--batch_size", "64"
    )
    at = flags.index("--simulate_partial_type")
    train.main(
        [*flags[:at], *flags[at + 4 :], "--do_bottleneck_head", "--partial_loss_mode", "selective"]
    )
    test = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {
        "mAP_ema",
        "mAP_weighted_ema",
        "mAP_unannotated_as_negative_ema",
        "mAP_complete_ema",
    } <= set(test)
    assert test["mAP_unannotated_as_negative_ema"] < test["mAP_ema"]


def test_openimages_sample_layout(openimages):
    index = read_openimages_csv(openimages / "data.csv", "train", cache=False)
    targets = index.rows(range(len(index)))
    assert targets.shape == (1500, 60) and set(np.unique((targets == 1).sum(1))) <= {2, 3}
    assert set(np.unique((targets == 0).sum(1))) <= {2, 3, 4}
    args = settings(openimages)
    (train_loader, val_loader), (images, _) = first_batch(args)
    complete, partial = val_loader.dataset.dataset.complete, targets_of(val_loader.dataset.dataset)
    assert (complete >= 0).all() and ((partial == complete) | (partial == -1)).all()
    assert list(train_loader.dataset.classes.values())[0] == "filled 0"


def test_a_subset_of_open_images_classes(openimages, tmp_path, capsys):
    wanted = ["/m/0012z", "/m/0003z", "/m/none"]
    (tmp_path / "classes.txt").write_text("\n".join(wanted))
    args = settings(openimages, class_list=tmp_path / "classes.txt")
    (train_loader, val_loader), (_, targets) = first_batch(args)
    whole = read_openimages_csv(openimages / "data.csv", "train")
    columns = whole.rows(range(len(whole)))[:, [12, 3]]
    assert targets.shape == (4, 3) and list(val_loader.dataset.classes.values())[2] == "/m/none"
    assert np.array_equal(targets_of(train_loader.dataset.dataset)[:, :2], columns)
    assert "labels of classes outside the class list" in capsys.readouterr().err
    with pytest.raises(UserError, match="only with Open Images"):
        first_batch(settings(write_coco(tmp_path / "coco"), class_list=tmp_path / "classes.txt"))
    with pytest.raises(UserError, match="one MID a line"):
        first_batch(settings(openimages, class_list=tmp_path / "none.txt"))


@pytest.mark.slow
def test_coco_sample_is_that_of_the_spec(tmp_path):
    root = samples.draw("COCO_2014", tmp_path / "COCO")
    data = {
        s: CocoDetection(root / f"{s}2014", root / "annotations" / f"instances_{s}2014.json")
        for s in ("train", "val")
    }
    labels = data["train"].targets_all.matrix
    assert labels.shape == (1200, 20) and len(data["val"]) == 450
    assert labels.mean(0).max() == pytest.approx(0.52, abs=0.04) and labels.sum(
        1
    ).mean() == pytest.approx(3.4, abs=0.2)
    official = [
        (c["id"], c["name"]) for c in json.loads((GOLDEN / "coco_categories.json").read_text())[:20]
    ]
    assert list(zip(data["train"].cat2cat, data["train"].classes.values(), strict=True)) == official
    image, _ = data["val"][0]
    assert image.size == (64, 64)


def test_google_long_form(tmp_path):
    text = "ImageID,Source,LabelName,Confidence\n"
    (tmp_path / "oidv6-train-annotations-human-imagelabels.csv").write_text(
        text + "a,verification,/m/2,1\na,verification,/m/1,0\nb,crowd,/m/1,0.7\n"
    )
    (tmp_path / "validation-annotations-human-imagelabels.csv").write_text(
        text + "v,verification,/m/2,1\n"
    )
    for name in ("train/a", "b", "validation/v"):
        grey(tmp_path / f"{name}.jpg")
    (train_loader, val_loader), (_, targets) = first_batch(settings(tmp_path))
    assert sorted(targets.tolist()) == [[0, 1], [1, -1]]
    assert targets_of(val_loader.dataset.dataset).tolist() == [[-1, 1]]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("a.jpg,[],[],training", "row 2: unknown split 'training'"),
        ("a.jpg,x,[],train", "row 2 .*no list of labels"),
        ("a.jpg,[],train", "row 2 .*no list of labels"),
    ],
)
def test_unusable_rows_of_data_csv(tmp_path, row, match):
    (tmp_path / "data.csv").write_text(f"image,pos,neg,split\n{row}\n")
    with pytest.raises(ValueError, match=match):
        read_openimages_csv(tmp_path / "data.csv")


WIDE = "a.jpg,\"['/m/2', '/m/1']\",[],train\nb.jpg,[],[/m/1],val\n"


@pytest.mark.parametrize("header", ["", "image,pos,neg,split\n", "\ufeffimage,pos,neg,split\n"])
def test_data_csv_is_read_by_position(tmp_path, header):
    (tmp_path / "data.csv").write_text(header + WIDE)
    index = read_openimages_csv(tmp_path / "data.csv")
    assert index.paths == ["a.jpg", "b.jpg"] and index.rows([0, 1]).tolist() == [[1, 1], [0, -1]]


def test_one_cache_beside_the_file(tmp_path):
    file = tmp_path / "data.csv"
    for text in (WIDE, WIDE + "c.jpg,[/m/3],[],train\n"):
        file.write_text(text)
        assert len(read_openimages_csv(file)) == text.count("jpg")
        assert len(list(tmp_path.glob(".data.csv.*.npz"))) == 1
    file.write_bytes(bytes(range(256)) * 3)
    with pytest.raises(ValueError, match=r"data.csv: line \d+: .*save it as UTF-8"):
        read_openimages_csv(file)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_images(tmp_path, split):
    other = {"train": "val", "val": "train"}[split]
    (tmp_path / "data.csv").write_text(WIDE.replace(f",{split}\n", f",{other}\n"))
    for name in "ab":
        grey(tmp_path / f"{name}.jpg")
    with pytest.raises(UserError, match=f"data.csv: holds no labelled image of the split {split}"):
        first_batch(settings(tmp_path))


def test_names_of_open_images_and_a_corrupt_picture(tmp_path):
    """mid_to_classes.pth names what the csv does not."""
    (tmp_path / "data.csv").write_text(WIDE)
    torch.save({"/m/1": "Dog", "/m/2": "dog 2"}, tmp_path / "mid_to_classes.pth")
    (tmp_path / "class-descriptions.csv").write_text("LabelName,DisplayName\n/m/2,Cat\n")
    for name in "ab":
        grey(tmp_path / f"{name}.jpg")
    (loader, _), _ = first_batch(settings(tmp_path))
    assert loader.dataset.classes == {0: "Dog", 1: "Cat"}
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(
        UserError, match=r"a.jpg: unreadable.*1 of 1 images of train \(data.csv\).*--skip_corrupt"
    ):
        first_batch(settings(tmp_path))
    torch.save([1], tmp_path / "mid_to_classes.pth")
    with pytest.raises(UserError, match="not names by MID"):
        first_batch(settings(tmp_path))


def test_unknown_negatives_of_lvis_and_a_category_without_a_name(tmp_path):
    content = json.loads((GOLDEN / "lvis_tiny.json").read_text())
    content["images"][0]["neg_category_ids"] = [99]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="1 neg_category_ids of unknown categories, the first of 99"
    ):
        LVISDetection(tmp_path, tmp_path / "a.json")
    content["categories"][0].pop("name")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not an annotation file in COCO's form .*'name'"):
        LVISDetection(tmp_path, tmp_path / "a.json")


def test_unusable_annotation_files(tmp_path):
    root = write_coco(tmp_path / "a")
    file = root / "annotations" / "instances_train2014.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 99
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="unknown categories, the first of 99"):
        first_batch(settings(root))
    file.write_text("{")
    with pytest.raises(ValueError, match="not an annotation file in COCO's form"):
        first_batch(settings(root))


def picture(size=(40, 24)):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_cutout_covers_a_rectangle_of_a_copy():
    image = picture()
    before = np.asarray(image).copy()
    random.seed(3)
    for _ in range(20):
        out = np.asarray(CutoutPIL(0.5)(image))
        assert (np.asarray(image) == before).all()
        ys, xs = np.nonzero((out != before).any(2))
        assert np.ptp(ys) + 1 <= 12 and np.ptp(xs) + 1 <= 20
        patch = out[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].reshape(-1, 3)
        assert (patch == patch[0]).all()


def test_randaugment_applies_each_of_two_operations_half_of_the_time():
    image = picture()
    random.seed(0)
    augment = RandAugment()
    outs = [augment(image) for _ in range(400)]
    assert all(out.size == image.size and out.mode == "RGB" for out in outs)
    unchanged = np.mean([(np.asarray(out) == np.asarray(image)).all() for out in outs])
    assert 0.2 < unchanged < 0.42  # both left out: 1/4, and a few that change nothing
    assert len(OPERATIONS) == 15
    rotate, least, most = OPERATIONS["Rotate"]
    assert (
        (least, most) == (0, 30)
        and OPERATIONS["Posterize"][1:] == (8, 4)
        and OPERATIONS["Solarize"][1:] == (256, 0)
    )
    corner = [np.asarray(rotate(picture((30, 30)), 30))[0, 0].tolist() for _ in range(5)]
    assert corner == [[128, 128, 128]] * 5  # one direction only


def test_shift_moves_by_whole_pixels():
    random.seed(0)
    image = picture((16, 16))
    moved = np.asarray(RandomShift(3)(image))
    assert moved.shape == (16, 16, 3)
    random.seed(0)
    dx, dy = (random.randint(-3, 3) for _ in range(2))
    inner = np.asarray(image)[3 + dy : 13 + dy, 3 + dx : 13 + dx]
    assert (moved[3:13, 3:13] == inner).all()
