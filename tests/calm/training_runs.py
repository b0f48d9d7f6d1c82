"""Short training runs in process, and what their checkpoints hold."""

import json
from pathlib import Path

import torch

from calm import main as entry
from tests.calm.conftest import TRAIN


def train(birds: Path, folder: Path, *flags: str) -> dict:
    entry.main([*TRAIN, "--data_root", str(birds), "--output_dir", str(folder), *flags])
    return json.loads((folder / "summary.json").read_text())


def state(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
