"""Class activation maps of the user's own picture."""

import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from cavl import explain, main
from cavl.utils.build import build_model
from cavl.utils.datasets import PartialData
from common.cli import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("save") / "run"
    flags = ("-ds", "cifar10", "-mo", "resnet", "-depth", "8", "--sample", "-max_steps", "2")
    main.main([*flags, "--output_dir", str(folder)])
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def test_a_picture_of_any_size_is_explained_among_the_candidates(run, picture, capsys):
    explain.main(["--run", str(run), "--image", str(picture), "--candidates", "3", "5"])
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("of the candidates 3, 5 the class activation value picks ") and told[-2][-1] in "35"
    assert told[-1] == f"picture: {run / 'figures' / 'explain.png'}"
    assert Image.open(run / "figures" / "explain.png").size[0] > 300


def test_the_network_is_the_runs_and_the_picture_in_its_scale(run, picture):
    _, model = explain.load_run(run)
    weights = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["state"]["model"]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    x = explain.network_input(picture, "cifar10")
    assert x.shape == (1, 3, 32, 32) and -3 < x.min() < 0 < x.max() < 3
    assert explain.network_input(picture, "mnist").shape == (1, 1, 28, 28)


def test_mistakes_are_named(run, picture, tmp_path):
    with pytest.raises(UserError, match="--candidates 10: classes are 0 to 9"):
        explain.main(["--run", str(run), "--image", str(picture), "--candidates", "10"])
    with pytest.raises(UserError, match="no readable config.json"):
        explain.main(["--run", str(tmp_path), "--image", str(picture)])
    with pytest.raises(UserError, match="no such image"):
        explain.main(["--run", str(run), "--image", str(tmp_path / "none.png")])


@pytest.mark.parametrize("name", ["config.json", "checkpoints/last.pt"])
def test_a_run_directory_of_something_else_is_named(run, picture, tmp_path, name):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "config.json").write_text("[1]") if name == "config.json" else torch.save([1], folder / name)
    with pytest.raises(UserError, match="no readable config.json" if name == "config.json" else "not a checkpoint of"):
        explain.main(["--run", str(folder), "--image", str(picture)])


@pytest.mark.parametrize("mo, ds, channels, classes", [("convnet", "mnist", 1, 10), ("densenet", "cifar100", 3, 100)])
def test_channels_and_classes_are_read_off_the_weights(mo, ds, channels, classes):
    shape = (0, channels, explain.SIZES["idx" if channels == 1 else "cifar"], 32)
    data = PartialData(ds, *[torch.empty(shape)] * 4, classes, is_sample=False)
    weights = build_model(Namespace(mo=mo, ds=ds, depth=8), data).state_dict()
    read = explain.shape_of(ds, weights)
    assert read.train_x.shape[1] == channels and read.num_classes == classes
