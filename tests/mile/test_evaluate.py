"""The metrics by hand and by property."""

import numpy as np
import pytest
import torch

from mile.utils import RealMetrics, multi_hot, prediction_set

LOGITS = torch.tensor([[2.0, 1.0, -9.0], [-9.0, -8.0, -9.0], [0.5, 0.5, 3.0], [1.0, 0.0, -1.0]])


LABEL, REAL = torch.tensor([0, 1, 0, 2]), [[0, 2], [0], [0, 1, 2], []]


def metrics_of(logits=LOGITS, label=LABEL, real=REAL, **more):
    metrics = RealMetrics(logits.shape[1], rho=0.5, **more)
    metrics.update(logits, label, real)
    return metrics.compute()


def test_prediction_sets_by_hand():
    assert prediction_set(LOGITS, 0.5).int().tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [1, 1, 1],
        [1, 0, 0],
    ]
    assert prediction_set(LOGITS, 0.5, "softmax").int().tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 0, 0],
    ]
    assert prediction_set(LOGITS, 0.5, "MILe", "unofficial")[1].sum() == 0  # may be empty


def test_metrics_by_hand():
    # A = {0,1}, {1}, {0,1,2}, {0}; V = the first three; f = 2/4, 0, 1
    found = metrics_of()
    assert found["acc"] == pytest.approx(2 / 4)
    assert found["real_acc"] == pytest.approx(2 / 3)
    assert found["real_f1"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["label_coverage"] == pytest.approx((2 + 1 + 3) / 3)
    assert found["any_hit"] == pytest.approx(2 / 3)
    assert found["precision"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["recall"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert (found["n"], found["n_real"]) == (4, 3)


def test_the_unofficial_protocol_divides_by_all_images():
    found = metrics_of(protocol="unofficial")  # A = {0,1}, {}, {0,1,2}, {0}
    assert found["real_acc"] == pytest.approx(2 / 4)
    assert found["real_f1"] == pytest.approx(1.5 / 4)
    assert found["label_coverage"] == pytest.approx(5 / 4)


def test_lists_and_matrices_and_any_split_into_batches_agree():
    g = torch.Generator().manual_seed(0)
    logits, label = torch.randn(50, 7, generator=g), torch.randint(7, (50,), generator=g)
    matrix = torch.rand(50, 7, generator=g) < 0.2
    lists = [row.nonzero().flatten().tolist() for row in matrix]
    assert torch.equal(multi_hot(lists, 7), matrix)
    whole = metrics_of(logits, label, matrix)
    for size in (1, 8, 50):
        metrics = RealMetrics(7, rho=0.5)
        metrics.update(logits[:0], label[:0], [])  # nothing changes nothing
        for i in range(0, 50, size):
            metrics.update(logits[i : i + size], label[i : i + size], lists[i : i + size])
        assert metrics.compute() == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("classes", [7, 8])
def test_an_empty_batch_changes_nothing(classes):
    metrics = RealMetrics(classes)
    for real in ([], torch.zeros(0, classes, dtype=torch.bool)):
        metrics.update(torch.zeros(0, classes), torch.zeros(0, dtype=torch.int64), real)
    assert metrics.compute()["n"] == 0


def test_a_label_listed_twice_counts_once():
    assert metrics_of(real=[[0, 2, 2], [0, 0], [0, 1, 2, 1], []]) == metrics_of()


def test_renaming_classes_changes_nothing():
    g = torch.Generator().manual_seed(1)
    logits, label, real = (
        torch.randn(30, 6, generator=g),
        torch.arange(30) % 6,
        torch.rand(30, 6, generator=g) < 0.3,
    )
    order = torch.randperm(6, generator=g)
    renamed = metrics_of(logits[:, order], torch.argsort(order)[label], real[:, order])
    assert renamed == pytest.approx(metrics_of(logits, label, real))


def test_no_real_label_at_all_is_nan_and_warns():
    with pytest.warns(UserWarning, match="no image has a ReaL label"):
        found = metrics_of(real=[[], [], [], []])
    assert np.isnan(found["real_f1"]) and found["acc"] == 0.5
