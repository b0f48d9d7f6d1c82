"""How much faster csl's parts are than the plain way, both timed in this process, best of n.

    python benchmarks/bench_csl.py             # about a minute on one core

The plain ways are written for this file after the description of the released code: boolean gathers
and a full argsort in the loss, one sort a class in numpy, a dict of tensors, Python per annotation.
Results are checked against ours. The loss is that of `csl/fast.py`.
"""

import json
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ratios
import torch
from ratios import best_seconds

from csl.data_coco import CocoDetection
from csl.data_labels import LabelTable
from csl.evaluate_metrics import AP_partial, mAP
from csl.src.helper_functions.coco_simulation import simulate_coco
from csl.src.loss_functions.partial_asymmetric_loss import PartialSelectiveLoss

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


def plain_loss(z: torch.Tensor, y: torch.Tensor, prior: torch.Tensor | None) -> torch.Tensor:
    """Three masked logs; un-annotated probabilities gathered and sorted; the prior uploaded."""
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

        def run(loss: Callable[[], torch.Tensor]) -> Callable[[], object]:
            return lambda: torch.autograd.grad(loss(), z)

        return (
            best_seconds(run(lambda: plain_loss(z, long, prior)), 20 * repeats),
            best_seconds(run(lambda: ours(z, y)), 20 * repeats),
        )

    return bench


def plain_map(targets: np.ndarray, scores: np.ndarray) -> float:
    """Per class: argsort, cumulative sums over all rows."""
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
    return (
        best_seconds(lambda: plain_map(targets, scores), 3 * repeats),
        best_seconds(lambda: mAP(targets, scores), 3 * repeats),
    )


def bench_ap_partial(repeats: int) -> tuple[float, float]:
    """Annotated rows picked class by class, against one pass over the annotated entries."""
    targets, scores = scored(10_000, 80)
    targets[np.random.default_rng(1).random(targets.shape) < 0.5] = -1

    def plain() -> float:
        ap = []
        for c in range(targets.shape[1]):
            rows = targets[:, c] != -1
            ap.append(plain_map(targets[rows, c][:, None], scores[rows, c][:, None]))
        return float(np.mean(ap))

    assert abs(plain() - AP_partial(targets, scores)[1]) < 1e-6
    return best_seconds(plain, 3 * repeats), best_seconds(
        lambda: AP_partial(targets, scores), 3 * repeats
    )


class Labelled:
    """A data set as the simulation sees it."""

    def __init__(self, targets_all: object) -> None:
        self.targets_all = targets_all


def plain_fpc(targets_all: dict[int, torch.Tensor], param: int) -> dict[int, torch.Tensor]:
    """Stack the dict, draw per class, and make a dict again."""
    ids = list(targets_all)
    labels = np.array([targets_all[i].numpy() for i in ids])
    partial = -np.ones(labels.shape)
    for c in range(labels.shape[1]):
        for value in (1, 0):
            rows = np.where(labels[:, c] == value)[0]
            chosen = np.random.choice(rows, min(param, len(rows)), replace=False)  # noqa: NPY002
            partial[chosen, c] = value
    return {i: torch.tensor(row) for i, row in zip(ids, partial, strict=True)}


def bench_fpc(repeats: int) -> tuple[float, float]:
    labels = (np.random.default_rng(0).random((20_000, 80)) < 0.04).astype(np.int8)
    as_dict = {i: torch.from_numpy(row) for i, row in enumerate(labels)}
    table = LabelTable(range(20_000), labels)
    args = Namespace(simulate_partial_type="fpc", simulate_partial_param=1000, seed=0)
    ours = simulate_coco(args, Labelled(table), verbose=False).targets_all.matrix
    plain = np.stack([row.numpy() for row in plain_fpc(as_dict, 1000).values()])
    assert all((plain == v).sum() == (ours == v).sum() for v in (-1, 0, 1))
    return (
        best_seconds(lambda: plain_fpc(as_dict, 1000), repeats),
        best_seconds(lambda: simulate_coco(args, Labelled(table), verbose=False), 3 * repeats),
    )


def plain_targets(content: dict) -> dict[int, torch.Tensor]:
    """Python per annotation into three size bins, their maximum per image."""
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

    return best_seconds(lambda: plain_targets(content), repeats), best_seconds(ours, 3 * repeats)


BENCHES = {
    "loss, forward + backward, 64 x 80": (bench_loss(64, 80, False), 2.6),
    "loss, forward + backward, 32 x 9605, prior": (bench_loss(32, 9605, True), 4.0),
    "mAP, 10,000 x 80": (bench_map, 1.9),
    "AP_partial, 10,000 x 80, half annotated": (bench_ap_partial, 1.0),
    "FPC 1000, 20,000 x 80": (bench_fpc, 2.0),
    "COCO labels, 36,000 annotations": (bench_targets, 10.0),
}


if __name__ == "__main__":
    ratios.main(__doc__, BENCHES)
