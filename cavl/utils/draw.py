"""The candidate sets of a run: drawn once from (seed, 1), or read; described, and saved in the run directory."""

import argparse
from pathlib import Path

import numpy as np
import torch

from cavl.utils.build import build_model, build_optimizer, load_weights, require_full_batches
from cavl.utils.datasets import PartialData
from cavl.utils.resident import Images, predict
from cavl.utils.utils_data import (
    generate_flip_candidate_labels,
    generate_instance_dependent_candidate_labels,
    generate_uniform_cv_candidate_labels,
    generate_uniform_cv_candidate_labels_case,
)
from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.loading import epoch_order
from common.run import Run
from common.text import require_file

one_module(__name__, "cavl.utils.draw")

ORACLE_EPOCHS = 20


def draw_candidates(args: argparse.Namespace, data: PartialData, run: Run) -> torch.Tensor:
    """The matrix Y (n,K) uint8 of this run. Data that come with candidate sets keep them; an empty row is an error."""
    candidates = data.own_sets if data.own_sets is not None else _generate(args, data, run)
    _require_candidates(candidates, args.ds)
    return candidates.to(torch.uint8)


def _require_candidates(candidates: torch.Tensor, source: str) -> None:
    """UserError where a row is empty."""
    empty = (candidates.sum(1) == 0).nonzero().flatten()
    if len(empty):
        raise UserError(
            f"{source}: {len(empty)} samples have no candidate, the first are {empty[:5].tolist()}"
        )


def describe_candidates(candidates: torch.Tensor, data: PartialData, run: Run) -> None:
    """Print the mean size, and a warning for full or singleton matrices and true labels outside their sets."""
    sizes = candidates.sum(1)
    run.print(f"candidate sets: mean size {sizes.float().mean():.2f} of {data.num_classes} classes")
    outside = (
        (candidates[torch.arange(len(candidates)), data.train_y] == 0).nonzero().flatten().tolist()
    )
    if outside:
        told = f"{len(outside)} rows (noisy partial labels), the first are {outside[:5]}"
        run.print(f"warning: the true label is not a candidate in {told}")
    if int(sizes.max()) == 1:
        run.print("warning: every set holds one label: this is ordinary supervised learning")
    if int(sizes.min()) == data.num_classes:
        run.print("warning: every set is full: there is nothing to learn from")


def save_candidates(candidates: torch.Tensor, run: Run) -> None:
    """Write candidates.npy, once it is sure that the run goes on."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, candidates.numpy())

    if run.is_main:
        checkpoint.atomic_save(run.folder / "candidates.npy", write)


def _generate(args: argparse.Namespace, data: PartialData, run: Run) -> torch.Tensor:
    generator, k, y = np.random.default_rng([args.seed, 1]), data.num_classes, data.train_y
    if args.partial_type in ("uss", "uss_exact"):
        law = "released" if args.partial_type == "uss" else "exact"
        return generate_uniform_cv_candidate_labels(
            args.ds, y, law=law, num_classes=k, generator=generator
        )
    if args.partial_type == "fps":
        return generate_flip_candidate_labels(y, args.q, num_classes=k, generator=generator)
    if args.partial_type == "case":
        if k != 10:
            raise UserError(
                f"-ca {args.ca}: the flip matrices are for 10 classes, {args.ds} has {k}"
            )
        return generate_uniform_cv_candidate_labels_case(args.ds, y, args.ca, generator=generator)
    if args.partial_type == "file":
        return read_candidates(args.partial_file, y, k)
    probs = oracle_probabilities(args, data, run)
    rate = args.rate if args.rate is not None else (0.04 if k >= 100 else 0.4)
    return generate_instance_dependent_candidate_labels(probs, y, rate, generator=generator)


def read_candidates(path: Path, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Read a (n,K) matrix of 0/1 from .npy or .npz (its only array); UserError says what does not fit.

    Rows without a candidate and pickled arrays are errors too.
    """
    matrix = _only_array(path)
    if matrix.shape != (len(labels), num_classes):
        raise UserError(
            f"-partial_file {path}: shape {matrix.shape}, expected {(len(labels), num_classes)}"
        )
    if matrix.dtype.kind not in "biuf":
        raise UserError(
            f"-partial_file {path}: an array of {matrix.dtype}, expected numbers 0 and 1"
        )
    wrong = np.argwhere(~np.isin(matrix, (0, 1)))
    if len(wrong):
        raise UserError(
            f"-partial_file {path}: {len(wrong)} values not 0 or 1, the first at {wrong[:3].tolist()}"
        )
    candidates = torch.from_numpy(matrix.astype(np.uint8))
    _require_candidates(candidates, f"-partial_file {path}")
    return candidates


def _only_array(path: Path) -> np.ndarray:
    """The array of a .npy file, or the only one of a .npz file."""
    path = require_file(path)
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            names = content.files
            arrays = [content[name] for name in names[:1]]
    except Exception as error:  # numpy raises many kinds for a damaged file
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else error
        raise UserError(
            f"-partial_file {path}: cannot be read as .npy or .npz ({reason})"
        ) from error
    if len(names) != 1:
        told = ", ".join(names[:5]) or "none"
        raise UserError(
            f"-partial_file {path}: expected a single array, it holds {len(names)}: {told}"
        )
    return arrays[0]


def oracle_probabilities(args: argparse.Namespace, data: PartialData, run: Run) -> torch.Tensor:
    """Softmax (n,K) of a model trained on the true labels: -oracle, or trained here and saved as oracle.pt."""
    model = build_model(args, data).to(run.accelerator.device, memory_format=torch.channels_last)
    images = Images(
        data.train_x,
        run.accelerator.device,
        mean=data.mean,
        std=data.std,
        limit_gb=args.resident_gb,
    )
    path = args.oracle or run.folder / "oracle.pt"
    # What lies in the folder of a new run may have been trained with another seed or rate.
    is_own = run.source is not None and path.is_file()
    if args.oracle is None and not is_own:
        run.print(
            f"training the oracle of the instance-dependent sets: {ORACLE_EPOCHS} epochs on true labels"
        )
        _train_oracle(args, data, model, images, run)
        if run.is_main:
            checkpoint.save(path, {"state": {"model": model.state_dict()}})
    else:
        checkpoint.load_into(model, load_weights(path), path)
    return predict(model, images).double().softmax(1).cpu()


def _train_oracle(
    args: argparse.Namespace, data: PartialData, model: torch.nn.Module, images: Images, run: Run
) -> None:
    """Every process trains the same oracle, on the same order: cheaper than to agree on one."""
    require_full_batches(args, data, processes=1)
    optimizer = build_optimizer(args, model)
    labels = data.train_y.to(images.device)
    model.train()
    for epoch in range(ORACLE_EPOCHS):
        for index in epoch_order(len(images), args.seed, epoch).to(images.device).split(args.bs):
            loss = torch.nn.functional.cross_entropy(model(images[index]), labels[index])
            run.guard(loss, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.poll()
