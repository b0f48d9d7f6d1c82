"""From settings to objects: the device, published weights, the sets that a network teaches."""

import pytest
import torch
import torchvision
from accelerate import Accelerator

from common.cli import UserError
from mile.build import build_network, choose_device, taught_sets
from mile.config import parse_config
from mile.evaluate import (
    Outputs,
)
from mile.utils import multi_hot, prediction_set


def test_mps_without_mps_is_one_warning(monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    said, conf = [], parse_config(["--device", "mps"])
    choose_device(conf, said.append)
    assert conf.cpu and len(said) == 1 and "device mps" in said[0]


def test_cuda_without_a_gpu_is_one_warning(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said, conf = [], parse_config([])
    choose_device(conf, said.append)
    assert conf.cpu and len(said) == 1 and "no GPU" in said[0]
    said.clear()
    choose_device(parse_config([]), said.append, is_asked=False)
    assert not said
    choose_device(parse_config(["--device", "cpu"]), said.append)
    assert not said


LOGITS = torch.tensor([[2.0, 1.0, -9.0], [-9.0, -8.0, -9.0], [0.5, 0.5, 3.0], [1.0, 0.0, -1.0]])


LABEL, REAL = torch.tensor([0, 1, 0, 2]), [[0, 2], [0], [0, 1, 2], []]


def test_label_sets_for_export():
    conf = parse_config([])
    outputs = Outputs(LOGITS, LABEL, multi_hot(REAL, 3), torch.arange(4))
    assert taught_sets(conf, 0.5)(outputs).int().tolist() == [
        [1, 1, 0],
        [0, 0, 0],
        [1, 1, 1],
        [1, 0, 0],
    ]
    conf.keep_ground_truth = True
    assert taught_sets(conf, 0.5)(outputs).int().tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [1, 1, 1],
        [1, 0, 1],
    ]
    conf.schema = "softmax"
    assert torch.equal(taught_sets(conf, 0.5)(outputs), prediction_set(LOGITS, 0.5, "softmax"))


def test_published_weights_from_the_cache_or_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    accelerator, folder = Accelerator(cpu=True), tmp_path / "hub" / "checkpoints"

    def build(classes, model, bias_init="prior"):
        return build_network(
            model, classes, accelerator, bias_init=bias_init, pretrained="imagenet"
        )

    with pytest.raises(
        UserError, match=r"download failed \(.*WSL_OFFLINE is set.*give a weight file"
    ):
        build(1000, model="resnet18")
    with pytest.raises(UserError, match="no published weights of small"):
        build(10, model="small")
    theirs = torchvision.models.resnet18()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(theirs.state_dict(), folder / "resnet18-f37072fd.pth")
    state = theirs.state_dict()
    assert all(
        torch.equal(v, state[k]) for k, v in build(1000, model="resnet18").state_dict().items()
    )
    seven = build(7, model="resnet18", bias_init="prior")
    assert torch.equal(seven.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert seven.fc.bias.sigmoid().allclose(torch.tensor(1 / 8))
