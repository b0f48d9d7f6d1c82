"""Public functions refuse values outside their domain, and work where nobody may look."""

import pytest
import torch

from mile.config import setting
from mile.data_folders import class_weights
from mile.dataset import (
    balanced_subset,
    compose_grids,
    eval_transform,
    mnist_preprocess,
    train_transform,
)
from mile.evaluate import covering_rho, mean_average_precision, threshold_study
from mile.learning import IteratedLearning, bce_loss, pseudo_labels
from mile.models import build_model
from mile.utils import RealMetrics, eval, multi_hot, prediction_set, probabilities, set_at
from tests.mile.helpers import conf_of

Z = torch.tensor([[2.0, 0.5, -1.0], [0.1, 3.0, 0.2]])
Y = torch.tensor([0, 1])
REAL = torch.tensor([[True, False, True], [False, True, False]])
P = Z.sigmoid()
NAN = float("nan")


def learner(**settings):
    return IteratedLearning(torch.nn.Linear(3, 3), num_classes=3, **settings)


def metrics(logits=Z, label=Y, real=REAL, **settings):
    found = RealMetrics(3, **settings)
    found.update(logits, label, real)
    return found.compute()


def evaluated(**settings):
    return eval(torch.nn.Identity(), [(Z, Y, REAL)], conf_of(**settings))


THRESHOLDS = {
    "pseudo_labels": lambda rho: pseudo_labels(Z, rho),
    "IteratedLearning": lambda rho: learner(rho=rho),
    "set_at": lambda rho: set_at(P, rho, Y, "authors"),
    "prediction_set": lambda rho: prediction_set(Z, rho),
    "RealMetrics": lambda rho: metrics(rho=rho),
    "threshold_study": lambda rho: threshold_study(Z, REAL, grid=[0.5, rho]),
    "covering_rho": lambda rho: covering_rho(P, Y, rho),
    "eval, rho": lambda rho: evaluated(rho=rho),
    "eval, eval_rho": lambda rho: evaluated(eval_rho=rho),
}


@pytest.mark.parametrize("rho", [0, 1, 25, -0.1, NAN, float("inf")])
@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_lie_between_0_and_1(name, rho):
    THRESHOLDS[name](0.5)
    with pytest.raises(ValueError, match="between 0 and 1|above 0 and below 1"):
        THRESHOLDS[name](rho)


def test_a_threshold_on_logits_is_any_finite_number():
    assert pseudo_labels(Z, -0.5, "logit").tolist() == [[1, 1, 0], [1, 1, 1]]
    learner(rho=2.0, threshold_on="logit")
    for rho in (NAN, float("inf")):
        with pytest.raises(ValueError, match="rho .*finite"):
            pseudo_labels(Z, rho, "logit")


LABELS = {
    "pseudo_labels": lambda y: pseudo_labels(Z, label=y),
    "interactive_step": lambda y: learner().interactive_step(Z, y),
    "interactive_step, softmax": lambda y: learner(schema="softmax").interactive_step(Z, y),
    "RealMetrics": lambda y: metrics(label=y),
    "covering_rho": lambda y: covering_rho(P, y, 0.5),
    "class_weights": lambda y: class_weights(y.tolist(), 3),
}


@pytest.mark.parametrize("label", [[0, 3], [-1, 0]])
@pytest.mark.parametrize("name", LABELS)
def test_labels_are_classes(name, label):
    LABELS[name](Y)
    with pytest.raises(ValueError, match="expected whole numbers from 0 to 2"):
        LABELS[name](torch.tensor(label))


@pytest.mark.parametrize("labels", [[[3], []], [[0, -1], [1]]])
def test_label_sets_are_classes(labels):
    for call in (lambda: multi_hot(labels, 3), lambda: metrics(real=labels)):
        with pytest.raises(ValueError, match="label sets: .*expected whole numbers from 0 to 2"):
            call()


@pytest.mark.parametrize("value", [2.0, -0.5, NAN])
def test_a_target_of_the_loss_is_between_0_and_1(value):
    target = REAL.float()
    bce_loss(Z, target)
    target[1, 2] = value
    with pytest.raises(ValueError, match="target: .*; expected values from 0 to 1"):
        bce_loss(Z, target)
    with pytest.raises(ValueError, match="target: shape"):
        bce_loss(Z, REAL[:1].float())


@pytest.mark.parametrize("weight", [[1.0, -1.0], [1.0, NAN], [float("inf"), 1.0], [0.0, 0.0]])
def test_row_weights_are_finite_not_negative_and_not_all_0(weight):
    bce_loss(Z, REAL.float(), weight=torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="weight"):
        bce_loss(Z, REAL.float(), weight=torch.tensor(weight))


DIGITS = torch.zeros(9, 28, 28, dtype=torch.uint8)
SAMPLES = [(f"{c}/{i}.png", c) for c in range(3) for i in range(4)]


@pytest.mark.parametrize(
    "call",
    [
        lambda: learner(schema="mile"),
        lambda: learner(reduction="none"),
        lambda: learner(threshold_on="p"),
        lambda: learner(lr=0.0),
        lambda: IteratedLearning(torch.nn.Linear(3, 3), num_classes=0),
        lambda: probabilities(Z, "mile"),
        lambda: prediction_set(Z, 0.5, "mile"),
        lambda: prediction_set(Z, 0.5, "MILe", "author"),
        lambda: set_at(P, 0.5, Y, "author"),
        lambda: metrics(schema="mile"),
        lambda: metrics(protocol="author"),
        lambda: metrics(real=REAL[:1]),
        lambda: metrics(real=[[0]]),
        lambda: metrics(logits=Z[:, :2]),
        lambda: evaluated(schema="mile"),
        lambda: RealMetrics(0),
        lambda: mean_average_precision(P * NAN, REAL),
        lambda: mean_average_precision(P, REAL[:, :2]),
        lambda: covering_rho(Z, Y, 0.5),
        lambda: build_model("small", 0),
        lambda: build_model("small", 3, "priors"),
        lambda: balanced_subset(SAMPLES, 0.0),
        lambda: balanced_subset(SAMPLES, NAN),
        lambda: balanced_subset(SAMPLES, 10),
        lambda: balanced_subset(SAMPLES, 0.5, num_classes=4),
        lambda: balanced_subset(SAMPLES, 0.5, num_classes=0),
        lambda: compose_grids(DIGITS, torch.full((9,), -1), torch.zeros(1)),
        lambda: compose_grids(DIGITS, torch.zeros(8, dtype=torch.int64), torch.zeros(1)),
        lambda: compose_grids(DIGITS, torch.zeros(9, dtype=torch.int64), torch.zeros(2)),
        lambda: compose_grids(DIGITS, torch.zeros(9, dtype=torch.int64), torch.tensor([NAN])),
        lambda: compose_grids(DIGITS, torch.zeros(9, dtype=torch.int64), torch.tensor([1.5])),
        lambda: mnist_preprocess(torch.zeros(1, 84, 84, dtype=torch.uint8), 0),
        lambda: setting(conf_of(k_t=0), "k_t"),
        lambda: train_transform(conf_of(augment="some")),
        lambda: eval_transform(conf_of(image_size=0)),
    ],
)
def test_other_arguments_outside_their_domain(call):
    with pytest.raises(ValueError):
        call()


def test_functions_are_traced_without_a_look_at_the_values():
    bad = REAL.float() * 2
    gradient = torch.func.grad(lambda z: bce_loss(z, bad))(Z)
    assert torch.isfinite(gradient).all()
    compiled = torch.compile(lambda z: bce_loss(z, bad), backend="eager", fullgraph=True)
    assert torch.isfinite(compiled(Z))
    sets = torch.func.vmap(lambda z: pseudo_labels(z[None], 0.5)[0])(Z)
    assert torch.equal(sets, pseudo_labels(Z, 0.5))


def test_a_row_does_not_depend_on_its_neighbours():
    others = torch.cat([Z[:1], 100 * Z[1:]])
    assert torch.equal(pseudo_labels(Z)[0], pseudo_labels(others)[0])
    for schema in ("softmax", "sigmoid", "MILe"):
        assert torch.equal(probabilities(Z, schema)[0], probabilities(others, schema)[0])
        for protocol in ("authors", "unofficial"):
            sets = [prediction_set(z, 0.4, schema, protocol)[0] for z in (Z, others)]
            assert torch.equal(*sets)


def test_the_teacher_labels_an_image_alike_in_any_batch():
    torch.manual_seed(0)
    network = build_model("small-10")
    taught = IteratedLearning(network, num_classes=10, rho=0.1)
    x = torch.randn(6, 3, 30, 30)
    taught.interactive_step(x, torch.arange(6))
    taught.begin_imitation()
    frozen = {name: value.clone() for name, value in taught.teacher.state_dict().items()}
    taught.imitation_step(x)
    whole = taught.target[0]
    taught.imitation_step(torch.cat([x[:1], 50 * x[1:]]))
    assert torch.equal(whole, taught.target[0])
    assert all(
        torch.equal(value, frozen[name]) for name, value in taught.teacher.state_dict().items()
    )
