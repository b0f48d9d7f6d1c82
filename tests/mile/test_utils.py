"""The metrics by hand and by property; saving and retention."""

import numpy as np
import pytest
import torch
import torchvision
from accelerate import Accelerator
from sklearn.metrics import average_precision_score

from common.cli import UserError
from mile.build import build_network, taught_sets
from mile.config import config, parse_config
from mile.evaluate import (
    Outputs,
    classes_without_positive,
    mean_average_precision,
    threshold_study,
    trivial_f1,
)
from mile.method import covering_rho
from mile.models import build_model
from mile.report import averaged_over
from mile.report_weights import writable
from mile.utils import RealMetrics, device_of, eval, multi_hot, prediction_set, save_model

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


def test_eval_puts_the_model_in_evaluation_mode_and_uses_the_config(monkeypatch):
    monkeypatch.setattr(config, "device", "cpu")
    torch.manual_seed(0)
    model = build_model("small-10").train()
    result = eval(model, [(torch.randn(4, 3, 30, 30), torch.arange(4), [[0], [], [1, 2], [3]])])
    assert not model.training and result._fields[:4] == (
        "acc",
        "real_f1",
        "real_acc",
        "label_coverage",
    )
    assert result.n == 4 and result.n_real == 3


def test_cuda_without_a_gpu_evaluates_on_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.warns(UserWarning, match="no GPU"):
        assert device_of().type == "cpu"


def test_save_model_makes_all_folders_and_writes_a_bare_state_dict(tmp_path):
    class conf(config):
        checkpoint_path = tmp_path / "a" / "b"

    model = build_model("resnet18-10")
    path = save_model(torch.nn.parallel.DataParallel(model).module, "sigmoid_3.pth", conf)
    assert path == tmp_path / "a" / "b" / "ResNet" / "sigmoid_3.pth"
    assert list(torch.load(path, weights_only=True)) == list(model.state_dict())


def test_an_unwritable_checkpoint_path_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="checkpoint_path .*cannot be written"):
        writable(tmp_path / "file" / "below")


@pytest.mark.parametrize("protocol", ["authors", "unofficial"])
def test_threshold_study_equals_the_metric_at_every_threshold(protocol):
    g = torch.Generator().manual_seed(2)
    logits, real = 2 * torch.randn(40, 6, generator=g), torch.rand(40, 6, generator=g) < 0.3
    study = threshold_study(logits, real, "MILe", protocol)
    assert study.rho.tolist() == [k / 100 for k in range(1, 100)]
    for place in (0, 24, 49, 98):
        metrics = RealMetrics(6, rho=float(study.rho[place]), protocol=protocol)
        metrics.update(logits, torch.zeros(40, dtype=torch.int64), real)
        found = metrics.compute()
        ours = (study.f1[place], study.precision[place], study.recall[place], study.coverage[place])
        assert [v.item() for v in ours] == [
            found[name] for name in ("real_f1", "precision", "recall", "label_coverage")
        ]
    best = study.best
    assert best["best_f1"] == study.f1.max() and best["best_f1_threshold"] in study.rho.tolist()


def test_the_study_of_softmax_is_by_threshold_where_its_set_by_protocol_is_the_top_class():
    p = torch.tensor([[0.6, 0.3, 0.1]])
    study = threshold_study(
        p.log(), torch.tensor([[True, True, False]]), "softmax", grid=[0.05, 0.2, 0.7]
    )
    assert study.coverage.tolist() == [3, 2, 1] and study.f1.tolist() == pytest.approx(
        [0.8, 1, 2 / 3]
    )
    assert study.best == {"best_f1": 1, "best_f1_threshold": 0.2, "best_f1_coverage": 2}


def test_mean_average_precision_skips_classes_without_a_positive_and_images_without_a_label():
    p = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, 0.4], [0.1, 0.9, 0.3]])
    real = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()
    expected = np.mean(
        [average_precision_score([1, 0], [0.9, 0.8]), average_precision_score([0, 1], [0.1, 0.2])]
    )
    assert mean_average_precision(p, real) == pytest.approx(expected)


def test_trivial_answers():
    real = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    found = trivial_f1(real)  # three classes occur
    assert found["trivial_f1_one_right_label"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert found["trivial_f1_all_labels"] == pytest.approx((4 / 5 + 2 / 4 + 4 / 5) / 3)


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


def test_label_sets_for_export():
    conf = parse_config([])
    outputs = Outputs(LOGITS, LABEL, multi_hot(REAL, 3), torch.arange(4))
    assert taught_sets(conf, 0.5)(outputs).int().tolist() == [
        [1, 1, 0],
        [0, 0, 0],
        [1, 1, 1],
        [1, 0, 0],
    ]
    conf.keep_ground_truth = True
    assert taught_sets(conf, 0.5)(outputs).int().tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [1, 1, 1],
        [1, 0, 1],
    ]
    conf.schema = "softmax"
    assert torch.equal(taught_sets(conf, 0.5)(outputs), prediction_set(LOGITS, 0.5, "softmax"))


def test_published_weights_from_the_cache_or_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    accelerator, folder = Accelerator(cpu=True), tmp_path / "hub" / "checkpoints"

    def build(classes, model, bias_init="prior"):
        return build_network(
            model, classes, accelerator, bias_init=bias_init, pretrained="imagenet"
        )

    with pytest.raises(
        UserError, match=r"download failed \(.*WSL_OFFLINE is set.*give a weight file"
    ):
        build(1000, model="resnet18")
    with pytest.raises(UserError, match="no published weights of small"):
        build(10, model="small")
    theirs = torchvision.models.resnet18()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(theirs.state_dict(), folder / "resnet18-f37072fd.pth")
    state = theirs.state_dict()
    assert all(
        torch.equal(v, state[k]) for k, v in build(1000, model="resnet18").state_dict().items()
    )
    seven = build(7, model="resnet18", bias_init="prior")
    assert torch.equal(seven.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert seven.fc.bias.sigmoid().allclose(torch.tensor(1 / 8))


def test_what_the_means_leave_out_is_said():
    real = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    names = ["cat", "dog", "hen", "cow"]
    assert classes_without_positive(real) == [1, 3]
    assert averaged_over(real, names, "authors") == [
        "  mAP is over 2 of 4 classes; without a positive: dog, cow",
        "  1 of 3 images have no label: real_acc, F1 and coverage are over the other 2",
    ]
    assert averaged_over(real, names, "unofficial")[1].endswith("are divided by all images")
    assert averaged_over(real[:1].expand(1, 4) | True, names, "authors") == []
    many = torch.zeros(1, 9, dtype=torch.bool)
    many[0, 0] = True
    assert averaged_over(many, list("abcdefghi"), "authors")[0].endswith("b, c, d, e, f and 3 more")
