"""Short training runs in process, and what their checkpoints hold."""

import json
from pathlib import Path

import torch

from calm import main as entry
from calm.build import with_data
from calm.data import DataSet
from calm.options import Settings, parse
from tests.calm.conftest import TRAIN


def train(birds: Path, folder: Path, *flags: str) -> dict:
    entry.main([*TRAIN, "--data_root", str(birds), "--output_dir", str(folder), *flags])
    return json.loads((folder / "summary.json").read_text())


def state(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def prepared(argv: list[str]) -> tuple[Settings, DataSet]:
    """The settings of a command line of main.py, and the data set with its metadata."""
    return with_data(parse(argv))
