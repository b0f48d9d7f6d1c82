"""--frozen_features: equal to pictures through the same frozen backbone, and computed once."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from common import samples
from common.cli import UserError
from mile import MILe as entry
from mile import build
from mile.build_deployed import networks_of
from mile.data_features import FeatureLoader
from mile.data_folders import LabelledImages
from mile.explain import main as explain
from mile.models import build_model
from mile.models_frozen import body_of, with_frozen_body
from mile.options import parse
from tests.mile.helpers import assert_same_run, flags, lines_of, state
from tests.mile.test_late import spoil_the_middle

SIZES = {"small": 32, "tf_efficientnet_lite0": 64, "resnet18": 64, "convnext_atto": 64}
pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(autouse=True)
def features(tmp_path, monkeypatch):
    """The folder of the computed features; samples are drawn elsewhere."""
    own = samples.ensure("own")
    digits = samples.ensure("MNIST_clean")
    monkeypatch.setenv("WSL_SAMPLE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(samples, "ensure", {"own": own, "MNIST_clean": digits}.__getitem__)
    return tmp_path / "cache" / "features"


def weights_of(folder, name, classes=3):
    """A weight file with batch statistics that are not those of a new network."""
    torch.manual_seed(5)
    network = build_model(name, classes, image_size=SIZES.get(name, 32)).train()
    network(torch.randn(8, 3, 64, 64) if name != "small" else torch.randn(8, 3, 32, 32))
    torch.save(network.state_dict(), folder / f"{name}.pth")
    return folder / f"{name}.pth"


def argv_of(folder, *, name="small", data="complete.csv", **settings):
    own = {
        "data": samples.ensure("own") / data,
        "model": name,
        "image_size": SIZES[name],
        "pretrained": folder.parent / f"{name}.pth",
    }
    shape = {"batch_size": 8, "num_workers": 0, "lr": 0.1}
    length = {"k_t": 3, "k_s": 2, "total_steps": 11, "rho": 0.24}
    places = {"output_dir": folder, "checkpoint_path": folder.parent / "weights"}
    wanted = own | shape | length | places | settings
    return ["--cpu", "--frozen_features", *flags(**wanted)]


def grids_of(folder, **settings):
    own = {"dataset": "mnist", "model": "small-10", "mnist_size": 28, "mnist_grids": 90}
    own |= {"mnist_test_grids": 40, "pretrained": folder.parent / "small.pth", "rho": 0.1}
    shape = {"batch_size": 8, "k_t": 3, "k_s": 2, "total_steps": 11, "warmup": 0}
    places = {"output_dir": folder, "checkpoint_path": folder.parent / "weights"}
    return ["--cpu", "--sample", "--frozen_features", *flags(**own | shape | places | settings)]


def train(argv, folder):
    entry.main(argv)
    return json.loads((folder / "summary.json").read_text())


def assert_equal_up_to_rounding(one, other):
    """The losses of all phases, the evaluations, and every weight of the last checkpoint."""
    for split in ("interactive", "imitation", "test"):
        pairs = list(zip(lines_of(one, split), lines_of(other, split), strict=True))
        assert pairs
        for a, b in pairs:
            assert a.keys() == b.keys()
            for key in a.keys() - {"split"}:
                expected = b[key]
                if expected is not None:
                    expected = pytest.approx(expected, rel=1e-5, abs=1e-6)
                assert a[key] == expected, (split, key)
    a, b = (state(folder)["state"]["learner"] for folder in (one, other))
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, b[key], rtol=1e-5, atol=1e-6)


CASES = [
    {"name": "small"},
    {"name": "small", "student_init": "own"},
    {"name": "small", "student_init": "fresh", "rho_cover": 0.9},
    {"name": "tf_efficientnet_lite0", "lr": 0.01},
    {"name": "resnet18", "lr": 0.01, "reweight": "uniform"},
    {"name": "convnext_atto", "lr": 0.01},
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_training_on_features_is_training_on_pictures(tmp_path, monkeypatch, case):
    weights_of(tmp_path, case["name"])
    train(argv_of(tmp_path / "features", **case), tmp_path / "features")
    monkeypatch.setattr(entry, "use_features", lambda *_: None)
    train(argv_of(tmp_path / "pictures", **case), tmp_path / "pictures")
    assert_equal_up_to_rounding(tmp_path / "features", tmp_path / "pictures")


def test_grids_of_digits_too(tmp_path, monkeypatch):
    weights_of(tmp_path, "small", 10)
    train(grids_of(tmp_path / "features"), tmp_path / "features")
    monkeypatch.setattr(entry, "use_features", lambda *_: None)
    train(grids_of(tmp_path / "pictures"), tmp_path / "pictures")
    assert_equal_up_to_rounding(tmp_path / "features", tmp_path / "pictures")


def test_the_backbone_stays_and_only_the_head_is_in_the_optimiser(tmp_path):
    file = weights_of(tmp_path, "small")
    train(argv_of(tmp_path / "r"), tmp_path / "r")
    before = torch.load(file, weights_only=True)
    learner = state(tmp_path / "r")["state"]["learner"]
    for name, value in before.items():
        is_head = name.startswith("11.")
        assert torch.equal(learner[f"student.{name}"], value) != is_head, name
        assert torch.equal(learner[f"frozen.{name}"], value) != is_head, name
    assert [len(one["state"]) for one in learner["optimizers"]] == [2]
    shared = learner["student.0.weight"].data_ptr(), learner["frozen.0.weight"].data_ptr()
    assert shared[0] == shared[1]


def test_the_head_starts_as_without_the_flag(tmp_path):
    weights_of(tmp_path, "small", classes=7)  # another classifier, which is left out
    argv = argv_of(tmp_path / "r")
    heads = []
    for words in (argv, [word for word in argv if word != "--frozen_features"]):
        settings = parse(words, lambda line: None)
        torch.manual_seed(3)
        learner = build.build_learner(settings.args, 3, Accelerator(cpu=True))
        heads.append(learner.student[-1].weight.detach())
    assert torch.equal(*heads)


def test_the_second_run_computes_nothing(tmp_path, features, monkeypatch):
    weights_of(tmp_path, "small")
    train(argv_of(tmp_path / "a"), tmp_path / "a")
    files = {path: path.stat().st_mtime_ns for path in features.glob("*.npy")}
    assert len(files) == 2

    def read(*_, **__):
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("mile.data_folders.read_image", read)
    train(argv_of(tmp_path / "b", seed=1), tmp_path / "b")
    assert {path: path.stat().st_mtime_ns for path in features.glob("*.npy")} == files


def test_size_weights_and_pictures_give_other_files(tmp_path, features):
    weights_of(tmp_path, "small")

    def count(folder, **settings):
        train(argv_of(tmp_path / folder, total_steps=1, **settings), tmp_path / folder)
        return len(list(features.glob("*.npy")))

    assert count("a") == 2
    assert count("b", image_size=40) == 4
    assert count("c", data="folders") == 6  # the same pictures in another order
    network = build_model("small", 3)
    torch.save(network.state_dict(), tmp_path / "small.pth")
    assert count("d") == 8


@pytest.mark.parametrize("steps", [2, 4, 7])
def test_resumed_exactly(tmp_path, steps):
    weights_of(tmp_path, "small")
    train(argv_of(tmp_path / "whole"), tmp_path / "whole")
    entry.main([*argv_of(tmp_path / "r"), "--max_steps", str(steps)])
    without = [word for word in argv_of(tmp_path / "r") if word != "--frozen_features"]
    with pytest.raises(UserError, match="other settings.*frozen_features"):
        entry.main([*without, "--augment", "none", "--resume"])
    entry.main([*argv_of(tmp_path / "r"), "--resume"])
    assert_same_run(tmp_path / "whole", tmp_path / "r")


@pytest.mark.slow
def test_the_checkpoint_explains_and_is_evaluated(tmp_path, capsys):
    weights_of(tmp_path, "resnet18")
    summary = train(argv_of(tmp_path / "r", name="resnet18"), tmp_path / "r")
    student, teacher = networks_of(tmp_path / "r")
    assert teacher is not None and "fc.weight" in student.network.state_dict()
    explain(["--run", str(tmp_path / "r"), "--image", str(samples.ensure("own") / "pictures")])
    assert len(list((tmp_path / "r" / "explain" / "answers").glob("0*.json"))) == 30
    last = {"pretrained": tmp_path / "r" / "checkpoints" / "last.pt", "num_workers": 0}
    last |= {"data": samples.ensure("own") / "complete.csv", "output_dir": tmp_path / "e"}
    last |= {"checkpoint_path": tmp_path / "weights"}
    entry.main(["--cpu", "--eval_only", *flags(**last)])
    again = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert again["mAP"] == pytest.approx(summary["mAP"], rel=1e-5)


def test_exported_label_sets_are_those_of_pictures(tmp_path, monkeypatch):
    weights_of(tmp_path, "small")
    found = []
    for folder in ("features", "pictures"):
        train([*argv_of(tmp_path / folder), "--export_labels"], tmp_path / folder)
        found.append(json.loads((tmp_path / folder / "label_sets.json").read_text()))
        monkeypatch.setattr(entry, "use_features", lambda *_: None)
    assert found[0] == found[1] and len(found[0]) == 24


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--augment", "standard"], "--augment standard: --frozen_features sees each picture once"),
        (["--mnist_redraw", "--dataset", "mnist"], "--mnist_redraw: --frozen_features sees"),
    ],
)
def test_what_excludes_it_is_one_line(tmp_path, capsys, more, message):
    weights_of(tmp_path, "small")
    argv = argv_of(tmp_path / "r")
    with pytest.raises(SystemExit) as stop:
        parse([*argv, *more], lambda line: None)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1


def test_weights_are_needed(capsys):
    argv = ["--data", str(samples.ensure("own") / "complete.csv"), "--frozen_features"]
    with pytest.raises(SystemExit) as stop:
        parse(argv, lambda line: None)
    assert stop.value.code == 2
    assert "give the start weights, --pretrained FILE or imagenet" in capsys.readouterr().err


def test_augmentation_is_off_by_default(tmp_path):
    weights_of(tmp_path, "small")
    assert parse(argv_of(tmp_path / "r"), lambda line: None).args.augment == "none"
    words = [*argv_of(tmp_path / "r"), "--protocol", "unofficial"]
    assert parse(words, lambda line: None).args.mnist_redraw is False


def test_evaluation_with_the_flag_is_refused(tmp_path):
    weights_of(tmp_path, "small")
    with pytest.raises(UserError, match="--frozen_features is for training"):
        parse([*argv_of(tmp_path / "r"), "--eval_only"], lambda line: None)


def test_unreadable_pictures_are_left_out_as_without_features():
    rows = np.ones((5, 8, 1, 1), np.float32)
    rows[3] = np.nan
    images = LabelledImages([(f"{i}.jpg", i % 2) for i in range(5)], None, [[i] for i in range(5)])
    keys = [[(0, 4), (0, 3)], [(0, 3)]]
    first, second = FeatureLoader(images, rows, keys, skip_corrupt=True)
    assert first.index.tolist() == [4] and first.skipped == 1
    assert first.data[1].tolist() == [0] and first.data[2] == [[4]]
    assert second.data is None and second.skipped == 1
    with pytest.raises(UserError, match=r"3\.jpg: cannot be decoded"):
        FeatureLoader(images, rows, keys, skip_corrupt=False)


def test_a_picture_that_is_damaged_in_the_middle(tmp_path):
    weights_of(tmp_path, "small")
    place = shutil.copytree(samples.ensure("own"), tmp_path / "own") / "folders"
    for part in ("train", "val"):
        spoil_the_middle(as_png(sorted((place / part).rglob("*.jpg"))[2]))
    argv = [*argv_of(tmp_path / "r", data=place), "--skip_corrupt"]
    summary = train(argv, tmp_path / "r")
    assert summary["skipped"] > 0 and summary["eval_skipped"] == 1
    with pytest.raises(UserError, match="png"):
        train(argv_of(tmp_path / "s", data=place), tmp_path / "s")


def as_png(path):
    """The same picture as a PNG, which has checksums."""
    with Image.open(path) as image:
        image.save(path.with_suffix(".png"))
    path.unlink()
    return path.with_suffix(".png")


def test_a_pass_of_rows_costs_little():
    """2,400 rows of 1,280 numbers in batches of 64, and a step of a head on each."""
    images = LabelledImages([("", 0)] * 2400, None)
    rows = np.random.default_rng(0).random((2400, 1280, 1, 1), np.float32)
    order = np.random.default_rng(0).permutation(2400)
    keys = [[(0, int(i)) for i in order[at : at + 64]] for at in range(0, 2400, 64)]
    loader = FeatureLoader(images, rows, keys, skip_corrupt=False)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        assert sum(len(batch.data[0]) for batch in loader) == 2400
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1


def test_a_network_of_another_kind_has_no_body():
    with pytest.raises(ValueError, match="no network of"):
        with_frozen_body(torch.nn.Linear(2, 2), "x")
    with pytest.raises(ValueError, match="not frozen"):
        body_of(torch.nn.Linear(2, 2))
