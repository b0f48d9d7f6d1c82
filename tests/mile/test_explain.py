"""explain.py on own pictures, and a run's network for other programs."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from common import samples
from common.cli import UserError
from common.deployed import deployed
from common.export import export
from mile import MILe as entry
from mile import explain
from mile.build_deployed import networks_of, prepared
from mile.data_images import eval_transform, normalize
from tests.mile.helpers import flags, run

NETWORKS = {"small": 32, "resnet18": 32, "vit_tiny_patch16_224": 32, "convnext_atto": 32}


def trained(folder, model="small", **settings):
    own = {"data": samples.ensure("own") / "complete.csv", "model": model, "batch_size": 8}
    own |= {"image_size": NETWORKS[model], "num_workers": 0, "k_t": 1, "k_s": 1}
    own |= {"total_steps": 2, "output_dir": folder, "checkpoint_path": folder.parent / "weights"}
    entry.main(["--cpu", *flags(**own | settings)])
    return folder


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("mile") / "run")


def test_files_folders_and_patterns_in_records_and_maps_out(a_run, tmp_path, capsys):
    pictures = samples.ensure("own") / "pictures"
    given = [str(pictures / "one_00.jpg"), str(pictures / "two_0[12].jpg")]
    out = tmp_path / "e"
    argv = ["--run", str(a_run), "--image", *given, "--rho", "0.01", "--npz", "--cpu"]
    explain.main([*argv, "--output_dir", str(out)])
    said = capsys.readouterr().out
    records = json.loads((out / "answers" / "answers.json").read_text())
    assert [record["picture"].rsplit("/", 1)[1] for record in records] == [
        "one_00.jpg",
        "two_01.jpg",
        "two_02.jpg",
    ]
    for number, record in enumerate(records):
        name = f"{number:04d}_{record['picture'].rsplit('/', 1)[1][:-4]}"
        assert json.loads((out / "answers" / f"{name}.json").read_text()) == record
        assert (out / "figures" / f"{name}.png").is_file()
        arrays = np.load(out / "answers" / f"{name}.npz")
        for network in ("student", "teacher"):
            assert arrays[f"{network}_maps"].shape == (3, 3, 3)
            scores = record[network]["scores"]
            assert list(scores) == ["one", "three", "two"]
            above = {label for label, score in scores.items() if score > 0.01}
            assert above <= set(record[network]["labels"])
    assert (out / "figures" / "contact_sheet.png").is_file()
    assert "3 classes (one, three, two); labels above 0.01" in said and "one_00.jpg: " in said


def test_the_network_sees_what_the_evaluation_saw(a_run):
    found, teacher = networks_of(a_run)
    image = Image.open(samples.ensure("own") / "pictures" / "one_00.jpg")
    _, x = prepared(image, found.preparation)
    assert x.allclose(normalize(eval_transform(32)(image.convert("RGB"))[None]), atol=0.02)
    assert teacher is not None and deployed(a_run).architecture == "small"


@pytest.mark.slow
def test_grids_and_schemas_without_a_teacher(tmp_path):
    run(tmp_path / "r", schema="sigmoid", total_steps=1)
    found, teacher = networks_of(tmp_path / "r")
    assert teacher is None and found.classes == tuple("0123456789")
    assert found.preparation.resize == "squash" and found.preparation.size == (28, 28)
    run(tmp_path / "s", schema="softmax", total_steps=1)
    assert networks_of(tmp_path / "s")[0].answer == "softmax"
    run(tmp_path / "o", student_init="own")
    found, teacher = networks_of(tmp_path / "o")
    assert teacher is not None and found.network is not teacher


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("to", ["safetensors", "torch_export", "onnx", "hub"])
@pytest.mark.slow
def test_exported_networks_agree(tmp_path_factory, tmp_path, model, to):
    if to == "onnx" and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed")
    folder = trained(tmp_path / "r", model)
    found = deployed(folder)
    _, difference = export(found, folder, to, tmp_path / "export")
    assert difference is None or difference <= 1e-4
    assert found.maps is not None and found.maps(found.example(2)).shape[:2] == (2, 3)


def test_the_weights_are_those_of_the_run(a_run):
    saved = torch.load(a_run / "checkpoints" / "last.pt", weights_only=True)
    learner = saved["state"]["learner"]
    for name, value in deployed(a_run).network.state_dict().items():
        assert torch.equal(value, learner[f"student.{name}"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--image", "x.jpg"], "--run is missing"),
        (["--run", "RUN"], "--image is missing"),
        (["--run", "/nowhere", "--image", "x.jpg"], "no checkpoints/last.pt"),
        (["--run", "RUN", "--image", "/nowhere.jpg"], "no picture there"),
    ],
)
def test_mistakes_are_one_line(a_run, argv, message):
    with pytest.raises(UserError, match=message):
        explain.main([word.replace("RUN", str(a_run)) for word in argv])


def test_a_run_without_state_is_named(a_run, tmp_path):
    broken = shutil.copytree(a_run, tmp_path / "r")
    torch.save({"a": torch.zeros(1)}, broken / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match="not one of MILe.py"):
        networks_of(broken)
