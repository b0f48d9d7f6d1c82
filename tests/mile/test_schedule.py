"""Every learning-rate schedule and every plan of phases in runs of 1 to 12 steps."""

import math

import pytest
import torch

from mile.learning import LearningRate
from mile.method import annealed_rho
from mile.options_table import SETTINGS
from tests.mile.helpers import plan_of

STEPS = range(1, 13)
SCHEDULES = SETTINGS["lr_schedule"].allowed.choices
MILESTONES = ("30,60,80", "0.6,0.85", "1", "0.01,0.99")


def walk(schedule, milestones, **settings):
    """The learning rate of each step of a run, as the training loop sets it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    plan = plan_of(pass_steps=4, **settings)
    rates = LearningRate(schedule, milestones, [optimizer], plan)
    used = []
    for epoch in range(plan.epochs):
        for _ in range(plan.phases(epoch).total):
            rates.before_step(len(used))
            optimizer.step()
            used.append(rates.now)
        rates.after_evaluation(0.5)
    return plan, used


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


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_is_finite_positive_and_never_above_its_start(steps, kind):
    for milestones in MILESTONES:
        for settings in ({"schema": "sigmoid"}, {"k_t": 3, "k_s": 2, "warmup": 1}):
            plan, used = walk(kind, milestones, total_steps=steps, **settings)
            assert len(used) == plan.steps == steps
            assert all(math.isfinite(rate) and 0 < rate <= 0.1 for rate in used)
            assert used == sorted(used, reverse=True)
            assert used[0] == 0.1


@pytest.mark.parametrize("steps", STEPS)
def test_milestones_that_are_shares_fall_where_the_share_of_the_steps_is_over(steps):
    _, used = walk("step", "0.6,0.85", total_steps=steps, schema="sigmoid")
    borders = [round(0.6 * steps), round(0.85 * steps)]
    by_hand = [0.1 * 0.1 ** sum(step >= border for border in borders) for step in range(steps)]
    assert used == pytest.approx(by_hand)


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
