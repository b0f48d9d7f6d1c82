"""The original's eval and save_model."""

import pytest
import torch

from mile.config import config
from mile.models import build_model
from mile.utils import device_of, eval, save_model


def test_eval_puts_the_model_in_evaluation_mode_and_uses_the_config(monkeypatch):
    monkeypatch.setattr(config, "device", "cpu")
    torch.manual_seed(0)
    model = build_model("small-10").train()
    result = eval(model, [(torch.randn(4, 3, 30, 30), torch.arange(4), [[0], [], [1, 2], [3]])])
    assert not model.training and result._fields[:4] == (
        "acc",
        "real_f1",
        "real_acc",
        "label_coverage",
    )
    assert result.n == 4 and result.n_real == 3


def test_cuda_without_a_gpu_evaluates_on_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.warns(UserWarning, match="no GPU"):
        assert device_of().type == "cpu"


def test_save_model_makes_all_folders_and_writes_a_bare_state_dict(tmp_path):
    class conf(config):
        checkpoint_path = tmp_path / "a" / "b"

    model = build_model("resnet18-10")
    path = save_model(torch.nn.parallel.DataParallel(model).module, "sigmoid_3.pth", conf)
    assert path == tmp_path / "a" / "b" / "ResNet" / "sigmoid_3.pth"
    assert list(torch.load(path, weights_only=True)) == list(model.state_dict())
