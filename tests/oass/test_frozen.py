"""--frozen_features: equal to a frozen backbone fed by pictures, and computed once."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from common import checkpoint, export, samples
from common.cli import UserError
from common.loading import train_loader
from common.run import Run
from oass import explain, inference_classification
from oass import train as training
from oass.data import EvalTransform
from oass.options import parse
from oass.options_comparison import parse_comparison
from oass.train import train

FLAGS = (
    "--cpu --weights none --image_size 64 --batch_size 8 --max_epoch 2 --num_workers 0 "
    "--pictures 1 --lr 0.01 --sgd_momentum 0.9 --print_ratio 0.3 --frozen_features"
)
CASES = [
    ("resnet_tiny", "gap"),
    ("resnet_tiny", "none"),
    ("resnet_tiny", "uniform"),
    ("resnet18", "none"),
    ("timm:resnet10t", "uniform"),
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The sample of thirty pictures in all layouts."""
    folder = tmp_path_factory.mktemp("own") / "x"
    samples.draw("own", folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def flags_of(own, folder, more="", architecture="resnet_tiny"):
    place = ["--data", str(own / "voc"), "--output_dir", str(folder)]
    return [*FLAGS.split(), "--architecture", architecture, *place, *more.split()]


def trained_on(own, folder, strategy="none", more="", architecture="resnet_tiny"):
    return train(parse(strategy, flags_of(own, folder, more, architecture)))


def lines_of(folder):
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def state_of(folder):
    return checkpoint.load(folder / "checkpoints" / "last.pt")["state"]["model"]


def files_in(cache):
    return {path.name: path.stat().st_mtime_ns for path in cache.glob("*.npy")}


class FromPictures(EvalTransform):
    """The view of the features."""

    def resample_as(self, name):
        """Nothing is resized."""


def fed_by_pictures(settings, run, student, train_data, val_data):
    """`build_frozen` without features: the frozen backbone sees every picture anew."""
    args = settings.args
    student.freeze_backbone()
    train_data.transform = FromPictures(args.image_size)
    return train_loader(
        train_data,
        args.batch_size,
        seed=args.seed,
        accelerator=run.accelerator,
        drop_last=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "strategy"), CASES)
def test_equal_to_a_frozen_backbone_fed_by_pictures(
    architecture, strategy, own, tmp_path, monkeypatch
):
    trained_on(own, tmp_path / "features", strategy, architecture=architecture)
    monkeypatch.setattr(training, "build_frozen", fed_by_pictures)
    trained_on(own, tmp_path / "pictures", strategy, architecture=architecture)

    features, pictures = lines_of(tmp_path / "features"), lines_of(tmp_path / "pictures")
    assert len(features) == len(pictures) > 4
    for one, other in zip(features, pictures, strict=True):
        for name, value in other.items():
            if isinstance(value, float):
                assert one[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    own_state, other_state = state_of(tmp_path / "features"), state_of(tmp_path / "pictures")
    for name, value in other_state.items():
        torch.testing.assert_close(own_state[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("architecture", ["resnet_tiny", "timm:resnet10t"])
def test_the_heads_learn_and_the_backbone_stays(architecture, own, tmp_path):
    settings = parse("none", flags_of(own, tmp_path / "run", architecture=architecture))
    made = training.prepare(settings)
    before = {name: value.clone() for name, value in made.student.state_dict().items()}
    optimised = [p for group in made.optimizer.param_groups for p in group["params"]]
    assert optimised and all(p.requires_grad for p in optimised)
    assert all(p.grad is None for p in made.student.model.parameters())

    made.network.train()
    for batch in made.loader:
        training.train_step(made, batch)
    changed = set()
    for name, value in made.student.state_dict().items():
        if not torch.equal(value, before[name]):
            changed.add(name.split(".")[0])
    assert changed == {"BN", "stage6", "classifier"}


@pytest.mark.slow
def test_features_are_computed_once_and_for_what_they_are_of(own, tmp_path, cache):
    trained_on(own, tmp_path / "a")
    first = files_in(cache)
    assert len(first) == 2
    trained_on(own, tmp_path / "b", more="--seed 0 --lr 0.02")
    assert files_in(cache) == first
    assert lines_of(tmp_path / "a") != lines_of(tmp_path / "b")

    for number, more in enumerate(("--image_size 96", "--seed 1")):  # another random backbone
        before = set(files_in(cache))
        trained_on(own, tmp_path / str(number), more=more)
        assert len(set(files_in(cache)) - before) == 2
    before = set(files_in(cache))
    trained_on(own, tmp_path / "tiles", "uniform")
    assert len(set(files_in(cache)) - before) == 1


def test_other_pictures_have_other_features(own, tmp_path, cache):
    trained_on(own, tmp_path / "a")
    before = set(files_in(cache))
    other = tmp_path / "own"
    shutil.copytree(own / "voc", other / "voc")
    root = other / "voc/VOCdevkit/VOC2012"
    name = (root / "ImageSets/Main/train.txt").read_text().split()[0]
    picture = root / "JPEGImages" / f"{name}.jpg"
    Image.open(picture).rotate(180).save(picture)
    trained_on(other, tmp_path / "b")
    assert len(set(files_in(cache)) - before) == 1  # val is the same


def test_a_signal_while_features_are_computed_ends_the_run(own, tmp_path, cache, monkeypatch):
    poll = Run.poll

    def signalled(run):
        os.kill(os.getpid(), signal.SIGTERM)
        poll(run)

    monkeypatch.setattr(Run, "poll", signalled)
    with pytest.raises(SystemExit) as ended:
        trained_on(own, tmp_path / "a")
    assert ended.value.code == 143
    assert files_in(cache) == {}
    monkeypatch.setattr(Run, "poll", poll)
    trained_on(own, tmp_path / "b")
    assert len(files_in(cache)) == 2


@pytest.mark.parametrize("strategy", ["none", "uniform"])
def test_stopped_and_resumed_equals_uninterrupted(strategy, own, tmp_path):
    trained_on(own, tmp_path / "whole", strategy)
    for steps in ("--max_steps 1", "--max_steps 4 --resume", "--resume"):
        trained_on(own, tmp_path / "parts", strategy, steps)
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "parts")
    parts = state_of(tmp_path / "parts")
    for name, value in state_of(tmp_path / "whole").items():
        assert torch.equal(value, parts[name]), name


def test_the_flag_is_a_setting_that_must_match(own, tmp_path):
    trained_on(own, tmp_path / "run", more="--max_steps 1")
    argv = flags_of(own, tmp_path / "run", "--resume")
    argv.remove("--frozen_features")
    with pytest.raises(UserError, match="frozen_features True then, None now"):
        train(parse("none", [*argv, "--teacher_bn", "eval", "--pictures", "1"]))


REFUSED = [
    ("cMax", "", "cMax cuts where the maps of the moment peak.*choose gap, none, uniform"),
    ("max", "", "max cuts where"),
    ("none", "--augment colorjitter", "--augment: --frozen_features shows every picture"),
    ("none", "--min_image_size 64", "--min_image_size: --frozen_features shows"),
    ("gap", "--max_image_size 640", "--max_image_size: --frozen_features shows"),
    ("uniform", "--released", "--released: the release trains its backbone"),
    ("uniform", "--teacher_bn group", "--teacher_bn group: frozen tiles"),
]


@pytest.mark.parametrize(("strategy", "more", "message"), REFUSED)
def test_what_does_not_go_together_is_refused_in_a_line(strategy, more, message, own, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        parse(strategy, flags_of(own, tmp_path / "run", more))
    assert "\n" not in str(caught.value)


def test_an_ablation_refuses_strategies_that_do_not_go(own, tmp_path):
    argv = [*flags_of(own, tmp_path / "run"), "--seeds", "0"]
    with pytest.raises(UserError, match="cTopk cuts where"):
        parse_comparison([*argv, "--strategies", "gap,cTopk"])
    found = parse_comparison([*argv, "--strategies", "gap,none,uniform"])
    assert len(found.variants) == 3


def test_a_checkpoint_takes_pictures(own, tmp_path, capsys):
    """Inference measures what the run measured; explain and export go on from it."""
    summary = trained_on(own, tmp_path / "run", "uniform", "--last_only")
    flags = f"--checkpoint {tmp_path / 'run'} --cpu --num_workers 0 --output_dir {tmp_path / 'i'}"
    inference_classification.main(flags.split())
    found = json.loads((tmp_path / "i" / "summary.json").read_text())
    assert found["map"] == pytest.approx(summary["map"], abs=1e-3)
    assert found["pointing"] == pytest.approx(summary["pointing"], abs=1e-6)

    picture = own / "pictures" / "one_00.jpg"
    flags = f"--image {picture} --checkpoint {tmp_path / 'run'} --cpu --output_dir {tmp_path / 'e'}"
    explain.main(flags.split())
    assert (tmp_path / "e" / "figures" / "explain.png").is_file()
    export.main([str(tmp_path / "run"), "--to", "safetensors"])


def test_the_batches_are_those_of_the_features(own, tmp_path):
    """Rows and labels in the order of the pictures; tiles where they lie in the picture."""
    made = training.prepare(parse("uniform", flags_of(own, tmp_path / "run")))
    batch = next(iter(made.loader))
    shown, labels = batch.data
    index = batch.index.tolist()
    assert np.array_equal(labels.numpy(), made.train_data.split.labels[index])
    assert shown.maps.shape == (8, 64, 8, 8) and shown.tiles.shape == (8, 64, 8, 8)
    assert not torch.equal(shown.maps, shown.tiles)
