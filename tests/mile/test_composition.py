"""The numbers of the README, whole.

A run of MILe.py against plain loops written after the formulas.

digits -> grids and labels -> phases -> thresholded label sets -> F1, accuracy, coverage, mAP, best
F1; and of image folders the way from the file to the accuracy.
"""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from common.loading import epoch_order, seed_of
from common.rundir import seed_everything
from mile import MILe as entry
from mile import models
from tests.cavl.test_data_loaders import write_idx
from tests.mile.helpers import flags, lines_of, state

SIDE, BATCH, SEED, RHO, LR = 10, 4, 5, 0.12, 0.05
K_T, K_S, WARMUP, GENERATIONS, PASSES = 3, 2, 4, 3, 4
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
pytestmark = pytest.mark.usefixtures("no_figures")


class Smooth(torch.nn.Sequential):
    """A network without ReLU: at a kink a difference in the last digit becomes one in the third."""

    def __init__(self, num_classes):
        layers = [
            torch.nn.AdaptiveAvgPool2d(6),
            torch.nn.Flatten(),
            torch.nn.BatchNorm1d(108),
            torch.nn.Tanh(),
        ]
        super().__init__(*layers, torch.nn.Linear(108, num_classes))


@pytest.fixture(autouse=True)
def smooth_network(monkeypatch):
    monkeypatch.setattr(models, "SmallNet", Smooth)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Ten patterns under noise as idx files, 10x10 pixels.

    The folder, and (images, labels) of both parts.
    """
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (10, SIDE, SIDE))
    parts = []
    for part, n in (("train", 100), ("t10k", 60)):
        y = rng.permutation(np.arange(n) % 10)
        x = (patterns[y] + rng.integers(0, 56, (n, SIDE, SIDE))).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", x)
        write_idx(folder / f"{part}-labels-idx1-ubyte", y)
        parts.append((x, y))
    return folder, *parts


def cell_of(u):
    """0.6 for the centre, 0.05 for each other cell, in the order 0 1 2 3 5 6 7 8."""
    if u <= 0.6:
        return 4
    for place, cell in enumerate((0, 1, 2, 3, 5, 6, 7)):
        if u <= [0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95][place]:
            return cell
    return 8


def grids_of(x, y, seed):
    """Inputs (k,3,30,30), single labels, sets of all nine digits; each digit is used once."""
    generator = torch.Generator().manual_seed(seed_of(seed, 2, 0))
    count = len(y) // 9
    order = torch.randperm(len(y), generator=generator).tolist()
    u = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    inputs, single, sets = [], [], []
    for g in range(count):
        nine = order[9 * g : 9 * g + 9]
        canvas = np.zeros((3 * SIDE, 3 * SIDE))
        for cell, digit in enumerate(nine):
            top, left = SIDE * (cell // 3), SIDE * (cell % 3)
            canvas[top : top + SIDE, left : left + SIDE] = x[digit]
        inputs.append(
            [
                (canvas / 255 - mean) / deviation
                for mean, deviation in zip(MEAN, DEVIATION, strict=True)
            ]
        )
        single.append(int(y[nine[cell_of(u[g])]]))
        sets.append({int(y[digit]) for digit in nine})
    return torch.tensor(np.array(inputs), dtype=torch.float32), single, sets


def stream_of(count):
    """Batches without end: each pass in an order of its own, without the last short batch."""
    number = 0
    while True:
        order = epoch_order(count, seed_of(SEED, 1), number).tolist()
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[start : start + BATCH]
        number += 1


def loss_of(z, target):
    """Sum over classes, mean over images, of the cross entropy of sigmoid(z) and the target."""
    positive, negative = torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)
    total = 0.0
    for b in range(len(z)):
        for c in range(10):
            total = total - (target[b][c] * positive[b, c] + (1 - target[b][c]) * negative[b, c])
    return total / len(z)


def onehot(labels):
    return [[float(c == label) for c in range(10)] for label in labels]


def trained(schema, x, y):
    """The network of the schema, trained by its definition."""
    seed_everything(SEED)
    network = Smooth(10)
    if schema != "softmax":
        torch.nn.init.constant_(network[-1].bias, -math.log(10))
    optimizer = torch.optim.SGD(
        network.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    stream = stream_of(len(y))

    def step(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    network.train()
    if schema != "MILe":
        for _ in range(PASSES * (len(y) // BATCH)):
            rows = next(stream)
            labels = [y[i] for i in rows]
            if schema == "sigmoid":
                step(loss_of(network(x[rows]), onehot(labels)))
            else:
                log_p = network(x[rows]).log_softmax(1)
                step(-sum(log_p[b, label] for b, label in enumerate(labels)) / BATCH)
        return network

    for generation in range(GENERATIONS):
        for _ in range(K_T + (WARMUP if generation == 0 else 0)):
            rows = next(stream)
            step(loss_of(network(x[rows]), onehot([y[i] for i in rows])))
        teacher = copy.deepcopy(network).eval()
        for _ in range(K_S):
            rows = next(stream)
            with torch.no_grad():
                p = teacher(x[rows]).sigmoid().tolist()
            step(loss_of(network(x[rows]), [[float(value > RHO) for value in row] for row in p]))
    return network


def f1(predicted, true):
    return 2 * len(predicted & true) / (len(predicted) + len(true))


def average_precision(scores, positives):
    """The mean, over the positives, of the precision at their rank."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    found, total = 0, 0.0
    for rank, i in enumerate(order, 1):
        if i in positives:
            found += 1
            total += found / rank
    return total / found


def measured(schema, network, x, y, sets):
    """Every number of the README, of a trained network on the test grids."""
    network.eval()
    with torch.no_grad():
        z = network(x)
    p = (z.softmax(1) if schema == "softmax" else z.sigmoid()).tolist()
    top = [row.index(max(row)) for row in z.tolist()]

    def set_at(i, rho):
        return {c for c in range(10) if p[i][c] > rho} | {top[i]}

    def by_protocol(i, rho):
        return {top[i]} if schema == "softmax" else set_at(i, rho)

    images = range(len(y))
    curve = [np.mean([f1(set_at(i, rho / 100), sets[i]) for i in images]) for rho in range(1, 100)]
    holders = {c: {i for i in images if c in sets[i]} for c in range(10)}
    occurring = sorted(set().union(*sets))
    return {
        "acc_final": np.mean([top[i] == y[i] for i in images]),
        "real_acc_final": np.mean([top[i] in sets[i] for i in images]),
        "real_f1_final": np.mean([f1(by_protocol(i, RHO), sets[i]) for i in images]),
        "real_f1_025_final": np.mean([f1(by_protocol(i, 0.25), sets[i]) for i in images]),
        "label_coverage_final": np.mean([len(by_protocol(i, RHO)) for i in images]),
        "f1_by_threshold_at_rho": np.mean([f1(set_at(i, RHO), sets[i]) for i in images]),
        "mAP": np.mean([average_precision([row[c] for row in p], holders[c]) for c in occurring]),
        "best_f1": max(curve),
        "trivial_f1_one_right_label": np.mean([2 / (1 + len(s)) for s in sets]),
        "trivial_f1_all_labels": np.mean([2 * len(s) / (len(occurring) + len(s)) for s in sets]),
    }


@pytest.mark.parametrize("schema", ["MILe", "sigmoid", "softmax"])
def test_a_run_on_grids_gives_the_numbers_of_the_plain_loop(tmp_path, digits, schema):
    folder, train, test = digits
    own = {
        "dataset": "mnist",
        "mnist_path": folder,
        "model": "small-10",
        "mnist_size": 3 * SIDE,
        "seed": SEED,
    }
    own |= {"batch_size": BATCH, "lr": LR, "lr_schedule": "constant", "schema": schema, "rho": RHO}
    own |= {"epoch_num": GENERATIONS if schema == "MILe" else PASSES}
    if schema == "MILe":
        own |= {"k_t": K_T, "k_s": K_S, "warmup": WARMUP}
    places = {"output_dir": tmp_path / "r", "checkpoint_path": tmp_path / "w"}
    entry.main(["--cpu", "--no-scale_lr", *flags(**own, **places)])
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())

    x, y, _ = grids_of(*train, SEED)
    network = trained(schema, x, y)
    weights = state(tmp_path / "r")["state"]["learner"]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(weights[f"student.{name}"], value, rtol=1e-4, atol=1e-5)
    expected = measured(schema, network, *grids_of(*test, 20220619))
    for name, value in expected.items():
        assert summary[name] == pytest.approx(value, abs=1e-6), name
    assert (
        summary["mAP_classes"] == len(set(test[1]))
        and summary["images_with_labels"] == len(test[1]) // 9
    )


def test_the_way_from_picture_to_accuracy_is_torchvisions(tmp_path):
    """Shorter side to 256/224, bilinear and antialiased, centre, ImageNet's mean and deviation."""
    rng = np.random.default_rng(0)
    root = tmp_path / "set"
    for part, count in (("train", 4), ("val", 3)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(40, 90, 2)
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{name}{i}.png")
    names = [path.name for path in (root / "val").rglob("*.png")]
    (root / "real.json").write_text(json.dumps(dict.fromkeys(names, ["cat"])))
    own = {
        "dataset": "folder",
        "data_path": root / "train",
        "val_path": root / "val",
        "model": "small",
    }
    own |= {
        "image_size": 32,
        "batch_size": 4,
        "epoch_num": 2,
        "schema": "sigmoid",
        "num_workers": 0,
    }
    places = {"output_dir": tmp_path / "r", "checkpoint_path": tmp_path / "w"}
    entry.main(["--cpu", *flags(**own, **places)])
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())

    network = Smooth(2)
    weights = state(tmp_path / "r")["state"]["learner"]
    network.load_state_dict(
        {name.removeprefix("student."): v for name, v in weights.items() if name[:8] == "student."}
    )
    look = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(round(32 * 256 / 224), antialias=True),
            torchvision.transforms.CenterCrop(32),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize(MEAN, DEVIATION),
        ]
    )
    dataset = torchvision.datasets.ImageFolder(str(root / "val"), look)
    network.eval()
    with torch.no_grad():
        top = [int(network(image[None]).argmax()) for image, _ in dataset]
    labels = [label for _, label in dataset]
    assert summary["acc_final"] == pytest.approx(
        np.mean([t == y for t, y in zip(top, labels, strict=True)])
    )
    assert summary["real_acc_final"] == pytest.approx(np.mean([t == 0 for t in top]))
    line = lines_of(tmp_path / "r", "test")[-1]
    assert (line["n"], line["n_real"]) == (6, 6)
