"""fast.py's predicted sets and counts are those of method.py."""

import pytest
import torch

from mile import fast, method

SHAPES = [(0, 8), (1, 1), (5, 7), (6, 8), (40, 16), (3, 2048)]


def logits_of(shape):
    """Logits on a coarse grid, so that many are equal."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).mul(2).round().div(2)


@pytest.mark.parametrize("shape", SHAPES)
def test_argmax_is_torchs_with_the_lowest_class_on_ties(shape):
    logits = logits_of(shape)
    assert torch.equal(fast.argmax(logits), logits.argmax(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("protocol", method.PROTOCOLS)
def test_sets_are_those_of_the_method(shape, protocol):
    logits = logits_of(shape)
    top = logits.argmax(1)
    for schema in method.SCHEMAS:
        for rho in (0.1, 0.5, 0.9):
            ours = fast.prediction_set(logits, rho, schema, protocol, top)
            assert torch.equal(ours, method.prediction_set(logits, rho, schema, protocol))
    p = method.probabilities(logits, "MILe")
    assert torch.equal(fast.set_at(p, 0.5, top, protocol), method.set_at(p, 0.5, top, protocol))


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_are_those_of_the_method(shape):
    generator = torch.Generator().manual_seed(1)
    predicted = torch.rand(shape, generator=generator) < 0.7
    real = torch.rand(shape, generator=generator) < 0.3
    top = predicted.float().argmax(1)
    ours = fast.overlap_of(predicted, real, top)
    theirs = method.overlap_of(predicted, real, top)
    for name, one, other in zip(ours._fields, ours, theirs, strict=True):
        assert torch.equal(one, other), name
        assert one.dtype == other.dtype, name


def test_a_view_of_a_wider_mask_is_counted_right():
    mask = torch.ones(4, 32, dtype=torch.bool)[:, ::2]
    assert fast.count(mask).tolist() == [16] * 4
