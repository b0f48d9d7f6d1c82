"""The README's numbers, each composed a second time by plain loops from the files to the figure.

| number | from | to | | --- | --- | --- | | mAP, CF1, OF1, top-3 | json, png | RGB, resize, 0..1,
network, sigmoid, ranks of a class, mean over classes | | mAP on annotated labels | csv lists, png |
the same on the annotated entries; un-annotated as negative; complete | | rows of the table | a
recipe | mode, gammas, the loss that its name says | | trained networks | json, png, seed |
simulation, order, loss, Adam and its groups, one cycle, average, prior | | prior, rank correlation
| the last epoch's logits | mean probability, ranks against the complete labels | | drop precision,
missed positives | the loss of the last epoch | counts over labels | | mean and deviation of seeds |
summaries | the table of --compare |

Parts are tested against the released code elsewhere (test_golden_*); their composition has no
golden data.
"""

import ast
import csv
import json
import math
import re
import statistics
from argparse import Namespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from common.loading import epoch_order
from common.rundir import seed_everything
from csl import compare, train, validate
from csl.options import parse
from csl.options_choices import RECIPES
from csl.src.loss_functions.losses import AsymmetricLoss
from csl.src.loss_functions.partial_asymmetric_loss import PartialSelectiveLoss
from csl.src.models import create_model
from csl.src.models.utils.checkpoint import averaged_state, network_of
from tests.csl.test_build_loss import batch, settings
from tests.csl.test_evaluate_metrics import literal
from tests.csl.test_golden_helpers import one_cycle
from tests.csl.tiny import NAMES, arguments, write_coco

SIZE = 40
LOSS = {"gamma_pos": 0.0, "gamma_neg": 1.0, "gamma_unann": 4.0}
PRIOR = {"person": 0.2, "bicycle": 0.1, "car": 0.9, "motorcycle": 0.3, "airplane": 0.4}
FLAGS = (
    "--image_size",
    str(SIZE),
    "--augment",
    "none",
    "--partial_loss_mode",
    "selective",
    "--prior_threshold",
    "0.5",
)


def read(path):
    """(1,3,S,S) float32 in 0..1 of a picture file."""
    small = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255


def coco_labels(root, split):
    """Paths and complete labels (N,5), images in the order of their first annotation, classes in
    that of the file."""
    content = json.loads((root / "annotations" / f"instances_{split}2014.json").read_text())
    order, rows = [], {}
    columns = [category["id"] for category in content["categories"]]
    for annotation in content["annotations"]:
        image = annotation["image_id"]
        if image not in rows:
            order.append(image)
            rows[image] = [0] * len(columns)
        rows[image][columns.index(annotation["category_id"])] = 1
    file_of = {image["id"]: image["file_name"] for image in content["images"]}
    return [root / f"{split}2014" / file_of[image] for image in order], np.array(
        [rows[image] for image in order]
    )


def probabilities(weights, paths, averaged=True):
    """(N,C), one picture at a time."""
    model, _ = network_of(weights, "tresnet_tiny", averaged=averaged)
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(read(path)).sigmoid() for path in paths]).numpy()


def mean_ap(labels, scores):
    return 100 * statistics.mean(
        literal(scores[:, c], labels[:, c] == 1) for c in range(labels.shape[1])
    )


def f1_scores(labels, scores, threshold):
    """CF1 of the mean precision and recall of the classes, OF1 of the summed counts."""
    precisions, recalls, all_hits, all_found, all_real = [], [], 0, 0, 0
    for c in range(labels.shape[1]):
        hits = found = real = 0
        for label, score in zip(labels[:, c], scores[:, c], strict=True):
            found += score > threshold
            real += label == 1
            hits += score > threshold and label == 1
        precisions.append(hits / found if hits else 0.0)
        recalls.append(hits / real if hits else 0.0)
        all_hits, all_found, all_real = all_hits + hits, all_found + found, all_real + real
    p, r = statistics.mean(precisions), statistics.mean(recalls)
    cf1 = 2 * p * r / (p + r) if p + r else 0.0
    precision, recall = all_hits / max(all_found, 1), all_hits / all_real
    return 100 * cf1, 100 * 2 * precision * recall / max(precision + recall, 1e-30)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "data", train=30)


@pytest.fixture(scope="module")
def prior_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "p.csv"
    path.write_text(
        "Classes,avg_pred\n" + "".join(f"{name},{value}\n" for name, value in PRIOR.items())
    )
    return path


@pytest.fixture(scope="module")
def run(data, prior_csv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    gammas = [f"--{name}={value}" for name, value in LOSS.items()]
    train.main(arguments(data, folder, *FLAGS, *gammas, "--prior_path", str(prior_csv)))
    return folder


def lines_of(run, split):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


# ---- from the files to the mAP ------------------------------------------------------------------


def test_map_of_complete_labels(run, data, tmp_path):
    paths, labels = coco_labels(data, "val")
    last = run / "checkpoints" / "last.pt"
    logged, summary = lines_of(run, "test")[-1], summary_of(run)
    for which in ("ema", "model"):
        scores = probabilities(last, paths, averaged=which == "ema")
        expected = mean_ap(labels, scores)
        assert logged[f"mAP_{which}"] == pytest.approx(expected, abs=1e-4)
        assert summary[f"mAP_{which}_final"] == logged[f"mAP_{which}"]
        cf1, of1 = f1_scores(labels, scores, 0.8)
        assert (logged[f"CF1_{which}"], logged[f"OF1_{which}"]) == pytest.approx(
            (cf1, of1), abs=1e-4
        )
    scores = probabilities(last, paths)
    rows = list(csv.DictReader((run / "per_class.csv").open()))
    for c, row in enumerate(rows):
        assert row["class"] == NAMES[c] and int(row["test_positives"]) == labels[:, c].sum()
        assert float(row["AP"]) == pytest.approx(
            100 * literal(scores[:, c], labels[:, c] == 1), abs=0.01
        )


def test_validation_of_complete_labels(run, data, tmp_path):
    paths, labels = coco_labels(data, "val")
    scores = probabilities(run / "checkpoints" / "last.pt", paths)
    threshold = float(np.median(scores))
    flags = [
        "--data",
        str(data),
        "--model_path",
        str(run / "checkpoints" / "last.pt"),
        "--cpu",
        "-j",
        "0",
    ]
    args = validate.parse(
        [*flags, "--thre", str(threshold), "--calibrate", "--output_dir", str(tmp_path / "v")]
    )
    found = validate.validate(args)
    assert found["mAP"] == pytest.approx(mean_ap(labels, scores), abs=1e-3)
    assert (found["CF1"], found["OF1"]) == pytest.approx(
        f1_scores(labels, scores, threshold), abs=1e-3
    )

    top3 = np.full_like(scores, -1)
    for row, values in enumerate(scores):
        for column in sorted(range(5), key=lambda c: -values[c])[:3]:
            top3[row, column] = values[column]
    expected = f1_scores(labels, top3, threshold)
    assert (found["CF1_top3"], found["OF1_top3"]) == pytest.approx(expected, abs=1e-3)

    calibrated = np.zeros_like(scores)
    for c in range(
        5
    ):  # every cut through the ranking of a class, the first of the best ones from above
        best = -1.0
        for cut in [*sorted(scores[:, c], reverse=True), -1.0]:
            predicted = scores[:, c] > cut
            hits = (predicted & (labels[:, c] == 1)).sum()
            f = 2 * hits / (predicted.sum() + labels[:, c].sum())
            if f > best + 1e-12:
                best = f
                calibrated[:, c] = predicted
    expected = f1_scores(labels, calibrated, 0.5)
    assert (found["CF1_calibrated"], found["OF1_calibrated"]) == pytest.approx(expected, abs=1e-3)


def test_map_of_partial_labels(tmp_path):
    """Open Images: from the lists of the csv.

    On annotated labels, with the others as negatives, and on all labels.
    """
    names = ["/m/0", "/m/1", "Bowl, large", "/m/3"]
    rng = np.random.default_rng(0)
    complete = rng.integers(0, 2, (30, 4))
    partial = np.where(rng.random((30, 4)) < 0.4, -1, complete)
    rows, whole = [], []
    for k, (known, every) in enumerate(zip(partial, complete, strict=True)):
        split = "train" if k < 12 else "val"
        Image.fromarray(rng.integers(0, 255, (36, 44, 3), dtype=np.uint8)).save(
            tmp_path / f"{k}.png"
        )
        for target, labels in ((rows, known), (whole, every)):
            lists = [[names[c] for c in np.flatnonzero(labels == value)] for value in (1, 0)]
            target.append([f"{k}.png", *lists, split])
    for name, table in (("data.csv", rows), ("val_complete.csv", whole)):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows(table)
    flags = arguments(
        tmp_path, tmp_path / "run", *FLAGS, "--epochs", "1", "--dataset", "openimages"
    )
    at = flags.index("--simulate_partial_type")
    train.main([*flags[:at], *flags[at + 4 :]])

    order = sorted(names)
    targets, paths, truth = [], [], []
    for table, into in (("data.csv", targets), ("val_complete.csv", truth)):
        for path, positive, negative, split in csv.reader((tmp_path / table).open(newline="")):
            if split == "val":
                of = {name: 1 for name in ast.literal_eval(positive)} | dict.fromkeys(
                    ast.literal_eval(negative), 0
                )
                into.append([of.get(name, -1) for name in order])
                paths += [tmp_path / path] if table == "data.csv" else []
    targets, truth = np.array(targets), np.array(truth)
    scores = probabilities(tmp_path / "run" / "checkpoints" / "last.pt", paths)
    aps, weights = [], []
    for c in range(4):
        known = targets[:, c] != -1
        if 0 < (targets[known, c] == 1).sum() < known.sum():
            aps.append(100 * literal(scores[known, c], targets[known, c] == 1))
            weights.append(int((targets[known, c] == 1).sum()))
    (logged,) = lines_of(tmp_path / "run", "test")
    assert logged["mAP_ema"] == pytest.approx(statistics.mean(aps), abs=1e-4)
    assert logged["classes_counted_ema"] == len(aps) == 4
    weighted = sum(a * w for a, w in zip(aps, weights, strict=True)) / sum(weights)
    assert logged["mAP_weighted_ema"] == pytest.approx(weighted, abs=1e-4)
    assert logged["mAP_unannotated_as_negative_ema"] == pytest.approx(
        mean_ap(targets, scores), abs=1e-4
    )
    assert logged["mAP_complete_ema"] == pytest.approx(mean_ap(truth, scores), abs=1e-4)


# ---- from a row's name to its loss --------------------------------------------------------------


def recipe_loss(name, logits, targets, **changed):
    values = RECIPES[name] | {"prior_threshold": 0.0, "likelihood_topk": 1} | changed
    return PartialSelectiveLoss(settings(**values))(logits, targets).item()


def test_the_rows_of_the_table_are_the_losses_of_their_names():
    logits, targets = batch(7, 6)
    as_negative = targets.clamp(min=0)
    every = F.binary_cross_entropy_with_logits(logits, as_negative.float(), reduction="none")
    assert recipe_loss("negative_ce", logits, targets) == pytest.approx(
        every.sum().item(), rel=1e-5
    )
    annotated = every[targets != -1].sum().item()
    assert recipe_loss("ignore_ce", logits, targets) == pytest.approx(annotated, rel=1e-5)
    asl = AsymmetricLoss(gamma_neg=4, gamma_pos=1, clip=0)(logits, as_negative).item()
    assert recipe_loss("negative_asl", logits, targets) == pytest.approx(asl, rel=1e-5)
    for name, gammas in (("csl_fpc", (0, 3, 4)), ("csl_rps", (0, 1, 4))):
        dropped = dropped_by_likelihood(logits, targets, 1)
        expected = selective_loss(logits, targets, dropped, *gammas)
        assert recipe_loss(name, logits, targets) == pytest.approx(float(expected), rel=1e-5)


def dropped_by_likelihood(logits, targets, k):
    """The K * B un-annotated entries of the batch that the network believes in most."""
    unannotated = [
        (b, c) for b in range(len(targets)) for c in range(targets.shape[1]) if targets[b, c] == -1
    ]
    ranked = sorted(unannotated, key=lambda place: -float(logits[place].detach()))
    return set(ranked[: k * len(targets)])


def selective_loss(logits, targets, dropped, gamma_pos, gamma_neg, gamma_unann):
    """Entry by entry, with the focusing factor held fixed."""
    total = 0.0
    for b in range(len(targets)):
        for c in range(targets.shape[1]):
            if (b, c) in dropped:
                continue
            p = torch.sigmoid(logits[b, c])
            label = int(targets[b, c])
            pt = p if label == 1 else 1 - p
            gamma = {1: gamma_pos, 0: gamma_neg, -1: gamma_unann}[label]
            focus = (1 - pt).detach() ** gamma
            total = total - focus * pt.clamp(min=1e-8).log()
    return total


# ---- from the seed to the trained network -------------------------------------------------------


def test_the_simulation_of_a_run(run, data, tmp_path):
    """RPS: kept labels are the complete ones, about the asked share is dropped.

    FPC: so many of each class and kind.
    """
    _, complete = coco_labels(data, "train")
    with np.load(run / "partial_labels.npz") as arrays:
        partial, classes = arrays["targets"], arrays["classes"].tolist()
    assert classes == list(NAMES) and ((partial == complete) | (partial == -1)).all()
    dropped = (partial == -1).mean()
    assert abs(dropped - 0.4) < 4 * math.sqrt(0.4 * 0.6 / partial.size)

    flags = arguments(data, tmp_path / "fpc", "--max_steps", "1")
    flags[flags.index("rps")] = "fpc"
    flags[flags.index("0.4")] = "5"
    train.main(flags)
    with np.load(tmp_path / "fpc" / "partial_labels.npz") as arrays:
        partial = arrays["targets"]
    assert ((partial == complete) | (partial == -1)).all()
    for c in range(5):
        for value in (0, 1):
            assert (partial[:, c] == value).sum() == min(5, (complete[:, c] == value).sum())


class Plain:
    """The training of a run, step by step, after the formulas."""

    def __init__(self, data, run):
        paths, self.complete = coco_labels(data, "train")
        self.images = torch.cat([read(path) for path in paths])
        with np.load(run / "partial_labels.npz") as arrays:
            self.labels = torch.from_numpy(arrays["targets"])
        seed_everything(0)
        self.model = create_model(Namespace(model_name="tresnet_tiny", num_classes=5))
        self.model.to(memory_format=torch.channels_last)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        decayed = [
            p
            for name, p in self.model.named_parameters()
            if p.dim() != 1 and not name.endswith(".bias")
        ]
        others = [
            p for name, p in self.model.named_parameters() if p.dim() == 1 or name.endswith(".bias")
        ]
        self.optimizer = torch.optim.Adam(
            [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 1e-4}],
            lr=5e-3,
        )
        self.losses, self.probabilities, self.counts = [], [], {}

    def train(self, epochs=2, size=8):
        n = len(self.images)
        steps = epochs * math.ceil(n / size)
        rates = one_cycle(5e-3, steps)
        step = 0
        for epoch in range(epochs):
            order = epoch_order(n, 0, epoch)
            self.losses.append([])
            self.probabilities, self.counts = (
                [],
                dict.fromkeys(("unannotated", "dropped", "dropped_positive"), 0),
            )
            for start in range(0, n, size):
                self.step(order[start : start + size], *next(rates), step)
                step += 1

    def step(self, rows, rate, beta, number):
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = rate, (beta, 0.999)
        self.model.train()
        logits, labels = self.model(self.images[rows]), self.labels[rows]
        dropped = dropped_by_likelihood(logits, labels, 1)
        for b in range(len(rows)):
            for c, name in enumerate(NAMES):
                if labels[b, c] == -1 and PRIOR[name] > 0.5:
                    dropped.add((b, c))
        loss = selective_loss(logits, labels, dropped, 0, 1, 4)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        decay = min(0.9997, (1 + number) / (10 + number))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name] = decay * self.average[name] + (1 - decay) * value
            else:
                self.average[name] = value.clone()
        self.losses[-1].append(loss.item())
        self.probabilities += logits.detach().sigmoid().tolist()
        real = self.complete[rows.numpy()]
        self.counts["unannotated"] += int((labels == -1).sum())
        self.counts["dropped"] += len(dropped)
        self.counts["dropped_positive"] += sum(int(real[place]) for place in dropped)


def spearman(a, b):
    """Pearson's correlation of the ranks, equal values sharing their mean rank."""

    def ranks(values):
        order = sorted(values)
        return [
            statistics.mean(k for k, other in enumerate(order) if other == value)
            for value in values
        ]

    return statistics.correlation(ranks(list(a)), ranks(list(b)))


def test_training_from_the_seed_to_weights_prior_and_drops(run, data):
    plain = Plain(data, run)
    plain.train()
    saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["state"]
    for found, expected in (
        (saved["model"], plain.model.state_dict()),
        (averaged_state(saved["ema"]), plain.average),
    ):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-4, msg=name)
    logged = [line["loss"] for line in lines_of(run, "train")]
    assert logged == pytest.approx(
        [sum(losses) / len(plain.images) for losses in plain.losses], rel=1e-4
    )

    prior = np.array(plain.probabilities).mean(0)
    rows = list(csv.DictReader((run / "train_avg_preds.csv").open()))
    assert [row["Classes"] for row in rows] == list(NAMES)
    assert [float(row["avg_pred"]) for row in rows] == pytest.approx(prior.tolist(), abs=1e-4)
    summary, counts = summary_of(run), plain.counts
    frequencies = plain.complete.mean(0)
    assert summary["prior_rank_correlation"] == pytest.approx(
        spearman(prior, frequencies), abs=1e-9
    )
    assert summary["dropped_share"] == pytest.approx(
        100 * counts["dropped"] / counts["unannotated"]
    )
    assert summary["drop_precision"] == pytest.approx(
        100 * counts["dropped_positive"] / counts["dropped"]
    )
    missed = plain.complete[plain.labels.numpy() == -1].mean()
    assert summary["missed_positive_rate"] == pytest.approx(100 * missed)


# ---- from the runs to the table -----------------------------------------------------------------


def test_mean_and_deviation_of_the_table(data, tmp_path, capsys):
    scores = {"ignore_ce": [50.0, 53.0, 51.0], "csl": [60.0, 60.5, 64.0]}
    flags = ["--compare", "ignore_ce,csl", "--schemes", "rps", "--seeds", "0,1,2"]
    settings_of_all = parse(arguments(data, tmp_path / "c", *flags))
    asked = []

    def scored(settings_of_one, folder):
        child = settings_of_one.args
        row = child.output_dir.name.split("-")[1]
        asked.append((row, child.recipe, child.seed, child.partial_loss_mode, child.gamma_unann))
        value = scores[row][child.seed]
        return {"mAP_ema_final": value, "mAP_model_final": value - 1, "classes": 5}

    found = compare.compare(settings_of_all, scored)
    assert {entry[:2] for entry in asked} == {
        ("ignore_ce", "ignore_ce"),
        ("csl", "csl_rps"),
    } and len(asked) == 6
    assert {entry[3:] for entry in asked if entry[0] == "csl"} == {("selective", 4.0)}
    told = capsys.readouterr().out
    for row, values in scores.items():
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        assert (found[f"rps_{row}_mean"], found[f"rps_{row}_std"]) == pytest.approx(
            (mean, deviation)
        )
        line = rf"rps +{row} +{mean:.2f} +{deviation:.2f} +3 +{mean - 1:.2f}\n"
        assert re.search(line, told)
