"""The numbers of the README, whole: a run of main.py against plain loops written after the
formulas.

candidate sets -> loss -> step -> label update -> accuracies of every epoch -> mean of the last ten,
covering rate, approximated accuracy, disambiguation; folds and standardised features; which rule
picks the true label.
"""

import json
import math

import numpy as np
import pytest
import scipy.io
import torch
from sklearn.model_selection import KFold

from cavl import main as entry
from cavl.cifar_models import resnet
from cavl.utils.models import mlp_model
from common.loading import epoch_order
from common.rundir import seed_everything
from tests.cavl.runs import state
from tests.cavl.test_data_loaders import write_idx

N, N_TEST, SIDE, K, BATCH, EPOCHS, SEED = 40, 20, 6, 10, 16, 12, 3
LR, DECAY = 0.01, 1e-3
METHODS = ["cavl", "rc", "proden", "cc", "uniform", "lws"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ten patterns under noise, as idx files; the folder and the four arrays."""
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (K, SIDE, SIDE))
    arrays = []
    for part, n in (("train", N), ("t10k", N_TEST)):
        y = rng.permutation(np.arange(n) % K)
        x = (patterns[y] + rng.integers(0, 56, (n, SIDE, SIDE))).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", x)
        write_idx(folder / f"{part}-labels-idx1-ubyte", y)
        arrays += [x, y]
    return folder, arrays


def drawn_sets(y, seed):
    """Sets of the released law: size s with probability comb(K, s) / (2^K - 2), then s - 1 false
    labels at random.
    """
    rng = np.random.default_rng([seed, 1])
    u = rng.random(len(y))
    keys = rng.random((len(y), K))
    sets = []
    for i, label in enumerate(y):
        size, total = 0, 0.0
        while size == 0 or u[i] > total:
            size += 1
            total += math.comb(K, size) / (2**K - 2)
        false = sorted((k for k in range(K) if k != label), key=lambda k, row=keys[i]: row[k])
        sets.append({int(label), *false[: size - 1]})
    return sets


def softmax(z):
    exponents = [math.exp(v - max(z)) for v in z]
    return [e / sum(exponents) for e in exponents]


def starting_table(method, sets, classes):
    if method == "lws":
        return [[1 / classes] * classes for _ in sets]
    return [[1 / len(s) if k in s else 0.0 for k in range(classes)] for s in sets]


def loss_of(method, logits, rows, sets):
    """The method's loss of a batch, one sample and one class at a time."""
    total = 0.0
    for z, row, s in zip(logits, rows, sets, strict=True):
        log_p = z - z.logsumexp(0)
        if method == "cc":
            total = total - torch.log(sum(log_p[k].exp() for k in s))
        elif method == "lws":
            for k, weight in enumerate(row):
                sign = -1 if k in s else 1
                total = total + weight * torch.sigmoid(sign * z[k])
        else:
            total = total - sum(weight * log_p[k] for k, weight in enumerate(row))
    return total / len(rows)


def new_row(method, z, s):
    """What is believed of a sample with the outputs z and the candidates s."""
    p = softmax(z)
    if method == "cavl":
        value = {k: abs(z[k] - 1) * z[k] for k in s}
        best = min(s, key=lambda k: (-value[k], k))
        return [float(k == best) for k in range(len(z))]
    if method in ("rc", "proden"):
        inside = sum(p[k] for k in s)
        return [p[k] / inside if k in s else 0.0 for k in range(len(z))]
    inside, outside = (
        sum(p[k] + 1e-8 if (k in s) == of_s else 1e-8 for k in range(len(z)))
        for of_s in (True, False)
    )
    return [p[k] / (inside if k in s else outside) for k in range(len(z))]


def plain_run(method, x, y, sets, x_test, y_test, classes):
    """Train and measure without anything of main.py but the network's class and the order of the
    samples.
    """
    seed_everything(SEED)
    model = mlp_model(x[0].numel(), 500, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, weight_decay=DECAY, fused=False)
    table = starting_table(method, sets, classes)
    tests = []
    for epoch in range(EPOCHS):
        for index in epoch_order(len(x), SEED, epoch).split(BATCH):
            rows = index.tolist()
            logits = model(x[index])
            loss = loss_of(method, logits, [table[i] for i in rows], [sets[i] for i in rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if method in ("cc", "uniform"):
                continue
            seen = logits.tolist() if method == "proden" else model(x[index]).tolist()
            for i, z in zip(rows, seen, strict=True):
                table[i] = new_row(method, z, sets[i])
        tests.append(
            np.mean(
                [z.index(max(z)) == t for z, t in zip(model(x_test).tolist(), y_test, strict=True)]
            )
        )

    outputs = model(x).tolist()
    covered, approximated = statistics(outputs, sets)
    hits = [row.index(max(row)) == t for row, t in zip(table, y, strict=True)]
    return {
        "test_accuracy_last10_mean": sum(tests[-10:]) / 10,
        "test_accuracy_final": tests[-1],
        "test_accuracy_best_oracle": max(tests),
        "train_accuracy_final": np.mean(
            [z.index(max(z)) == t for z, t in zip(outputs, y, strict=True)]
        ),
        "covering_rate": covered,
        "approximated_accuracy": approximated,
        "disambiguation": None if method == "cc" else np.mean(hits),
        "mean_candidates": np.mean([len(s) for s in sets]),
    }, model


def statistics(outputs, sets):
    """Share of predictions inside the set.

    Mean probability, renormalised over the set, of the prediction.
    """
    covered, approximated = [], []
    for z, s in zip(outputs, sets, strict=True):
        p = softmax(z)
        predicted = z.index(max(z))
        covered.append(predicted in s)
        approximated.append(p[predicted] / sum(p[k] for k in s) if predicted in s else 0.0)
    return np.mean(covered), np.mean(approximated)


def run(folder, method, *flags):
    own = [
        "-method",
        method,
        "-ep",
        str(EPOCHS),
        "-bs",
        str(BATCH),
        "-lr",
        str(LR),
        "-seed",
        str(SEED),
        "--cpu",
    ]
    entry.main([*own, *flags, "--output_dir", str(folder)])
    return json.loads((folder / "summary.json").read_text())


def assert_same_numbers(summary, expected):
    for name, value in expected.items():
        if value is None:
            assert summary[name] is None, name
        else:
            assert summary[name] == pytest.approx(value, abs=2e-4), name


@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_images_gives_the_numbers_of_the_plain_loop(tmp_path, images, method):
    folder, (x, y, x_test, y_test) = images
    weight = (
        ("-lw_weight", "1") if method == "lws" else ()
    )  # with 2 it predicts one class throughout
    summary = run(tmp_path / "r", method, "--data_dir", str(folder), *weight)
    sets = drawn_sets(y, SEED)
    saved = np.load(tmp_path / "r" / "candidates.npy")
    assert [set(np.flatnonzero(row).tolist()) for row in saved] == sets

    pixels, test_pixels = (
        torch.tensor(part / np.float32(255), dtype=torch.float32) for part in (x, x_test)
    )
    expected, _ = plain_run(method, pixels, y, sets, test_pixels, y_test, K)
    assert_same_numbers(summary, expected)
    lines = [
        json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len({line["accuracy"] for line in lines if line["split"] == "test"}) > 1


def test_a_fold_of_features_gives_the_numbers_of_the_plain_loop(tmp_path):
    rng = np.random.default_rng(1)
    n, d, classes, folds, fold = 45, 7, 4, 3, 1
    y = rng.integers(0, classes, n)
    x = 3 * rng.standard_normal((classes, d))[y] + rng.standard_normal((n, d)) + 5
    x[:, 2] = 0.1  # constant: becomes 0
    sets = [{int(label), int(rng.integers(classes)), int(rng.integers(classes))} for label in y]
    partial = np.array([[float(k in s) for k in range(classes)] for s in sets])
    content = {"data": x, "partial_target": partial.T, "target": np.eye(classes)[y].T}
    scipy.io.savemat(tmp_path / "lost.mat", content)
    flags = ("-ds", "lost", "-fold", str(fold), "-folds", str(folds), "--data_dir", str(tmp_path))
    summary = run(tmp_path / "r", "cavl", *flags)

    train, test = list(KFold(folds, shuffle=True, random_state=SEED).split(x))[fold]
    scaled = np.zeros_like(x)
    for j in range(d):
        column = [float(x[i, j]) for i in train]
        mean = sum(column) / len(column)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in column) / len(column))
        if max(column) > min(column):
            scaled[:, j] = (x[:, j] - mean) / deviation
    scaled = torch.tensor(scaled, dtype=torch.float32)
    part = [sets[i] for i in train]
    expected, model = plain_run(
        "cavl", scaled[train], y[train], part, scaled[test], y[test], classes
    )
    outside = [sets[i] for i in test]
    covered, approximated = statistics(model(scaled[test]).tolist(), outside)
    expected |= {"test_covering_rate": covered, "test_approximated_accuracy": approximated}
    assert_same_numbers(summary, expected)


def test_true_labels_picked_by_the_rule_are_counted_as_in_a_plain_loop(tmp_path, images):
    folder, (x, y, *_) = images
    flags = (
        "-mo",
        "resnet",
        "-depth",
        "8",
        "-selection_curve",
        str(N),
        "--data_dir",
        str(folder),
        "-ep",
        "2",
    )
    summary = run(tmp_path / "r", "cavl", *flags)
    model = resnet(8, K, in_channels=1)
    model.load_state_dict(state(tmp_path / "r")["state"]["model"])
    model.eval()
    sets = drawn_sets(y, SEED)

    picked = {rule: [] for rule in ("logit", "cav", "cam_area", "cam_sum")}
    weight = model.fc.weight.detach().double().numpy()
    for i in range(N):
        pixels = torch.tensor(x[i][None, None] / np.float32(255), dtype=torch.float32)
        with torch.no_grad():
            z = model(pixels)[0].tolist()
            features = model.feature_maps(pixels)[0].double().numpy()
        maps = np.maximum(np.tensordot(weight, features, 1), 0)
        area = [(maps[k] > 0).sum() for k in range(K)]
        total = [maps[k].sum() for k in range(K)]
        value = [abs(v - 1) * v for v in z]
        best = {
            "logit": min(sets[i], key=lambda k: (-z[k], k)),
            "cav": min(sets[i], key=lambda k: (-value[k], k)),
            "cam_area": min(sets[i], key=lambda k: (-area[k], -total[k], k)),
            "cam_sum": min(sets[i], key=lambda k: (-total[k], k)),
        }
        for rule, label in best.items():
            picked[rule].append(label == y[i])
    for rule, hits in picked.items():
        assert summary[f"selection_{rule}_final"] == pytest.approx(np.mean(hits), abs=1e-6), rule
