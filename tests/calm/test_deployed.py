"""explain.py on many pictures, and a run as other programs use it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calm import explain, main
from common.deployed import deployed
from common.export import main as export
from tests.calm.test_own_data import TRAIN


@pytest.fixture(scope="module", params=["small", "mobilenetv3_small_050"])
def trained(
    own: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    folder = tmp_path_factory.mktemp("deployed") / "run"
    flags = [*TRAIN, f"--architecture={request.param}", "--data", str(own / "folders")]
    main.main([*flags, "--output_dir", str(folder)])
    return folder


@pytest.mark.slow
def test_many_pictures(own: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pictures = [str(own / "folders/val/one"), str(own / "folders/val/two/*.jpg")]
    flags = ["--load_checkpoint", str(trained), "--output_dir", str(out), "--cpu", "--npz"]
    explain.main(["--image", *pictures, *flags])
    answers = json.loads((out / "pictures/answers.json").read_text())
    assert len(answers) == 4 and (out / "figures/contact_sheet.png").is_file()
    for answer in answers:
        assert (out / "figures" / answer["figure"]).is_file()
        assert {found["name"] for found in answer["classes"]} == {"one", "two", "three"}
    (first, *_) = sorted((out / "pictures").glob("*.npz"))
    assert np.load(first)["maps"].shape[0] == 3
    assert len(list((out / "pictures").glob("0*.json"))) == 4


def test_the_first_val_picture_of_own_data(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    explain.main(["--load_checkpoint", str(trained), "--output_dir", str(out), "--cpu"])
    assert "folders/val" in json.loads((out / "summary.json").read_text())["image"]


def test_a_deployed_run_answers_as_explain_does(own: Path, trained: Path, tmp_path: Path) -> None:
    found = deployed(trained)
    assert found.paper == "calm" and set(found.classes) == {"one", "two", "three"}
    picture = sorted((own / "folders/val/one").iterdir())[0]
    out = tmp_path / "out"
    flags = ["--load_checkpoint", str(trained), "--output_dir", str(out), "--cpu"]
    explain.main(["--image", str(picture), *flags])
    (record,) = (out / "pictures").glob("0000*.json")
    said = {one["label"]: one["probability"] for one in json.loads(record.read_text())["classes"]}

    mode = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    resized = (
        Image.open(picture).convert("RGB").resize((64, 64), mode[found.preparation.interpolation])
    )
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None] / 255
    mean = torch.tensor(found.preparation.mean).view(3, 1, 1)
    std = torch.tensor(found.preparation.std).view(3, 1, 1)
    inputs = (pixels - mean) / std
    probabilities = found.probabilities(inputs)[0]
    for label, value in said.items():
        assert float(probabilities[label]) == pytest.approx(value, abs=1e-4)
    assert found.maps is not None
    maps = found.maps(inputs)
    torch.testing.assert_close(maps.sum((2, 3))[0], probabilities, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch_export", "safetensors"])
def test_exports_agree(trained: Path, tmp_path: Path, kind: str) -> None:
    export([str(trained), "--to", kind, "--out", str(tmp_path)])
    assert any(tmp_path.iterdir())
