"""Counting batch by batch at several thresholds is method.py's counting of the whole."""

import pytest
import torch
from accelerate import Accelerator

from mile import fast, method
from mile.data import EvalBatch
from mile.evaluate import RealMetrics, Rule, evaluate, metrics_of, multi_hot
from mile.evaluate_counts import count_overlaps, entries_of

RHOS = [0.1, 0.25, 0.5]


def case(n=40, classes=16):
    """Logits on a coarse grid with ties, and label sets, some empty."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=generator).mul(2).round().div(2)
    real = torch.rand(n, classes, generator=generator) < 0.1
    return logits, real


@pytest.mark.parametrize("schema", method.SCHEMAS)
@pytest.mark.parametrize("protocol", method.PROTOCOLS)
@pytest.mark.parametrize("as_lists", [False, True])
def test_overlaps_are_those_of_the_method(schema, protocol, as_lists):
    logits, real = case()
    lists = [row.nonzero().flatten().tolist() for row in real]
    entries = entries_of(lists if as_lists else real, 16, logits.device)
    counted = count_overlaps(logits.split(7), entries, RHOS, schema, protocol)
    top = logits.argmax(1)
    assert torch.equal(counted.top, top)
    for rho, ours in zip(RHOS, counted.overlaps, strict=True):
        predicted = method.prediction_set(logits, rho, schema, protocol)
        theirs = method.overlap_of(predicted, real, top)
        for name, one, other in zip(ours._fields, ours, theirs, strict=True):
            assert torch.equal(one, other), (rho, name)
            assert one.dtype == other.dtype, name


@pytest.mark.parametrize("rho", [1e-6, 0.01, 0.1, 0.25, 0.3, 0.5, 0.75, 0.999])
def test_a_logit_above_the_cut_is_a_probability_above_rho(rho):
    cut = torch.tensor(fast.logit_cut(rho))
    near = [cut]
    for direction in (-torch.inf, torch.inf):
        z = cut
        for _ in range(200):
            z = z.nextafter(torch.tensor(direction))
            near.append(z)
    wide = torch.linspace(-20, 20, 4001)
    z = torch.cat([torch.stack(near), wide])
    z = torch.cat([z, z.new_zeros(-len(z) % 64)])  # whole vectors: a rest is rounded otherwise
    assert torch.equal(z > cut, z.sigmoid() > rho)


@pytest.mark.parametrize("protocol", method.PROTOCOLS)
def test_an_evaluation_s_metrics_are_those_of_each_threshold(protocol):
    logits, real = case()
    lists = [row.nonzero().flatten().tolist() for row in real]
    label = torch.arange(len(logits)) % 16
    ids = torch.arange(len(logits))
    batches = [
        EvalBatch(logits[s], label[s], lists[s], ids[s]) for s in (slice(0, 9), slice(9, 40))
    ]
    evaluated = evaluate(torch.nn.Identity(), batches, 16, Accelerator(cpu=True))
    found = metrics_of(evaluated, Rule("MILe", protocol, 0.1, top5=True))

    def at(rho, **more):
        metrics = RealMetrics(16, "MILe", rho, protocol, **more)
        metrics.update(logits, label, real)
        return metrics.compute()

    further = {"real_f1_025": at(0.25)["real_f1"], "real_f1_05": at(0.5)["real_f1"]}
    assert found == at(0.1, top5=True) | further

    assert len(evaluated) == 40
    whole = evaluated.whole
    assert torch.equal(whole.logits, logits) and torch.equal(whole.real, real)
    assert torch.equal(whole.real, multi_hot(lists, 16))
    first = evaluated.first(11)
    assert first.ids.tolist() == list(range(11)) and torch.equal(first.logits, logits[:11])
