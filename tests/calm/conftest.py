"""One thread, a small drawn CUB, and one trained experiment that the tests share."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.samples import cub as drawn

torch.set_num_threads(
    1
)  # small tensors: on busy cores several threads make the tests four times slower

TRAIN = [
    "--cpu",
    "--epochs",
    "2",
    "--batch_size",
    "16",
    "--lr",
    "0.05",
    "--attribution_method=CALM_EM",
    "--crop_size",
    "64",
    "--resize_size",
    "68",
]
JOINT = ["--score_map_process=jointll", "--norm_type=clipping"]


def flags(birds: Path, save_root: Path, *more: str) -> list[str]:
    return [
        "--cpu",
        "--data_root",
        str(birds),
        "--save_root",
        str(save_root),
        "--experiment_name=em",
        "--attribution_method=CALM_EM",
        "--crop_size",
        "64",
        *more,
    ]


def newest(save_root: Path, name: str) -> Path:
    return max((save_root / "em").glob(f"{name}*"), key=lambda p: p.stat().st_mtime_ns)


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUB sample with 8 + 3 images per class; a root for --data_root."""
    root = tmp_path_factory.mktemp("birds")
    before = drawn.PER_CLASS
    drawn.PER_CLASS = {"train": 8, "test": 3}
    try:
        drawn.draw_cub(root, np.random.default_rng(0))
    finally:
        drawn.PER_CLASS = before
    (root / "SAMPLE.json").write_text(json.dumps({"name": "CUB", "version": 1}))
    return root


@pytest.fixture(scope="session")
def save_root(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --save_root with the trained experiment `em`."""
    from calm import main

    root = tmp_path_factory.mktemp("save")
    main.main(
        [*TRAIN, "--data_root", str(birds), "--save_root", str(root), "--experiment_name=em/"]
    )
    return root


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The own-data sample: thirty pictures in all layouts."""
    folder = tmp_path_factory.mktemp("own") / "own"
    command = [sys.executable, "-m", "common.samples", "own", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """The metadata lists of two images."""
    for name, lines in {
        "image_ids": "a/1.jpg\na/2.jpg",
        "class_labels": "a/1.jpg,0\na/2.jpg,1",
        "image_sizes": "a/1.jpg,10,20\na/2.jpg,30,40",
        "localization": "a/1.jpg,1,2,3,4\na/1.jpg,5,6,7,8\na/2.jpg,0,0,1,1",
    }.items():
        (tmp_path / f"{name}.txt").write_text(lines)
    return tmp_path
