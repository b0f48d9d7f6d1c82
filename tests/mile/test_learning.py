"""The phases: what moves and what stands still, exact hand-computed targets, the schedule of a run."""

import argparse
import contextlib
import copy

import pytest
import torch

from common.cli import UserError
from mile.learning import IteratedLearning, LearningRate, bce_loss, pseudo_labels
from mile.method import Phases, annealed_rho
from mile.models import build_model, load_weights
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
    """The mean of two processes' losses, each over half a batch, is the loss of one process over the batch."""
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


def test_plan_has_exact_phases_and_warmup_and_a_cut_end():
    plan = plan_of(k_t=3, k_s=2, warmup=1, generations=3)
    assert [plan.phases(g) for g in range(3)] == [Phases(4, 2), Phases(3, 2), Phases(3, 2)]
    assert plan.steps == 16 and plan.start(2) == 11
    cut = plan_of(k_t=3, k_s=2, warmup=1, total_steps=10)
    assert (cut.epochs, cut.phases(1)) == (2, Phases(3, 1))
    passes = plan_of(schema="sigmoid", generations=2)
    assert (passes.steps, passes.phases(1)) == (100, Phases(50, 0))


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


def test_annealed_rho_reaches_rho_half_way():
    values = [annealed_rho(0.1, 0.5, g, 11) for g in range(11)]
    assert values[0] == 0.5 and values[5:] == pytest.approx([0.1] * 6)
    assert values == sorted(values, reverse=True)
    assert annealed_rho(0.1, None, 0, 11) == 0.1


def test_bias_starts_at_the_prior():
    for name, classes in (("resnet18-10", 10), ("small", 1000)):
        model = build_model(name)
        last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
        assert torch.allclose(last.bias.sigmoid(), torch.full((classes,), 1 / (classes + 1)))
    assert build_model("small-10", bias_init="default")[-1].bias.std() > 0
    assert build_model("resnet50d", 7)(torch.zeros(1, 3, 32, 32).expand(2, 3, 32, 32)).shape == (
        2,
        7,
    )
    with pytest.raises(UserError, match="resnet9000"):
        build_model("resnet9000")


def test_weight_files_of_all_kinds_load_and_others_are_named(tmp_path):
    torch.manual_seed(1)
    source, state = build_model("small-10"), None
    state = source.state_dict()
    authors = {"backbone.module." + k: v for k, v in state.items()} | {
        "teacher.module.x": torch.zeros(1)
    }
    for number, content in enumerate(
        (state, {"module." + k: v for k, v in state.items()}, {"state_dict": authors})
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        model = build_model("small-10")
        load_weights(model, path)
        assert equal(state, model.state_dict())
    torch.save(build_model("small-10", 7).state_dict(), path)
    with pytest.raises(UserError, match=r"11\.weight \(7, 576\) instead of \(10, 576\)"):
        load_weights(model, path)
