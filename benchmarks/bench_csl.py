"""How much faster csl's parts are than the plain way, both timed in this process, best of n.

    python benchmarks/bench_csl.py             # about a minute on one core

The plain ways are written for this file after the description of the released code: boolean gathers
and a full argsort in the loss, one sort a class in numpy, a dict of rows, Python per annotation.
Results are checked against ours; each says by what its speed was checked. The loss is that of
`csl/fast.py`.

Steps: the batch step of train.py, its loader included, against the network alone.
"""

import itertools
import json
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ratios
import torch
import torch.nn.functional as F
from PIL import Image
from ratios import alternating
from torch.optim import Adam

from common.loading import Batch
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from csl.build import Loaded, build, build_loaders
from csl.data_coco import CocoDetection
from csl.data_labels import LabelTable
from csl.evaluate_metrics import AP_partial, mAP
from csl.options import parse
from csl.src.helper_functions.coco_simulation import simulate_coco
from csl.src.loss_functions.partial_asymmetric_loss import PartialSelectiveLoss
from csl.src.models.utils.factory import build_network
from csl.train import train_batch

SETTINGS = {
    "clip": 0.0,
    "gamma_pos": 0.0,
    "gamma_neg": 3.0,
    "gamma_unann": 4.0,
    "alpha_pos": 1.0,
    "alpha_neg": 1.0,
    "alpha_unann": 1.0,
    "partial_loss_mode": "selective",
    "likelihood_topk": 5,
    "prior_threshold": 0.5,
    "prior_path": None,
}
STEPS_A_BLOCK = 10  # of the loss: a single step is too short for the clock


def plain_loss(z: torch.Tensor, y: torch.Tensor, prior: torch.Tensor | None) -> torch.Tensor:
    """Three masked logs; un-annotated probabilities gathered and sorted; the prior uploaded.

    Checked against the same masks and products written in place, into weights that are kept from
    step to step, as the released code has them: both take the same time (64 x 80: 0.77 and 0.77 ms;
    32 x 9605: 39.0 and 38.8 ms).
    """
    args = Namespace(**SETTINGS)
    p = torch.sigmoid(z)
    q = 1 - p
    positive = (y == 1).float()
    negative = (y == 0).float()
    unannotated = (y == -1).float()
    weights = torch.ones(y.shape)
    with torch.no_grad():
        if prior is not None:
            frequent = torch.tensor(prior.tolist()) > args.prior_threshold
            weights[(y == -1) & frequent] = 0
        flat = q.detach().flatten()
        where = torch.nonzero(y.flatten() == -1).flatten()
        order = torch.argsort(flat[where])
        weights.view(-1)[where[order[: args.likelihood_topk * len(y)]]] = 0
    loss = positive * torch.log(p.clamp(min=1e-8))
    loss = loss + negative * torch.log(q.clamp(min=1e-8))
    loss = loss + unannotated * torch.log(q.clamp(min=1e-8))
    with torch.no_grad():
        base = 1 - p * positive - q * (negative + unannotated)
        gamma = (
            args.gamma_pos * positive + args.gamma_neg * negative + args.gamma_unann * unannotated
        )
        weights = weights * torch.pow(base, gamma)
    return -(loss * weights).sum()


def bench_loss(rows: int, classes: int, with_prior: bool) -> Callable[[int], tuple[float, float]]:
    """Forward and backward on random logits, 1 % positives, 20 % negatives."""

    def bench(repeats: int) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(0)
        u = torch.rand(rows, classes, generator=generator)
        y = torch.where(u < 0.01, 1, torch.where(u < 0.2, 0, -1)).to(torch.int8)
        z = torch.randn(rows, classes, generator=generator).requires_grad_()
        prior = torch.rand(classes, generator=generator) * 0.55 if with_prior else None
        ours = PartialSelectiveLoss(Namespace(**SETTINGS))
        ours.prior_classes = prior
        long = y.long()
        torch.testing.assert_close(ours(z, y), plain_loss(z, long, prior), rtol=1e-5, atol=0)

        def block(loss: Callable[[], torch.Tensor]) -> Callable[[], object]:
            return lambda: [torch.autograd.grad(loss(), z) for _ in range(STEPS_A_BLOCK)]

        plain = block(lambda: plain_loss(z, long, prior))
        times = alternating(plain, block(lambda: ours(z, y)), 5 * repeats)
        return times[0] / STEPS_A_BLOCK, times[1] / STEPS_A_BLOCK

    return bench


def plain_map(targets: np.ndarray, scores: np.ndarray) -> float:
    """Per class: argsort, cumulative sums over all rows.

    Checked against a form that sorts upwards, turns the order round and sums ones for the ranks, as
    the released code does: this one takes 0.9 times as long.
    """
    ap = np.zeros(scores.shape[1])
    for c in range(scores.shape[1]):
        positive = targets[np.argsort(-scores[:, c]), c] == 1
        total = np.cumsum(positive)
        precision = np.where(positive, total / np.arange(1, len(total) + 1), 0)
        ap[c] = precision.sum() / (total[-1] + 1e-8)
    return 100 * ap.mean()


def scored(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets int64 with 4 % positives; scores float32 without ties, which a sort would toss."""
    rng = np.random.default_rng(0)
    ranks = np.tile(np.arange(rows, dtype=np.float32)[:, None], classes)
    return (rng.random((rows, classes)) < 0.04).astype(np.int64), rng.permuted(ranks, axis=0) / rows


def bench_map(repeats: int) -> tuple[float, float]:
    targets, scores = scored(10_000, 80)
    assert abs(plain_map(targets, scores) - mAP(targets, scores)) < 1e-6
    plain = partial(plain_map, targets, scores)
    return alternating(plain, partial(mAP, targets, scores), 3 * repeats)


def bench_ap_partial(repeats: int) -> tuple[float, float]:
    """Annotated rows picked class by class, against one pass over the annotated entries.

    The plain way calls `plain_map` for every class; it was checked as that was (0.9 times as long
    as the released order of operations).
    """
    targets, scores = scored(10_000, 80)
    targets[np.random.default_rng(1).random(targets.shape) < 0.5] = -1

    def plain() -> float:
        ap = []
        for c in range(targets.shape[1]):
            rows = targets[:, c] != -1
            ap.append(plain_map(targets[rows, c][:, None], scores[rows, c][:, None]))
        return float(np.mean(ap))

    assert abs(plain() - AP_partial(targets, scores)[1]) < 1e-6
    return alternating(plain, partial(AP_partial, targets, scores), 3 * repeats)


class Labelled:
    """A data set as the simulation sees it."""

    def __init__(self, targets_all: object) -> None:
        self.targets_all = targets_all


def plain_fpc(targets_all: dict[int, torch.Tensor], param: int) -> dict[int, np.ndarray]:
    """Stack the dict, draw per class, and make a dict of rows again.

    Checked by the shares of its time: 42 % is stacking, 55 % the draws, 3 % the dict of zip; a
    tensor for every row, which the released code does not make, would double it.
    """
    ids = list(targets_all)
    labels = np.array([targets_all[i].numpy() for i in ids])
    kept = -np.ones(labels.shape)
    for c in range(labels.shape[1]):
        for value in (1, 0):
            rows = np.where(labels[:, c] == value)[0]
            chosen = np.random.choice(rows, min(param, len(rows)), replace=False)  # noqa: NPY002
            kept[chosen, c] = value
    return dict(zip(ids, kept, strict=True))


def bench_fpc(repeats: int) -> tuple[float, float]:
    labels = (np.random.default_rng(0).random((20_000, 80)) < 0.04).astype(np.int8)
    as_dict = {i: torch.from_numpy(row) for i, row in enumerate(labels)}
    table = LabelTable(range(20_000), labels)
    args = Namespace(simulate_partial_type="fpc", simulate_partial_param=1000, seed=0)
    ours = simulate_coco(args, Labelled(table), verbose=False).targets_all.matrix
    plain = np.stack(list(plain_fpc(as_dict, 1000).values()))
    assert all((plain == v).sum() == (ours == v).sum() for v in (-1, 0, 1))

    def ours_again() -> object:
        return simulate_coco(args, Labelled(table), verbose=False)

    return alternating(partial(plain_fpc, as_dict, 1000), ours_again, 3 * repeats)


def plain_targets(content: dict) -> dict[int, torch.Tensor]:
    """Python per annotation into three size bins, their maximum per image.

    Checked by its time for 5,000 images: 240 ms, as was measured of the released code on one core.
    """
    index = {c["id"]: k for k, c in enumerate(content["categories"])}
    by_image: dict[int, list] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    targets = {}
    for image_id, annotations in by_image.items():
        bins = torch.zeros((3, len(index)), dtype=torch.long)
        for a in annotations:
            size = 0 if a["area"] < 32 * 32 else 1 if a["area"] < 96 * 96 else 2
            bins[size][index[a["category_id"]]] = 1
        targets[image_id] = bins.max(dim=0)[0]
    return targets


def bench_targets(repeats: int) -> tuple[float, float]:
    """Labels of 5,000 images with 36,000 annotations, the json already read."""
    rng = np.random.default_rng(0)
    annotations = [
        {"id": k, "image_id": int(i), "category_id": int(c), "area": float(a)}
        for k, (i, c, a) in enumerate(
            zip(
                rng.integers(1, 5001, 36_000),
                rng.integers(1, 81, 36_000),
                rng.integers(1, 20_000, 36_000),
                strict=True,
            )
        )
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, 5001)],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in range(1, 81)],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.json"
        file.write_text(json.dumps(content))
        data = CocoDetection(folder, file)
    expected = plain_targets(content)
    assert all(torch.equal(data.targets_all[i].long(), expected[i]) for i in data.ids)

    def ours() -> None:
        data.__dict__.pop("targets_all")
        assert data.targets_all.matrix.shape == (len(data.ids), 80)

    return alternating(partial(plain_targets, content), ours, 3 * repeats)


class Prepared(NamedTuple):
    """A run of train.py before its first step; `step` takes the next batch of its loader."""

    args: Namespace
    loaded: Loaded
    step: Callable[[], object]


def prepare(options: ratios.Options, folder: str, *flags: str) -> Prepared:
    """The run of `train.py --partial_loss_mode=selective FLAGS`, built as the program builds it."""
    precision = options.mixed_precision
    fixed = ["--partial_loss_mode=selective", "--mixed_precision", precision, "--epochs", "1000"]
    settings = parse([*fixed, "--output_dir", f"{folder}/run", *flags])
    args = settings.args
    accelerator = make_accelerator(args)
    run = start_run(args, folder, accelerator)
    seed_everything(args.seed)
    loaded = build_loaders(args, settings.found, accelerator)
    parts = build(settings, run, loaded.train_set, loaded.sampler.batches, None)
    network, optimizer = accelerator.prepare(parts.model, parts.optimizer)
    network = options.compiled(network).train()
    parts = parts._replace(optimizer=optimizer)

    def endless() -> Iterator[Batch]:
        for epoch in itertools.count():
            loaded.sampler.set_epoch(epoch)
            yield from loaded.train_loader

    batches = endless()

    def step() -> None:
        batch = next(batches)
        train_batch(run, parts, network, batch)
        run.step(len(batch.index))

    run.close()  # gives the signal handlers back
    return Prepared(args, loaded, step)


def bare_step(options: ratios.Options, prepared: Prepared) -> Callable[[], object]:
    """Forward, binary cross entropy, backward and fused Adam on a batch that lies in memory."""
    args = prepared.args
    device = options.device
    classes = len(prepared.loaded.train_set.classes)
    model = build_network(args.model_name, classes).to(device)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = Adam(model.parameters(), lr=1e-4, fused=True)
    network = options.compiled(model)
    size = (args.batch_size, 3, args.image_size, args.image_size)
    images = torch.rand(size, device=device).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 2, (args.batch_size, classes), device=device).float()

    def step() -> None:
        with options.autocast():
            logits = network(images)
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def sample_step(options: ratios.Options) -> ratios.Step:
    """train.py --sample: tresnet_tiny, 32 pictures of 64 pixels, kept decoded, with a shift."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(options, folder, "--sample")
        for _ in prepared.loaded.train_loader:  # the first epoch reads the files
            pass
    return ratios.Step(prepared.step, bare_step(options, prepared), prepared.args.batch_size)


FOLDERS: list[tempfile.TemporaryDirectory] = []  # of pictures, until the program ends


def write_photographs(root: Path, count: int = 64, classes: int = 80) -> None:
    """A COCO folder of smooth noise as JPEG, 640 x 427, three labels a picture; val is train."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, count + 1)]
    annotations = [
        {"id": 3 * i + k, "image_id": i, "category_id": int(c), "area": 1.0}
        for i in range(1, count + 1)
        for k, c in enumerate(rng.choice(classes, 3, replace=False) + 1)
    ]
    categories = [{"id": c, "name": str(c)} for c in range(1, classes + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val"):
        (root / f"{split}2014").mkdir()
        (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))
        for image in images:
            small = rng.integers(0, 256, (107, 160, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((640, 427), Image.Resampling.BICUBIC)
            picture.save(root / f"{split}2014" / str(image["file_name"]), quality=90)


def photographs_step(options: ratios.Options) -> ratios.Step:
    """ResNet-50 on photographs read from JPEG every time, 224 pixels, with CutoutPIL, RandAugment.

    On a CPU 4 pictures and no workers, whose time would not be counted; on a GPU 64 and 8.
    """
    batch_size, workers = (64, 8) if options.device.type == "cuda" else (4, 0)
    FOLDERS.append(tempfile.TemporaryDirectory())
    root = Path(FOLDERS[-1].name)
    write_photographs(root, count=16 * batch_size)
    flags = ["--data", str(root), "--model_name", "timm/resnet50", "--image_size", "224"]
    flags += ["--batch_size", str(batch_size), "--workers", str(workers)]
    flags += ["--simulate_partial_type", "rps", "--simulate_partial_param", "0.5"]
    prepared = prepare(options, str(root), *flags)
    prepared.loaded.train_set.read.kept = None  # a set of this size would be kept decoded
    return ratios.Step(prepared.step, bare_step(options, prepared), batch_size)


BENCHES = {
    "loss, forward + backward, 64 x 80": (bench_loss(64, 80, False), 2.6),
    "loss, forward + backward, 32 x 9605, prior": (bench_loss(32, 9605, True), 4.0),
    "mAP, 10,000 x 80": (bench_map, 1.9),
    "AP_partial, 10,000 x 80, half annotated": (bench_ap_partial, 1.0),
    "FPC 1000, 20,000 x 80": (bench_fpc, 2.0),
    "COCO labels, 36,000 annotations": (bench_targets, 10.0),
}


STEPS = {
    "sample, tresnet_tiny, 32 of 64 px": (sample_step, 1.2),
    "photographs, resnet50, 224 px": (photographs_step, None),
}


if __name__ == "__main__":
    ratios.main(__doc__, BENCHES, STEPS)
