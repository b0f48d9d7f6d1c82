"""Class activation maps of the user's own picture."""

import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from cavl import explain, main
from cavl.utils.build import build_model
from cavl.utils.datasets import PartialData
from cavl.utils.input_format import InputFormat
from common.cli import UserError
from tests.cavl.test_loaders import write_idx


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
    _, model, input_format = explain.load_run(run)
    weights = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["state"]["model"]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    x = explain.network_input(picture, input_format)
    assert x.shape == (1, 3, 32, 32) and -3 < x.min() < 0 < x.max() < 3
    grey = explain.network_input(picture, InputFormat((1, 24, 20), 10))
    assert grey.shape == (1, 1, 24, 20) and 0 <= grey.min() < grey.max() <= 1


def test_size_scale_and_classes_are_those_of_the_checkpoint_and_are_printed(tmp_path, picture, capsys):
    """Images of 20x20 and 4 classes: the tables of the data sets would say 28x28 and 10."""
    root = tmp_path / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_idx(root / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (12, 20, 20)))
        write_idx(root / f"{part}-labels-idx1-ubyte", np.arange(12) % 10)
    folder = tmp_path / "run"
    flags = ("-mo", "resnet", "-depth", "8", "-ep", "1", "-mask", "product", "-cam_vis", "1", "--cpu")
    main.main([*flags, "--data_dir", str(root), "--output_dir", str(folder)])
    settings, model, input_format = explain.load_run(folder)
    assert input_format == InputFormat((1, 20, 20), 10)
    assert explain.network_input(picture, input_format).shape == (1, 1, 20, 20)
    capsys.readouterr()

    explain.main(["--run", str(folder), "--image", str(picture)])
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "resnet of depth 8 trained on mnist: input 1x20x20, 10 classes, -cav logit, -mask product"


def test_the_released_rule_of_a_run_is_the_rule_of_the_explanation(run, picture, tmp_path, capsys, monkeypatch):
    """Under -mask product a class outside the candidates wins where all their values are negative."""
    folder = shutil.copytree(run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    z = torch.tensor([[3.0, 3.0, 3.0, -2.0, 3.0, -1.0, 3.0, 3.0, 3.0, 3.0]])

    def with_outputs(self, model, x, cav):
        self.outputs = z
        self.maps = torch.zeros(1, 10, 2, 2)
        self.maps[0, 3] = 1

    monkeypatch.setattr(explain.cam_pictures.CandidateMaps, "__init__", with_outputs)
    monkeypatch.setattr(explain.cam_pictures.CandidateMaps, "row", lambda *args: None)
    monkeypatch.setattr(explain.cam_pictures, "save", lambda *args: None)
    for settings, expected in (
        ({"mask": "candidates", "select": "cav"}, ["picks 5"]),
        ({"mask": "product", "select": "cav"}, ["picks 0"]),
        ({"mask": "candidates", "select": "cam"}, ["by which the run selects, is that of 3", "picks 5"]),
    ):
        config["settings"].update(settings)
        (folder / "config.json").write_text(json.dumps(config))
        explain.main(["--run", str(folder), "--image", str(picture), "--candidates", "3", "5"])
        told = capsys.readouterr().out.splitlines()[1:-1]
        assert len(told) == len(expected)
        for line, end in zip(told, expected, strict=True):
            assert line.startswith("of the candidates 3, 5 ") and line.endswith(end)


def test_mistakes_are_named(run, picture, tmp_path):
    with pytest.raises(UserError, match="--candidates 10: classes are 0 to 9"):
        explain.main(["--run", str(run), "--image", str(picture), "--candidates", "10"])
    with pytest.raises(UserError, match="--candidates: 3 stands there twice"):
        explain.main(["--run", str(run), "--image", str(picture), "--candidates", "3", "5", "3"])
    with pytest.raises(UserError, match="no readable config.json"):
        explain.main(["--run", str(tmp_path), "--image", str(picture)])
    with pytest.raises(UserError, match="none.png"):
        explain.main(["--run", str(run), "--image", str(tmp_path / "none.png")])


@pytest.mark.parametrize("name", ["config.json", "checkpoints/last.pt"])
def test_a_run_directory_of_something_else_is_named(run, picture, tmp_path, name):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "config.json").write_text("[1]") if name == "config.json" else torch.save([1], folder / name)
    with pytest.raises(UserError, match="no readable config.json" if name == "config.json" else "not a checkpoint of"):
        explain.main(["--run", str(folder), "--image", str(picture)])


@pytest.mark.parametrize("mo, ds, channels, classes", [("convnet", "mnist", 1, 10), ("densenet", "cifar100", 3, 100)])
def test_a_checkpoint_without_its_format_takes_channels_and_classes_from_the_weights(mo, ds, channels, classes):
    shape = (0, channels, explain.SIZES["idx" if channels == 1 else "cifar"], 32)
    data = PartialData(ds, *[torch.empty(shape)] * 4, classes, is_sample=False)
    weights = build_model(Namespace(mo=mo, ds=ds, depth=8), data).state_dict()
    for saved in ({}, {"state": {}}, [1], {"state": {"input": {"shape": 3}}}):
        read = explain.input_format_of(saved, ds, weights)
        assert read.shape == (channels, *[28 if channels == 1 else 32] * 2) and read.num_classes == classes
        assert (read.mean is None) == (channels == 1)
