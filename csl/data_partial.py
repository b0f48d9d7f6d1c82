"""Partial labels: simulated on complete ones, written to a file, and read from it."""

import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import DomainError, UserError
from common.text import once, require_file
from csl import method
from csl.data_classes import lacking, listed, places_of
from csl.data_errors import MissingFileError, as_domain_errors, say
from csl.data_labels import LabelTable, label_matrix, require_labels
from csl.options_choices import check_param, scheme_of

one_module(__name__, "csl.data_partial")

# What numpy and zipfile raise for files that are no npz, damaged, or packed in an unknown way (a
# RuntimeError, of which there are kinds).
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    RuntimeError,
    BadZipFile,
    zlib.error,
    struct.error,
)


def simulate(
    dataset: Any, scheme: str, param: float, *, seed: int = 0, verbose: bool = True
) -> None:
    """Replace dataset.targets_all (same keys, same order) by partially annotated labels.

    Args:
        dataset: has `targets_all`, complete labels by image id.
        scheme: fpc, rps or single_positive, or a longer name of theirs.
        param: of fpc the labels kept per class, of rps the share dropped; of the third without
            effect.
        seed: the mask comes from a generator of its own: the same seed, the same mask everywhere.
    Raises:
        DomainError: an unknown scheme, a parameter of another one, no labels.
    """
    scheme = scheme_of(scheme)
    check_param(scheme, param)
    if not len(dataset.targets_all):
        raise DomainError(f"--simulate_partial_type {scheme}: the training set has no labels")
    complete = label_matrix(dataset.targets_all)
    rng = np.random.default_rng([seed, 20211021])
    if scheme == "fpc":
        kept = method.fixed_per_class(complete, int(param), rng)
    elif scheme == "rps":
        kept = method.random_per_sample(complete, param, rng)
    else:
        kept = method.single_positive(complete, rng)
    partial = np.where(kept, complete, np.int8(method.UNKNOWN))
    dataset.targets_all = LabelTable(list(dataset.targets_all), partial)
    if verbose:
        _report(scheme, param, complete, partial)


def _report(scheme: str, param: float, complete: np.ndarray, partial: np.ndarray) -> None:
    def figures(labels: np.ndarray) -> str:
        annotated = 100 * (labels >= 0).mean()
        positives = (labels == 1).sum(axis=1).mean()
        return f"{annotated:.1f} % annotated, {positives:.2f} positives an image"

    told = f"before {figures(complete)}; after {figures(partial)}"
    print(f"simulated {scheme} {param:g}: {told}", flush=True)
    dropped = (complete >= 0).sum() - (partial >= 0).sum()
    if dropped < 0.01 * complete.size:
        share = 100 * dropped / max(1, complete.size)
        say(f"warning: {scheme} {param:g} drops only {share:.2f} % of the labels")


def save_partial_labels(path: Path, targets: LabelTable, classes: Sequence[str]) -> str:
    """Save partial labels for use by other code: npz with ids, targets int8 (N,C), classes.

    Returns their SHA-256.
    """
    matrix = label_matrix(targets)
    ids = np.array(list(map(str, targets)))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=ids, targets=matrix, classes=np.array(list(classes)))
    atomic_write(path, buffer.getvalue())
    return hashlib.sha256("\n".join(ids).encode() + matrix.tobytes()).hexdigest()


def load_partial_labels(path: Path, dataset_train: Any) -> Any:
    """Give a data set the partial labels that `save_partial_labels` wrote.

    They are matched by image id and class name.

    DomainError (a ValueError): no such file of partial labels, images or classes that it lacks, an
    id or a class twice, labels other than 1, 0, -1.
    """
    ids, matrix, classes = _read_partial_labels(path)
    rows = places_of(ids)
    wanted = list(dataset_train.targets_all)
    missing = [i for i in wanted if str(i) not in rows]
    shape = label_matrix(dataset_train.targets_all).shape
    if missing or matrix.shape[1:] != shape[1:]:
        what = f"has {matrix.shape[1]} classes"
        if missing:
            what = f"lacks {len(missing)} images, first {missing[0]}"
        raise DomainError(
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
            ids = arrays["ids"]
            matrix = arrays["targets"]
            classes = arrays["classes"]
    except UserError as error:
        raise MissingFileError(f"--partial_labels {error}") from error
    except DAMAGE as error:
        raise DomainError(
            f"--partial_labels {path}: not a file of partial labels ({error})"
        ) from error
    where = f"--partial_labels {path}"
    if matrix.ndim != 2 or ids.shape != matrix.shape[:1] or classes.shape != matrix.shape[1:]:
        shapes = f"ids {ids.shape}, targets {matrix.shape}, classes {classes.shape}"
        raise DomainError(f"{where}: {shapes} do not belong together; expected (N,), (N,C), (C,)")
    if matrix.dtype.kind not in "biuf":
        raise DomainError(f"{where}: targets hold {matrix.dtype}, expected the numbers 1, 0 and -1")
    require_labels(matrix, f"{where}: targets")
    with as_domain_errors():
        once(ids.tolist(), f"{where}: ids")
        once(classes.tolist(), f"{where}: classes")
    return ids.tolist(), matrix, list(map(str, classes))


def _columns_by_name(path: Path, classes: list[str], wanted: list[str]) -> list[int]:
    """The column of the file for every class of the data; DomainError names those that it lacks."""
    missing = lacking(wanted, set(classes))
    if missing:
        raise DomainError(f"--partial_labels {path}: lacks the classes {listed(missing)}")
    return list(map(classes.index, wanted))
