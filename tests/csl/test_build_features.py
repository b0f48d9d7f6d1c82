"""--frozen_features: equal to a frozen backbone that sees pictures, and computed once.

--train_stages: what comes before the last stages stays.
"""

import json
import time

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.export import main as export
from common.images import CorruptImage
from csl import train, validate
from csl.build_features import FeatureLoader, features_of, freeze_backbone
from csl.build_optimizer import ModelEma, make_optimizer
from csl.data import open_splits
from csl.data_pixels import Pixels
from csl.options import parse
from csl.src.models.utils.factory import build_network
from tests.csl.tiny import write_coco

NETWORKS = ("tresnet_tiny", pytest.param("resnet18", marks=pytest.mark.slow))
LAYERS = {"tresnet_tiny": "body.", "resnet18": "features."}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def arguments(data, out, *more, network="tresnet_tiny"):
    """Flags of a small run, 6 steps an epoch; the labels are partial."""
    fixed = f"--model_name {network} --image_size 32 --batch_size 8 --workers 0 --epochs 2 --cpu"
    labels = "--simulate_partial_type rps --simulate_partial_param 0.4 --likelihood_topk 1"
    mode = "--partial_loss_mode selective --lr 0.02 --model_path="
    flags = f"{fixed} {labels} {mode} --data {data} --output_dir {out}"
    return [*flags.split(), *more]


def state_of(run, name="last.pt"):
    return torch.load(run / "checkpoints" / name, weights_only=True)["state"]


def losses(text):
    return [float(line.split()[-1]) for line in text.splitlines() if line.startswith("step ")]


def values(run, name):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("network", NETWORKS)
def test_training_is_that_of_a_frozen_backbone_on_pictures(network, data, cache, tmp_path, capsys):
    every = ("--print_freq", "1")
    frozen = arguments(data, tmp_path / "a", "--frozen_features", *every, network=network)
    train.main(frozen)
    of_features = losses(capsys.readouterr().out)
    pictures = ("--train_stages", "0", "--augment", "none", *every)
    train.main(arguments(data, tmp_path / "b", *pictures, network=network))
    of_pictures = losses(capsys.readouterr().out)
    assert len(of_features) == 12
    assert of_features == pytest.approx(of_pictures, rel=2e-4)  # printed with four digits

    first = state_of(tmp_path / "a")
    second = state_of(tmp_path / "b")
    for part in ("model", "ema"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, second[part][name], rtol=1e-5, atol=1e-5)
    for name in ("loss", "mAP_model", "mAP_ema"):
        assert values(tmp_path / "a", name) == pytest.approx(values(tmp_path / "b", name), rel=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_backbone_stays_and_stands_once_in_a_checkpoint(network, data, cache, tmp_path):
    torch.manual_seed(0)
    start = build_network(network, 5, image_size=32).state_dict()
    train.main(arguments(data, tmp_path / "run", "--frozen_features", network=network))
    state = state_of(tmp_path / "run")
    moved = {name for name, value in state["model"].items() if not torch.equal(value, start[name])}
    assert moved and all(name.startswith("head.") for name in moved)
    for name, value in state["model"].items():
        if name.startswith(LAYERS[network]):
            average = state["ema"][f"module.{name}"]
            assert average.data_ptr() == value.data_ptr() or value.numel() == 0
    trained = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
    assert trained == [1, 1]  # bias; weight


def test_the_second_run_computes_nothing(data, cache, tmp_path):
    train.main(arguments(data, tmp_path / "a", "--frozen_features", "--max_steps", "1"))
    files = sorted(cache.glob("*.npy"))
    assert len(files) == 2  # train and val
    times = [file.stat().st_mtime_ns for file in files]
    more = ("--frozen_features", "--max_steps", "1", "--lr", "0.5", "--partial_loss_mode", "ignore")
    train.main(arguments(data, tmp_path / "b", *more))
    assert [file.stat().st_mtime_ns for file in sorted(cache.glob("*.npy"))] == times
    others = (
        ("--image_size", "36"),
        ("--seed", "1"),  # other random weights
    )
    for count, other in enumerate(others, 2):
        run = tmp_path / str(count)
        train.main(arguments(data, run, "--frozen_features", "--max_steps", "1", *other))
        assert len(list(cache.glob("*.npy"))) == 2 * count


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(data, cache, tmp_path):
    flags = ("--frozen_features", "--estimate_prior", "1")
    train.main(arguments(data, tmp_path / "whole", *flags))
    train.main(arguments(data, tmp_path / "cut", *flags, "--max_steps", "9"))
    train.main(arguments(data, tmp_path / "cut", *flags, "--resume"))
    texts = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "cut")]
    assert texts[0] == texts[1]
    for part in ("model", "ema"):
        first, second = (state_of(tmp_path / run)[part] for run in ("whole", "cut"))
        assert all(
            torch.equal(value, second[name])
            for name, value in first.items()
            if isinstance(value, torch.Tensor)
        )
    with pytest.raises(UserError, match="frozen_features"):
        train.main(arguments(data, tmp_path / "whole", "--augment", "none", "--resume"))


def test_the_checkpoint_serves_scoring_and_export(data, cache, tmp_path):
    run = tmp_path / "run"
    train.main(arguments(data, run, "--frozen_features", "--only_last"))
    assert (run / "figures" / "examples.png").is_file()
    scored = tmp_path / "scored"
    flags = ["--data", str(data), "--cpu", "--workers", "0", "--output_dir", str(scored)]
    validate.main(["--model_path", str(run / "checkpoints" / "last.pt"), *flags])
    first = json.loads((run / "summary.json").read_text())
    again = json.loads((scored / "summary.json").read_text())
    assert again["mAP"] == pytest.approx(first["mAP_ema_final"], abs=0.01)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.pt"]
    export([str(run), "--to", "safetensors", "--out", str(tmp_path / "deployed")])
    assert any(path.stat().st_size for path in tmp_path.glob("deployed*"))


MISTAKES = {
    "augmentation": (("--augment", "paper"), "--augment paper: not with --frozen_features"),
    "stages": (("--train_stages", "1"), "--train_stages: not with --frozen_features"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case, data, tmp_path):
    more, message = MISTAKES[case]
    with pytest.raises(UserError, match=message):
        parse(arguments(data, tmp_path, "--frozen_features", *more))


def test_defaults_of_augmentation_are_off(data, tmp_path):
    assert parse(arguments(data, tmp_path, "--frozen_features")).args.augment == "none"
    assert parse(arguments(data, tmp_path)).args.augment == "paper"
    sample = parse(["--sample", "--frozen_features", "--output_dir", str(tmp_path)])
    assert sample.args.augment == "none"


# --- the features ---


def splits_of(data, tmp_path):
    found = parse(arguments(data, tmp_path)).found
    return open_splits(found, Pixels(32), augment="none")


def frozen_network(seed=0):
    torch.manual_seed(seed)
    model = build_network("tresnet_tiny", 5).eval()
    freeze_backbone(model)
    return model


def test_features_are_the_averages_of_the_map(data, cache, tmp_path):
    train_set, _ = splits_of(data, tmp_path)
    model = frozen_network()
    before = torch.get_rng_state()
    found = features_of(train_set, model, Pixels(32))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.shape == (len(train_set), model.num_features, 1, 1)
    images = torch.stack([train_set[row][0] for row in range(3)])
    logits = model(Pixels(32).to_numbers()(images))
    of_features = model(torch.from_numpy(np.array(found[:3])))
    torch.testing.assert_close(of_features, logits, rtol=1e-4, atol=1e-5)


def test_a_picture_that_changes_has_other_features(cache, tmp_path):
    own = write_coco(tmp_path / "own", train=4, val=2)
    train_set, _ = splits_of(own, tmp_path)
    first = np.array(features_of(train_set, frozen_network(), Pixels(32)))
    one, other = train_set.paths()[:2]
    one.write_bytes(other.read_bytes())
    train_set, _ = splits_of(own, tmp_path)
    second = features_of(train_set, frozen_network(), Pixels(32))
    assert not np.array_equal(first[0], second[0])
    assert np.array_equal(first[1:], second[1:])


def test_a_picture_that_cannot_be_decoded(cache, tmp_path):
    own = write_coco(tmp_path / "own", train=6, val=2)
    train_set, _ = splits_of(own, tmp_path)
    broken = train_set.paths()[2]
    content = broken.read_bytes()
    broken.write_bytes(content[:200] + bytes(len(content) - 220) + content[-20:])
    with pytest.raises(CorruptImage, match=broken.name):
        features_of(train_set, frozen_network(), Pixels(32))
    found = features_of(train_set, frozen_network(), Pixels(32), skip_corrupt=True)
    assert np.isnan(found).any((1, 2, 3)).nonzero()[0].tolist() == [2]
    with pytest.raises(CorruptImage, match=broken.name):  # from the cache, too
        features_of(train_set, frozen_network(), Pixels(32))

    rows = [(0, row) for row in (1, 2, 0)]
    batch, empty = FeatureLoader(train_set, found, [rows, [(0, 2)]])
    assert batch.index.tolist() == [1, 0]
    assert batch.skipped == 1
    assert torch.equal(batch.data[1], torch.stack([train_set[row][1] for row in (1, 0)]))
    assert empty.data is None
    assert empty.skipped == 1


def test_other_networks_are_refused():
    with pytest.raises(UserError, match="Linear: no feature map"):
        freeze_backbone(torch.nn.Linear(2, 2))


@pytest.mark.slow
def test_an_open_images_set_has_features_too(cache, tmp_path):
    flags = ["--sample", "--dataset", "openimages", "--output_dir", str(tmp_path / "run"), "--cpu"]
    train.main([*flags, "--frozen_features", "--max_steps", "3"])
    assert len(list(cache.glob("*.npy"))) == 2


def test_the_average_of_a_frozen_backbone_is_the_backbone():
    model = frozen_network()
    ema = ModelEma(model, 0.9)
    assert ema.module.body is model.body
    with torch.no_grad():
        model.head.fc.weight += 1
    before = ema.module.head.fc.weight.clone()
    ema.update(model)
    torch.testing.assert_close(ema.module.head.fc.weight, before + 0.1)


def test_an_epoch_is_fast():
    """2,400 rows on one core; training and the average included."""
    model = frozen_network()
    features = np.zeros((2400, model.num_features, 1, 1), np.float32)
    labels = torch.zeros(2400, 5, dtype=torch.int8)
    optimizer, _ = make_optimizer(model, 0.1, 0, 1, 38)
    ema = ModelEma(model)
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for start in range(0, 2400, 64):
            rows = np.arange(start, min(start + 64, 2400))
            logits = model(torch.from_numpy(features[rows]))
            torch.nn.functional.binary_cross_entropy_with_logits(
                logits, labels[rows].float()
            ).backward()
            optimizer.step()
            ema.update(model)
        best = min(best, time.process_time() - began)
    assert best < 0.3


# --- the last stages ---


@pytest.mark.parametrize("network", NETWORKS)
def test_only_the_last_stages_are_trained(network, data, tmp_path):
    torch.manual_seed(0)
    start = build_network(network, 5, image_size=32).state_dict()
    more = ("--train_stages", "2", "--augment", "none")
    train.main(arguments(data, tmp_path / "run", *more, network=network))
    state = state_of(tmp_path / "run")
    moved = {name for name, value in state["model"].items() if not torch.equal(value, start[name])}
    parts = {name.removeprefix("features.").split(".")[1] for name in moved}
    assert {"layer3", "layer4"} <= parts
    assert not {"conv1", "bn1", "layer1", "layer2"} & parts
    for name, value in start.items():
        if name not in moved:
            assert torch.equal(state["ema"][f"module.{name}"], value)


def test_more_stages_than_there_are(data, tmp_path):
    with pytest.raises(UserError, match="tresnet_tiny: has 4 stages"):
        train.main(arguments(data, tmp_path / "run", "--train_stages", "9"))
