"""A run of each paper on what Python takes for an Apple GPU: nothing there becomes float64."""

import importlib

import pytest
import torch

from oass.data_views import on_the_picture, views_of
from tests.common.of_mps import MPS, OnMps
from tests.csl.tiny import write_coco
from tests.test_training_flags import PAPERS, whole_network


def test_the_mode_refuses_float64_and_numpy_there_alone():
    with OnMps() as mode:
        x = torch.zeros(3, device=MPS) + 1
        assert x.device == MPS and x[:2].device == MPS and x.cpu().device.type == "cpu"
        assert x.cpu().double().numpy().sum() == 3
        assert torch.ones(2, dtype=torch.float64).to(MPS, torch.float32).device == MPS
        for make in (
            x.double,
            lambda: x.to(torch.float64),
            lambda: torch.ones(2, dtype=torch.float64).to(MPS),
            lambda: torch.arange(3, dtype=torch.float64, device="mps"),
        ):
            with pytest.raises(TypeError, match="float64"):
                make()
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        layer = torch.nn.Linear(2, 2).to(MPS)
        assert layer.weight.device == MPS
        layer(torch.ones(1, 2, device=MPS)).sum().backward()
        assert layer.weight.grad.device == MPS
    assert mode.tensors > 5


def test_oass_maps_of_a_mirrored_view_are_put_back_there():
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 4, 4)
    sizes = torch.tensor([[40, 60], [64, 64]])
    for view in views_of(64, (1, 1.5), flip=True)[1:]:
        wanted = on_the_picture(maps, view, sizes, 64)
        with OnMps():
            found = on_the_picture(maps.to(MPS), view, sizes, 64)
            assert [part.device for part in found] == [MPS, MPS]
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_a_run_makes_no_float64_there(paper, tmp_path, monkeypatch):
    flags = whole_network(paper, write_coco(tmp_path / "data"), 8)
    OnMps.choose(monkeypatch)
    with OnMps() as mode:
        main = importlib.import_module(PAPERS[paper].module).main
        main([*flags, "--max_steps", "2", "--output_dir", str(tmp_path / "run")])
    assert mode.tensors > 100
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
