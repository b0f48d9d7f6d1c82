"""Scores of a test set: one array a model, half as large with --half_scores, the same metrics."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from csl.evaluate import metrics_of, predict_rows, rates_of
from csl.options import build_parser
from csl.options_validate import build_parser as build_parser_of_validate
from tests.peak import rise_of

BEFORE = """
import torch
from accelerate import Accelerator
from torch import nn
from csl.evaluate import predict_rows
N, C, B = 16384, 2000, 256
class Loader:
    batch_sampler = [[(0, i) for i in range(s, s + B)] for s in range(0, N, B)]
    def __iter__(self):
        for keys in self.batch_sampler:
            yield torch.zeros(B, 1), torch.zeros(B, C, dtype=torch.int8)
model = nn.Linear(1, C)
accelerator = Accelerator(cpu=True)
predict_rows([model], [(torch.zeros(1, 1), torch.zeros(1, C))], accelerator, numbers=nn.Identity())
"""
CODE = """
found = predict_rows(
    [model, model], Loader(), accelerator, numbers=nn.Identity(), half={half}
)
result = found.scores[0].nbytes + found.scores[1].nbytes + found.targets.nbytes
"""


@pytest.mark.slow
def test_memory_is_that_of_the_arrays():
    rises = []
    for half in (False, True):
        rise, arrays = rise_of(CODE.format(half=half), BEFORE)
        assert rise < 1.2 * arrays + 2**25
        rises.append(rise)
    assert rises[1] < 0.65 * rises[0]  # the targets stay as they are


def scored(half: bool, partial: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 30, generator=generator) * 4
    lowest = -1 if partial else 0
    targets = torch.randint(lowest, 2, logits.shape, generator=generator)
    batches = list(zip(logits.split(64), targets.split(64), strict=True))
    found = predict_rows(
        [nn.Identity()], batches, Accelerator(cpu=True), numbers=nn.Identity(), half=half
    )
    assert torch.equal(torch.from_numpy(found.targets).long(), targets)
    if not half:
        assert np.array_equal(found.scores[0], logits.sigmoid().numpy())
    return found.targets, found.scores[0]


@pytest.mark.parametrize("partial", [False, True])
def test_half_scores_move_the_metrics_by_less_than_stated(partial):
    targets, whole = scored(False, partial)
    _, half = scored(True, partial)
    assert whole.dtype == np.float32
    assert half.dtype == np.float16
    wanted = metrics_of(targets, whole) | rates_of(targets, whole, 0.5, calibrate=True)
    found = metrics_of(targets, half) | rates_of(targets, half, 0.5, calibrate=True)
    assert found == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("build", [build_parser, build_parser_of_validate])
def test_the_flag_is_off_like_in_runs_that_had_none(build):
    assert build().parse_args([]).half_scores is False
    assert build().parse_args(["--half_scores"]).half_scores is True
