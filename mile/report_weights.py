"""The weight files of a run, and what they say of themselves.

Settings, and the names of the classes.

A run's checkpoints hold all settings. The exported SCHEMA_EPOCH.pth stay bare state dicts, for
other programs; there the settings are an attribute of the dict, which torch.save keeps.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.files import atomic_save
from mile.data_images import IMAGENET, Statistics
from mile.models_backbones import as_plain, from_plain
from mile.options import Trained
from mile.options_table import COMPARABLE, problem_of

one_module(__name__, "mile.report_weights")


# ---- writing -------------------------------------------------------------------------------------


def save_weights(
    model: nn.Module, name: str, *, folder: str | Path, keep: int, says: Mapping[str, Any]
) -> Path:
    """Write the bare weights to folder/CLASS/name, name = SCHEMA_EPOCH.pth; returns the path.

    `says` is what the file says of itself: the comparable settings, and `classes`. Then keep the
    `keep` files of this schema that were written last (time, then epoch) and delete its older ones;
    other schemas, strangers and the new file are never touched.
    """
    model = checkpoint.unwrap(model)
    class_name = getattr(model, "class_name", type(model).__name__)
    path = Path(folder) / class_name / name
    state: Any = model.state_dict()
    state.settings = dict(says)
    atomic_save(path, lambda temporary: torch.save(state, temporary))

    older = _older_than(path, schema=name.rsplit("_", 1)[0])
    surplus = max(0, len(older) + 1 - keep)
    for _, _, file in older[:surplus]:
        file.unlink()
    newest = max((time_ns for time_ns, _, _ in older), default=0)
    if path.stat().st_mtime_ns <= newest:  # a coarse file-system clock: keep the order of writing
        os.utime(path, ns=(newest + 1, newest + 1))
    return path


def _older_than(path: Path, schema: str) -> list[tuple[int, int, Path]]:
    """The other files of the schema beside `path`, in the order of (time of writing, epoch)."""
    pattern = re.compile(re.escape(schema) + r"_(\d+)\.pth$")
    found = []
    for file in path.parent.iterdir():
        match = pattern.match(file.name)
        if match and file != path:
            found.append((file.stat().st_mtime_ns, int(match[1]), file))
    return sorted(found)


def writable(folder: str | Path) -> None:
    """Make `folder`; UserError where nothing can be written there, before the run begins."""
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


# ---- reading -------------------------------------------------------------------------------------


def read(path: str | Path) -> Trained:
    """The comparable settings that a weight file or checkpoint names, and its classes.

    UserError where a value is none that the setting can have.
    """
    path = Path(path)
    saved = checkpoint.load(path)
    found = getattr(saved, "settings", None)
    if isinstance(saved, Mapping) and isinstance(saved.get("settings"), Mapping):
        found = saved["settings"]
    if not isinstance(found, Mapping):
        return Trained({})

    settings = {name: _plain(found[name]) for name in COMPARABLE if name in found}
    for name, value in settings.items():
        problem = problem_of(name, value)
        if problem:
            raise UserError(f"{path}: says {name} {value!r}: {problem}")
    return Trained(settings, _classes_of(saved, found, path), _input_of(saved, found, path))


def _plain(value: Any) -> Any:
    """A NumPy number as one of Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _classes_of(saved: Any, found: Mapping[str, Any], path: Path) -> list[str] | None:
    names = found.get("classes")
    state = saved.get("state")
    if isinstance(state, Mapping) and isinstance(state.get("classes"), Mapping):
        names = state["classes"].get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: says classes {names!r:.60}: expected a list of names")
    return list(names)


def _input_of(saved: Any, found: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """The statistics of the input that the file says; None where it says none."""
    said = found.get("input")
    state = saved.get("state")
    if isinstance(state, Mapping) and isinstance(state.get("classes"), Mapping):
        said = state["classes"].get("input")
    if said is None:
        return None
    try:
        return as_plain(from_plain(said))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: says input {said!r:.60}: expected mean and std") from error


# ---- classes -------------------------------------------------------------------------------------


class ClassNames:
    """The names of a run's classes, in every checkpoint; a run goes on with the same ones only.

    Beside them stands what the pictures are normalised with.
    """

    def __init__(self, names: Sequence[str], statistics: Statistics = IMAGENET) -> None:
        self.names = list(names)
        self.statistics = statistics

    def state_dict(self) -> dict[str, Any]:
        """The names, in order, and the statistics of the input."""
        return {"names": self.names, "input": as_plain(self.statistics)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Find them equal; ValueError names the first that differs."""
        difference = first_difference(state["names"], self.names)
        if difference:
            raise ValueError(difference)


def first_difference(then: Sequence[str], now: Sequence[str]) -> str:
    """How two lists of classes differ, in words; empty where they do not."""
    for number, (one, other) in enumerate(zip(then, now, strict=False)):
        if one != other:
            return f"class {number} is {other!r} here, {one!r} in the weights"
    if len(then) != len(now):
        return f"{len(now)} classes here, {len(then)} in the weights"
    return ""


def require_same_classes(then: Sequence[str] | None, now: Sequence[str], file: str) -> None:
    """UserError where the weights in `file` were trained on other classes, or in another order.

    `then` is None where the file names none.
    """
    difference = first_difference(then, now) if then else ""
    if difference:
        raise UserError(f"--pretrained {file}: other classes than the data's: {difference}")
