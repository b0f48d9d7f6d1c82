"""The ReaL metrics, `eval` and `save_model`.

N rows, C classes; R_i the set of labels true of image i, A_i the predicted set, V the images with a non-empty R_i.
"""

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.checkpoint import atomic_save, unwrap
from common.cli import UserError
from common.domain import (
    DomainError,
    require_indices,
    require_number,
    require_one_of,
    require_shape,
    require_threshold,
)
from mile import rows
from mile.config import config, setting
from mile.learning import SCHEMAS

one_module(__name__, "mile.utils")

PROTOCOLS = ("authors", "unofficial")
Real = torch.Tensor | Sequence[Sequence[int]]  # bool (N,C), or N lists of class indices


def probabilities(logits: torch.Tensor, schema: str) -> torch.Tensor:
    """p (N,C) float32: softmax of the logits or sigmoid, by the schema; ValueError for another one."""
    require_one_of(schema, SCHEMAS, "schema")
    z = logits.detach().float()
    return z.softmax(1) if schema == "softmax" else z.sigmoid()


def set_at(p: torch.Tensor, rho: float, top: torch.Tensor, protocol: str) -> torch.Tensor:
    """The set {c: p_c > rho}, bool (N,C), of p (N,C); authors: and the top class (N,), so that it is never empty.

    ValueError for rho outside (0, 1) and for another protocol.
    """
    require_threshold(rho, "rho")
    require_one_of(protocol, PROTOCOLS, "protocol")
    chosen = rows.greater(p, rho)
    return chosen if protocol == "unofficial" else chosen.scatter_(1, top[:, None], True)


def prediction_set(
    logits: torch.Tensor,
    rho: float,
    schema: str = "MILe",
    protocol: str = "authors",
    top: torch.Tensor | None = None,
) -> torch.Tensor:
    """The predicted label sets A, bool (N,C), of logits (N,C); `top` (N,) is their argmax where it is known.

    authors: {argmax} for softmax, else {argmax} and {c: sigmoid(z_c) > rho}: never empty. unofficial:
    {c: p_c > rho}, p softmax or sigmoid by the schema: may be empty. Strict; ties of argmax: the lowest index.
    ValueError for rho outside (0, 1), and for another schema or protocol.
    """
    require_threshold(rho, "rho")
    require_one_of(schema, SCHEMAS, "schema")
    require_one_of(protocol, PROTOCOLS, "protocol")
    top = rows.argmax(logits.detach().float()) if top is None else top
    if schema == "softmax" and protocol == "authors":
        return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, top[:, None], True)
    return set_at(probabilities(logits, schema), rho, top, protocol)


def multi_hot(
    lists: Sequence[Sequence[int]], num_classes: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """N lists of class indices as bool (N,C); ValueError for an index that is no class."""
    row, column, _ = _entries(lists, num_classes, device)
    matrix = torch.zeros(len(lists), num_classes, dtype=torch.bool, device=device)
    matrix[row, column] = True
    return matrix


def _entries(
    lists: Sequence[Sequence[int]], num_classes: int, device: torch.device | str
) -> tuple[torch.Tensor, ...]:
    """Row and column of each label, and the number of labels a row; a label listed twice is one."""
    sets = [set(labels) for labels in lists]
    listed = torch.tensor(list(chain.from_iterable(sets)), dtype=torch.int64)
    require_indices(listed, num_classes, "label sets")
    sizes = torch.tensor([len(labels) for labels in sets], dtype=torch.int64, device=device)
    return torch.repeat_interleave(sizes), listed.to(device), sizes


class RealMetrics:
    """Streaming metrics; the sums stay on the device, so no batch waits for the host (spec e).

    f_i = 2 |A_i and R_i| / (|A_i| + |R_i|). authors: real_acc, real_f1, label_coverage (number of predicted
    labels an image) are means over V; unofficial: the same sums divided by all n images. `top5` adds acc5.
    ValueError for rho outside (0, 1), another schema or protocol, labels and label sets that name no class.
    """

    NAMES = (
        "n",
        "n_real",
        "acc",
        "acc5",
        "real_acc",
        "real_f1",
        "label_coverage",
        "any_hit",
        "precision",
        "recall",
    )

    def __init__(
        self,
        num_classes: int,
        schema: str = "MILe",
        rho: float = 0.25,
        protocol: str = "authors",
        *,
        top5: bool = False,
    ) -> None:
        require_number(num_classes, "num_classes", 1)
        require_one_of(schema, SCHEMAS, "schema")
        require_threshold(rho, "rho")
        require_one_of(protocol, PROTOCOLS, "protocol")
        self.num_classes = num_classes
        self.schema = schema
        self.rho = rho
        self.protocol = protocol
        self.top5 = top5
        self.sums: torch.Tensor | None = None

    def update(self, logits: torch.Tensor, label: torch.Tensor, real: Real) -> None:
        """Add a batch: logits (N,C), the single labels (N,) int64, the true sets R."""
        require_shape(logits, (len(label), self.num_classes), "logits")
        z = logits.detach().float()
        top, in_five = rows.argmax(z), None
        if self.top5:
            in_five = (z.topk(min(5, self.num_classes), 1).indices == label[:, None]).any(1)
        self.add(
            prediction_set(z, self.rho, self.schema, self.protocol, top), top, label, real, in_five
        )

    def add(
        self,
        predicted: torch.Tensor,
        top: torch.Tensor,
        label: torch.Tensor,
        real: Real,
        in_five: torch.Tensor | None = None,
    ) -> None:
        """Add a batch by its predicted sets A, bool (N,C), its top classes (N,) and, for acc5, whether y is
        among the five highest, bool (N,)."""
        require_indices(label, self.num_classes, "label")
        size = rows.count(predicted)
        if len(real) != len(predicted):
            raise DomainError(f"real: {len(real)} label sets for {len(predicted)} images")
        if isinstance(real, torch.Tensor):
            require_shape(real, predicted.shape, "real")
            real = real.to(predicted.device, torch.bool)
            true_size, hits = rows.count(real), rows.count(predicted & real)
            top_hit = real.gather(1, top[:, None])[:, 0]
        else:
            row, column, true_size = _entries(real, self.num_classes, predicted.device)
            zeros = torch.zeros(len(size), dtype=torch.int64, device=predicted.device)
            hits = zeros.index_add(0, row, predicted[row, column].long())
            top_hit = zeros.index_add(0, row, (column == top[row]).long()) > 0
        dtype = torch.float32 if predicted.device.type == "mps" else torch.float64
        known = (true_size > 0).to(dtype)
        h, a, r = hits.to(dtype), size.to(dtype), true_size.to(dtype)
        columns_of = (
            torch.ones_like(known),
            known,
            (top == label).to(dtype),
            torch.zeros_like(known) if in_five is None else in_five.to(dtype),
            top_hit * known,
            2 * h / (a + r).clamp(min=1) * known,
            a * known,
            (h > 0).to(dtype),
            h / a.clamp(min=1),
            h / r.clamp(min=1),
        )
        sums = torch.stack(columns_of).sum(1)
        self.sums = sums if self.sums is None else self.sums + sums

    def compute(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """The metrics as fractions, over all processes; ReaL figures are NaN where no image has a ReaL label."""
        sums = torch.zeros(len(self.NAMES), dtype=torch.float64) if self.sums is None else self.sums
        if accelerator is not None and accelerator.num_processes > 1:
            sums = accelerator.reduce(sums.to(accelerator.device), "sum")
        total = dict(zip(self.NAMES, sums.tolist(), strict=True))
        n, known = total["n"], total["n_real"]
        if n and not known:
            warnings.warn("no image has a ReaL label: the ReaL figures are NaN", stacklevel=2)
        over_all = self.protocol == "unofficial" and known
        result: dict[str, float] = {"n": int(n), "n_real": int(known)}
        for name in (name for name in self.NAMES[2:] if self.top5 or name != "acc5"):
            of_all = name in ("acc", "acc5") or (
                over_all and name in ("real_acc", "real_f1", "label_coverage")
            )
            divisor = n if of_all else known
            result[name] = total[name] / divisor if divisor else float("nan")
        return result


class Evaluation(NamedTuple):
    """What `eval` returns; the first four in the order of the unofficial code."""

    acc: float
    real_f1: float
    real_acc: float
    label_coverage: float
    any_hit: float
    precision: float
    recall: float
    n: int
    n_real: int


@torch.inference_mode()
def eval(model: nn.Module, imgNet_dataloader: Iterable, conf: Any = config) -> Evaluation:  # noqa: A001 - the name of the original
    """Evaluate a model on a loader of (input, label, real); real as bool (N,C) or N lists of indices.

    The device is conf.device (without a GPU the CPU), the threshold conf.eval_rho or conf.rho; the model is put
    in evaluation mode.
    """
    device = device_of(conf)
    model.to(device).eval()
    metrics: RealMetrics | None = None
    for input, label, real in imgNet_dataloader:
        logits = model(input.to(device, non_blocking=True))
        if metrics is None:
            rho, schema = setting(conf, "eval_rho"), setting(conf, "schema")
            metrics = RealMetrics(logits.shape[1], schema, rho, setting(conf, "protocol"))
        metrics.update(logits, label.to(device), real)
    result = (metrics or RealMetrics(1)).compute()
    return Evaluation(**result)


def is_there(device: str) -> bool:
    """Whether this machine has a device of the kind: cpu, cuda, cuda:N or mps."""
    kind = torch.device(device).type
    return {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(
        kind, lambda: True
    )()


def device_of(conf: Any = config) -> torch.device:
    """conf.device, or the CPU (with one warning) where that is a GPU which is not there."""
    device = setting(conf, "device")
    if is_there(device):
        return torch.device(device)
    warnings.warn(f"device {device}: no GPU here, using the CPU", stacklevel=2)
    return torch.device("cpu")


def save_model(model: nn.Module, name: str, conf: Any = config) -> Path:
    """Write the bare weights to checkpoint_path/CLASS/name, name = SCHEMA_EPOCH.pth; returns the path.

    What an evaluation needs to know is the state dict's attribute `settings`.

    Then keep the max_checkpoint_num files of this schema that were written last (time, then epoch) and delete
    its older ones; other schemas, strangers and the new file are never touched.
    """
    from mile.provenance import attach

    model = unwrap(model)
    path = Path(setting(conf, "checkpoint_path")) / type(model).__name__ / name
    state = attach(model.state_dict(), conf)
    atomic_save(path, lambda temporary: torch.save(state, temporary))
    schema = name.rsplit("_", 1)[0]
    pattern = re.compile(re.escape(schema) + r"_(\d+)\.pth$")
    older = [
        (p.stat().st_mtime_ns, int(match[1]), p)
        for p in path.parent.iterdir()
        if (match := pattern.match(p.name))
    ]
    older = sorted(entry for entry in older if entry[2] != path)
    for _, _, surplus in older[: max(0, len(older) + 1 - setting(conf, "max_checkpoint_num"))]:
        surplus.unlink()
    newest = max((time_ns for time_ns, _, _ in older), default=0)
    if path.stat().st_mtime_ns <= newest:  # a coarse file-system clock: keep the order of writing
        os.utime(path, ns=(newest + 1, newest + 1))
    return path


def writable(folder: str | Path) -> None:
    """UserError where nothing can be written to `folder` (made here): at the start, not after the first generation."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"checkpoint_path {folder}: cannot be written ({error.strerror}); name another"
        ) from error
