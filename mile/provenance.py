"""What a weight file says of itself: the settings that make its numbers comparable, and the names of its classes.

A run's checkpoints hold all settings. The exported SCHEMA_EPOCH.pth stay bare state dicts, for other programs; there
the settings are an attribute of the dict, which torch.save keeps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from mile.settings import SETTINGS, apply, problem_of, resolve

one_module(__name__, "mile.provenance")

# What an evaluation takes from the weights unless it is given.
COMPARABLE = (
    *("dataset", "model", "schema", "protocol", "image_size", "mnist_size", "mnist_test_grids"),
    *("rho", "eval_rho", "threshold_on"),
)


class ClassNames:
    """The names of a run's classes, in every checkpoint; a run goes on with the same ones only."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def state_dict(self) -> dict[str, list[str]]:
        """The names, in order."""
        return {"names": self.names}

    def load_state_dict(self, state: Mapping[str, list[str]]) -> None:
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


def describe(conf: Any) -> dict[str, Any]:
    """What `save_model` leaves in a weight file: the comparable settings and, of a run, the names of the classes."""
    settings = {name: resolve(conf, name) for name in COMPARABLE}
    return settings | {"classes": getattr(conf, "_classes", None)}


def attach(state: dict[str, torch.Tensor], conf: Any) -> dict[str, torch.Tensor]:
    """The state dict, with what it says of itself as its attribute `settings`."""
    state.settings = describe(conf)
    return state


def read(path: Path) -> tuple[dict[str, Any], list[str] | None]:
    """The comparable settings that a weight file or checkpoint names, and its classes; {} and None where it does not.

    UserError where a value is none that the setting can have.
    """
    saved = checkpoint.load(path)
    found = getattr(saved, "settings", None)
    if isinstance(saved, Mapping) and isinstance(saved.get("settings"), Mapping):
        found = saved["settings"]
    if not isinstance(found, Mapping):
        return {}, None

    settings = {name: _plain(found[name]) for name in COMPARABLE if name in found}
    for name, value in settings.items():
        problem = problem_of(SETTINGS[name], value)
        if problem:
            raise UserError(f"{path}: says {name} {value!r}: {problem}")
    return settings, _classes_of(saved, found, path)


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


def take_from_weights(conf: Any) -> None:
    """With --eval_only: what the user did not set becomes what the weight file says."""
    conf._trained = {}
    conf._trained_classes = None
    if conf.eval_only and conf.pretrained != "imagenet":
        path = Path(conf.pretrained)
        conf._trained, conf._trained_classes = read(path)
        apply(conf, conf._trained)


def require_same_classes(conf: Any, names: Sequence[str]) -> None:
    """UserError where the weights that are evaluated were trained on other classes, or on these in another order."""
    difference = first_difference(conf._trained_classes, names) if conf._trained_classes else ""
    if difference:
        raise UserError(
            f"--pretrained {conf.pretrained}: other classes than the data's: {difference}"
        )


def describe_evaluation(conf: Any, num_classes: int) -> str:
    """The line that says what is evaluated and how, and where that comes from."""
    size = conf.mnist_size if conf.dataset == "mnist" else conf.image_size
    what = f"{conf.model} on {conf.dataset}, {num_classes} classes, {size}x{size} px, ImageNet's mean and deviation"
    how = f"schema {conf.schema}, protocol {conf.protocol}, threshold {conf.eval_rho:g}"
    given = [name for name in COMPARABLE if name in conf._given]
    source = (
        "as the weights say" if conf._trained else "not in the weights, so as set or by default"
    )
    if conf._trained and given:
        source += f", but {', '.join(given)} as given"
    return f"evaluating {what}; {how} ({source})"
