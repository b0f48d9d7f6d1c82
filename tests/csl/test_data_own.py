"""A user's own data: what each format means here, what is refused, and a run from end to end."""

import csv
import json

import numpy as np
import pytest
import torch

from common import samples
from common.errors import UserError
from csl import data_own, options, validate
from csl.data import OwnPictures, make_partial, open_splits
from csl.data_classes import Columns
from csl.data_pixels import Pixels
from csl.src.models.utils.checkpoint import read_checkpoint
from csl.train import main as train

FLAGS = "--model_name tresnet_tiny --image_size 32 --batch_size 8 --workers 0 --cpu --epochs 2"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return samples.draw("own", tmp_path_factory.mktemp("own") / "x", samples.SEED)


def found_in(path, *flags):
    return options.parse(["--data", str(path), *FLAGS.split(), *flags]).found


def splits_of(path, *flags, seed=0):
    return open_splits(found_in(path, *flags), Pixels(32), augment="none", seed=seed)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("folders", {0, 1}),
        ("labels.csv", {0, 1}),
        ("multi.csv", {0, 1}),
        ("coco.json", {0, 1}),
        ("voc", {0, 1}),
        ("partial.csv", {-1, 0, 1}),
        ("candidates.csv", {-1, 0, 1}),
    ],
)
def test_every_format_gives_positives_negatives_and_unknown(place, name, known):
    train_set, val_set = splits_of(place / name)
    for part in (train_set, val_set):
        assert isinstance(part, OwnPictures)
        assert list(part.classes.values()) == ["one", "three", "two"]
        image, target = part[0]
        assert image.shape == (3, 32, 32)
        assert target.dtype == torch.int8
    assert set(np.unique(train_set.targets_all.matrix)) == known


def test_partial_labels_are_those_of_the_csv(place):
    train_set, val_set = splits_of(place / "partial.csv")
    rows = list(csv.DictReader((place / "partial.csv").open()))
    for part, split in ((train_set, "train"), (val_set, "val")):
        wanted = [row for row in rows if row["split"] == split]
        assert len(part) == len(wanted)
        for number, row in enumerate(wanted):
            labels = part.labels_of(number)
            for column, name in part.classes.items():
                expected = -1
                if name in row["positives"].split(";"):
                    expected = 1
                elif name in row["negatives"].split(";"):
                    expected = 0
                assert labels[column] == expected


def test_the_seed_draws_val_where_the_data_do_not(place):
    first = splits_of(place / "labels.csv", seed=0)[1].ids
    again = splits_of(place / "labels.csv", seed=0)[1].ids
    other = splits_of(place / "labels.csv", seed=1)[1].ids
    assert first == again
    assert first != other


def test_complete_labels_may_be_simulated_partial_ones_not(place):
    train_set, _ = splits_of(place / "multi.csv")
    make_partial(train_set, scheme="rps", param=0.5, verbose=False)
    assert (train_set.targets_all.matrix == -1).any()
    assert (train_set.complete != -1).all()
    partial, _ = splits_of(place / "partial.csv")
    with pytest.raises(UserError, match="partial already"):
        make_partial(partial, scheme="rps", param=0.5)


def test_labels_in_the_columns_of_a_network(place):
    found = found_in(place / "multi.csv")
    own = data_own.read_own_data(found)
    columns = Columns(["two", "zebra", "three", "one"], None, "the network")
    moved = OwnPictures(own, own.val, columns=columns).targets_all.matrix
    plain = OwnPictures(own, own.val).targets_all.matrix
    assert np.array_equal(moved[:, [3, 2, 0]], plain)
    assert (moved[:, 1] == 0).all()


MISTAKES = {
    "features": ("{own}/features.npz", "needs pictures"),
    "pictures without labels": ("{own}/pictures", "no labels"),
    "images of class folders": ("{own}/folders --images {own}", "belongs to a csv or json"),
    "a named layout": ("{own}/labels.csv --images {own} --dataset coco", "leave --dataset"),
    "keep_empty": ("{own}/labels.csv --keep_empty", "only of the official layouts"),
    "classes that lack one": ("{own}/labels.csv --classes {one}", "'three' is not in"),
}


@pytest.mark.parametrize("case", MISTAKES, ids=[case.replace(" ", "-") for case in MISTAKES])
def test_mistakes_are_one_line(case, place, tmp_path):
    flags, message = MISTAKES[case]
    one = tmp_path / "one.txt"
    one.write_text("one\n")
    place_and_flags = flags.format(own=place, one=one).split()
    with pytest.raises(UserError, match=message) as caught:
        splits_of(*place_and_flags)
    assert "\n" not in str(caught.value)


def test_classes_without_data_are_refused():
    with pytest.raises(UserError, match="belongs to --data"):
        options.parse(["--classes", "x"])


def test_an_open_images_csv_stays_open_images():
    found = options.parse(["--data", str(samples.ensure("OpenImages"))]).found
    assert found.layout == "openimages"
    assert found.own is None


def test_train_and_validate_share_the_val_part_and_the_class_names(place, tmp_path, capsys):
    out = tmp_path / "run"
    data = ["--data", str(place / "labels.csv")]
    flags = [*data, *FLAGS.split(), "--seed", "3", "--augment", "none"]
    train([*flags, "--output_dir", str(out)])
    printed = capsys.readouterr().out
    assert "own data: a csv" in printed
    assert "estimate: 6 steps" in printed
    assert "one" in (out / "per_class.csv").read_text()

    weights = out / "checkpoints" / "best_ema.pth"
    found = read_checkpoint(weights)
    assert list(found.idx_to_class.values()) == ["one", "three", "two"]
    scored = tmp_path / "scored"
    flags = [*data, "--model_path", str(weights), "--cpu", "--workers", "0"]
    validate.main([*flags, "--output_dir", str(scored)])
    again = json.loads((scored / "summary.json").read_text())
    first = json.loads((out / "summary.json").read_text())
    assert again["mAP"] == pytest.approx(first["mAP_ema_best_on_test"], abs=0.01)
    with pytest.raises(UserError, match="images"):
        train(
            [*data, *FLAGS.split(), "--augment", "none", "--seed", "3", "--resume"]
            + ["--images", str(place), "--output_dir", str(out)]
        )
