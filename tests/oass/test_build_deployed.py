"""A run as a file for other programs, and its answers to pictures of one's own."""

import json

import numpy as np
import pytest
import torch

from common import samples
from common.cli import UserError
from common.export import export
from oass import explain
from oass.build_deployed import deployed
from oass.options import parse
from oass.train import train

FLAGS = (
    "--cpu --architecture resnet_tiny --weights none --image_size 64 --min_image_size 64 "
    "--max_image_size 96 --batch_size 8 --max_epoch 1 --num_workers 0 --pictures 0 --lr 0.02"
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "x"
    samples.draw("own", folder)
    return folder


@pytest.fixture(scope="module", params=["cTopk-w", "gap"])
def run(request, own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployed") / "run"
    argv = [*FLAGS.split(), "--data", str(own / "multi.csv"), "--output_dir", str(folder)]
    train(parse(request.param, argv))
    return folder


def test_the_network_the_classes_and_the_maps(run):
    found = deployed(run)
    assert found.classes == ("one", "three", "two") and found.answer == "sigmoid"
    assert found.preparation.size == (64, 64) and not found.network.training
    assert found.probabilities(found.example(2)).shape == (2, 3)
    maps = found.maps(found.example(2))
    assert maps.shape == (2, 3, 8, 8) and float(maps.max()) < 1
    assert "alpha_ema" in json.loads((run / "config.json").read_text())["settings"]


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="a run without a checkpoint"):
        deployed(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["safetensors", "torch_export", "onnx", "hub"])
def test_what_is_written_answers_the_same(to, run, tmp_path):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    path, difference = export(deployed(run), run, to, tmp_path)
    assert path.exists() and difference < 1e-4
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["classes"] == ["one", "three", "two"]


def test_pictures_in_and_answers_out(run, own, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    flags = f"--checkpoint {run} --cpu --npz --output_dir {tmp_path / 'e'} --skip_corrupt --image"
    places = [str(own / "folders/val"), str(own / "pictures/two_*.jpg"), str(tmp_path / "bad.jpg")]
    explain.main([*flags.split(), *places[1:]])
    answers = json.loads((tmp_path / "e/pictures/answers.json").read_text())
    assert len(answers) == 10 and list(answers[0]["probabilities"]) == ["one", "three", "two"]
    arrays = np.load(tmp_path / "e/pictures/0000_two_00.npz")
    assert arrays["maps"].shape == (3, 8, 8) and arrays["classes"].tolist()[1] == "three"
    for name in ("explain", "contact_sheet", "0009_two_09"):
        assert (tmp_path / f"e/figures/{name}.png").is_file(), name

    single = json.loads((tmp_path / "e/pictures/0000_two_00.json").read_text())
    network = deployed(run)
    from common.images import read_own_picture
    from oass.data import normalise

    picture = explain.shown_whole(read_own_picture(own / "pictures/two_00.jpg"), 64, "bicubic")
    wanted = network.probabilities(normalise(picture, torch.device("cpu")))[0].tolist()
    assert list(single["probabilities"].values()) == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(UserError, match="no picture there; give a picture, a folder or a pattern"):
        explain.main(f"--checkpoint {run} --cpu --image {tmp_path}/none*.jpg".split())
