"""The candidate sets of a run: drawn once from (seed, 1), read, or those of the data."""

import argparse
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from cavl import method
from cavl.build import build_model, build_optimizer, on_device, require_full_batches
from cavl.build_saved import load_weights
from cavl.data import PartialData
from cavl.data_candidates import read_candidates, require_no_empty_row
from cavl.data_resident import Images
from cavl.data_sets import PackedSets, Sets, compact, is_large, packed, row_blocks
from cavl.evaluate import predict
from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.loading import epoch_order
from common.run import Run

one_module(__name__, "cavl.build_candidates")

ORACLE_EPOCHS = 20
Law = Literal["released", "exact"]
LAWS: dict[str, Law] = {"uss": "released", "uss_exact": "exact"}


def draw_candidates(args: argparse.Namespace, data: PartialData, run: Run) -> Sets:
    """The matrix Y (n, K) uint8 of this run, as bits where it is large.

    Data that come with candidate sets keep them; an empty row is an error.
    """
    candidates: Sets | None = data.own_sets
    if candidates is None:
        candidates = _sets_of(args, data, run)
    require_no_empty_row(candidates, args.ds)
    return compact(candidates) if isinstance(candidates, torch.Tensor) else candidates


def _sets_of(args: argparse.Namespace, data: PartialData, run: Run) -> Sets:
    """The sets of -partial_type."""
    generator = np.random.default_rng([args.seed, 1])
    labels = data.train_y.numpy()
    k = data.num_classes
    if args.partial_type == "file":
        return read_candidates(args.partial_file, len(labels), k)
    drawn_in_blocks = args.partial_type in LAWS or args.partial_type == "fps"
    if is_large(len(labels), k) and drawn_in_blocks:
        return _drawn_in_blocks(args, labels, k, generator)
    if args.partial_type in LAWS:
        return method.draw_uniform_sets(labels, k, generator, LAWS[args.partial_type])
    return method.draw_flipped_sets(labels, k, _flip_probability(args, data, run), generator)


class _SizesFirst:
    """A stream whose first numbers, one a sample, were drawn for all blocks before the others."""

    def __init__(self, of_sizes: np.ndarray, generator: np.random.Generator) -> None:
        self.of_sizes = of_sizes
        self.generator = generator

    def random(self, size: tuple[int, ...], /) -> np.ndarray:
        """Those of the sizes, (n,), then new ones, (n, K)."""
        return self.of_sizes if len(size) == 1 else self.generator.random(size)


def _drawn_in_blocks(
    args: argparse.Namespace, labels: np.ndarray, k: int, generator: np.random.Generator
) -> PackedSets:
    """The sets that one call for all samples would draw, from the same numbers, as bits."""
    bits = torch.empty((len(labels), -(-k // 8)), dtype=torch.uint8)
    of_sizes = None
    if args.partial_type in LAWS:
        of_sizes = generator.random((len(labels),))
    for rows in row_blocks(len(labels), k):
        if of_sizes is not None:
            stream = _SizesFirst(of_sizes[rows], generator)
            law = LAWS[args.partial_type]
            drawn = method.draw_uniform_sets(labels[rows], k, stream, law)
        else:
            drawn = method.draw_flipped_sets(labels[rows], k, args.q, generator)
        bits[rows] = packed(drawn)
    return PackedSets(bits, k)


def _flip_probability(args: argparse.Namespace, data: PartialData, run: Run) -> float | np.ndarray:
    """The chance of false labels to join: one number, or (n, K)."""
    if args.partial_type == "fps":
        return args.q

    k = data.num_classes
    if args.partial_type == "case":
        if k != 10:
            problem = f"the flip matrices are for 10 classes, {args.ds} has {k}"
            raise UserError(f"-ca {args.ca}: {problem}")
        return method.class_dependent_flip_probability(data.train_y.numpy(), args.ca)

    rate = args.rate
    if rate is None:
        rate = 0.04 if k >= 100 else 0.4
    probs = oracle_probabilities(args, data, run)
    return method.instance_dependent_flip_probability(probs, data.train_y, rate).numpy()


def oracle_probabilities(args: argparse.Namespace, data: PartialData, run: Run) -> torch.Tensor:
    """p (n, K) float64 of a model trained on the true labels: -oracle, or trained here."""
    device = run.accelerator.device
    model = on_device(build_model(args, data), device)
    images = Images(data.train_x, device, mean=data.mean, std=data.std, limit_gb=args.resident_gb)
    path = args.oracle or run.folder / "oracle.pt"
    # What lies in the folder of a new run may have been trained with another seed or rate.
    is_own = run.source is not None and path.is_file()
    if args.oracle is not None or is_own:
        checkpoint.load_into(model, load_weights(path), path)
    else:
        require_full_batches(args, data, processes=1)
        what = f"{ORACLE_EPOCHS} epochs on true labels"
        run.print(f"training the oracle of the instance-dependent sets: {what}")
        optimizer = build_optimizer(args, model)
        labels = data.train_y.to(device)
        train_oracle(model, optimizer, images, labels, run, seed=args.seed, batch_size=args.bs)
        if run.is_main:
            checkpoint.save(path, {"state": {"model": model.state_dict()}})
    return predict(model, images).double().softmax(1).cpu()


def train_oracle(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    labels: torch.Tensor,
    run: Run,
    *,
    seed: int,
    batch_size: int,
) -> None:
    """Ordinary training on the true labels.

    Every process trains the same oracle, on the same order: cheaper than to agree on one.
    """
    model.train()
    for epoch in range(ORACLE_EPOCHS):
        order = epoch_order(len(images), seed, epoch).to(images.device)
        for index in order.split(batch_size):
            loss = F.cross_entropy(model(images[index]), labels[index])
            run.guard(loss, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.poll()
