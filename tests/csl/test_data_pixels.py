"""What makes a score comparable comes from the checkpoint: image size, resampling,
normalisation, classes, head."""

import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from common.images import read_image
from csl import compare, infer, train, validate
from csl.build import build_pixels, loaders_of
from csl.data_pixels import Pixels, Statistics
from csl.options import parse
from csl.src.models import create_model
from csl.src.models.utils.checkpoint import network_of, official, read_checkpoint
from csl.src.models.utils.factory import input_statistics
from tests.csl.test_data import settings
from tests.csl.tiny import NAMES, arguments, write_coco

HALVES = Statistics((0.5,) * 3, (0.5,) * 3)
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run at 40 pixels, a size that no default has."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(arguments(data, folder, "--image_size", "40"))
    return folder


def validated(data, weights, out, *flags):
    paths = ["--data", str(data), "--model_path", str(weights), "--output_dir", str(out)]
    return validate.validate(validate.parse([*paths, *flags, "--workers", "0", "--cpu"]))


def logged(run, name):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["split"] == "test"]


def changed(run, path, **entries):
    """best_ema.pth with other entries beside the weights; None leaves one out."""
    content = torch.load(run / "checkpoints" / "best_ema.pth", weights_only=True)
    for name, value in entries.items():
        content.pop(name, None)
        if value is not None:
            content[name] = value
    torch.save(content, path)
    return path


def test_validate_finds_the_score_of_the_run_without_any_flag(run, data, tmp_path, capsys):
    """No --image_size: the default of 448 would be another number."""
    best = max(logged(run, "mAP_ema"))
    summary = validated(data, run / "checkpoints" / "best_ema.pth", tmp_path / "a")
    told = capsys.readouterr().out
    assert summary["mAP"] == pytest.approx(best, abs=1e-3) and summary["image_size"] == 40
    assert f"mAP: {best:.2f}  " in told
    assert (
        "tresnet_tiny, plain head, 5 classes; input: 40 pixels, bilinear, not normalised\n" in told
    )
    config = json.loads((tmp_path / "a" / "config.json").read_text())["settings"]
    assert config["image_size"] == 40
    for which in ("model", "ema"):
        last = validated(data, run / "checkpoints" / "last.pt", tmp_path / which, "--which", which)
        assert last["mAP"] == pytest.approx(logged(run, f"mAP_{which}")[-1], abs=1e-3)


def test_the_defaults_of_a_sample_do_not_outrank_the_checkpoint(run, data, tmp_path):
    sample = tmp_path / "sample"
    shutil.copytree(data, sample)
    (sample / "SAMPLE.json").write_text("{}")
    settings_of_sample = validate.parse(["--data", str(sample), "--model_path", "x"])
    assert settings_of_sample.found.is_sample and settings_of_sample.args.image_size == 64
    summary = validated(sample, run / "checkpoints" / "best_ema.pth", tmp_path / "a")
    assert (
        summary["mAP"] == pytest.approx(max(logged(run, "mAP_ema")), abs=1e-3)
        and summary["image_size"] == 40
    )
    given = validated(
        sample, run / "checkpoints" / "best_ema.pth", tmp_path / "b", "--image_size", "64"
    )
    assert given["image_size"] == 64


def test_a_given_flag_wins_and_the_difference_is_told(run, data, tmp_path, capsys):
    flags = ("--image_size", "64", "--interpolation", "bicubic")
    summary = validated(data, run / "checkpoints" / "best_ema.pth", tmp_path / "a", *flags)
    told = capsys.readouterr().out
    assert "input: 64 pixels, bicubic, not normalised (trained at 40)" in told
    assert summary["mAP"] != pytest.approx(max(logged(run, "mAP_ema")), abs=1e-3)


def scored_pixels(data, weights, *flags):
    args = validate.parse(["--data", str(data), "--model_path", str(weights), *flags])
    _, _, pixels, _ = validate.open_scored(args)
    return pixels


def test_published_files_keep_the_defaults_of_the_flags(run, data, tmp_path):
    """A published file says nothing of its input: 448, bilinear.

    Of our own runs, of any version, what they say.
    """
    names = ("model_name", "image_size", "interpolation", "mean", "std", "class_keys", "keep_empty")
    published = changed(
        run, tmp_path / "published.pth", **dict.fromkeys((*names, "do_bottleneck_head"))
    )
    assert scored_pixels(data, published) == Pixels(448, "bilinear", None)
    assert scored_pixels(data, published, "--image_size", "32") == Pixels(32, "bilinear", None)
    recorded = changed(
        run, tmp_path / "r.pth", interpolation="bicubic", mean=[0.5] * 3, std=[0.25] * 3
    )
    assert scored_pixels(data, recorded) == Pixels(
        40, "bicubic", Statistics((0.5,) * 3, (0.25,) * 3)
    )

    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    for name in names[1:]:
        del last["state"]["info"][name]
    torch.save(last, tmp_path / "earlier.pt")
    assert scored_pixels(data, tmp_path / "earlier.pt") == Pixels(40, "bilinear", None)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"image_size": 0}, "image_size 0 is no number of pixels"),
        ({"image_size": "64"}, "image_size '64' is no number"),
        ({"image_size": 64.5}, "image_size 64.5 is no number"),
        ({"image_size": 1 << 20}, "is no number of pixels"),
        ({"image_size": 42}, "--image_size 42: TResNet needs multiples of 4"),
        ({"interpolation": "nearest"}, "interpolation 'nearest' is not one of"),
        ({"mean": [0.5, 0.5]}, "are not three numbers each"),
        ({"mean": [0.5] * 3, "std": [0.0, 1.0, 1.0]}, "std above 0"),
        ({"mean": [float("nan")] * 3, "std": [1.0] * 3}, "are not three numbers each"),
        ({"class_keys": {"a": 1}}, "class_keys is no list"),
        ({"class_keys": ["1"]}, "1 entries of class_keys for 5 outputs"),
        ({"idx_to_class": {0: "person"}}, "1 entries of idx_to_class for 5 outputs"),
        ({"idx_to_class": dict(zip((0, 1, 2, 3, 7), NAMES, strict=True))}, "are not 0 to 4"),
        ({"keep_empty": "yes"}, "keep_empty is neither"),
    ],
)
def test_values_in_a_file_are_checked(entry, match, run, data, tmp_path):
    with pytest.raises(ValueError, match=match):
        scored_pixels(data, changed(run, tmp_path / "w.pth", **entry))


def test_images_without_annotation_count_as_in_the_training(data, tmp_path):
    content = json.loads((data / "annotations" / "instances_val2014.json").read_text())
    root = tmp_path / "data"
    shutil.copytree(data, root)
    first = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first]
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    train.main(arguments(root, tmp_path / "run", "--keep_empty", "--epochs", "1"))
    best = tmp_path / "run" / "checkpoints" / "best_ema.pth"
    summary = validated(root, best, tmp_path / "a")
    assert summary["images"] == 13
    assert summary["mAP"] == pytest.approx(logged(tmp_path / "run", "mAP_ema")[0], abs=1e-3)
    assert validated(root, best, tmp_path / "b", "--leave_empty")["images"] == 12


def test_which_of_two_networks_in_a_file_that_holds_one(run, data, tmp_path):
    weights = run / "checkpoints" / "best_ema.pth"
    with pytest.raises(ValueError, match="--which model: .*best_ema.pth holds one network"):
        scored_pixels(data, weights, "--which", "model")
    flags = ["--model_path", str(weights), "--pic_path", str(data / "val2014"), "--which", "ema"]
    with pytest.raises(ValueError, match="--which ema: .* holds one network"):
        infer.main([*flags, "--output_dir", str(tmp_path / "i")])


def plain_scores(weights, picture, size, statistics=None):
    """What a network of a file says of a picture, step by step."""
    model, _ = network_of(weights, "tresnet_tiny")
    small = picture.resize((size, size), Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    if statistics is not None:
        mean, std = (torch.tensor(part)[:, None, None] for part in statistics)
        values = (values - mean) / std
    with torch.inference_mode():
        return model.eval()(values[None]).sigmoid()[0]


def inferred(weights, pictures, out, *flags):
    fixed = ["--cpu", "--dataset_type", "MS-COCO", "--th", "0", "--output_dir", str(out)]
    return infer.infer(
        infer.parse(
            ["--model_path", str(weights), "--pic_path", str(pictures), *fixed, *flags],
        )
    )


def test_infer_reads_pictures_as_the_network_was_trained(run, data, tmp_path, capsys):
    weights = run / "checkpoints" / "best_ema.pth"
    picture = sorted((data / "val2014").iterdir())[0]
    for size, flags in ((40, ()), (64, ("--input_size", "64"))):
        (record,) = inferred(weights, picture, tmp_path / str(size), *flags)
        expected = plain_scores(weights, read_image(picture), size).sort(descending=True)
        assert record["classes"] == [NAMES[k] for k in expected.indices.tolist()]
        assert record["scores"] == pytest.approx(expected.values.tolist(), abs=1e-4)
        assert (
            f"5 classes; input: {size} pixels, bilinear, not normalised" in capsys.readouterr().out
        )


def test_statistics_are_those_of_the_networks_own_configuration():
    assert input_statistics("timm/resnet18") == IMAGENET
    assert input_statistics("timm/resnet18.a1_in1k") == IMAGENET
    assert input_statistics("timm/test_vit") == HALVES
    assert input_statistics("timm/tresnet_m") is None  # mean 0, deviation 1
    for name in ("tresnet_m", "TResNet_V2_L", "tresnet_tiny", None):
        assert input_statistics(name) is None
    with pytest.raises(ValueError, match="no published weights have the tag"):
        input_statistics("timm/resnet18.no_such_weights")


@pytest.mark.parametrize("augment", ["paper", "shift", "none"])
def test_training_and_test_pictures_are_normalised(data, augment):
    plain, normalised = (
        [batch for loader in loaders for batch in loader]
        for loaders in (
            loaders_of(settings(data, augment=augment), Accelerator(cpu=True)),
            loaders_of(
                settings(data, augment=augment, model_name="timm/resnet18"), Accelerator(cpu=True)
            ),
        )
    )
    mean, std = (torch.tensor(part)[:, None, None] for part in IMAGENET)
    assert len(plain) == len(normalised) == 11 + 4
    for a, b in zip(plain, normalised, strict=True):
        torch.testing.assert_close(b.data[0], (a.data[0] - mean) / std)


@pytest.mark.slow
def test_a_timm_network_from_training_to_inference(data, tmp_path, capsys):
    """Trained, averaged for the prior, scored and asked with the same normalisation, which the
    checkpoint holds."""
    flags = ("--model_name", "timm/test_resnet", "--epochs", "1", "--augment", "none")
    train.main(arguments(data, tmp_path / "run", *flags))
    assert input_statistics("timm/test_resnet") == HALVES
    recorded = read_checkpoint(tmp_path / "run" / "checkpoints" / "best_ema.pth").recorded
    assert (recorded["mean"], recorded["std"]) == ([0.5] * 3, [0.5] * 3)
    assert "normalised by mean 0.5, 0.5, 0.5 and deviation 0.5, 0.5, 0.5" in capsys.readouterr().out

    weights = tmp_path / "run" / "checkpoints" / "best_ema.pth"
    summary = validated(data, weights, tmp_path / "v")
    assert summary["mAP"] == pytest.approx(logged(tmp_path / "run", "mAP_ema")[0], abs=1e-3)
    picture = sorted((data / "val2014").iterdir())[0]
    (record,) = inferred(weights, picture, tmp_path / "i")
    expected = plain_scores(weights, read_image(picture), 32, HALVES)
    assert record["scores"] == pytest.approx(
        expected.sort(descending=True).values.tolist(), abs=1e-4
    )

    # a file that timm or another program wrote: the network's own configuration again
    state = torch.load(weights, weights_only=True)["model"]
    torch.save({"state_dict": state, "num_classes": 5}, tmp_path / "bare.pth")
    (again,) = inferred(
        tmp_path / "bare.pth",
        picture,
        tmp_path / "j",
        "--model_name",
        "timm/test_resnet",
        "--input_size",
        "32",
    )
    assert again["scores"] == pytest.approx(record["scores"], abs=1e-6)
    # a run of a version that did not normalise
    torch.save(
        {"model": state, "num_classes": 5, "model_name": "timm/test_resnet"},
        tmp_path / "earlier.pth",
    )
    (earlier,) = inferred(tmp_path / "earlier.pth", picture, tmp_path / "k", "--input_size", "32")
    expected = plain_scores(tmp_path / "earlier.pth", read_image(picture), 32)
    assert earlier["scores"] == pytest.approx(
        expected.sort(descending=True).values.tolist(), abs=1e-4
    )


def test_the_prior_is_estimated_from_normalised_pictures(data, tmp_path):
    """One step over everything, no augmentation: the written prior is the mean of the first
    network's probabilities."""
    flags = (
        "--model_name",
        "timm/test_resnet",
        "--augment",
        "none",
        "--batch_size",
        "44",
        "--epochs",
        "1",
    )
    train.main(arguments(data, tmp_path / "run", *flags))
    torch.manual_seed(0)
    args = settings(data, model_name="timm/test_resnet", batch_size=44)
    loader, _ = loaders_of(args, Accelerator(cpu=True))
    (batch,) = list(loader)
    torch.manual_seed(0)
    model = create_model(Namespace(model_name="timm/test_resnet", num_classes=5)).train()
    with torch.inference_mode():
        expected = model(batch.data[0]).sigmoid().mean(0)
    rows = (tmp_path / "run" / "train_avg_preds.csv").read_text().splitlines()[1:]
    found = [float(row.split(",")[1]) for row in rows]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_temporary_network_of_phase_1_reads_pictures_as_the_target_network(data, tmp_path):
    flags = (
        "--model_name",
        "timm/test_resnet",
        "--partial_loss_mode",
        "selective",
        "--estimate_prior",
        "3",
    )
    target = parse(arguments(data, tmp_path / "run", *flags))
    children = []

    def stop(child, folder):
        children.append(child.args)
        return {"epochs": 0}

    run = Namespace(folder=tmp_path / "run", print=print, stopped=False)
    assert compare.prior_file(target, run, stop) is None and run.stopped
    (child,) = children
    assert (child.partial_loss_mode, child.epochs) == ("ignore", 3)
    assert build_pixels(child) == build_pixels(target.args) == Pixels(32, "bilinear", HALVES)


def test_inference_of_a_network_at_hand_takes_its_own_statistics():
    """The released call: no checkpoint, an image size, a network.

    Timm's tells its mean and deviation itself.
    """
    torch.manual_seed(0)
    model = create_model(Namespace(model_name="timm/test_resnet", num_classes=2)).eval()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    _, scores, _ = infer.inference(
        image, model, ["a", "b"], Namespace(input_size=32, th=0.0, top_k=5)
    )
    values = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = model(values[None]).sigmoid()[0]
    assert scores == pytest.approx(expected.sort(descending=True).values.tolist(), abs=1e-6)


def test_pictures_are_drawn_as_they_look():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for statistics in (None, IMAGENET):
        pixels = Pixels(8, "bilinear", statistics)
        assert np.array_equal(pixels.picture(pixels.tensor(image)), np.asarray(image))


def test_a_converted_file_keeps_what_makes_it_comparable(run, data, tmp_path):
    from csl.src.models.utils import convert

    convert.main(
        [str(run / "checkpoints" / "best_ema.pth"), str(tmp_path / "o.pth"), "--to", "official"]
    )
    assert scored_pixels(data, tmp_path / "o.pth") == Pixels(40, "bilinear", None)
    model, _ = network_of(tmp_path / "o.pth", "tresnet_tiny")
    torch.save(official(model.state_dict(), num_classes=5), tmp_path / "p.pth")
    assert scored_pixels(data, tmp_path / "p.pth").size == 448
