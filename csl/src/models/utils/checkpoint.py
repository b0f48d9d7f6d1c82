"""Weights of the published files and of our runs: what a file holds, and loading it whole or not at all.

Understood: {"model", "num_classes", "idx_to_class"} (CSL, ASL, TResNet zoo), {"state_dict"} (ImageNet-21k),
bare state dicts, "module." prefixes, with or without num_batches_tracked, timm's names, safetensors, and the
checkpoints of train.py.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from common import checkpoint
from common.cli import UserError
from csl.src.errors import MissingFileError, SettingsError
from csl.src.models.utils.convert import from_timm, is_timm, looks_like
from csl.src.models.utils.factory import canonical_name, create_model

ZOO = "the model zoos of Alibaba-MIIL (PartialLabelingCSL, ASL, TResNet, ImageNet21K) list the files"
SUFFIXES = ("", ".pth", ".pt", ".ckpt", ".safetensors")
HEADS = {
    "head.fc.weight": "plain",
    "head.fc.FC.weight": "bottleneck",
    "head.decoder.duplicate_pooling": "ML-Decoder",
}


class Checkpoint(NamedTuple):
    """What a weights file holds. `head`: plain, bottleneck, ML-Decoder or none.

    `architecture`: the network's name as the file has it, else the TResNet that its weights look like.
    """

    state_dict: dict[str, torch.Tensor]
    num_classes: int | None
    idx_to_class: dict[int, str] | None
    architecture: str | None
    head: str


def find_file(path: str | Path) -> Path | None:
    """The file as given, or with .pth, .pt, .ckpt or .safetensors added."""
    start = Path(path).expanduser()
    return next((p for suffix in SUFFIXES if (p := Path(f"{start}{suffix}")).is_file()), None)


def read_checkpoint(path: str | Path, *, averaged: bool = True) -> Checkpoint:
    """Read a weights file, tensors and plain data only.

    `averaged`: from a checkpoint of train.py that holds both, take the averaged model. MissingFileError names
    the tried paths; SettingsError says what a damaged or foreign file is.
    """
    file = find_file(path)
    if file is None:
        raise MissingFileError(f"{Path(path)}: no such file (tried also {', '.join(SUFFIXES[1:])}); {ZOO}")
    content = _load(file)
    if not isinstance(content, Mapping):
        raise SettingsError(f"{file}: holds a {type(content).__name__}, not weights")
    return _described(content, averaged, file)


def _described(content: Mapping[str, Any], averaged: bool, source: object) -> Checkpoint:
    info = content
    try:
        if "state" in content and "progress" in content:  # last.pt, best.pt of train.py
            parts = content["state"]
            info = parts.get("info", {})
            state = parts["ema"]["module"] if averaged and "ema" in parts else parts["model"]
        elif averaged and "ema" in content:
            state = content["ema"]
        else:
            state = content.get("model", content.get("state_dict", content))
        state = {k: v for k, v in checkpoint.strip_prefixes(state).items() if isinstance(v, torch.Tensor)}
    except (AttributeError, KeyError, TypeError):  # no mapping where one belongs
        state = {}
    if not state:
        raise SettingsError(f"{source}: holds no weights; its entries are {', '.join(map(str, list(content)[:5]))}")
    head = next((kind for key, kind in HEADS.items() if key in state), "none")
    if head == "none" and any(key.startswith("head.decoder") for key in state):
        head = "ML-Decoder"
    outputs = state.get({"plain": "head.fc.weight", "bottleneck": "head.fc.FC.weight"}.get(head, ""))
    count, names = info.get("num_classes") if outputs is None else len(outputs), info.get("idx_to_class")
    try:
        count = None if count is None else int(count)
        if names is not None:
            names = {int(k): str(v) for k, v in (names.items() if isinstance(names, Mapping) else enumerate(names))}
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{source}: num_classes or idx_to_class is no number, or no names by index ({error})"
        ) from error
    return Checkpoint(state, count, names, info.get("model_name") or looks_like(state), head)


def _load(file: Path) -> Any:
    start = file.open("rb").read(200)
    if start.startswith(b"version https://git-lfs"):
        raise SettingsError(f"{file}: a git-LFS pointer, not the weights; run `git lfs pull`, or download the file")
    if start.lstrip()[:1] == b"<":
        raise SettingsError(f"{file}: an HTML page saved under this name, not the weights; download the file itself")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise SettingsError(f"{file}: damaged ({error}); download it again") from error
    with torch.serialization.safe_globals(_numpy_scalars()):
        try:
            return checkpoint.load(file)
        except UserError as error:
            raise SettingsError(str(error)) from error


def _numpy_scalars() -> list:
    """What numpy numbers in old files need; none of it runs code."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4")]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*named, np.dtype, *kinds]


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Any], load_head: bool = True) -> Checkpoint:
    """Load a file, or what was loaded from one, into `model`; returns what it holds.

    `load_head=False` leaves `head.*` of the model as it is. Every other tensor must be there with its shape,
    else SettingsError names the first five misfits and the architecture that the file looks like.
    """
    if isinstance(source, Checkpoint):
        found, name = source, "the checkpoint"
    elif isinstance(source, Mapping):
        found, name = _described(source, True, "the checkpoint"), "the checkpoint"
    else:
        found, name = read_checkpoint(source), str(source)
    wanted = model.state_dict()
    given = from_timm(found.state_dict, wanted) if is_timm(found.state_dict, wanted) else found.state_dict
    is_head = _head_test(model)
    if load_head:
        _require_head(model, found, name)
    body = [key for key in wanted if load_head or not is_head(key)]
    needed = [key for key in body if not key.endswith("num_batches_tracked")]
    bad = [f"{key} is missing" for key in needed if key not in given]
    bad += [
        f"{key} is {tuple(given[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in needed
        if key in given and given[key].shape != wanted[key].shape
    ]
    bad += [f"{key} is unknown" for key in given if key not in wanted and not is_head(key)]
    if bad:
        likely = f"; the file looks like {found.architecture}" if found.architecture else ""
        if likely and looks_like(wanted) != looks_like(found.state_dict):
            likely += f": use --model-name {found.architecture}"
        raise SettingsError(f"{name}: does not fit the network: {'; '.join(bad[:5])} ({len(bad)} in all){likely}")
    model.load_state_dict({key: given[key] for key in body if key in given}, strict=False)
    return found


def _head_test(model: nn.Module) -> Any:
    classifier = getattr(model, "default_cfg", None) or {}
    names = classifier.get("classifier") or ()
    prefixes = ("head.", *(f"{n}." for n in ([names] if isinstance(names, str) else names)))
    return lambda key: key.startswith(prefixes)


def _require_head(model: nn.Module, found: Checkpoint, name: str) -> None:
    if found.head == "ML-Decoder":
        raise SettingsError(
            f"{name}: has an ML-Decoder head, which this network has not; load_head=False takes the body"
        )
    count = getattr(model, "num_classes", None)
    if found.num_classes is not None and count is not None and found.num_classes != count:
        raise SettingsError(
            f"{name}: a head of {found.num_classes} classes, the network has {count}; "
            f"use --num-classes {found.num_classes}, or load_head=False to take the body only"
        )
    bottleneck = "head.fc.FC.weight" in model.state_dict()
    if found.head in ("plain", "bottleneck") and (found.head == "bottleneck") != bottleneck:
        ours = "bottleneck" if bottleneck else "plain"
        raise SettingsError(f"{name}: a {found.head} head, the network has a {ours} one (do_bottleneck_head)")


def official(model_state: Mapping[str, torch.Tensor], **info: Any) -> dict[str, Any]:
    """A file in the form of the published ones: {"model", "num_classes", "idx_to_class", ...}."""
    return {"model": {k: v.detach().cpu() for k, v in model_state.items()}, **info}


class ModelInfo:
    """What a file must say beside its weights, so that infer.py can read it; kept in every checkpoint of a run."""

    def __init__(self, args: Any, classes: Mapping[int, str]) -> None:
        """`classes`: index -> name. SettingsError where --num_classes says otherwise."""
        if args.num_classes not in (None, len(classes)):
            raise SettingsError(f"--num_classes {args.num_classes}: the data have {len(classes)} classes")
        self.classes = dict(classes)
        self.settings = Namespace(
            model_name=args.model_name,
            num_classes=len(classes),
            do_bottleneck_head=bool(args.do_bottleneck_head),
        )

    def state_dict(self) -> dict[str, Any]:
        """num_classes, idx_to_class and the network's name, as plain data."""
        return {**vars(self.settings), "idx_to_class": self.classes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the checkpoint is of the same classes."""
        if list(state["idx_to_class"].values()) != list(self.classes.values()):
            raise SettingsError("the checkpoint is of other classes than the data")


def load_pretrained(args: Any, model: nn.Module) -> None:
    """Start from the body of --model_path. The default file may be missing (one line says so), a given one not."""
    if not args.model_path:
        print(f"no --model_path: random initialisation ({ZOO})", file=sys.stderr, flush=True)
        return
    if find_file(args.model_path) is None and "model_path" not in args._given:
        print(f"{args.model_path} is not there: random initialisation ({ZOO})", file=sys.stderr, flush=True)
        return
    found = load_weights(model, args.model_path, load_head=False)
    print(f"pretrained {found.architecture or 'network'} from {args.model_path}, without its head", flush=True)


def network_of(path: str | Path, model_name: str, *, averaged: bool = True) -> tuple[nn.Module, Checkpoint]:
    """The network that a file holds, loaded, with the file's own class count and head.

    Where the file is of another network than `model_name`, that one is built and a line says so.
    """
    found = read_checkpoint(path, averaged=averaged)
    name = canonical_name(model_name)
    if found.architecture not in (None, name):
        print(f"{path} is a {found.architecture}, not a {name}: using {found.architecture}", flush=True)
        name = found.architecture
    if found.num_classes is None:
        raise SettingsError(f"{path}: has no head that tells the number of classes ({found.head}); {ZOO}")
    bottleneck = found.head == "bottleneck"
    model = create_model(Namespace(model_name=name, num_classes=found.num_classes, do_bottleneck_head=bottleneck))
    load_weights(model, found)
    return model, found
