"""Small tensors on busy cores.

One thread is fastest. Figures cost a second a run; `plain` runs go without.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.samples.imagenet import WNIDS

torch.set_num_threads(1)


@pytest.fixture
def no_figures(monkeypatch):
    """Runs without drawing; test_MILe.py's first test draws."""
    from mile import report

    for name in ("draw_thresholds", "draw_curves", "draw_label_sets", "draw_growth"):
        monkeypatch.setattr(report, name, lambda *args, **more: None)


@pytest.fixture
def imagenet(tmp_path):
    """Three classes: 6 training images each, 2 validation images each, real.json of 6 entries."""
    rng = np.random.default_rng(0)
    number = 0
    for wnid in list(WNIDS)[:3]:
        for part, count in (("train", 6), ("val", 2)):
            folder = tmp_path / part / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                number += part == "val"
                name = (
                    f"{wnid}_{i}.JPEG" if part == "train" else f"ILSVRC2012_val_{number:08d}.JPEG"
                )
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(
                    folder / name
                )
    (tmp_path / "real.json").write_text(json.dumps([[0], [0, 217], [217], [], [482], [482, 999]]))
    return tmp_path
