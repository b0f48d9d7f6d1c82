"""Metrics, readers, simulation, averaging and decay groups against the released code's numbers."""

import json
import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn

from csl.data_labels import LabelTable
from csl.data_openimages_csv import read_openimages_csv
from csl.src.helper_functions.coco_simulation import simulate_coco
from csl.src.helper_functions.helper_functions import (
    AP_partial,
    CocoDetection,
    LVISDetection,
    ModelEma,
    add_weight_decay,
    average_precision,
    mAP,
    mAP_partial,
    prf_metrics,
)
from csl.train import make_optimizer
from tests.csl.golden import GOLDEN, assert_close, load


def test_average_precision_and_map():
    g = load("metrics_map")
    ap = [average_precision(g["preds"][:, c], g["targets"][:, c]) for c in range(12)]
    assert_close(ap, g["ap"], 1e-6)
    assert_close([mAP(g["targets"], g["preds"])], [g["mAP"]], 1e-6)
    assert_close([mAP(g["targets_partial"], g["preds"])], [g["mAP_of_partial_targets"]], 1e-6)
    assert mAP(np.zeros((0, 3)), np.zeros((0, 3))) == 0


def test_partial_average_precision():
    g = load("metrics_map")
    ap, mean, weighted, *counts = AP_partial(g["targets_partial"], g["preds"])
    assert_close(ap, g["ap_partial"], 1e-6)
    assert_close([mean, weighted], [g["map_partial"], g["map_macro"]], 1e-6)
    assert counts == g["counts"].tolist()
    assert_close([mAP_partial(g["targets_partial"], g["preds"])], [g["mAP_partial"]], 1e-6)


def test_precision_recall_f():
    g = load("metrics_prf")
    ours = prf_metrics(g["targets"], g["scores"], float(g["thre"]))
    assert_close(list(ours.values()), [g[k] for k in ours], 1e-5)


def test_coco_reader():
    g = load("coco_tiny_expected")
    data = CocoDetection("images", GOLDEN / "coco_tiny.json")
    assert data.ids == g["ids"].tolist()
    assert torch.equal(
        torch.stack(list(data.targets_all.values())), torch.from_numpy(g["targets"]).to(torch.int8)
    )
    assert list(data.cat2cat) == g["category_ids"].tolist()
    assert list(data.cat2cat.values()) == g["category_index"].tolist()
    assert list(data.classes.values()) == g["class_names"].tolist()
    assert data.coco.loadImgs(np.int64(data.ids[0])) == data.coco.loadImgs([data.ids[0]])
    kept = CocoDetection("images", GOLDEN / "coco_tiny.json", keep_empty=True)
    assert (
        kept.ids[: len(data.ids)] == data.ids and len(kept.ids) == data.num_all == len(data.ids) + 2
    )
    assert not torch.stack([kept.targets_all[i] for i in kept.ids[len(data.ids) :]]).any()


def test_lvis_reader():
    g = load("lvis_tiny_expected")
    data = LVISDetection("images", GOLDEN / "lvis_tiny.json")
    assert data.ids == g["ids"].tolist()
    assert np.array_equal(data.targets_all.matrix, g["targets"])
    assert [data.relative_path(i) for i in data.ids] == g["relative_paths"].tolist()


@pytest.mark.parametrize("form", ["wide", "positives", "long"])
def test_openimages_reader(form, tmp_path):
    g = load("openimages_tiny_expected")
    path = tmp_path / "data.csv"
    path.write_bytes((GOLDEN / f"openimages_tiny_{form}.csv").read_bytes())
    for _ in range(2):  # the second time from the cache
        index = read_openimages_csv(path)
        expected = dict(zip(g["paths"].tolist(), g["targets"], strict=True))
        if form == "long":
            expected = {name.split("/")[1]: row for name, row in expected.items()}
            assert index.paths == ["0000.jpg", "0001.jpg", *(f"000{i}.jpg" for i in range(3, 9))]
        else:
            assert index.paths == list(expected)
        assert index.classes == g["classes"].tolist()
        for i, name in enumerate(index.paths):
            wanted = (
                np.where(expected[name] == 0, -1, expected[name])
                if form == "positives"
                else expected[name]
            )
            assert index.target(i).tolist() == wanted.tolist()
            assert index.target(i).dtype == torch.int64
    if form != "long":
        val = read_openimages_csv(path, "val")
        assert val.paths == [
            p for p, s in zip(g["paths"].tolist(), g["split"], strict=True) if s == "val"
        ]
        some = read_openimages_csv(path, classes=["/m/0b"])
        assert some.dropped > 0 and [some.target(i).item() for i in (0, 8)] == [1, 1]


class Labelled:
    def __init__(self, ids, targets):
        self.targets_all = LabelTable(ids, targets)


@pytest.mark.parametrize(
    "name", ["fpc", "fix_per_class", "rps", "random_per_sample", "single_positive"]
)
def test_simulation(name, capsys):
    g = load("simulation")
    complete, ids = g["targets"], g["img_ids"].tolist()
    param = float(g["rps_param"] if "r" in name[:2] else g["fpc_param"])

    def simulate(seed):
        args = Namespace(simulate_partial_type=name, simulate_partial_param=param, seed=seed)
        data = simulate_coco(args, Labelled(ids, complete.copy()))
        assert list(data.targets_all) == ids
        return data.targets_all.matrix

    partial = simulate(0)
    kept = partial != -1
    assert (partial[kept] == complete[kept]).all()
    assert (simulate(0) == partial).all() and (simulate(1) != partial).any()
    if name in ("fpc", "fix_per_class"):
        for value in (0, 1):
            available = (complete == value).sum(0)
            assert ((partial == value).sum(0) == np.minimum(available, 30)).all()
    elif name == "single_positive":
        assert ((partial == 1).sum(1) == complete.any(1)).all() and not (partial == 0).any()
    else:
        n = complete.size
        assert abs((~kept).sum() - n / 2) < 4 * np.sqrt(n / 4)
        for value in (0, 1):  # positives and negatives alike
            share = kept[complete == value].mean()
            assert abs(share - 0.5) < 4 * np.sqrt(0.25 / (complete == value).sum())
    assert "annotated" in capsys.readouterr().out


def test_simulation_wants_labels():
    args = Namespace(simulate_partial_type="fpc", simulate_partial_param=3)
    with pytest.raises(ValueError, match="has no labels"):
        simulate_coco(args, Namespace(targets_all={}))


def test_model_ema():
    g = load("ema")
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    keys = list(model.state_dict())

    def fill(prefix):
        stored = {
            k: torch.from_numpy(np.asarray(g[f"{prefix}_{k}"]))
            for k in keys
            if f"{prefix}_{k}" in g
        }
        model.load_state_dict(stored, strict=False)
        model[1].num_batches_tracked += 1

    fill("init")
    ema = ModelEma(model, float(g["decay"]))
    for i in range(int(g["n"])):
        fill(f"step{i}")
        ema.update(model)
    for key, value in ema.module.state_dict().items():
        if value.is_floating_point():
            assert_close(value, g[f"ema_{key}"], 1e-5)
        else:  # counters follow the model; the released code truncates the mixture and freezes them
            assert value == model.state_dict()[key]
    assert not ema.module.training and all(not p.requires_grad for p in ema.module.parameters())
    ema.set(model)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in ema.module.state_dict().items())


class Groups(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = (
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.Linear(4, 5),
        )
        self.scale, self.vec = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(3))
        self.tab, self.frozen = (
            nn.Parameter(torch.ones(2, 2)),
            nn.Linear(2, 2).requires_grad_(False),
        )


@pytest.mark.parametrize("skip", [False, True])
def test_weight_decay_groups(skip):
    golden = json.loads((GOLDEN / "weight_decay_groups.json").read_text())
    expected = golden["skip"] if skip else golden
    model = Groups()
    groups = add_weight_decay(model, 1e-4, skip_list=golden["skip"]["skip_list"] if skip else ())
    name_of = {id(p): n for n, p in model.named_parameters()}
    names = [{name_of[id(p)] for p in group["params"]} for group in groups]
    assert names == [set(expected["no_decay"]), set(expected["decay"])]
    assert [group["weight_decay"] for group in groups] == golden["wd"]


def test_one_cycle_schedule():
    g = load("onecycle")
    for k, (lr, epochs, steps) in enumerate(g["configs"].tolist()):
        model = nn.Linear(2, 2)
        optimizer, scheduler = make_optimizer(model, lr, 1e-4, int(epochs), int(steps))
        rates, momenta = [], []
        for _ in range(int(epochs * steps)):
            rates.append(optimizer.param_groups[0]["lr"])
            momenta.append(optimizer.param_groups[0]["betas"][0])
            optimizer.step()
            scheduler.step()
        assert_close(rates, g[f"lr_{k}"], 1e-6)
        assert_close(momenta, g[f"beta1_{k}"], 1e-6)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 1e-4]


def anneal(start, end, share):
    """Half a cosine from start to end."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def one_cycle(lr, steps):
    """(lr, beta1) before each step: up to 0.2 of the run, then down.

    A warm-up of one step stands at its start.
    """
    top, last = 0.2 * steps - 1, steps - 1
    low, least = lr / 25, lr / 25 / 1e4
    for step in range(steps):
        if step <= top:
            share = step / top if top else 0.0
            yield anneal(low, lr, share), anneal(0.95, 0.85, share)
        else:
            share = (step - top) / (last - top)
            yield anneal(lr, least, share), anneal(0.85, 0.95, share)


@pytest.mark.parametrize("steps", range(1, 13))
@pytest.mark.parametrize("by_epochs", [False, True])
def test_one_cycle_of_a_few_steps(steps, by_epochs):
    """Five steps: the warm-up ends where it begins, which is 0/0 in the released scheduler."""
    epochs, each = (steps, 1) if by_epochs else (1, steps)
    optimizer, scheduler = make_optimizer(nn.Linear(2, 2), 3e-3, 1e-4, epochs, each)
    found = []
    for _ in range(steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        scheduler.step()
    assert found == [pytest.approx(pair, rel=1e-9) for pair in one_cycle(3e-3, steps)]


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"lr": -1}, {"lr": float("nan")}, {"lr": float("inf")}, {"epochs": 0}]
)
def test_schedules_that_cannot_be(wrong):
    given = {"lr": 1e-3, "weight_decay": 0, "epochs": 1, "steps_per_epoch": 1} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_optimizer(nn.Linear(2, 2), **given)


def test_steps_decay_and_averaging_outside_their_range():
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="steps_per_epoch 0"):
        make_optimizer(model, 1e-3, 0, 1, 0)
    for value in (-1e-4, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight_decay"):
            add_weight_decay(model, value)
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="decay"):
            ModelEma(model, value)


@pytest.mark.parametrize("value", [0.9, float("nan"), 2, -3])
def test_simulation_of_labels_that_are_none(value):
    args = Namespace(simulate_partial_type="rps", simulate_partial_param=0.5)
    rows = np.zeros((4, 3))
    rows[2, 1] = value
    with pytest.raises(ValueError, match=r"labels: .* at \[2, 1\] is no label"):
        simulate_coco(args, Namespace(targets_all=dict(enumerate(rows))))
    with pytest.raises(ValueError, match="is no label"):
        LabelTable(range(4), rows)
    with pytest.raises(ValueError, match="the id 7 occurs twice"):
        LabelTable([7, 8, 7], np.zeros((3, 2), np.int8))
