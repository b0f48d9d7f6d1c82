"""Which class is which: categories in another order, duplicates, names with commas, classes
without a positive."""

import csv
import json
import random
import re

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from common.cli import UserError
from csl import train, validate
from csl.build import loaders_of
from csl.data import targets_of
from csl.data_classes import Columns, match_categories
from csl.data_coco import CocoDetection, LVISDetection
from csl.data_openimages import OpenImagesDataset, read_class_list
from csl.data_openimages_csv import _names, read_openimages_csv
from csl.data_partial import load_partial_labels, save_partial_labels
from csl.evaluate import metrics_of, uncounted_classes
from csl.report import describe_uncounted
from tests.csl.golden import GOLDEN
from tests.csl.test_data import grey, settings
from tests.csl.tiny import NAMES, arguments, write_coco


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "data", train=9, val=6)


def edited(root, split, change):
    """Apply `change` to the content of an annotation file."""
    file = root / "annotations" / f"instances_{split}2014.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def opened(root, **changed):
    train_loader, val_loader = loaders_of(settings(root, **changed), Accelerator(cpu=True))
    return train_loader.dataset.dataset, val_loader.dataset.dataset


def validated(root, run, folder):
    """What validate.py finds for the averaged model of a run."""
    weights = run / "checkpoints" / "best_ema.pth"
    flags = ["--model_path", str(weights), "--cpu", "--workers", "0"]
    args = validate.parse([*flags, "--data", str(root), "--output_dir", str(folder)])
    return validate.validate(args)


def val_labels(root):
    """What the val file says, literally: (N, 5) in the order of NAMES."""
    content = json.loads((root / "annotations" / "instances_val2014.json").read_text())
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    order = list(dict.fromkeys(a["image_id"] for a in content["annotations"]))
    labels = np.zeros((len(order), 5), np.int8)
    for a in content["annotations"]:
        labels[order.index(a["image_id"]), NAMES.index(name_of[a["category_id"]])] = 1
    return labels


@pytest.mark.parametrize("seed", range(3))
def test_categories_in_another_order_are_the_same_classes(seed, coco, capsys):
    before = val_labels(coco)
    edited(coco, "val", lambda content: random.Random(seed).shuffle(content["categories"]))
    train_set, val_set = opened(coco)
    assert list(val_set.classes.values()) == list(train_set.classes.values()) == list(NAMES)
    assert np.array_equal(targets_of(val_set), before)
    assert "stand in another order than in" in capsys.readouterr().err


def test_categories_with_other_ids_are_matched_by_name(coco, capsys):
    before = val_labels(coco)

    def renumber(content):
        ids = {1: 5, 2: 1, 3: 77, 4: 2, 5: 3}
        for category in content["categories"]:
            category["id"] = ids[category["id"]]
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"]]

    edited(coco, "val", renumber)
    _, val_set = opened(coco)
    assert np.array_equal(targets_of(val_set), before)
    told = capsys.readouterr().err
    assert (
        "5 categories have other ids than in" in told
        and "'person' with 5 and 1; matched by name" in told
    )


def test_a_subset_of_the_categories_in_val(coco, capsys):
    """What the file lacks stays a class without a label, and is named."""
    before = val_labels(coco)

    def drop(content):
        content["categories"] = [c for c in content["categories"] if c["name"] != "car"]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 3]

    edited(coco, "val", drop)
    _, val_set = opened(coco)
    before[:, NAMES.index("car")] = 0
    assert np.array_equal(targets_of(val_set), before[before.any(1)])
    told = capsys.readouterr()
    assert "lacks 1 of the 5 classes of" in told.err and told.err.rstrip().endswith(": car")
    assert "val: 1 of 5 classes have no positive: car" in told.out


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"name": "zebra"},
            r"1 of its 5 categories are no class of .*train2014.json: 2 is 'zebra' here"
            r" and 'bicycle'",
        ),
        ({"name": "Bicycle"}, r"2 is 'Bicycle' here and 'bicycle' there"),
        ({"name": "zebra", "id": 50}, r"1 of its 5 categories .*: 50 'zebra'"),
    ],
)
def test_what_does_not_match_is_named(change, match, coco):
    def rename(content):
        content["categories"][1] |= change
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 2]

    edited(coco, "val", rename)
    with pytest.raises(ValueError, match=match):
        opened(coco)


def test_lvis_categories_in_another_order(tmp_path):
    content = json.loads((GOLDEN / "lvis_tiny.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(content))
    content["categories"].reverse()
    (tmp_path / "b.json").write_text(json.dumps(content))
    first = LVISDetection(tmp_path, tmp_path / "a.json")
    second = LVISDetection(tmp_path, tmp_path / "b.json", columns=first.columns)
    assert np.array_equal(first.targets_all.matrix, second.targets_all.matrix)
    assert np.array_equal(
        first.targets_all.matrix, np.load(GOLDEN / "lvis_tiny_expected.npz")["targets"]
    )


def test_a_trained_network_is_scored_on_categories_in_another_order(coco, tmp_path, capsys):
    train.main(arguments(coco, tmp_path / "run", "--epochs", "1"))
    expected = validated(coco, tmp_path / "run", tmp_path / "a")
    for split in ("train", "val"):  # as whoever downloads another copy may have it
        edited(coco, split, lambda content: content["categories"].reverse())
    assert validated(coco, tmp_path / "run", tmp_path / "b") == expected
    assert "stand in another order than in" in capsys.readouterr().err


def test_a_network_whose_names_are_others(coco, tmp_path, capsys):
    """No name in common: by position, and told. Some in common: the others are named."""
    train.main(arguments(coco, tmp_path / "run", "--epochs", "1"))
    best = tmp_path / "run" / "checkpoints" / "best_ema.pth"
    content = torch.load(best, weights_only=True)
    del content["class_keys"]

    def scored(names):
        torch.save(content | {"idx_to_class": dict(enumerate(names))}, tmp_path / "w.pth")
        flags = ["--model_path", str(tmp_path / "w.pth"), "--data", str(coco)]
        return validate.open_scored(validate.parse(flags))[3]

    expected = targets_of(scored(NAMES))
    assert np.array_equal(targets_of(scored(["a", "b", "c", "d", "e"])), expected)
    assert "no class of it has a name of" in capsys.readouterr().err
    assert np.array_equal(targets_of(scored(NAMES[::-1])), expected[:, ::-1])
    with pytest.raises(
        ValueError, match=r"1 of its 5 categories are no class of .*w.pth: 5 'airplane'"
    ):
        scored([*NAMES[:4], "plane"])


DUPLICATES = {
    "image id": (
        lambda c: c["images"][4].update(id=2),
        r"image ids: 2 stands there twice .entries 2 and 5.",
    ),
    "category id": (
        lambda c: c["categories"][3].update(id=1),
        r"category ids: 1 stands there twice .entries 1 and 4.",
    ),
    "category name": (
        lambda c: c["categories"][3].update(name="car"),
        r"category names: 'car' stands there twice .entries 3 and 4.",
    ),
    "category added": (
        lambda c: c["categories"].append({"id": 99, "name": "car"}),
        r"category names: 'car' stands there twice .entries 3 and 6.",
    ),
    "cut off id": (
        lambda c: c["images"][2].update(id=2.5),
        r"images, entry 3, id: expected a whole number, found 2.5",
    ),
    "id true": (
        lambda c: c["images"][2].update(id=True),
        r"images, entry 3, id: expected a whole number",
    ),
    "cut off image": (
        lambda c: c["annotations"][0].update(image_id=1.5),
        r"annotations, entry 1, image_id: expected a whole number, found 1.5",
    ),
    "cut off category": (
        lambda c: c["annotations"][2].update(category_id="3.5"),
        r"annotations, entry 3, category_id: expected a whole number, found '3.5'",
    ),
    "no categories": (lambda c: c.update(categories=[], annotations=[]), "holds no category"),
    "no list": (lambda c: c.update(images={"id": 1}), "no list 'images'"),
    "no file name": (
        lambda c: c["images"][3].pop("file_name"),
        "image 4: expected the name of a file, found null",
    ),
    "way out": (
        lambda c: c["images"][3].update(file_name="../x.png"),
        "image 4: the name '../x.png' may lead out",
    ),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", DUPLICATES, ids=[k.replace(" ", "-") for k in DUPLICATES])
def test_ambiguous_annotation_files_are_refused_by_name(kind, split, coco):
    change, match = DUPLICATES[kind]
    edited(coco, split, change)
    with pytest.raises(ValueError, match=f"instances_{split}2014.json: .*{match}"):
        opened(coco)


def test_whole_numbers_in_other_spellings_are_ids(coco):
    before = targets_of(opened(coco)[0])

    def spell(content):
        content["images"][0]["id"] = float(content["images"][0]["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = str(annotation["image_id"])
            annotation["category_id"] = float(annotation["category_id"])

    edited(coco, "train", spell)
    assert np.array_equal(targets_of(opened(coco)[0]), before)


def test_boxes_do_not_decide_the_labels_of_an_image(coco):
    """Crowds, boxes of no width, areas of 0, boxes as text or not at all: the category is
    annotated."""
    before = targets_of(opened(coco)[0])
    kinds = [
        {"bbox": [5, 5, 0, 9]},
        {"bbox": ["1.2e+01", "3", "4", "5"]},
        {"bbox": None},
        {"area": 0},
        {"iscrowd": 1},
    ]

    def bend(content):
        for k, annotation in enumerate(content["annotations"]):
            annotation.update(kinds[k % len(kinds)])
            if k % 7 == 0:
                del annotation["bbox"]

    edited(coco, "train", bend)
    assert np.array_equal(targets_of(opened(coco)[0]), before)


AWKWARD = [
    "Bell pepper",
    "Jack-o'-lantern",
    "Bowl, large",
    'a "quoted" one',
    "back\\slash",
    "both ' and \"",
    "[x]",
    "é",
]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_lists_of_names_are_read_as_python_writes_them(count):
    rng = random.Random(count)
    for _ in range(50):
        names = [rng.choice(AWKWARD) for _ in range(count)]
        assert _names(str(names)) == names
    assert _names("[]") == _names("") == _names(" [ ] ") == []
    assert _names("[/m/01, /m/02]") == ["/m/01", "/m/02"] == _names("['/m/01','/m/02',]")
    assert _names('[Bell pepper, "Bowl, large"]') == ["Bell pepper", "Bowl, large"]
    for cell in ("x", "['a' 'b']", "['a", "['a]", "[\"a, 'b']"):
        assert _names(cell) is None


def write_open_images(root, rows):
    with (root / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for row in rows:
        grey(root / row[0])


def test_names_with_commas_quotes_and_backslashes_are_classes(tmp_path):
    rows = [(f"{k}.jpg", [name], [AWKWARD[k - 1]], "train") for k, name in enumerate(AWKWARD)]
    write_open_images(tmp_path, [*rows, ("v.jpg", AWKWARD[:2], AWKWARD[2:], "val")])
    train_set, val_set = opened(tmp_path)
    assert sorted(train_set.classes.values()) == sorted(AWKWARD)
    column = {name: k for k, name in train_set.classes.items()}
    for k, name in enumerate(AWKWARD):
        row = targets_of(train_set)[k]
        assert np.flatnonzero(row == 1).tolist() == [column[name]]
        assert np.flatnonzero(row == 0).tolist() == [column[AWKWARD[k - 1]]]
    assert (targets_of(val_set) == 1).sum() == 2 and (targets_of(val_set) == 0).sum() == 6


def test_an_image_that_stands_twice_in_open_images_lists(tmp_path, capsys):
    first, second = ("a.jpg", ["x"], ["y"], "train"), ("a.jpg", ["y"], [], "train")
    write_open_images(tmp_path, [first, ("b.jpg", ["x"], [], "val"), second])
    with pytest.raises(
        ValueError, match=r"data.csv: row 3: the image 'a.jpg' of train stands in row 1 already"
    ):
        read_openimages_csv(tmp_path / "data.csv")
    write_open_images(
        tmp_path, [("a.jpg", ["x", "y"], ["y"], "train"), ("b.jpg", ["x"], ["y"], "val")]
    )
    train_set, _ = opened(tmp_path)
    assert targets_of(train_set).tolist() == [[1, 1]]
    assert (
        "1 labels are positive and negative of one image; they are positive"
        in capsys.readouterr().err
    )


def test_several_rows_of_an_image_are_the_long_form(tmp_path, capsys):
    text = "ImageID,Source,LabelName,Confidence\n"
    rows = "a,verification,/m/2,1\na,crowd,/m/2,0\na,verification,/m/1,0\n"
    (tmp_path / "oidv6-train-annotations-human-imagelabels.csv").write_text(text + rows)
    (tmp_path / "validation-annotations-human-imagelabels.csv").write_text(
        text + "v,verification,/m/2,1\n"
    )
    for name in ("a", "v"):
        grey(tmp_path / f"{name}.jpg")
    train_set, _ = opened(tmp_path)
    assert targets_of(train_set).tolist() == [[0, 1]]
    assert "1 labels are positive and negative" in capsys.readouterr().err
    for confidence in ("nan", "1.5", "-1", "high"):
        (tmp_path / "x-train.csv").write_text(text + f"a,crowd,/m/2,{confidence}\n")
        with pytest.raises(ValueError, match="row 2"):
            read_openimages_csv(tmp_path / "x-train.csv", cache=False)


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/a.jpg", "x//a.jpg", "x/../../a.jpg"])
def test_paths_that_lead_out_of_the_folder(path, tmp_path):
    (tmp_path / "data.csv").write_text(f"{path},[x],[y],train\nb.jpg,[x],[y],val\n")
    grey(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match="may lead out of its folder"):
        opened(tmp_path)


def test_display_names_of_several_classes_are_told_apart(tmp_path):
    (tmp_path / "data.csv").write_text('a.jpg,"[/m/1, /m/2, /m/3]",[],train\n')
    index = read_openimages_csv(tmp_path / "data.csv")
    data = OpenImagesDataset(tmp_path, index, None, {"/m/1": "Bat", "/m/2": "Cup", "/m/3": "Bat"})
    assert list(data.classes.values()) == ["Bat (/m/1)", "Cup", "Bat (/m/3)"]


def test_class_lists(tmp_path):
    file = tmp_path / "classes.txt"

    def read(text):
        file.write_text(text)
        return read_class_list(file)

    assert read("/m/1, /m/2\n/g/3 /m/4\n") == ["/m/1", "/m/2", "/g/3", "/m/4"]
    assert read("Bell pepper\n\nBowl, large\n") == ["Bell pepper", "Bowl, large"]
    with pytest.raises(ValueError, match=r"classes.txt: '/m/1' stands there twice .lines 1 and 3."):
        read("/m/1\n/m/2\n/m/1\n")
    with pytest.raises(ValueError, match="is empty"):
        read("\n")


def test_open_images_networks_are_scored_in_their_own_columns(tmp_path, capsys):
    """The classes of the network by MID, though the other file has more, or others, or spells
    them out."""
    rows = [("a.jpg", ["/m/2", "/m/1"], ["/m/3"], "train"), ("b.jpg", ["/m/3"], ["/m/1"], "val")]
    write_open_images(tmp_path, [*rows, ("c.jpg", ["/m/1"], [], "val")])
    flags = ["--dataset", "openimages", "--epochs", "1", "--batch_size", "1"]
    at = [f for f in arguments(tmp_path, tmp_path / "run", *flags)]
    at = [
        f
        for f in at
        if f not in ("--simulate_partial_type", "rps", "--simulate_partial_param", "0.4")
    ]
    train.main(at)
    best = tmp_path / "run" / "checkpoints" / "best_ema.pth"
    recorded = torch.load(best, weights_only=True)
    assert recorded["class_keys"] == ["/m/1", "/m/2", "/m/3"]

    other = tmp_path / "other"
    other.mkdir()
    last = ("c.jpg", ["/m/2"], [], "val")
    write_open_images(
        other,
        [("a.jpg", ["/m/0"], [], "train"), ("b.jpg", ["/m/9", "/m/3"], ["/m/2"], "val"), last],
    )

    def labels(weights, *more):
        arguments_of = [
            "--model_path",
            str(weights),
            "--data",
            str(other),
            "--dataset",
            "openimages",
            *more,
        ]
        return targets_of(validate.open_scored(validate.parse(arguments_of))[3]).tolist()

    assert labels(best) == [[-1, 0, 1], [-1, 1, -1]]
    assert "1 labels of classes outside the class list are dropped" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("/m/3\n/m/2\n/m/1\n")
    assert labels(best, "--class_list", str(tmp_path / "list.txt")) == [[-1, 0, 1], [-1, 1, -1]]
    (tmp_path / "list.txt").write_text("/m/3\n/m/2\n/m/9\n")
    with pytest.raises(
        ValueError, match="--class_list: other classes than .*best_ema.pth, such as /m/9"
    ):
        labels(best, "--class_list", str(tmp_path / "list.txt"))

    del recorded["class_keys"]
    recorded["idx_to_class"] = {0: "Cat", 1: "/m/2", 2: "/m/3"}  # one of them spelled out
    torch.save(recorded, tmp_path / "named.pth")
    (other / "class-descriptions.csv").write_text("LabelName,DisplayName\n/m/1,Cat\n")
    assert labels(tmp_path / "named.pth") == [[-1, 0, 1], [-1, 1, -1]]
    recorded["idx_to_class"][0] = "Dog"
    torch.save(recorded, tmp_path / "named.pth")
    with pytest.raises(ValueError, match="has no label of 1 of the 3 classes of .*named.pth: Dog"):
        labels(tmp_path / "named.pth")


def test_partial_labels_are_matched_by_class_name(coco, tmp_path):
    """A mask of another run, on a copy of the data with its categories in another order."""
    data, _ = opened(coco, simulate_partial_type="rps", simulate_partial_param=0.5)
    expected = targets_of(data)
    save_partial_labels(tmp_path / "p.npz", data.targets_all, list(data.classes.values()))
    edited(coco, "train", lambda content: content["categories"].reverse())
    other, _ = opened(coco, partial_labels=tmp_path / "p.npz")
    assert np.array_equal(targets_of(other), expected[:, ::-1])

    with np.load(tmp_path / "p.npz") as arrays:
        whole = dict(arrays)
    broken = {
        "lacks the classes person": {"classes": np.array(["a", *whole["classes"][1:]])},
        "ids: .* stands there twice": {"ids": np.array([whole["ids"][0], *whole["ids"][:-1]])},
        "is no label": {"targets": whole["targets"] + np.int8(2)},
        "do not belong together": {"targets": whole["targets"][:, :3]},
        "not a file of partial labels": {"classes": None},
    }
    for match, change in broken.items():
        arrays = {name: value for name, value in (whole | change).items() if value is not None}
        np.savez(tmp_path / "b.npz", **arrays)
        with pytest.raises(ValueError, match=match):
            load_partial_labels(tmp_path / "b.npz", other)
    (tmp_path / "b.npz").write_bytes((tmp_path / "p.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match="not a file of partial labels"):
        load_partial_labels(tmp_path / "b.npz", other)
    with pytest.raises(FileNotFoundError, match="none.npz: no such file"):
        load_partial_labels(tmp_path / "none.npz", other)


def test_classes_without_a_positive_are_named_and_counted(coco, tmp_path, capsys):
    """The mAP counts them 0, as released.

    Console and summary say which, how many, and what the others reach.
    """

    def drop(content):
        content["annotations"] = [
            a for a in content["annotations"] if a["category_id"] not in (2, 5)
        ]

    edited(coco, "val", drop)
    train.main(arguments(coco, tmp_path / "run", "--epochs", "1"))
    told = capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    others = summary["mAP_classes_with_positives_ema_final"]
    assert summary["classes_without_positives"] == 2 and summary["classes"] == 5
    assert summary["mAP_ema_final"] == pytest.approx(others * 3 / 5)
    assert "val: 2 of 5 classes have no positive: bicycle, airplane" in told
    assert "(2 of 5 classes have no positive and count 0)" in told
    line = "2 of 5 classes have no positive and count 0 in the mAP, as released: bicycle, airplane"
    assert f"{line}; over the other 3 the mAP is {others:.2f}" in told

    scored = validated(coco, tmp_path / "run", tmp_path / "v")
    assert scored["classes_without_positives"] == 2
    assert scored["mAP_classes_with_positives"] == pytest.approx(others, abs=1e-3)
    assert line in capsys.readouterr().out


def test_nothing_is_said_where_every_class_has_a_positive(coco, tmp_path, capsys):
    train.main(arguments(coco, tmp_path / "run", "--epochs", "1"))
    assert "no positive" not in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["classes_without_positives"] == 0
    assert not any(name.startswith("mAP_classes_with") for name in summary)


def test_partial_labels_name_the_classes_that_are_not_counted():
    targets = np.array([[1, -1, 1, 0, 1], [0, -1, 1, 0, 0]])
    no_positive, cannot = uncounted_classes(targets)
    assert no_positive.tolist() == [False, True, False, True, False]
    assert cannot.tolist() == [False, True, True, True, False]
    metrics = metrics_of(targets, np.random.default_rng(0).random((2, 5)))
    assert metrics["classes_counted"] == 2 == (~cannot).sum()
    told = describe_uncounted(list("abcde"), targets)
    assert (
        told
        == "3 of 5 classes are not in the mAP, they have no positive or no negative label: b, c, d"
    )
    assert describe_uncounted(["a"], np.array([[1], [0]])) is None


def test_empty_sets_are_refused_at_the_start(coco, tmp_path):
    def no_annotation(content):
        content["annotations"] = []

    edited(coco, "val", no_annotation)
    with pytest.raises(UserError, match="holds no labelled image of the split val"):
        train.main(arguments(coco, tmp_path / "a"))
    with pytest.raises(UserError, match="no positive label in 6 test images"):
        train.main(arguments(coco, tmp_path / "b", "--keep_empty"))
    root = write_coco(tmp_path / "other")
    flags = arguments(root, tmp_path / "c")
    flags[flags.index("--simulate_partial_param") + 1] = "1"
    with pytest.raises(UserError, match="no annotated label is left in 44 training images"):
        train.main(flags)
    edited(root, "train", no_annotation)
    with pytest.raises(UserError, match="holds no labelled image of the split train"):
        train.main(arguments(root, tmp_path / "d"))
    assert not (tmp_path / "d" / "checkpoints").exists()


def test_partial_labels_that_cannot_be_scored(tmp_path):
    """A positive and a negative of every class that counts: here no class has both."""
    rows = [
        ("a.jpg", ["x"], ["y"], "train"),
        ("b.jpg", ["x"], [], "val"),
        ("c.jpg", [], ["y"], "val"),
    ]
    write_open_images(tmp_path, rows)
    flags = arguments(tmp_path, tmp_path / "run", "--dataset", "openimages")
    at = flags.index("--simulate_partial_type")
    with pytest.raises(
        UserError, match="no class has a positive and a negative label in 2 test images"
    ):
        train.main([*flags[:at], *flags[at + 4 :]])


def test_fewer_images_than_processes(coco, monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 20))
    with pytest.raises(ValueError, match="8 images for 20 processes"):
        loaders_of(settings(coco), accelerator)


def test_names_that_share_nothing():
    columns = Columns(["a", "b"], None, "there")
    assert match_categories({7: "b", 3: "a"}, columns, "here") == {7: 1, 3: 0}
    assert columns.has_nothing_of(["c"]) and not columns.has_nothing_of(["c", "a"])
    with pytest.raises(
        ValueError,
        match=re.escape("here: 6 of its 7 categories are no class of there: 1 'n1'; 2 'n2'"),
    ):
        match_categories({0: "a"} | {k: f"n{k}" for k in range(1, 7)}, columns, "here")


def test_the_readers_own_order_without_columns():
    data = CocoDetection("images", GOLDEN / "coco_tiny.json")
    assert data.columns.names == list(data.classes.values())
    assert data.columns.keys == [str(key) for key in data.cat2cat]
