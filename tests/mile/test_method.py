"""The method by hand: label sets, losses, the threshold, the plan of phases."""

import pytest
import torch

from mile.learning import bce_loss, pseudo_labels
from mile.method import Phases, annealed_rho, covering_rho
from tests.mile.helpers import plan_of


def test_pseudo_labels_by_hand():
    logits = torch.tensor([[0.0, 1.0, -1.0], [-9.0, -9.0, -9.0]], requires_grad=True)
    target = pseudo_labels(logits, 0.5)  # strict: sigmoid(0) = 0.5 is not above 0.5
    assert target.tolist() == [[0, 1, 0], [0, 0, 0]] and not target.requires_grad
    assert pseudo_labels(logits, 0.5, label=torch.tensor([2, 0])).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert pseudo_labels(logits.bfloat16(), 0.5).dtype == torch.float32


def test_bce_loss_sums_over_classes_and_passes_gradcheck():
    logits = torch.zeros(4, 6)
    assert bce_loss(logits, torch.ones(4, 6)).item() == pytest.approx(6 * 0.693147, abs=1e-5)
    assert bce_loss(logits, torch.ones(4, 6), "mean").item() == pytest.approx(0.693147, abs=1e-5)
    weight, z = torch.tensor([3.0, 1.0]), torch.randn(2, 3)
    rows = [bce_loss(z[i : i + 1], torch.ones(1, 3)) for i in range(2)]
    expected = (1.5 * rows[0] + 0.5 * rows[1]) / 2
    assert torch.allclose(bce_loss(z, torch.ones(2, 3), weight=weight), expected)
    z, target = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.rand(3, 4) > 0.5
    for reduction in ("sum", "mean"):
        assert torch.autograd.gradcheck(
            lambda z, r=reduction: bce_loss(z, target, r, torch.tensor([1.0, 2, 3])), z
        )
    with pytest.raises(ValueError, match="'none': choose from sum, mean"):
        bce_loss(logits, torch.ones(4, 6), "none")
    with pytest.raises(ValueError, match="'p': choose from prob, logit"):
        pseudo_labels(logits, 0.5, "p")


def test_plan_has_exact_phases_and_warmup_and_a_cut_end():
    plan = plan_of(k_t=3, k_s=2, warmup=1, generations=3)
    assert [plan.phases(g) for g in range(3)] == [Phases(4, 2), Phases(3, 2), Phases(3, 2)]
    assert plan.steps == 16 and plan.start(2) == 11
    cut = plan_of(k_t=3, k_s=2, warmup=1, total_steps=10)
    assert (cut.epochs, cut.phases(1)) == (2, Phases(3, 1))
    passes = plan_of(schema="sigmoid", generations=2)
    assert (passes.steps, passes.phases(1)) == (100, Phases(50, 0))


def test_annealed_rho_reaches_rho_half_way():
    values = [annealed_rho(0.1, 0.5, g, 11) for g in range(11)]
    assert values[0] == 0.5 and values[5:] == pytest.approx([0.1] * 6)
    assert values == sorted(values, reverse=True)
    assert annealed_rho(0.1, None, 0, 11) == 0.1


STEPS = range(1, 13)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("schema", ["MILe", "sigmoid"])
def test_a_run_has_exactly_its_steps_and_no_empty_generation(steps, schema):
    for warmup in (0, 1, 20):
        for pass_steps in (1, 5, 50):
            plan = plan_of(
                schema=schema,
                k_t=3,
                k_s=2,
                warmup=warmup,
                total_steps=steps,
                pass_steps=pass_steps,
            )
            totals = [plan.phases(epoch).total for epoch in range(plan.epochs)]
            assert sum(totals) == plan.steps == steps
            assert min(totals) >= 1


@pytest.mark.parametrize("generations", STEPS)
def test_the_annealed_threshold_ends_at_rho(generations):
    values = [annealed_rho(0.1, 0.5, generation, generations) for generation in range(generations)]
    assert values[0] == 0.5
    assert values == sorted(values, reverse=True)
    if generations > 1:
        assert values[-1] == pytest.approx(0.1)


def test_every_generation_and_pass_count_from_1_to_12():
    for epochs in STEPS:
        plan = plan_of(k_t=1, k_s=1, generations=epochs, pass_steps=7)
        assert (plan.epochs, plan.steps) == (epochs, 2 * epochs)
        plan = plan_of(schema="softmax", generations=epochs, pass_steps=7)
        assert (plan.epochs, plan.steps) == (epochs, 7 * epochs)


def test_the_threshold_that_covers_y_stays_between_prior_and_second_label():
    p = torch.tensor([[0.9, 0.5, 0.0], [0.6, 0.8, 0.1], [0.7, 0.2, 0.4], [0.1, 0.0, 0.9]])
    y = torch.tensor(
        [1, 0, 2, 0]
    )  # p of y: 0.5, 0.6, 0.4, 0.1; second highest 0.5, 0.6, 0.4, 0.1; prior 1/3
    assert covering_rho(p, y, 2 / 3) == pytest.approx(0.4)
    assert covering_rho(p, y, 0.99) == pytest.approx(1 / 3)  # not below the prior
    assert covering_rho(p[:3], y[[0, 0, 0]], 0.99) == pytest.approx(
        1 / 3
    )  # of all classes, whichever occur
    assert covering_rho(p, y, 0.01) == pytest.approx(p.topk(2).values[:, 1].median().item())
