"""Runs of `main.py` on the sample, in process."""

import json
from pathlib import Path

import torch

from cavl import main as entry

SAMPLE = ["--sample", "--cpu"]


def run(folder: Path, *flags: str) -> dict:
    """Run main on the sample; the summary."""
    entry.main([*SAMPLE, "--output_dir", str(folder), *flags])
    return json.loads((folder / "summary.json").read_text())


def state(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
