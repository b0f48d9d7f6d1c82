"""The learner of a run: what moves and what stands still; the learning rate's schedules."""

import argparse
import contextlib
import copy
import math

import pytest
import torch

from mile.learning import IteratedLearning, LearningRate, pseudo_labels
from mile.models import build_model
from mile.options_table import SETTINGS
from tests.mile.helpers import plan_of

X, Y = torch.randn(12, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10


def learner_of(kind, **more):
    torch.manual_seed(0)
    student = None if kind == "teacher" else build_model("small-10")
    return IteratedLearning(
        build_model("small-10"), student, num_classes=10, student_init=kind, lr=0.1, **more
    )


def snapshot(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", ["teacher", "own", "fresh"])
def test_the_teacher_stands_still_while_it_labels(kind):
    learner = learner_of(kind)
    for _ in range(3):
        learner.interactive_step(X, Y)
    idle = None if kind == "teacher" else snapshot(learner.student)
    learner.interactive_step(X, Y)
    if idle is not None:
        assert equal(idle, learner.student.state_dict())
    learner.begin_imitation()
    before, student = snapshot(learner.teacher), snapshot(learner.active)
    assert not learner.teacher.training
    for _ in range(3):
        learner.imitation_step(X)
    assert equal(before, learner.teacher.state_dict())
    assert not equal(student, learner.active.state_dict())
    learner.end_generation()
    assert equal(learner.teacher.state_dict(), learner.student.state_dict())
    assert learner.phase == "interactive" and learner.active is learner.teacher


def test_imitation_uses_the_frozen_teachers_sets_and_not_y():
    learner = learner_of("teacher", rho=0.3)
    for _ in range(5):
        learner.interactive_step(X, Y)
    learner.begin_imitation()
    with torch.no_grad():
        expected = pseudo_labels(copy.deepcopy(learner.teacher)(X), 0.3)
    a = copy.deepcopy(learner)
    learner.imitation_step(X, Y)
    a.imitation_step(X)
    assert torch.equal(learner.target, expected)
    assert equal(learner.active.state_dict(), a.active.state_dict())


def test_keep_ground_truth_adds_y():
    learner = learner_of("teacher", keep_ground_truth=True, rho=0.99)
    learner.begin_imitation()
    learner.imitation_step(X, Y)
    assert torch.equal(learner.target.argmax(1), Y) and torch.equal(
        learner.target.sum(1), torch.ones(12)
    )


@pytest.mark.parametrize("schema", ["sigmoid", "softmax"])
def test_weights_count_the_same_on_two_processes(schema):
    """The mean of two processes' losses, of half a batch each, is the loss of one process."""
    weight, losses = torch.arange(1.0, 13.0), []
    for rows in (slice(0, 12), slice(0, 6), slice(6, 12)):
        learner = learner_of("teacher", schema=schema)
        learner.active.eval()  # without batch statistics, which are not what is tested
        learner.active.train = lambda: None
        if rows != slice(0, 12):
            learner.accelerator = argparse.Namespace(
                num_processes=2,
                reduce=lambda mean, how: weight.mean(),
                autocast=contextlib.nullcontext,
                backward=torch.Tensor.backward,
            )
        losses.append(learner.interactive_step(X[rows], Y[rows], weight[rows]))
    assert torch.allclose((losses[1] + losses[2]) / 2, losses[0])


def test_own_keeps_the_teachers_momentum_and_fresh_starts_anew():
    own, fresh = learner_of("own"), learner_of("fresh")
    for learner in (own, fresh):
        learner.interactive_step(X, Y)
        learner.begin_imitation()
    first = snapshot(fresh.student)
    for learner in (own, fresh):
        learner.imitation_step(X)
        learner.end_generation()
    assert own.optimizers[0].state and not fresh.optimizers[0].state
    fresh.interactive_step(X, Y)
    fresh.begin_imitation()
    second = fresh.student.state_dict()
    assert not torch.equal(first["0.weight"], second["0.weight"])  # another draw in each generation


def test_wrong_order_and_wrong_arguments_are_refused():
    learner = learner_of("teacher")
    with pytest.raises(RuntimeError, match="begin_imitation"):
        learner.imitation_step(X)
    learner.begin_imitation()
    with pytest.raises(RuntimeError, match="end_generation"):
        learner.interactive_step(X, Y)
    with pytest.raises(ValueError, match="student"):
        IteratedLearning(build_model("small-10"), num_classes=10, student_init="own")


def test_a_step_returns_a_detached_loss_and_overfits_one_batch():
    learner = learner_of("teacher")
    losses = [learner.interactive_step(X, Y) for _ in range(100)]
    assert losses[0].dim() == 0 and not losses[0].requires_grad
    assert losses[-1] < 0.02 * losses[0]


def test_state_dict_resumes_inside_a_phase():
    a = learner_of("own", rho=0.2)
    a.interactive_step(X, Y)
    a.begin_imitation()
    a.imitation_step(X)
    b = learner_of("own")
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    assert torch.equal(a.imitation_step(X), b.imitation_step(X))
    for learner in (a, b):
        learner.end_generation()
        learner.interactive_step(X, Y)
    assert equal(a.teacher.state_dict(), b.teacher.state_dict()) and b.rho == 0.2


def test_learning_rate_schedules():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)

    def rates_of(schedule, milestones="30,60,80", **plan):
        return LearningRate(schedule, milestones, [optimizer], plan_of(pass_steps=10, **plan))

    rates = rates_of("step", "0.6,0.85", schema="sigmoid", total_steps=100)
    assert [round(rates.factor(s), 6) for s in (0, 59, 60, 84, 85)] == [1, 1, 0.1, 0.1, 0.01]
    rates = rates_of("step", schema="sigmoid", generations=110)
    assert rates.factor(299) == 1 and rates.factor(300) == 0.1
    rates = rates_of("step", "1,3,0.9", k_t=3, k_s=2, warmup=7, generations=4)
    assert rates.milestones == [12, 22, 24]  # borders of generations
    rates = rates_of("step", "2", schema="sigmoid", generations=110, total_steps=25)
    assert rates.milestones == [20]
    rates = rates_of("cosine", schema="sigmoid", generations=110)
    rates.before_step(550)
    assert rates.now == pytest.approx(0.5)


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
def test_milestones_that_are_shares_fall_at_that_share_of_the_steps(steps):
    _, used = walk("step", "0.6,0.85", total_steps=steps, schema="sigmoid")
    borders = [round(0.6 * steps), round(0.85 * steps)]
    by_hand = [0.1 * 0.1 ** sum(step >= border for border in borders) for step in range(steps)]
    assert used == pytest.approx(by_hand)
