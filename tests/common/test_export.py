"""`python -m common.export`: what is written can be opened, and answers as the network does."""

import json

import pytest
import torch
from torch import nn

from common import deployed as deployed_module
from common.deployed import Deployed, Preparation, deployed
from common.errors import UserError
from common.export import NAMES, export, main

CLASSES = ("ant", "bee", "cat")
RUN_SETTINGS = {"only_here": 1, "lr": 0.1, "nothing": None}


class Small(nn.Module):
    """Two layers, a batch norm, a mean over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


def small(**changes) -> Deployed:
    torch.manual_seed(0)
    preparation = Preparation((16, 20), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    given = {
        "paper": "paper",
        "architecture": "small",
        "network": Small().eval(),
        "classes": CLASSES,
        "preparation": preparation,
        "answer": "softmax",
    }
    return Deployed(**(given | changes))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"settings": RUN_SETTINGS}))
    (folder / "summary.json").write_text(json.dumps({"accuracy": 0.75, "offline_sample": True}))
    return folder


class EntryPoint:
    """As importlib.metadata has them."""

    def __init__(self, name, function):
        self.name = name
        self.function = function

    def load(self):
        return self.function


@pytest.fixture
def registered(monkeypatch):
    """A paper whose runs have the setting only_here."""
    points = [
        EntryPoint("of_another", lambda folder: pytest.fail("another paper's run")),
        EntryPoint("only_here", lambda folder: small()),
    ]
    monkeypatch.setattr(deployed_module, "entry_points", lambda group: points)


@pytest.mark.parametrize("answer", ["softmax", "sigmoid", "probabilities"])
@pytest.mark.parametrize("to", ["safetensors", "torch_export", "hub"])
def test_what_is_written_answers_as_the_network(run, tmp_path, to, answer):
    network = Small().eval()
    if answer == "probabilities":
        network = nn.Sequential(network, nn.Softmax(1)).eval()
    found = small(network=network, answer=answer)
    path, difference = export(found, run, to, tmp_path / "out")
    assert path == tmp_path / "out" / NAMES[to]
    assert difference is not None and difference <= 1e-6


def test_an_onnx_model_takes_any_number_of_pictures(run, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    found = small()
    path, difference = export(found, run, "onnx", tmp_path)
    assert difference <= 1e-5
    session = runtime.InferenceSession(str(path))
    for batch in (1, 5):
        inputs = found.example(batch)
        (answer,) = session.run(None, {"pictures": inputs.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(answer), found.network(inputs), atol=1e-5, rtol=0
        )


def test_a_program_of_torch_export_takes_any_number_of_pictures(run, tmp_path):
    found = small()
    path, _ = export(found, run, "torch_export", tmp_path)
    program = torch.export.load(path).module()
    for batch in (1, 5):
        inputs = found.example(batch)
        torch.testing.assert_close(program(inputs), found.network(inputs))


def test_the_json_beside_it_says_what_goes_in_and_comes_out(run, tmp_path):
    export(small(), run, "safetensors", tmp_path)
    told = json.loads((tmp_path / "model.json").read_text())
    assert told["classes"] == list(CLASSES)
    assert told["answer"] == "softmax"
    assert told["input"]["size"] == [16, 20]
    assert told["input"]["mean"] == [0.5, 0.5, 0.5]


def test_timm_opens_the_hub_folder_of_a_network_of_its_own(run, tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet10t", num_classes=3).eval()
    found = small(
        network=network,
        architecture="resnet10t",
        preparation=Preparation((64, 64), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        timm_name="resnet10t",
        timm_state=network.state_dict(),
    )
    path, difference = export(found, run, "hub", tmp_path)
    assert difference <= 1e-6
    opened = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    assert opened.pretrained_cfg["label_names"] == list(CLASSES)
    assert (path / "labels.txt").read_text().split() == list(CLASSES)
    card = (path / "README.md").read_text()
    assert "accuracy: 0.75" in card and "lr: 0.1" in card


def test_a_file_that_answers_otherwise_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "common.export.run_safetensors", lambda path, inputs, found: inputs[:, :, 0, 0]
    )
    with pytest.raises(UserError, match="answers differ"):
        export(small(), run, "safetensors", tmp_path)


def test_a_run_is_known_by_a_setting_of_its_paper(run, registered):
    assert deployed(run).classes == CLASSES


def test_the_command_writes_into_the_run(run, registered, capsys):
    main([str(run), "--to", "safetensors"])
    assert (run / "export" / "model.safetensors").is_file()
    printed = capsys.readouterr().out
    assert "3 classes (ant, bee, cat)" in printed and "agree" in printed


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda run: (run / "config.json").unlink(), "not a run directory"),
        (lambda run: (run / "config.json").write_text("{}"), "holds no settings"),
        (lambda run: (run / "config.json").write_text('{"settings": {"x": 1}}'), "no paper"),
    ],
)
def test_what_is_no_run_is_refused(run, registered, prepare, message):
    prepare(run)
    with pytest.raises(UserError, match=message):
        deployed(run)


def test_without_the_exporter_the_command_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setattr("common.export.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx and onnxscript not installed"):
        export(small(), run, "onnx", tmp_path)
