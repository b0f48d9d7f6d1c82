"""Checkpoints of ours and of the original.

The functions find where they lie, read what they hold, and load them into a network.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calm.options_names import BESIDE_STATE_DICT, IN_FOLDER
from common import checkpoint
from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "calm.build_checkpoint")

HINT = (
    "look at --architecture, --dataset, --num_classes, --use_bn, --large_feature_map, "
    "--is_different_checkpoint"
)


class MissingCheckpoint(UserError, FileNotFoundError):
    """No checkpoint at any of the places that were tried; the message lists them."""


def find_checkpoint(path: str | Path, roots: Iterable[Path] = ()) -> Path:
    """The checkpoint file that `path` names: a file, or a folder, as it is or under one of `roots`.

    A folder holds one of IN_FOLDER. MissingCheckpoint lists all places.
    """
    bases = [Path(path).expanduser()]
    for root in roots:
        bases.append(Path(root) / path)

    tried: dict[str, None] = {}
    for base in bases:
        for file in (base, *(base / name for name in IN_FOLDER)):
            if file.is_file():
                return file
            tried[str(file)] = None
    places = ", ".join(tried)
    raise MissingCheckpoint(
        f"no checkpoint {path}; tried {places}; train one with main.py or give --load_checkpoint"
    )


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return weights and settings of a checkpoint file.

    It is one of ours, of the original's ({'state_dict': ...}), or a bare state dict.
    """
    saved = checkpoint.load(Path(path))
    settings: dict[str, Any] = {}
    if isinstance(saved, Mapping) and "state" in saved and "settings" in saved:
        settings = dict(saved["settings"])
        saved = saved["state"].get("model", saved["state"])
    elif isinstance(saved, Mapping) and isinstance(saved.get("state_dict"), Mapping):
        settings = {name: saved[name] for name in BESIDE_STATE_DICT if name in saved}
        saved = saved["state_dict"]

    is_state = isinstance(saved, Mapping)
    if not is_state or not all(isinstance(value, torch.Tensor) for value in saved.values()):
        raise UserError(f"{path}: holds no state_dict of tensors")
    state = checkpoint.strip_prefixes(saved)

    bad = []
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            bad.append(name)
    if bad:
        problem = f"{bad[0]} holds NaN or inf ({len(bad)} entries do)"
        raise UserError(f"{path}: {problem}; take an earlier checkpoint")
    return state, settings


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    is_different_checkpoint: bool = False,
    roots: Iterable[Path] = (),
) -> dict[str, Any]:
    """Load a checkpoint file or folder into `model`; returns the settings stored with it.

    `is_different_checkpoint`: load the entries that fit and print how many did. Otherwise UserError
    names the first keys and shapes that differ. MissingCheckpoint (a FileNotFoundError) lists what
    was tried.
    """
    file = find_checkpoint(path, roots)
    state, settings = read_checkpoint(file)
    if is_different_checkpoint:
        own = model.state_dict()
        fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict(fitting, strict=False)
        print(f"{file}: {len(fitting)} of {len(state)} entries fit and were loaded", flush=True)
        return settings

    stored = settings.get("prior_activation", "relu")
    wanted = getattr(model, "prior_activation", None)
    is_calm = not getattr(getattr(model, "process", None), "is_cam", True)
    if is_calm and wanted not in (None, stored):
        raise UserError(
            f"{file}: its attention was trained with {stored}, not {wanted}; "
            "leave out --prior_activation, or force it with --is_different_checkpoint=True"
        )
    try:
        checkpoint.load_into(model, state, file)
    except UserError as error:
        raise UserError(f"{error}; {HINT}") from error
    return settings


def settings_of_checkpoint(file: Path) -> dict[str, Any]:
    """Return what a checkpoint says of its training.

    Ours say the network's flags and the data set; any says the number of classes.
    """
    state, settings = read_checkpoint(file)
    known = {name: settings[name] for name in BESIDE_STATE_DICT if settings.get(name) is not None}
    if "conv_last.bias" in state:
        known["num_classes"] = len(state["conv_last.bias"])
    return known
