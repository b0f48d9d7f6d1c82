"""Weights: initialisation, ImageNet's, and checkpoints of the original and of ours."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.hub import get_dir, load_state_dict_from_url

from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.data import connection_limits

one_module(__name__, "calm.network.util")

IMAGENET = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-19c8e357.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "inception_v3_google": "inception_v3_google-1a9a5a14.pth",
}
IN_FOLDER = (
    "checkpoints/last.pt",
    "last.pt",
    "last_checkpoint.pth.tar",
)  # ours, bare, the original's
MODEL_SETTINGS = (  # what a checkpoint must say of its network, for numbers that can be compared
    *(
        "architecture",
        "attribution_method",
        "large_feature_map",
        "use_bn",
        "prior_activation",
        "prior_gradient",
    ),
    *("crop_size", "resize_size"),
)
BESIDE_STATE_DICT = (*MODEL_SETTINGS, "dataset_name")  # the first one also in the original's files
URL = "https://download.pytorch.org/models/"
HINT = "look at --architecture, --dataset, --num_classes, --use_bn, --large_feature_map, --is_different_checkpoint"


class MissingCheckpoint(UserError, FileNotFoundError):
    """No checkpoint at any of the places that were tried; the message lists them."""


def remove_layer(state_dict: dict[str, torch.Tensor], keyword: str) -> dict[str, torch.Tensor]:
    """Delete the entries whose name contains `keyword`, in place, and return the dict."""
    for key in [key for key in state_dict if keyword in key]:
        state_dict.pop(key)
    return state_dict


def initialize_weights(modules: Iterable[nn.Module], init_mode: str) -> None:
    """Convolutions: "he" (kaiming normal, fan out) or "xavier" (uniform); batch norm 1 and 0; biases 0."""
    if init_mode not in ("he", "xavier"):
        raise ValueError(f"init_mode {init_mode!r}: choose from he, xavier")
    for module in modules:
        if isinstance(module, nn.Conv2d):
            if init_mode == "he":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def load_imagenet(
    model: nn.Module,
    name: str,
    path: str | None,
    drop: tuple[str, ...],
    rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
) -> None:
    """Start the backbone from torchvision's V1 weights: `path` (file or folder), torch's cache, or the network.

    UserError says which file to place where, and --pretrained=False, when none of them gives it.
    """
    file = IMAGENET[name]
    places = [Path(path), Path(path) / file] if path else [Path(get_dir()) / "checkpoints" / file]
    found = next((p for p in places if p.is_file()), None)
    if found is not None:
        state = checkpoint.load(found)
    else:
        try:
            if path:
                raise OSError("no such file")
            with connection_limits():
                state = load_state_dict_from_url(
                    URL + file, map_location="cpu", check_hash=True, weights_only=True
                )
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"ImageNet weights {file} are not in {', '.join(map(str, places))} and cannot be fetched "
                f"({error}); place the file there, or train from scratch with --pretrained=False"
            ) from error
    for keyword in drop:
        remove_layer(state, keyword)
    state = rename(state) if rename else state
    result = model.load_state_dict(state, strict=False)
    ours = ("conv_last.", "attention.", "conv6.", "bn6.", "A3_")
    wrong = [
        k
        for k in result.missing_keys
        if not k.startswith(ours) and not k.endswith("num_batches_tracked")
    ]
    if wrong or result.unexpected_keys:
        raise UserError(
            f"{file}: does not fit {name}: {', '.join((wrong + result.unexpected_keys)[:3])}"
        )


def find_checkpoint(path: str | Path, roots: Iterable[Path] = ()) -> Path:
    """The checkpoint file that `path` names: a file, or a folder, as it is or under one of `roots`.

    A folder holds one of IN_FOLDER. MissingCheckpoint lists all places.
    """
    tried: list[Path] = []
    for base in (Path(path).expanduser(), *(Path(root) / path for root in roots)):
        tried += [base, *(base / name for name in IN_FOLDER)]
    found = next((file for file in tried if file.is_file()), None)
    if found is not None:
        return found
    places = ", ".join(dict.fromkeys(str(p) for p in tried))
    raise MissingCheckpoint(
        f"no checkpoint {path}; tried {places}; train one with main.py or give --load_checkpoint"
    )


def holds_checkpoint(folder: str | Path) -> bool:
    """Whether a folder is that of a training run."""
    return any((Path(folder) / name).is_file() for name in IN_FOLDER)


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and settings of a checkpoint of ours, of the original's ({'state_dict': ...}), or a bare state dict."""
    saved = checkpoint.load(Path(path))
    settings: dict[str, Any] = {}
    if isinstance(saved, Mapping) and "state" in saved and "settings" in saved:
        saved, settings = saved["state"].get("model", saved["state"]), dict(saved["settings"])
    elif isinstance(saved, Mapping) and isinstance(saved.get("state_dict"), Mapping):
        settings = {name: saved[name] for name in BESIDE_STATE_DICT if name in saved}
        saved = saved["state_dict"]
    if not isinstance(saved, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in saved.values()
    ):
        raise UserError(f"{path}: holds no state_dict of tensors")
    state = checkpoint.strip_prefixes(saved)
    bad = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    if bad:
        raise UserError(
            f"{path}: {bad[0]} holds NaN or inf ({len(bad)} entries do); take an earlier checkpoint"
        )
    return state, settings


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    is_different_checkpoint: bool = False,
    roots: Iterable[Path] = (),
) -> dict[str, Any]:
    """Load a checkpoint file or folder into `model`; returns the settings stored with it.

    `is_different_checkpoint`: load the entries that fit and print how many did not. Otherwise UserError
    names the first keys and shapes that differ. MissingCheckpoint (a FileNotFoundError) lists what was tried.
    """
    file = find_checkpoint(path, roots)
    state, settings = read_checkpoint(file)
    stored, wanted = (
        settings.get("prior_activation", "relu"),
        getattr(model, "prior_activation", None),
    )
    is_calm = not getattr(getattr(model, "process", None), "is_cam", True)
    if is_different_checkpoint:
        own = model.state_dict()
        fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict(fitting, strict=False)
        print(f"{file}: {len(fitting)} of {len(state)} entries fit and were loaded", flush=True)
        return settings
    if is_calm and wanted not in (None, stored):
        raise UserError(
            f"{file}: its attention was trained with {stored}, not {wanted}; leave out --prior_activation, "
            "or force it with --is_different_checkpoint=True"
        )
    try:
        checkpoint.load_into(model, state, file)
    except UserError as error:
        raise UserError(f"{error}; {HINT}") from error
    return settings
