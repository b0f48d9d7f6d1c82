"""The public functions of the method refuse values outside their domain, and stay usable where
nobody may look.
"""

import numpy as np
import pytest
import torch

from cavl import evaluate, method
from cavl.utils import utils_algo, utils_data, utils_loss
from cavl.utils.gen_index_dataset import gen_index_dataset

Z = torch.tensor([[2.0, 0.5, -1.0], [0.1, 3.0, 0.2]])
SETS = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
MAPS = Z[:, :, None, None].expand(2, 3, 2, 2).relu()
INDEX = torch.tensor([0, 1])
TRUE = torch.tensor([0, 1])
TABLE = SETS / 2


class Both(torch.nn.Module):
    """Outputs that are the input, and areas that are the input."""

    def forward(self, x):
        return x

    forward_cam = forward


MODEL = Both()
# Each function of a candidate matrix, as a function of that matrix alone.
OF_SETS = {
    "select_by_cav": lambda y: method.select_by_cav(Z, y),
    "select_by_cav, product": lambda y: method.select_by_cav(Z, y, mask="product"),
    "select_by_cam": lambda y: method.select_by_cam(MAPS, y),
    "cavl": lambda y: utils_algo.update_from_outputs(Z, y, "cavl"),
    "rc": lambda y: utils_algo.update_from_outputs(Z, y, "rc"),
    "lws": lambda y: utils_algo.update_from_outputs(Z, y, "lws"),
    "uniform": lambda y: utils_algo.update_from_outputs(Z, y, "uniform"),
    "confidence_update": lambda y: utils_algo.confidence_update(MODEL, TABLE.clone(), Z, y, INDEX),
    "confidence_update_rc": lambda y: utils_algo.confidence_update_rc(
        MODEL, TABLE.clone(), Z, y, INDEX
    ),
    "confidence_update_lw": lambda y: utils_algo.confidence_update_lw(
        MODEL, TABLE.clone(), Z, y, INDEX
    ),
    "is_covered": lambda y: evaluate.is_covered(Z, y),
    "approximated_hit": lambda y: evaluate.approximated_hit(Z, y),
    "selection_accuracy": lambda y: evaluate.selection_accuracy(Z, y, TRUE, MAPS),
    "accuracy_check_train": lambda y: utils_algo.accuracy_check_train(
        [(Z, y, TRUE, INDEX)], MODEL, "cpu"
    ),
    "accuracy_check_cam": lambda y: utils_algo.accuracy_check_cam(
        [(Z, y, TRUE, INDEX)], MODEL, "cpu"
    ),
    "average_loss": lambda y: method.average_loss(Z, y),
    "cc_loss": lambda y: utils_loss.cc_loss(Z, y),
    "lws_loss": lambda y: utils_loss.lws_loss(Z, y, TABLE, INDEX, 2, 1),
    "initial_confidence": lambda y: utils_data.initial_confidence(y),
}
BAD_SETS = {
    "2": torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]),
    "a share": TABLE,
    "-1": torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]]),
    "NaN": torch.tensor([[1.0, float("nan"), 0.0], [0.0, 1.0, 1.0]]),
    "an empty row": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
}


@pytest.mark.parametrize("bad", BAD_SETS)
@pytest.mark.parametrize("name", OF_SETS)
def test_candidate_matrices_are_of_0_and_1_without_an_empty_row(name, bad):
    OF_SETS[name](SETS)
    with pytest.raises(
        ValueError, match="no candidate" if bad == "an empty row" else "expected 0 or 1"
    ):
        OF_SETS[name](BAD_SETS[bad])


@pytest.mark.parametrize("name", sorted(set(OF_SETS) - {"initial_confidence"}))
def test_candidate_matrices_of_another_shape_are_not_broadcast(name):
    with pytest.raises(ValueError, match="shape"):
        OF_SETS[name](SETS[:1])


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_true_labels_are_classes(labels):
    wrong = torch.tensor(labels)
    for call in (
        lambda: evaluate.selection_accuracy(Z, SETS, wrong),
        lambda: utils_algo.accuracy_check([(Z, wrong)], MODEL, "cpu"),
        lambda: utils_algo.accuracy_check_train([(Z, SETS, wrong, INDEX)], MODEL, "cpu"),
        lambda: utils_algo.accuracy_check_cam([(Z, SETS, wrong, INDEX)], MODEL, "cpu"),
    ):
        with pytest.raises(ValueError, match="expected whole numbers from 0 to 2"):
            call()


@pytest.mark.parametrize("index", [[0, 2], [-1, 0]])
def test_an_index_is_a_row_of_the_table(index):
    wrong = torch.tensor(index)
    for call in (
        lambda: utils_loss.rc_loss(Z, TABLE, wrong),
        lambda: utils_loss.lws_loss(Z, SETS, TABLE, wrong, 2, 1),
        lambda: utils_algo.confidence_update(MODEL, TABLE.clone(), Z, SETS, wrong),
    ):
        with pytest.raises(ValueError, match="expected whole numbers from 0 to 1"):
            call()


@pytest.mark.parametrize("value", [float("nan"), -0.5, float("inf")])
def test_the_weights_of_the_table_are_finite_and_not_negative(value):
    table = TABLE.clone()
    table[1, 2] = value
    with pytest.raises(ValueError, match="expected finite weights"):
        utils_loss.rc_loss(Z, table, INDEX)
    with pytest.raises(ValueError, match="expected finite weights"):
        utils_loss.lws_loss(Z, SETS, table, INDEX, 2, 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: utils_algo.update_from_outputs(Z, SETS, smoothing=1.0),
        lambda: utils_algo.update_from_outputs(Z, SETS, smoothing=float("nan")),
        lambda: utils_algo.update_from_outputs(Z, SETS, temperature=0.0),
        lambda: utils_algo.update_from_outputs(Z, SETS, temperature=float("inf")),
        lambda: utils_algo.label_smoothing(SETS, -0.1),
        lambda: utils_algo.label_smoothing(SETS, 1.5),
        lambda: utils_algo.update_from_outputs(Z, SETS, "magic"),
        lambda: utils_algo.class_activation_value(Z, "magic"),
        lambda: method.select_by_cav(Z, SETS, mask="magic"),
        lambda: utils_data.generate_flip_candidate_labels(TRUE, 1.0),
        lambda: utils_data.generate_flip_candidate_labels(TRUE, float("nan")),
        lambda: utils_data.generate_flip_candidate_labels(np.array([0.0, 1.5]), 0.5),
        lambda: utils_data.generate_flip_candidate_labels(np.array([0.0, np.nan, 1.0]), 0.5),
        lambda: utils_data.instance_dependent_flip_probability(Z.softmax(1), TRUE, float("inf")),
        lambda: utils_data.instance_dependent_flip_probability(Z * float("nan"), TRUE),
        lambda: utils_data.instance_dependent_flip_probability(Z, TRUE),
        lambda: gen_index_dataset(Z, SETS, TRUE[:1]),
    ],
)
def test_other_arguments_outside_their_domain(call):
    with pytest.raises(ValueError):
        call()


def test_functions_are_traced_without_a_look_at_the_values():
    """Under torch.func and torch.compile a wrong matrix is computed with, not looked at: that would
    break the graph.
    """
    bad = BAD_SETS["2"]
    grad = torch.func.grad(lambda z: method.average_loss(z, bad))(Z)
    assert torch.equal(
        grad,
        torch.compile(torch.func.grad(lambda z: method.average_loss(z, bad)), backend="eager")(Z),
    )
    for call in (
        lambda z: utils_loss.cc_loss(z, bad),
        lambda z: utils_algo.update_from_outputs(z, bad, "rc").sum(),
    ):
        compiled = torch.compile(call, backend="eager", fullgraph=True)
        assert torch.isfinite(compiled(Z))
    rows = torch.func.vmap(lambda z, y: utils_algo.update_from_outputs(z[None], y[None], "rc")[0])(
        Z, SETS
    )
    assert torch.allclose(rows, utils_algo.update_from_outputs(Z, SETS, "rc"))


@pytest.mark.parametrize("method", ["cavl", "rc", "proden", "lws", "uniform"])
def test_a_row_does_not_depend_on_its_neighbours(method):
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    sets = torch.eye(5)[torch.tensor([0, 1, 2, 3, 4, 0])]
    sets[:, 2] = 1
    for options in (
        {},
        {"smoothing": 0.1},
        {"temperature": 0.5},
        {"cav": "softmax"},
        {"cav": "grad"},
    ):
        whole = utils_algo.update_from_outputs(z, sets, method, **options)
        beside_a_bright_one = torch.cat([z[:1], 1000 * z[1:]])
        alone = utils_algo.update_from_outputs(beside_a_bright_one, sets, method, **options)
        assert torch.equal(whole[0], alone[0])


def test_statistics_and_maps_of_a_sample_do_not_depend_on_its_neighbours():
    others = torch.cat([Z[:1], 100 * Z[1:]])
    for function in (
        evaluate.is_covered,
        evaluate.approximated_hit,
        method.select_by_cav,
    ):
        assert torch.equal(function(Z, SETS)[0], function(others, SETS)[0])
    bright = torch.cat([MAPS[:1], 100 * MAPS[1:]])
    assert method.select_by_cam(MAPS, SETS)[0] == method.select_by_cam(bright, SETS)[0]
