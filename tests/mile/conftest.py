"""Small tensors on busy cores: one thread is fastest. Figures cost a second a run; `plain` runs go without."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def no_figures(monkeypatch):
    """Runs without drawing; test_MILe.py's first test draws."""
    from mile import report

    for name in ("draw_thresholds", "draw_curves", "draw_label_sets", "draw_growth"):
        monkeypatch.setattr(report, name, lambda *args, **more: None)
