"""Shared by the tests of oass: one thread, golden arrays, a sample drawn once, a tiny data set,
benchmarks by name.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden" / "oass"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = (
    "--cpu --architecture resnet_tiny --weights none --image_size 64 --min_image_size 48 "
    "--max_image_size 80 --batch_size 8 --max_epoch 2 --num_workers 0 --pictures 0"
)
torch.set_num_threads(1)


def load_golden(name: str) -> dict:
    """The arrays of one golden file, numeric ones as tensors."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def relative_error(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    """max|actual - wanted| / max|wanted|."""
    actual, wanted = torch.as_tensor(actual).double(), torch.as_tensor(wanted).double()
    assert actual.shape == wanted.shape
    return float((actual - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


@pytest.fixture(scope="session")
def golden():
    return load_golden


def load_benchmark(name: str) -> ModuleType:
    """benchmarks/NAME.py, which is no package's; its neighbours (ratios.py) are found meanwhile."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def benchmark():
    return load_benchmark


@pytest.fixture(scope="session")
def devkit(tmp_path_factory):
    """A devkit of 24 training, 10 validation and 3 test pictures, drawn as the sample's, without
    its marker.
    """
    from common.samples import voc

    folder = tmp_path_factory.mktemp("devkit")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in {
            "NUM_TRAIN": 10,
            "NUM_TRAIN_AUG": 24,
            "NUM_VAL": 10,
            "NUM_TEST": 3,
        }.items():
            patch.setattr(voc, name, count)
        voc.draw_voc(folder, np.random.default_rng(0))
    return folder


@pytest.fixture
def small(devkit):
    """Flags of a run of six steps, a second or two."""
    return [*f"--data_dir {devkit}".split(), *SMALL.split()]


def tiny():
    """A small classifier of 20 classes in training mode, always with the same weights."""
    from oass.core.networks import Classifier

    torch.manual_seed(1)
    return Classifier("resnet_tiny", 20, pretrained=False).train()
