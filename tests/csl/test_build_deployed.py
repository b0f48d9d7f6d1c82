"""A run in other programs: exported and compared; pictures in and answers out."""

import json

import numpy as np
import pytest
import torch

from common import export, samples
from common.deployed import deployed
from common.errors import UserError
from csl import infer
from csl.src.models.utils import published
from csl.train import main as train

FLAGS = "--image_size 32 --batch_size 8 --workers 0 --cpu --epochs 1 --augment none"
NAMES = {"tresnet_tiny": 1, "vit_tiny_patch16_224": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return samples.draw("own", tmp_path_factory.mktemp("own") / "x", samples.SEED)


@pytest.fixture(scope="module", params=NAMES)
def run(request, place, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / request.param
    data = ["--data", str(place / "labels.csv"), "--model_name", request.param]
    train([*data, *FLAGS.split(), "--output_dir", str(out)])
    return out


def test_what_a_run_becomes(run):
    found = deployed(run)
    assert (found.paper, found.answer) == ("csl", "sigmoid")
    assert found.classes == ("one", "three", "two")
    assert found.architecture == run.name
    assert found.preparation.size == (32, 32)
    probabilities = found.probabilities(found.example(2))
    assert probabilities.shape == (2, 3)
    side = NAMES[run.name]
    assert found.maps(found.example(2)).shape == (2, 3, side, side)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch_export", "safetensors"])
def test_exports_agree(form, run, tmp_path, monkeypatch):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    monkeypatch.setattr("sys.argv", ["export", str(run), "--to", form, "--out", str(tmp_path)])
    export.main()
    assert (tmp_path / export.NAMES[form]).stat().st_size > 1000


def test_a_run_without_an_epoch(run, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(UserError, match="has not ended an epoch"):
        deployed(tmp_path)


def test_pictures_in_and_answers_out(run, place, tmp_path):
    out = tmp_path / "out"
    weights = str(run / "checkpoints" / "best_ema.pth")
    pictures = [str(place / "folders" / "val" / "one"), str(place / "pictures" / "two_0[1-3].jpg")]
    flags = ["--model_path", weights, "--pic_path", *pictures, "--th", "0", "--npz", "--cpu"]
    infer.main([*flags, "--dataset_type", "MS-COCO", "--output_dir", str(out)])
    records = json.loads((out / "answers" / "answers.json").read_text())
    assert len(records) == 5
    assert {name for record in records for name in record["classes"]} == {"one", "three", "two"}
    one = sorted((out / "answers").glob("0000_*.json"))[0]
    assert json.loads(one.read_text()) == records[0]
    assert (out / "figures" / f"{one.stem}.png").is_file()
    assert (out / "contact_sheet.png").is_file()
    with np.load(one.with_suffix(".npz")) as arrays:
        side = NAMES[run.name]
        assert arrays["maps"].shape == (3, side, side)
        assert arrays["classes"].tolist() == ["one", "three", "two"]


def test_published_weights_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("WSL_OFFLINE", "1")
    address = "https://miil-public-eu.*/CSL/opim_v6/mtresnet_opim_86.72.pth into .*checkpoints"
    with pytest.raises(UserError, match=address) as caught:
        infer.main(["--model_path=mtresnet_opim_86.72.pth", "--pic_path", str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_published_weights_are_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("WSL_OFFLINE", raising=False)
    asked = []

    def download(address, place, progress):
        asked.append(address)
        torch.save({}, place)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first = published.located("tresnet_m.pth")
    assert first == published.located("tresnet_m.pth")
    assert first.parent == tmp_path / "hub" / "checkpoints"
    assert asked == [published.FILES["tresnet_m.pth"]]

    def refuse(address, place, progress):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(UserError, match="no route to host.*fetch https"):
        published.located("tresnet_l.pth")
    assert published.located("mine.pth").name == "mine.pth"
