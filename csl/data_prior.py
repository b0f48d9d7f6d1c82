"""The class prior P(c) of phase 1, and its csv file.

The prior is the mean predicted probability over the training images.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.cli import DomainError
from common.precision import with_float64
from common.processes import on_main_process, sum_on_main_process
from common.text import read_csv, write_csv
from csl import method
from csl.data_classes import lacking
from csl.data_errors import MissingFileError, as_domain_errors, expanded, say

one_module(__name__, "csl.data_prior")

HEADER = ("Classes", "avg_pred")


class ComputePrior:
    """P(c) = mean over the rows seen so far of sigmoid(logit c), per class.

    Kept in float64 on the device of the logits (of an Apple GPU on the CPU). `state_dict`,
    `load_state_dict` and `synchronize` make it exact over a resume and over processes.
    """

    def __init__(
        self,
        classes: Mapping[int, str],
        path_dest: str | Path = "./outputs",
        accelerator: Accelerator | None = None,
    ) -> None:
        """Take the classes, as index -> name, in `classes`.

        With an `accelerator`, `synchronize` adds up the processes' figures. DomainError (a
        ValueError): two classes of one name, which the file could not tell apart.
        """
        twice = [name for name, count in Counter(classes.values()).items() if count > 1]
        if twice:
            raise DomainError(
                f"{len(twice)} class names occur more than once, the first: {twice[0]!r}"
            )
        self.classes = dict(classes)
        self.path_dest = path_dest
        self.accelerator = accelerator
        self.reset()

    def reset(self) -> None:
        """Forget everything seen so far."""
        self.sums: dict[str, torch.Tensor] = {}

    def update(self, logits: torch.Tensor, training: bool = True) -> None:
        """Add a batch of logits (B,C), of training or of validation images.

        No host synchronisation.

        DomainError (a ValueError): another number of classes, and, in eager mode on the CPU, logits
        that are NaN.
        """
        if logits.dim() != 2 or logits.shape[1] != len(self.classes):
            raise DomainError(
                f"logits {tuple(logits.shape)}: the prior is of {len(self.classes)} classes"
            )
        if method.is_readable(logits) and bool(logits.isnan().any()):
            raise DomainError(
                f"logits: {int(logits.isnan().sum())} values are nan, which no prior can be made of"
            )
        split = "train" if training else "val"
        sums = method.summed_probabilities(with_float64(logits))
        if split in self.sums:
            sums = self.sums[split].to(sums.device) + sums
        self.sums[split] = sums

    @property
    def avg_pred_train(self) -> torch.Tensor | None:
        """(C,) float32: the running mean over the training rows, None before the first."""
        return self._mean("train")

    @property
    def avg_pred_val(self) -> torch.Tensor | None:
        """(C,) float32: the running mean over the validation rows, None before the first."""
        return self._mean("val")

    def _mean(self, split: str) -> torch.Tensor | None:
        sums = self.sums.get(split)
        if sums is None:
            return None
        return method.class_prior(sums)

    def save_prior(self, *, verbose: bool = True) -> Path | None:
        """Write train_avg_preds.csv (and val_avg_preds.csv where there is one) into path_dest.

        In class order, header Classes,avg_pred. Prints and returns the path of the training file.
        """
        written = {}
        for split in ("train", "val"):
            if (mean := self._mean(split)) is not None:
                written[split] = Path(self.path_dest) / f"{split}_avg_preds.csv"
                write_prior(written[split], list(self.classes.values()), mean)
        if written and verbose:
            print(f"prior written to {', '.join(map(str, written.values()))}", flush=True)
        return written.get("train")

    def get_top_freq_classes(self, count: int = 10) -> list[str]:
        """Print and return the names of the classes with the largest P(c)."""
        mean = self.avg_pred_train
        top = [] if mean is None else mean.argsort(descending=True, stable=True)[:count].tolist()
        names = [list(self.classes.values())[index] for index in top]
        print(f"most frequent classes by the estimated prior: {', '.join(names)}", flush=True)
        return names

    def synchronize(self) -> None:
        """Move all processes' sums to the main one; every process calls it (Run.save does)."""
        for split, rows in self.sums.items():
            self.sums[split] = sum_on_main_process(rows, self.accelerator)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sums and row counts, on the CPU."""
        return {split: rows.cpu() for split, rows in self.sums.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put them back, on the main process only: they are the sums of all."""
        self.sums = {}
        for split, rows in state.items():
            self.sums[split] = on_main_process(rows, self.accelerator).clone()


def write_prior(path: Path, names: Sequence[str], values: torch.Tensor) -> None:
    """Write a prior file: names in class order, values (C,) in as many digits as float32 needs.

    Names may hold commas, quotes and line breaks: `read_prior` finds them as they are.
    """
    rows = zip(names, values.detach().cpu().numpy().astype(np.float32), strict=True)
    write_csv(path, [HEADER, *rows])


def read_prior(path: str | Path) -> dict[str, float]:
    """Name -> P(c) in file order; rows without a finite value are dropped with a notice.

    MissingFileError: no file, and how to make one; DomainError: not a csv file, other header,
    duplicate names, values outside 0..1, nothing in it.
    """
    path = expanded(path, "--prior_path")
    if not path.exists():
        way = "make one with `python train.py --estimate_prior N` (phase 1 in ignore mode, which "
        way += "leaves train_avg_preds.csv in its run directory), or bring your own"
        raise MissingFileError(f"--prior_path {path}: no such file; {way}")
    with as_domain_errors():
        rows = read_csv(path)
    header = rows[0][1] if rows else []
    if tuple(map(str.strip, header)) != HEADER:
        found = "empty"
        if header:
            found = repr(",".join(header)[:60])
        raise DomainError(f"{path}: row 1 is {found}; expected {','.join(HEADER)}")
    prior: dict[str, float] = {}
    for number, row in rows[1:]:
        value = _value_of(row)
        if math.isnan(value):
            say(f"{path}: row {number} ({row[0]}) has no value and is dropped")
            continue
        if not 0 <= value <= 1:
            told = f"{value} is outside 0..1 (columns {','.join(HEADER)})"
            raise DomainError(f"{path}: row {number}, {row[0]}: {told}")
        if row[0] in prior:
            raise DomainError(f"{path}: row {number}: class {row[0]} occurs twice")
        prior[row[0]] = value
    if not prior:
        raise DomainError(f"{path}: holds no class with a value (columns {','.join(HEADER)})")
    return prior


def _value_of(row: Sequence[str]) -> float:
    try:
        value = float(row[1])
    except (IndexError, ValueError):
        return math.nan
    if math.isinf(value):
        return math.nan
    return value


def match_prior(
    prior: Mapping[str, float], class_names: Sequence[str] | None, path: str | Path
) -> torch.Tensor:
    """Return P(c) as (C,) float32.

    It is in the order of `class_names`, matched by name, or in file order without them. DomainError
    lists up to five names that the file lacks; extra names are ignored with one notice.
    """
    if class_names is None:
        return torch.tensor(list(prior.values()))
    missing = lacking(class_names, prior)
    if missing:
        count = f"{len(missing)} of the {len(class_names)} classes"
        raise DomainError(f"{path}: holds no prior of {count}: {', '.join(missing[:5])}")
    extra = len(prior) - len(class_names)
    if extra:
        say(f"{path}: {extra} classes that the data do not have are ignored")
    return torch.tensor([prior[name] for name in class_names])
