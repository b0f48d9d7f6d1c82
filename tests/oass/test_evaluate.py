"""Every number of the README from its parts: the program's against plain loops written from the
paper's formulas.

mAP, class loss, pointing accuracy and mask IoU of a run, at one scale and at several; the losses of
a step over its keypoint pairs; the teacher; the precision of nearest
instances.
"""

import copy
import csv
import json
import math
import statistics

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import maximum_filter
from torch.nn import functional as F

from common.rundir import make_accelerator, seed_everything
from oass import inference_classification
from oass import train as training
from oass import train_classification_with_puzzle_cMax_ema as cmax
from oass.build import build_data, build_student
from oass.build_trained import Trained
from oass.core.datasets import VOC_Dataset_For_Testing_CAM
from oass.data_voc import CLASS_NAMES
from oass.evaluate import neighbour_precision
from oass.options import parse
from oass.train import train
from oass.train_step import to_device
from tests.oass.conftest import SMALL
from tests.oass.test_method import loop_merge, loop_tiles

SIDE = 64
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def read(path):
    return json.loads(path.read_text())


# --- plain versions ---


def plain_input(image, side, scale=1.0, flip=False):
    """The network's input (1,3,side,side): picture at the top left, the mean colour around it."""
    if scale != 1:
        image = image.resize(
            [max(1, round(v * scale)) for v in image.size], Image.Resampling.BICUBIC
        )
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = (np.asarray(image, np.float64) / 255 - MEAN) / STD
    canvas = np.zeros((side, side, 3))
    part = pixels[:side, :side]
    canvas[: part.shape[0], : part.shape[1]] = part
    return torch.from_numpy(canvas).float().permute(2, 0, 1)[None]


def plain_cam(maps):
    """M of class maps (C,G,G), one class after the other."""
    out = torch.zeros_like(maps)
    for c, f in enumerate(maps):
        positive = f.clamp_min(0)
        out[c] = (positive - 1e-5).clamp_min(0) / (positive.max() + 1e-5)
    return out


@torch.no_grad()
def plain_logits(model, x):
    """The instance head as released, a gated copy of the feature map for each class: logits (C,), M
    (C,G,G).
    """
    X = model.feature_map(x)
    maps = torch.einsum("kc,bchw->bkhw", model.classifier.weight[:, :, 0, 0], X)[0]
    cams = plain_cam(maps)
    logits = [model.stage6[c](model.BN[c](X * cams[c])).mean() for c in range(len(cams))]
    return torch.stack(logits), cams


def bilinear(length, cells, factor, start):
    """The matrix (length, cells) that reads cells at pixel centres start + k, `factor` cells a
    pixel.
    """
    matrix = np.zeros((length, cells))
    for k in range(length):
        place = min(max((start(k + 0.5)) * factor - 0.5, 0), cells - 1)
        low = min(int(place), cells - 1)
        high = min(low + 1, cells - 1)
        matrix[k, low] += 1 - (place - low)
        matrix[k, high] += place - low
    return matrix


def plain_map_of_view(cams, image, side, scale, flip):
    """A view's maps (C,G,G) at the pixels (C,SIDE,SIDE) of the plain view, and which of them it
    saw.
    """
    width, height = image.size
    ratios = [max(1, round(v * scale)) / v for v in (height, width)]
    starts = [lambda v: v, (lambda v: width - v) if flip else (lambda v: v)]
    matrices, seen = [], []
    for ratio, start in zip(ratios, starts, strict=True):
        matrices.append(bilinear(SIDE, cams.shape[-1], ratio * cams.shape[-1] / side, start))
        places = [start(k + 0.5) * ratio for k in range(SIDE)]
        seen.append(np.array([0 <= place <= side for place in places]))
    rows, columns = matrices
    maps = np.stack([rows @ cam @ columns.T for cam in cams.double().numpy()])
    return maps, np.outer(*seen)


def plain_scores(model, image, views):
    """Logits (C,) and maps (C,SIDE,SIDE) averaged over (scale, flip, side)."""
    logits, total, count = [], 0, 0
    for scale, flip, side in views:
        z, cams = plain_logits(model, plain_input(image, side, scale, flip))
        maps, seen = plain_map_of_view(cams, image, side, scale, flip)
        logits.append(z)
        total = total + maps * seen
        count = count + seen
    return torch.stack(logits).mean(0), total / np.maximum(count, 1)


def plain_ap(scores, labels):
    """Mean over the positives of the precision at their rank; None without positives."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    found, precisions = 0, []
    for rank, i in enumerate(order, 1):
        if labels[i]:
            found += 1
            precisions.append(found / rank)
    return sum(precisions) / len(precisions) if precisions else None


def plain_numbers(model, data, views):
    """What inference prints, image by image and class by class."""
    logits, hits, losses = [], [], []
    thresholds = [round(0.1 + 0.05 * k, 2) for k in range(8)]
    counts = {t: np.zeros((21, 21), np.int64) for t in thresholds}
    for i in range(len(data)):
        image = data.image(i)
        z, maps = plain_scores(model, image, views)
        logits.append(z.tolist())
        y = data.split.labels[i]
        for c in range(20):
            losses.append(math.log1p(math.exp(-z[c])) if y[c] else math.log1p(math.exp(z[c])))
        for name in sorted({o.name for o in data.split.objects[i]}):
            c = CLASS_NAMES.index(name)
            row, column = np.unravel_index(maps[c].argmax(), maps[c].shape)
            boxes = [o.box for o in data.split.objects[i] if o.name == name]
            # a box counts from 1: pixel x is inside for xmin <= x + 1 <= xmax
            inside = any(x0 <= column + 1 <= x1 and y0 <= row + 1 <= y1 for x0, y0, x1, y1 in boxes)
            hits.append(bool(inside and maps[c].max() > 0))
        mask = data.mask(i)[:SIDE, :SIDE]
        present = np.flatnonzero(y).tolist()
        for t in thresholds:
            for r in range(mask.shape[0]):
                for k in range(mask.shape[1]):
                    best, label = t, 0
                    for c in present:
                        if maps[c, r, k] > best:
                            best, label = maps[c, r, k], c + 1
                    counts[t][mask[r, k], label] += 1
    aps = [plain_ap([z[c] for z in logits], data.split.labels[:, c]) for c in range(20)]
    ious = {}
    for t, confusion in counts.items():
        per_class = []
        for c in range(21):
            union = confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]
            if union:
                per_class.append(confusion[c, c] / union)
        ious[t] = 100 * statistics.mean(per_class)
    return {
        "logits": torch.tensor(logits),
        "map": 100 * statistics.mean(ap for ap in aps if ap is not None),
        "classes": sum(ap is not None for ap in aps),
        "eval_class_loss": statistics.mean(losses),
        "pointing": statistics.mean(hits),
        "cam_miou": max(ious.values()),
        "cam_threshold": max(ious, key=ious.get),
    }


# --- evaluation ---


@pytest.fixture(scope="module")
def run(devkit, tmp_path_factory):
    """Twelve steps of cMax on the tiny devkit: maps that are alive."""
    folder = tmp_path_factory.mktemp("composition") / "run"
    flags = f"{SMALL} --data_dir {devkit} --max_epoch 4 --lr 0.02 --eval_ema --output_dir {folder}"
    cmax.main(flags.split())
    return folder


VIEWS = {
    "": [(1.0, False, 64)],
    "--flip": [(1.0, False, 64), (1.0, True, 64)],
    "--scales 0.5,1.3 --flip": [
        (0.5, False, 64),
        (0.5, True, 64),
        (1.3, False, 96),
        (1.3, True, 96),
    ],
    "--scales 1.0,2": [(1.0, False, 64), (2.0, False, 128)],
}


@pytest.mark.parametrize("flags", VIEWS)
def test_every_number_of_an_evaluation(flags, run, devkit, tmp_path):
    argv = f"--checkpoint {run} --data_dir {devkit} --output_dir {tmp_path} {flags}"
    inference_classification.main(f"{argv} --cpu --num_workers 0 --cam_iou".split())
    summary = read(tmp_path / "summary.json")
    model = Trained(run).network()
    wanted = plain_numbers(model, VOC_Dataset_For_Testing_CAM(devkit, "val"), VIEWS[flags])

    rows = list(csv.reader((tmp_path / "predictions.csv").open()))[1:]
    predictions = torch.tensor([[float(p) for p in row[1:]] for row in rows])
    torch.testing.assert_close(predictions, wanted["logits"].sigmoid(), rtol=0, atol=2e-5)
    assert 0 < wanted["pointing"] < 1 and 0 < wanted["cam_miou"] < 100
    for name in ("map", "eval_class_loss", "cam_miou", "cam_threshold", "classes"):
        assert summary[name] == pytest.approx(wanted[name], rel=1e-3), name
    assert summary["pointing"] == pytest.approx(wanted["pointing"], abs=1e-9)


def test_a_runs_last_line_evaluates_its_last_weights_and_its_teacher(run, devkit):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = Trained(run / "checkpoints" / "last.pt")
    data = VOC_Dataset_For_Testing_CAM(devkit, "val")
    for split, network in (("Evaluation", "student"), ("Evaluation_ema", "teacher")):
        line = [line for line in lines if line["split"] == split][-1]
        wanted = plain_numbers(trained.network(network), data, VIEWS[""])
        assert line["map"] == pytest.approx(wanted["map"], rel=1e-3)
        assert line["pointing"] == pytest.approx(wanted["pointing"], abs=1e-9)
    summary = read(run / "summary.json")
    evaluations = [line["map"] for line in lines if line["split"] == "Evaluation"]
    assert summary["map"] == evaluations[-1] and summary["best_map"] == max(evaluations)


def test_the_gap_baselines_numbers_are_those_of_its_pooled_maps(small, devkit, tmp_path):
    argv = [*small, "--max_epoch", "1", "--lr", "0.02", "--output_dir", str(tmp_path)]
    summary = train(parse("gap", argv))
    model = Trained(tmp_path / "checkpoints" / "last.pt").network()
    data = VOC_Dataset_For_Testing_CAM(devkit, "val")
    pooled = []
    for i in range(len(data)):
        with torch.no_grad():
            pooled.append(
                model.class_maps(plain_input(data.image(i), SIDE))[0].mean((1, 2)).tolist()
            )
    aps = [plain_ap([z[c] for z in pooled], data.split.labels[:, c]) for c in range(20)]
    assert summary["map"] == pytest.approx(
        100 * statistics.mean(ap for ap in aps if ap is not None), rel=1e-3
    )
    assert summary["pointing"] == pytest.approx(
        plain_numbers(model, data, VIEWS[""])["pointing"], abs=1e-9
    )


# --- one step of training ---


def plain_keypoint(cam, strategy, k=5, distance=2):
    """[y, x] by the documented rule, of one map (G,G) at SIDE pixels."""
    up = F.interpolate(cam[None, None], (SIDE, SIDE), mode="bilinear")[0, 0].numpy()
    cell = SIDE // cam.shape[-1]
    y, x = np.unravel_index(up.argmax(), up.shape)
    if up.max() <= 0:
        y, x = SIDE // 2, SIDE // 2
    if strategy in ("cTopk", "cTopk-w"):
        peaks = (maximum_filter(up, 2 * distance + 1, mode="constant", cval=-np.inf) == up) & (
            up > up.min()
        )
        places = [
            (r, c)
            for r, c in np.argwhere(peaks)
            if distance <= min(r, c) and max(r, c) < SIDE - distance
        ]
        accepted = []
        for r, c in sorted(places, key=lambda place: -up[place]):
            if all(max(abs(r - a), abs(c - b)) >= distance for a, b in accepted):
                accepted.append((r, c))
        accepted = accepted[:k]
        y, x = SIDE // 2, SIDE // 2
        if accepted:
            weights = [1.0 if strategy == "cTopk" else float(up[place]) for place in accepted]
            y, x = (
                math.floor(
                    sum(w * place[axis] for w, place in zip(weights, accepted, strict=True))
                    / sum(weights)
                )
                for axis in (0, 1)
            )
    return [min(max(int(v), cell), SIDE - cell) for v in (y, x)]


def softmargin(z, t):
    return -(t * torch.log(torch.sigmoid(z)) + (1 - t) * torch.log(1 - torch.sigmoid(z))).mean()


def plain_step(student, teacher, images, labels, strategy):
    """L_cl, L_pcl, L_re of one batch, a pair after the other, each pair's tiles through a network
    in train mode.
    """
    tiler = copy.deepcopy(teacher if teacher is not None else student).train()
    with torch.no_grad():
        logits, maps = copy.deepcopy(student).train()(images, with_cam=True)
    cell = SIDE // maps.shape[-1]
    cl = statistics.mean(
        softmargin(z.double(), y.double()).item() for z, y in zip(logits, labels, strict=True)
    )
    pcl, re = [], []
    for b, y in enumerate(labels):
        cams = plain_cam(maps[b])
        present = torch.nonzero(y)[:, 0].tolist()
        if strategy == "uniform":
            pairs = [([SIDE // 2, SIDE // 2], y)]
        elif strategy == "max":
            highest = (
                torch.stack([cams[c] for c in present]).amax(0)
                if present
                else torch.zeros_like(cams[0])
            )
            pairs = [(plain_keypoint(highest, strategy), y)]
        else:
            pairs = [
                (plain_keypoint(cams[c], strategy), F.one_hot(torch.tensor(c), 20).float())
                for c in present
            ]
        for (row, column), target in pairs:
            tiles = loop_tiles(images[b], row, column, SIDE // 2)
            with torch.no_grad():
                tile_maps = tiler.class_maps(tiles)
            glued = loop_merge(tile_maps, row, column, SIDE, SIDE // cell)
            pcl.append(softmargin(glued.mean((1, 2)).double(), target.double()).item())
            masked = (maps[b] - glued).abs() * target[:, None, None]
            re.append(masked.double().mean().item())
    return cl, sum(pcl) / max(len(pcl), 1), sum(re) / max(len(re), 1), len(pcl)


@pytest.mark.parametrize("strategy", ["max", "cMax", "cTopk", "cTopk-w", "uniform"])
def test_the_logged_losses_of_a_step(strategy, small, tmp_path):
    """L = L_cl + alpha_p L_pcl + alpha_re L_re of the first batch, as the run logs it."""
    weights = "--alpha_p 0.5 --alpha_re 3 --alpha_schedule_re 0 --max_steps 1 --print_ratio 0.1"
    argv = [*small, *weights.split(), "--output_dir", str(tmp_path)]
    train(parse(strategy, argv))
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])

    settings = parse(strategy, argv)
    seed_everything(settings.args.seed)
    accelerator = make_accelerator(settings.args)
    batch = next(iter(build_data(settings, accelerator)[2]))
    student = build_student(settings).to(
        memory_format=torch.channels_last
    )  # rounds as the run does
    teacher = copy.deepcopy(student) if strategy.startswith("c") else None
    images, labels, _ = to_device(batch.data, accelerator.device, student.normalisation)
    cl, pcl, re, pairs = plain_step(student, teacher, images, labels, strategy)

    assert line["num_pairs"] == pairs > 0
    found = [line["class_loss"], line["p_class_loss"], line["re_loss"], line["loss"]]
    assert found == pytest.approx([cl, pcl, re, cl + 0.5 * pcl + 3 * re], rel=1e-4)


@pytest.mark.parametrize("strategy", ["gap", "none"])
def test_the_logged_loss_of_a_baseline(strategy, small, tmp_path):
    """L = L_cl, of the pooled maps or of the instances; no tiles."""
    argv = [*small, "--max_steps", "1", "--print_ratio", "0.1", "--output_dir", str(tmp_path)]
    train(parse(strategy, argv))
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    settings = parse(strategy, argv)
    seed_everything(settings.args.seed)
    accelerator = make_accelerator(settings.args)
    batch = next(iter(build_data(settings, accelerator)[2]))
    student = build_student(settings).to(memory_format=torch.channels_last).train()
    images, labels, _ = to_device(batch.data, accelerator.device, student.normalisation)
    with torch.no_grad():
        logits, maps = student(images, with_cam=True)
    scores = maps.mean((2, 3)) if strategy == "gap" else logits
    wanted = statistics.mean(
        softmargin(z.double(), y.double()).item() for z, y in zip(scores, labels, strict=True)
    )
    dead = [float(maps[b, c].max() <= 1e-5) for b, c in torch.nonzero(labels).tolist()]
    assert [line["loss"], line["class_loss"]] == pytest.approx([wanted, wanted], rel=1e-5)
    assert line["p_class_loss"] == line["re_loss"] == line["num_pairs"] == 0
    assert line["dead_cam"] == pytest.approx(statistics.mean(dead), abs=1e-6)


def test_the_teacher_is_the_average_of_the_students(small, tmp_path, monkeypatch):
    """theta' <- a theta' + (1 - a) theta, a = min(1 - 1/(i+1), alpha), over the students of six
    steps.
    """
    names = ("classifier.weight", "model.layer2.0.conv1.weight", "BN.3.weight")
    students, teachers = [], []

    def spy(teacher, student, *rest):
        real(teacher, student, *rest)
        for network, states in ((student, students), (teacher, teachers)):
            states.append({name: network.state_dict()[name].double().clone() for name in names})

    real = training.move_teacher
    monkeypatch.setattr(training, "move_teacher", spy)
    cmax.main([*small, "--output_dir", str(tmp_path), "--alpha_ema", "0.6"])
    assert len(students) == 6
    for name in names:
        average = torch.zeros(())
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            a = min(1 - 1 / (i + 1), 0.6)
            average = a * average + (1 - a) * student[name]
            torch.testing.assert_close(teacher[name], average, rtol=1e-5, atol=1e-7)
    last = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["state"]["teacher"]
    assert torch.equal(last[names[0]].double(), teachers[-1][names[0]])


# --- instances as features ---


def test_the_precision_of_nearest_instances():
    rng = np.random.default_rng(0)
    instances = rng.normal(size=(12, 3, 4)).astype(np.float32)
    labels = (rng.random((12, 3)) < 0.4).astype(np.float32)
    shares = []
    for i in range(12):
        for c in range(3):
            if not labels[i, c]:
                continue
            own = instances[i, c]
            others = [j for j in range(12) if j != i]
            cosines = {
                j: float(
                    own @ instances[j, c] / np.linalg.norm(own) / np.linalg.norm(instances[j, c])
                )
                for j in others
            }
            nearest = sorted(others, key=lambda j: -cosines[j])[:5]
            shares.append(sum(labels[j, c] for j in nearest) / 5)
    assert neighbour_precision(instances, labels) == pytest.approx(statistics.mean(shares))
