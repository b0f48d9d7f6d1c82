"""Class activation value, selection, and the rows that each method learns."""

import pytest
import torch

from cavl.method import class_activation_value, label_smoothing, select_by_cam, select_by_cav
from cavl.utils.utils_algo import (
    confidence_update,
    confidence_update_lw,
    confidence_update_rc,
    update_from_outputs,
)

I = torch.nn.Identity()  # noqa: E741
UPDATES = {
    "cavl": {},
    "cavl_softmax": {"method": "cavl", "cav": "softmax"},
    "cavl_grad": {"method": "cavl", "cav": "grad"},
    "cavl_soft": {"method": "cavl", "temperature": 0.7},
    "rc": {"method": "rc"},
    "proden": {"method": "proden"},
    "uniform": {"method": "uniform"},
    "lws": {"method": "lws"},
    "cavl_smooth": {"method": "cavl", "smoothing": 0.1},
}
WITHIN_THE_SET = [name for name in UPDATES if name not in ("lws", "cavl_smooth")]


def batch(B=200, K=7, seed=0, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    outputs = scale * torch.randn(B, K, generator=g)
    Y = (torch.rand(B, K, generator=g) < 0.4).float()
    Y[torch.arange(B), torch.randint(0, K, (B,), generator=g)] = 1
    return outputs, Y


def rows_of(name, outputs, Y):
    return update_from_outputs(outputs, Y, **({"method": "cavl"} | UPDATES[name]))


@pytest.mark.parametrize("name", WITHIN_THE_SET)
@pytest.mark.parametrize("scale", [0.1, 2.0, 50.0])
def test_rows_sum_to_one_and_stay_in_the_set(name, scale):
    outputs, Y = batch(scale=scale)
    for Y_typed in (Y, Y.to(torch.uint8), Y.bool()):
        rows = rows_of(name, outputs, Y_typed)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)))
        assert (rows >= 0).all() and (rows[Y == 0] == 0).all()


def test_lws_rows_sum_to_one_on_either_side():
    outputs, Y = batch(
        scale=0.5
    )  # larger outputs leave parts of p that the 1e-8 of the denominator outweighs
    rows = rows_of("lws", outputs, Y)
    torch.testing.assert_close((rows * Y).sum(1), torch.ones(len(rows)), atol=1e-4, rtol=0)
    has_outside = (Y == 0).any(1)
    torch.testing.assert_close((rows * (1 - Y)).sum(1), has_outside.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", UPDATES)
def test_permuting_the_classes_permutes_the_rows(name):
    outputs, Y = batch()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        rows_of(name, outputs[:, order], Y[:, order]), rows_of(name, outputs, Y)[:, order]
    )


def test_shape_of_the_class_activation_value():
    z = torch.tensor([[-1.0, 0.0, 0.1, 0.5, 1.0, (1 + 2**0.5) / 2]], dtype=torch.float64)
    expected = torch.tensor([[-2.0, 0.0, 0.09, 0.25, 0.0, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(class_activation_value(z), expected)
    with pytest.raises(ValueError, match="cav"):
        class_activation_value(z, "tanh")


def test_selection_is_the_largest_logit_above_the_turning_point():
    outputs, Y = batch(scale=0.1)
    outputs = outputs + 2
    assert torch.equal(select_by_cav(outputs, Y), outputs.masked_fill(Y == 0, -9).argmax(1))
    assert select_by_cav(torch.tensor([[1.0, 0.1]]), torch.ones(1, 2)).item() == 1


def test_ties_go_to_the_lowest_class_and_masks_differ_below_zero():
    zeros = torch.zeros(1, 4)
    Y = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert select_by_cav(zeros, Y).item() == 2
    assert select_by_cav(zeros, Y, mask="product").item() == 0
    negative = torch.tensor([[5.0, -3.0, -1.0, -2.0]])
    assert select_by_cav(negative, Y).item() == 2
    assert select_by_cav(negative, Y, mask="product").item() == 0
    with pytest.raises(ValueError, match="mask"):
        select_by_cav(zeros, Y, mask="sum")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_selection_stays_in_the_set_where_the_value_overflows(dtype):
    outputs = torch.tensor([[1.0, -300.0, -400.0], [1.0, torch.finfo(dtype).min, 2.0]], dtype=dtype)
    Y = torch.tensor([[0, 1, 1], [0, 1, 0]])
    assert select_by_cav(outputs, Y).tolist() == [1, 1]


@pytest.mark.parametrize("mask", ["candidates", "product"])
def test_hard_labels_are_the_one_hot_rows(mask):
    outputs, Y = batch()
    rows = update_from_outputs(outputs, Y, "cavl", mask=mask)
    assert torch.equal(
        rows, torch.nn.functional.one_hot(select_by_cav(outputs, Y, mask=mask), 7).float()
    )


def test_smoothing_and_temperature():
    outputs, Y = batch()
    hard = rows_of("cavl", outputs, Y)
    torch.testing.assert_close(rows_of("cavl_smooth", outputs, Y), 0.9 * hard + 0.1 / 7)
    torch.testing.assert_close(label_smoothing(hard, 0.3), 0.7 * hard + 0.3 / 7)
    cold = update_from_outputs(outputs, Y, "cavl", temperature=1e-4)
    assert (cold.argmax(1) == hard.argmax(1)).all() and cold.max(1).values.mean() > 0.99
    hot = update_from_outputs(outputs, Y, "cavl", temperature=1e6)
    torch.testing.assert_close(hot, Y / Y.sum(1, keepdim=True), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="temperature"):
        update_from_outputs(outputs, Y, "cavl", temperature=1.0, mask="product")
    with pytest.raises(ValueError, match="cc"):
        update_from_outputs(outputs, Y, "cc")


def test_rc_is_p_times_y_renormalised_also_where_it_underflows():
    outputs, Y = batch()
    part = outputs.softmax(1) * Y
    torch.testing.assert_close(rows_of("rc", outputs, Y), part / part.sum(1, keepdim=True))
    rows = rows_of("rc", torch.tensor([[200.0, -200.0, -200.0]]), torch.tensor([[0.0, 1.0, 1.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.5, 0.5]]))


@pytest.mark.parametrize("update", [confidence_update, confidence_update_rc, confidence_update_lw])
def test_updates_write_the_batch_rows_in_place_without_gradient(update):
    outputs, Y = batch(B=20)
    weight = torch.nn.Linear(7, 7)
    table = torch.full((50, 7), 0.25)
    index = torch.randperm(50, generator=torch.Generator().manual_seed(1))[:20]
    result = update(weight, table, outputs, Y, index)
    assert result is table and not result.requires_grad
    method = {confidence_update: "cavl", confidence_update_rc: "rc", confidence_update_lw: "lws"}[
        update
    ]
    assert torch.equal(table[index], update_from_outputs(weight(outputs).detach(), Y, method))
    untouched = torch.ones(50, dtype=torch.bool).index_fill(0, index, False)
    assert (table[untouched] == 0.25).all()


def test_update_keeps_the_mode_of_the_model():
    model = torch.nn.BatchNorm1d(7)
    outputs, Y = batch(B=8)
    confidence_update(model, torch.zeros(8, 7), outputs, Y, torch.arange(8))
    assert model.training and model.num_batches_tracked == 1


def test_select_by_cam():
    maps = torch.zeros(4, 4, 2, 2)
    maps[0, 1, :, :] = 0.1  # larger area, smaller sum
    maps[0, 2, 0, 0] = 9.0
    maps[1, 1, 0, :] = 1.0  # equal areas: the larger sum
    maps[1, 3, 0, :] = 2.0
    maps[2, 0] = 5.0  # the largest is no candidate
    maps[2, 3, 0, 0] = 1.0
    Y = torch.ones(4, 4)
    Y[2, 0] = 0
    Y[3, 0] = 0  # all maps empty: the lowest candidate
    assert select_by_cam(maps, Y).tolist() == [1, 3, 3, 1]
