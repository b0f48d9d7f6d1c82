"""What makes a number comparable comes from the checkpoint unless its flag is given, and is
printed.
"""

import json

import pytest
import torch

from common import backbones_timm, checkpoint
from common.cli import NonFiniteError, UserError
from oass import evaluate, inference_classification
from oass.build import build_trained
from oass.build_trained import Trained
from oass.core.backbones import normalisation_of
from oass.core.networks import Classifier
from oass.data_views import describe, views_of
from oass.evaluate import left_out, score_split
from oass.options import parse
from oass.options_trained import parse_explain
from oass.train import train


def read(folder):
    return json.loads((folder / "summary.json").read_text())


def infer(run, devkit, folder, flags=""):
    argv = f"--checkpoint {run} --data_dir {devkit} --cpu --num_workers 0 --output_dir {folder}"
    inference_classification.main(f"{argv} {flags}".split())
    return read(folder)


@pytest.mark.parametrize("strategy", ["cTopk-w", "gap"])
def test_an_evaluation_without_flags_repeats_the_runs_own(
    strategy, small, devkit, tmp_path, capsys
):
    """Size, architecture, head, difficult, whole batches and their size, the list: all other than
    the defaults.
    """
    own = tmp_path / "mine.txt"
    own.write_text("".join(f"2009_{number:06d}\n" for number in range(1, 8)))
    flags = "--image_size 96 --max_epoch 1 --batch_size 4 --drop_last_eval --difficult ignore"
    paths = f"--val_domain {own} --output_dir {tmp_path / 'run'}"
    argv = [*small, *flags.split(), *paths.split()]
    train(parse(strategy, argv))
    line = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()][-1]
    capsys.readouterr()

    summary = infer(tmp_path / "run", devkit, tmp_path / "again")
    for name in ("map", "eval class loss", "pointing", "map voc2010", "classes"):
        assert summary[name.replace(" ", "_")] == pytest.approx(line[name], rel=1e-6), name
    assert summary["images"] == 4  # of seven, whole batches of four
    head = {"gap": "GAP of the class maps"}.get(strategy, "instance head")
    out = capsys.readouterr().out
    told = f"epoch 1: {strategy}, resnet_tiny, {head}, 20 classes, 96 px, "
    assert f"{told}pixels normalised by 0.485 0.456 0.406" in out
    assert "other than in training" not in out
    assert "mine: 7 images" in out or f"{own}: 7 images" in out
    assert "student, scale 1\n" in out

    flags = (
        "--image_size 64 --no-drop_last_eval --domain val --difficult include --scales 0.5,1 --flip"
    )
    other = infer(tmp_path / "run", devkit, tmp_path / "other", flags)
    assert other["images"] == 10 and other["image_size"] == 64 and other["map"] != summary["map"]
    out = capsys.readouterr().out
    for told in (
        "--image_size 64 (trained with 96)",
        "--drop_last_eval False (trained with True)",
        "--difficult include (trained with ignore)",
        "student, scale 0.5, 1 and mirrored",
    ):
        assert told in out, told


def test_a_classifier_without_instance_head_is_measured_by_pooled_maps(devkit, tmp_path, capsys):
    torch.manual_seed(0)
    state = Classifier("resnet_tiny", 20, pretrained=False).state_dict()
    plain = {
        name: value for name, value in state.items() if not name.startswith(("BN.", "stage6."))
    }
    checkpoint.save(tmp_path / "puzzlecam.pth", plain)
    flags = "--architecture resnet_tiny --image_size 64"
    summary = infer(tmp_path / "puzzlecam.pth", devkit, tmp_path / "a", flags)
    assert summary["head"] == "pooled" and "GAP of the class maps" in capsys.readouterr().out
    first = (tmp_path / "a/predictions.csv").read_text()
    infer(tmp_path / "puzzlecam.pth", devkit, tmp_path / "b", f"{flags} --seed 7")
    assert (
        tmp_path / "b/predictions.csv"
    ).read_text() == first  # of a fresh instance head they would differ
    checkpoint.save(tmp_path / "official.pth", state)
    assert infer(tmp_path / "official.pth", devkit, tmp_path / "c", flags)["head"] == "instances"


def test_a_backbone_alone_is_no_classifier(devkit, tmp_path):
    own = Classifier("resnet18", 20, pretrained=False).model.state_dict()
    checkpoint.save(tmp_path / "imagenet.pth", {**own, "fc.weight": torch.zeros(1000, 512)})
    with pytest.raises(UserError, match=r"imagenet.pth: holds a backbone .* no classifier"):
        infer(tmp_path / "imagenet.pth", devkit, tmp_path / "a", "--architecture resnet18")
    assert not (tmp_path / "a").exists()


def test_networks_get_the_pixels_that_their_weights_were_trained_with():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    halves = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for name in ("resnet50", "resnest101", "resnet_tiny", "timm:resnet10t", "timm:no_such_network"):
        assert normalisation_of(name) == imagenet
    assert normalisation_of("timm:tf_mobilenetv3_small_075") == halves
    assert Classifier("timm:tf_mobilenetv3_small_075", 3, pretrained=False).normalisation == halves


@pytest.mark.slow
def test_normalisation_acts_in_training_and_in_every_output(
    small, devkit, tmp_path, monkeypatch, capsys
):
    flags = "--architecture timm:resnet10t --max_steps 1 --lr 0.05".split()
    runs = {}
    build = backbones_timm.build

    def with_halves(*args, **settings):
        model, facts = build(*args, **settings)
        facts.mean = facts.std = (0.5, 0.5, 0.5)
        return model, facts

    for name in ("imagenet", "halves"):
        if name == "halves":
            monkeypatch.setattr(backbones_timm, "build", with_halves)
        train(parse("cMax", [*small, *flags, "--output_dir", str(tmp_path / name)]))
        state = torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True)["state"][
            "model"
        ]
        runs[name] = state["model.body.conv1.0.weight"]
    assert not torch.equal(runs["imagenet"], runs["halves"])
    found = {}
    monkeypatch.setattr(backbones_timm, "build", build)  # the checkpoint knows what it had
    path = tmp_path / "halves/checkpoints/last.pt"
    for name in ("halves", "imagenet"):
        if name == "imagenet":
            saved = checkpoint.load(path)
            saved["state"]["input"] |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
            checkpoint.save(path, saved)
        extra = f"--cam_iou --export_instances {tmp_path}/{name}.npz"
        summary = infer(
            tmp_path / "halves/checkpoints/last.pt", devkit, tmp_path / f"of_{name}", extra
        )
        found[name] = (
            summary["eval_class_loss"],
            summary["cam_miou"],
            (tmp_path / f"{name}.npz").read_bytes(),
        )
    assert all(a != b for a, b in zip(found["halves"], found["imagenet"], strict=True))
    assert "pixels normalised by 0.5 0.5 0.5 / 0.5 0.5 0.5" in capsys.readouterr().out


def test_views_hold_what_the_plain_one_holds():
    assert [v.side for v in views_of(96, (0.5, 0.9, 1.0, 1.1, 1.5, 2.0))] == [
        64,
        96,
        96,
        128,
        160,
        192,
    ]
    assert [v.side for v in views_of(512, (0.25, 0.9, 1.1, 1.25))] == [128, 480, 576, 640]
    for scale in (0.37, 0.5, 0.73, 1.01, 1.77):
        assert views_of(512, (scale,))[0].side >= round(512 * scale)
    assert describe(views_of(64, (0.5, 1.0), True)) == "scale 0.5, 1 and mirrored"
    assert describe(views_of(64)) == "scale 1"


def test_classes_without_positives_are_named_where_an_map_is(small, devkit, tmp_path, capsys):
    few = tmp_path / "few.txt"
    few.write_text("2009_000001\n2009_000002\n")
    argv = [
        *small,
        "--max_epoch",
        "2",
        "--val_domain",
        str(few),
        "--output_dir",
        str(tmp_path / "run"),
    ]
    train(parse("none", argv))
    out = capsys.readouterr().out
    line = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()][-1]
    told = left_out(line["ap"])
    assert 0 < line["classes"] < 20 and told.startswith(
        f"mAP over {line['classes']} of 20 classes; without positives"
    )
    absent = told.rpartition(": ")[2].split(", ")
    assert (
        len(absent) == 20 - line["classes"] and out.count(told) == 2
    )  # at the first evaluation, and at the end
    infer(tmp_path / "run", devkit, tmp_path / "again")
    assert told in capsys.readouterr().out
    assert left_out([50.0] * 20) == ""


def test_scores_that_are_nan_end_the_evaluation_with_a_name(small, devkit, tmp_path, monkeypatch):
    real = evaluate.look
    monkeypatch.setattr(
        evaluate, "look", lambda *a, **k: (real(*a, **k)[0] * torch.nan, real(*a, **k)[1])
    )
    argv = [*small, "--max_epoch", "1", "--output_dir", str(tmp_path)]
    with pytest.raises(
        NonFiniteError, match="val: the scores of 10 images are NaN, first 2009_000001"
    ):
        train(parse("cMax", argv))
    assert score_split is evaluate.score_split


def test_settings_of_a_checkpoint_fill_only_what_is_not_given(small, tmp_path):
    argv = [*small, "--max_steps", "1", "--topk", "3", "--output_dir", str(tmp_path)]
    train(parse("cTopk", argv))
    flags = f"--image x.png --checkpoint {tmp_path} --image_size 96"
    trained, settings = build_trained(parse_explain(flags.split()))
    args = settings.args
    assert (args.image_size, args.architecture, args.topk, args.strategy) == (
        96,
        "resnet_tiny",
        3,
        "cTopk",
    )
    assert trained.overruled == ["--image_size 96 (trained with 64)"]
    with pytest.raises(UserError, match="--image_size 80: a multiple of 32"):
        Trained(tmp_path, image_size=80)
