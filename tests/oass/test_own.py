"""--data: any classes, boxes where there are, one line for what does not fit."""

import json
import re

import numpy as np
import pytest
import torch

from common import checkpoint, samples
from common.cli import UserError
from common.own import class_names_of
from oass import explain, inference_classification
from oass.data_own import OwnPictures, read_parts
from oass.options import parse
from oass.options_trained import parse_explain, parse_inference
from oass.train import train

CLASSES = ("one", "three", "two")
FLAGS = (
    "--cpu --architecture resnet_tiny --weights none --image_size 64 --min_image_size 64 "
    "--max_image_size 96 --batch_size 8 --max_epoch 2 --num_workers 0 --pictures 1 --lr 0.02 "
    "--print_ratio 1"
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The sample of thirty pictures in all layouts."""
    folder = tmp_path_factory.mktemp("own") / "x"
    samples.draw("own", folder)
    return folder


def trained_on(place, folder, more="", strategy="cTopk-w"):
    argv = [*FLAGS.split(), "--data", str(place), "--output_dir", str(folder), *more.split()]
    return train(parse(strategy, argv))


@pytest.fixture(scope="module")
def run(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "voc"
    trained_on(own / "voc", folder)
    return folder


@pytest.mark.parametrize(
    ("layout", "has_boxes"),
    [
        *[("voc", True), ("coco.json", True), ("complete.csv", True), ("folders", False)],
        *[("labels.csv", False), ("multi.csv", False), ("partial.csv", False)],
        ("candidates.csv", False),
    ],
)
def test_every_layout_trains(layout, has_boxes, own, tmp_path, capsys):
    summary = trained_on(own / layout, tmp_path / "run", "--max_epoch 1")
    out = capsys.readouterr().out
    assert out.startswith("own data: ") and "3 classes" in out.splitlines()[0]
    assert len(summary["ap"]) == 3 and summary["classes"] == 3
    assert (summary["pointing"] is not None) == has_boxes
    assert ("pointing accuracy is not measured" in out) != has_boxes
    is_partial = layout in ("partial.csv", "candidates.csv", "complete.csv")
    assert ("are not known and count as absent" in out) == is_partial


def test_names_go_into_the_checkpoint_and_everything_that_follows(run, own, tmp_path, capsys):
    for name in ("last.pt", "best.pt"):
        assert class_names_of(checkpoint.load(run / "checkpoints" / name)) == list(CLASSES)
    assert (run / "classes.txt").read_text().split() == list(CLASSES)

    flags = f"--checkpoint {run} --cpu --num_workers 0 --cam_iou --neighbours"
    npz = tmp_path / "i.npz"
    argv = [*flags.split(), "--export_instances", str(npz), "--output_dir", str(tmp_path / "a")]
    inference_classification.main(argv)
    summary = json.loads((tmp_path / "a/summary.json").read_text())
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[1])
    assert summary["cam_images"] == 6 and summary["images"] == 6
    assert (tmp_path / "a/predictions.csv").read_text().startswith("id,one,three,two\n")
    assert np.load(npz)["class_names"].tolist() == list(CLASSES)
    evaluations = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    best = max((x for x in evaluations if x["split"] == "Evaluation"), key=lambda x: x["map"])
    assert summary["map"] == pytest.approx(best["map"]) and line

    capsys.readouterr()
    picture = own / "pictures/one_00.jpg"
    explain.main(
        f"--image {picture} --checkpoint {run} --cpu --output_dir {tmp_path / 'e'}".split()
    )
    out = capsys.readouterr().out
    assert all(f"{name} 0." in out for name in CLASSES)


def test_the_numbers_are_those_of_the_pictures(own):
    """Boxes as VOC counts, on the picture as it is evaluated; unknown labels in no number."""
    data = read_parts(str(own / "voc"), None, None, 0, False)
    stored = OwnPictures(data, "val")
    shown = OwnPictures(data, "val", side=128)
    for i in range(len(stored)):
        scale = 128 / max(stored.image(i).size)
        assert max(shown.image(i).size) == 128
        assert shown.mask(i).shape == shown.image(i).size[::-1]
        for before, after in zip(stored.split.objects[i], shown.split.objects[i], strict=True):
            left, top, right, bottom = before.box
            mask = stored.mask(i) == CLASSES.index(before.name) + 1
            rows, columns = np.nonzero(mask)
            assert (left - 1, top - 1) == (columns.min(), rows.min())
            assert (right - 1, bottom - 1) == (columns.max(), rows.max())
            assert abs(after.box[0] - 1 - (left - 1) * scale) <= 1
            assert abs(after.box[2] - right * scale) <= 1
    partial = OwnPictures(read_parts(str(own / "partial.csv"), None, None, 0, False), "train")
    assert partial.split.unknown is not None
    assert not (partial.split.labels * partial.split.unknown).any()
    assert partial.split.without(partial.split.ids[:3]).unknown.shape == (21, 3)


def test_unknown_labels_are_left_out_of_every_number():
    from oass.data import Split
    from oass.evaluate import Scores, measure

    logits = torch.tensor([[3.0, -1.0], [2.0, 1.0], [-1.0, 0.5]])
    labels = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    unknown = np.array([[False, False], [True, True], [False, False]])
    scores = Scores(logits, torch.zeros(3, 2, 2).long(), torch.ones(3, 2, dtype=torch.bool))
    nothing = np.zeros((3, 2), bool)
    split = Split(list("abc"), [[], [], []], labels, nothing, ("p", "q"), unknown)
    found = measure(scores, split)
    known = split.without("b")._replace(unknown=None)
    wanted = measure(Scores(*(column[[0, 2]] for column in scores)), known)
    assert found == wanted and found["map"] == 100


def test_a_run_goes_on_with_the_same_data_only(own, tmp_path):
    folder = tmp_path / "run"
    trained_on(own / "multi.csv", folder, "--max_steps 2")
    with pytest.raises(UserError, match="--resume: other settings.*data "):
        trained_on(own / "folders", folder, "--resume")
    assert trained_on(own / "multi.csv", folder, "--resume")["steps"] == 6


def test_a_changed_class_of_the_same_file_is_seen(own, tmp_path):
    table = tmp_path / "multi.csv"
    text = (own / "multi.csv").read_text().replace("pictures/", f"{own}/pictures/")
    table.write_text(text)
    trained_on(table, tmp_path / "run", "--max_steps 2")
    table.write_text(re.sub(r"\btwo\b(?!_)", "zwei", text))  # not in the names of files
    with pytest.raises(UserError, match="class_names.*two.* then, .*zwei.* now"):
        trained_on(table, tmp_path / "run", "--resume")


def test_a_sample_is_a_sample_run(tmp_path):
    samples.draw("VOC2012", tmp_path / "voc")
    by_data = parse("cMax", ["--data", str(tmp_path / "voc"), "--cpu"])
    by_flag = parse("cMax", ["--data_dir", str(tmp_path / "voc"), "--cpu"])
    assert by_data.own is None and by_data.location.is_sample and by_data.args.weights == "sample"
    differing = {k for k, v in vars(by_flag.args).items() if vars(by_data.args)[k] != v}
    assert differing == {"data", "data_dir"}


WRONG = [
    ("--data {x}/nowhere", "does not exist"),
    ("--data {x}/pictures", "30 pictures and no labels"),
    ("--data {x}/features.npz", "needs pictures"),
    ("--data {x}/voc --data_dir {x}/folders", "name different data"),
    ("--data {x}/voc --sample", "name different data"),
    ("--data {x}/voc --train_domain train", "lists belong to --data_dir"),
    ("--images {x}/pictures", "belongs to --data"),
    ("--classes {x}/classes.txt", "belongs to --data"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_a_mistake_is_one_line_while_the_command_line_is_read(flags, message, own):
    with pytest.raises(UserError, match=message) as caught:
        parse("cMax", flags.format(x=own).split())
    assert "\n" not in str(caught.value)


LATER = [
    ("--data {x}/features.csv", "needs pictures"),
    ("--data {x}/multi.csv --batch_size 32", "only 24 training images"),
    ("--data {x}/multi.csv --classes {t}/two.txt", "the class 'one' is not in"),
    ("--data {t}/empty.csv", "holds no rows"),
]


@pytest.mark.parametrize(("flags", "message"), LATER)
def test_a_mistake_in_the_data_is_one_line_before_the_run(flags, message, own, tmp_path):
    (tmp_path / "two.txt").write_text("two\nthree\n")
    (tmp_path / "empty.csv").write_text("path,label\n")
    argv = [*FLAGS.split(), *flags.format(x=own, t=tmp_path).split()]
    with pytest.raises(UserError, match=message) as caught:
        train(parse("cMax", [*argv, "--output_dir", str(tmp_path / "run")]))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_trained_network_knows_its_data_or_asks(run, own, tmp_path):
    assert parse_inference(["--checkpoint", str(run)]).own.layout == "voc"
    other = parse_inference(["--checkpoint", str(run), "--data", str(own / "multi.csv")])
    assert other.args.classes == str(run / "classes.txt")
    alone = tmp_path / "alone.pt"
    alone.write_bytes((run / "checkpoints/last.pt").read_bytes())
    argv = f"--checkpoint {alone} --cpu --num_workers 0 --output_dir {tmp_path / 'o'}".split()
    with pytest.raises(UserError, match="its 3 classes are not VOC's; give its data with --data"):
        inference_classification.main([*argv, "--sample"])
    (tmp_path / "c.txt").write_text("two\nthree\none\n")
    turned = ["--data", str(own / "multi.csv"), "--classes", str(tmp_path / "c.txt")]
    with pytest.raises(UserError, match=r"\(two, three, one\) are not the 3 of the network"):
        inference_classification.main([*argv, *turned])
    with pytest.raises(UserError, match="have the parts train and val"):
        inference_classification.main([*argv, *turned[:2], "--domain", "test"])
    with pytest.raises(UserError, match="--server_files"):
        parse_inference(["--checkpoint", str(run), "--server_files"])
    with pytest.raises(UserError, match="--classes person: choose from one, three, two"):
        parse_explain(f"--image a.jpg --checkpoint {run} --classes person".split())
