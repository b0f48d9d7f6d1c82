"""Partial annotation simulated on complete labels: fix per class (FPC), random per sample (RPS), single positive.

The mask comes from a generator of its own, seeded: the same seed gives the same mask in every process.
"""

import argparse
import hashlib
import io
import math
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import UserError
from common.text import once, require_file
from csl.src.domain import require_labels
from csl.src.errors import MissingFileError, SettingsError, as_settings_errors
from csl.src.helper_functions.classes import listed
from csl.src.helper_functions.label_table import LabelTable, label_matrix

one_module(__name__, "csl.src.helper_functions.coco_simulation")

# What numpy raises for files that are no npz, or damaged.
DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, BadZipFile, zlib.error),
    *(struct.error, NotImplementedError, RuntimeError),
)
SCHEMES = {
    "fpc": "fpc",
    "fix_per_class": "fpc",
    "rps": "rps",
    "random_per_sample": "rps",
    "single_positive": "single_positive",
}


def simulate_coco(
    args: argparse.Namespace,
    dataset_train: Any,
    mode: str | None = None,
    param: float | None = None,
    *,
    verbose: bool = True,
) -> Any:
    """Replace dataset_train.targets_all (same keys, same order) by partially annotated labels; returns the data set.

    fpc: of each class min(param, available) positives and as many negatives stay, chosen uniformly. rps: each
    entry is dropped (becomes -1) with probability param. single_positive: one positive an image stays.
    `mode` and `param` default to args.simulate_partial_type and args.simulate_partial_param; args.seed to 0.
    SettingsError (a ValueError): an unknown mode, a parameter of another mode, no labels, other labels than 1, 0, -1.
    """
    scheme = scheme_of(mode or args.simulate_partial_type)
    param = args.simulate_partial_param if param is None else param
    check_param(scheme, param)
    if not len(dataset_train.targets_all):
        raise SettingsError(f"--simulate_partial_type {scheme}: the training set has no labels")
    complete = label_matrix(dataset_train.targets_all)
    rng = np.random.default_rng([int(getattr(args, "seed", 0) or 0), 20211021])
    kept = {"fpc": _keep_per_class, "rps": _keep_at_random, "single_positive": _keep_one_positive}[
        scheme
    ](complete, param, rng)
    partial = np.where(kept, complete, np.int8(-1))
    dataset_train.targets_all = LabelTable(list(dataset_train.targets_all), partial)
    if verbose:
        _report(scheme, param, complete, partial)
    return dataset_train


def scheme_of(name: str) -> str:
    """fpc, rps or single_positive, from either of its names."""
    if name not in SCHEMES:
        raise SettingsError(f"--simulate_partial_type {name!r}: choose from {', '.join(SCHEMES)}")
    return SCHEMES[name]


def check_param(scheme: str, param: float) -> None:
    """SettingsError where the parameter belongs to the other scheme."""
    if scheme == "rps" and not 0 <= param <= 1:
        raise SettingsError(
            f"--simulate_partial_param {param:g}: rps wants the share of dropped labels, in 0..1 (fpc a count)"
        )
    if scheme == "fpc" and not 1 <= param < math.inf:
        raise SettingsError(
            f"--simulate_partial_param {param:g}: fpc wants the labels kept per class, at least 1 (rps a share)"
        )


def _keep_per_class(labels: np.ndarray, param: float, rng: np.random.Generator) -> np.ndarray:
    by_class = np.ascontiguousarray(labels.T)
    kept = np.zeros(by_class.shape, bool)
    for c, column in enumerate(by_class):
        for value in (1, 0):
            rows = np.flatnonzero(column == value)
            if len(rows) > param:
                rows = rng.choice(rows, int(param), replace=False, shuffle=False)
            kept[c, rows] = True
    return kept.T


def _keep_at_random(labels: np.ndarray, param: float, rng: np.random.Generator) -> np.ndarray:
    return rng.random(labels.shape) >= param


def _keep_one_positive(labels: np.ndarray, param: float, rng: np.random.Generator) -> np.ndarray:
    keys = np.where(labels == 1, rng.random(labels.shape), -1)
    best = keys.argmax(1)
    kept = np.zeros(labels.shape, bool)
    kept[np.arange(len(labels)), best] = keys.max(1) >= 0
    return kept


def _report(scheme: str, param: float, complete: np.ndarray, partial: np.ndarray) -> None:
    def figures(labels: np.ndarray) -> str:
        return f"{100 * (labels >= 0).mean():.1f} % annotated, {(labels == 1).sum(1).mean():.2f} positives an image"

    print(
        f"simulated {scheme} {param:g}: before {figures(complete)}; after {figures(partial)}",
        flush=True,
    )
    dropped = (complete >= 0).sum() - (partial >= 0).sum()
    if dropped < 0.01 * complete.size:
        share = 100 * dropped / max(1, complete.size)
        print(
            f"warning: {scheme} {param:g} drops only {share:.2f} % of the labels",
            file=sys.stderr,
            flush=True,
        )


def save_partial_labels(path: Path, targets: LabelTable, classes: Sequence[str]) -> str:
    """Save partial labels for use by other code: npz with ids, targets int8 (N,C), classes. Returns their SHA-256."""
    matrix, ids = label_matrix(targets), np.array([str(i) for i in targets])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=ids, targets=matrix, classes=np.array(list(classes)))
    atomic_write(path, buffer.getvalue())
    return hashlib.sha256("\n".join(ids).encode() + matrix.tobytes()).hexdigest()


def load_partial_labels(path: Path, dataset_train: Any) -> Any:
    """Give a data set the partial labels that `save_partial_labels` wrote, matched by image id and class name.

    SettingsError (a ValueError): no such file of partial labels, images or classes that it lacks, an id or a class
    twice, labels other than 1, 0, -1.
    """
    ids, matrix, classes = _read_partial_labels(path)
    rows = {image_id: row for row, image_id in enumerate(ids)}
    wanted = list(dataset_train.targets_all)
    missing = [i for i in wanted if str(i) not in rows]
    shape = label_matrix(dataset_train.targets_all).shape
    if missing or matrix.shape[1:] != shape[1:]:
        what = (
            f"lacks {len(missing)} images, first {missing[0]}"
            if missing
            else f"has {matrix.shape[1]} classes"
        )
        raise SettingsError(
            f"--partial_labels {path}: {what}; the data have {shape[0]} images, {shape[1]} classes"
        )
    names = getattr(dataset_train, "classes", None)
    if names is not None:
        matrix = matrix[:, _columns_by_name(path, classes, list(names.values()))]
    dataset_train.targets_all = LabelTable(wanted, matrix[[rows[str(i)] for i in wanted]])
    return dataset_train


def _read_partial_labels(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Ids (N), labels (N,C) and class names (C) of a file of partial labels."""
    try:
        with np.load(require_file(path), allow_pickle=False) as arrays:
            ids, matrix, classes = (arrays[name] for name in ("ids", "targets", "classes"))
    except UserError as error:
        raise MissingFileError(f"--partial_labels {error}") from error
    except DAMAGE as error:
        raise SettingsError(
            f"--partial_labels {path}: not a file of partial labels ({error})"
        ) from error
    where = f"--partial_labels {path}"
    if matrix.ndim != 2 or ids.shape != matrix.shape[:1] or classes.shape != matrix.shape[1:]:
        shapes = f"ids {ids.shape}, targets {matrix.shape}, classes {classes.shape}"
        raise SettingsError(f"{where}: {shapes} do not belong together; expected (N,), (N,C), (C,)")
    if matrix.dtype.kind not in "biuf":
        raise SettingsError(
            f"{where}: targets hold {matrix.dtype}, expected the numbers 1, 0 and -1"
        )
    require_labels(matrix, f"{where}: targets")
    with as_settings_errors():
        once(ids.tolist(), f"{where}: ids")
        once(classes.tolist(), f"{where}: classes")
    return ids.tolist(), matrix, [str(name) for name in classes]


def _columns_by_name(path: Path, classes: list[str], wanted: list[str]) -> list[int]:
    """The column of the file for every class of the data; SettingsError names those that it lacks."""
    missing = [name for name in wanted if name not in set(classes)]
    if missing:
        raise SettingsError(f"--partial_labels {path}: lacks the classes {listed(missing)}")
    return [classes.index(name) for name in wanted]


def plot_class_freq(targets: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw annotated positives and negatives per class of labels (N,C), classes by frequency, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
    order = np.argsort(-positives, kind="stable")
    figure, axis = plt.subplots(figsize=(8, 3.5))
    axis.bar(range(len(order)), positives[order], label="annotated positives")
    axis.plot(
        range(len(order)), negatives[order], ".", color="tab:orange", label="annotated negatives"
    )
    axis.set(ylabel="images", yscale="symlog", title="annotated labels per class")
    if len(order) <= 80:
        axis.set_xticks(
            range(len(order)), [list(classes)[i] for i in order], rotation=90, fontsize=6
        )
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
