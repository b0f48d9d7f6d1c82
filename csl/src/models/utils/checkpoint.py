"""Weights of the published files and of our runs.

The functions read what a file holds, and load it whole or not at all.

Understood: {"model", "num_classes", "idx_to_class"} (CSL, ASL, TResNet zoo), {"state_dict"}
(ImageNet-21k), bare state dicts, "module." prefixes, with or without num_batches_tracked, timm's
names, safetensors, and the checkpoints of train.py.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.backbones_weights import fill
from common.cli import DomainError
from common.text import is_kind
from csl.data_classes import Columns
from csl.data_errors import MissingFileError, as_domain_errors, expanded, say
from csl.data_pixels import recorded_interpolation, recorded_size, statistics_of
from csl.src.models.utils.convert import from_timm, is_timm, looks_like
from csl.src.models.utils.factory import (
    CamNetwork,
    build_network,
    canonical_name,
)

one_module(__name__, "csl.src.models.utils.checkpoint")

ZOO = (
    "the model zoos of Alibaba-MIIL (PartialLabelingCSL, ASL, TResNet, ImageNet21K) list the files"
)
SUFFIXES = ("", ".pth", ".pt", ".ckpt", ".safetensors")
HEADS = {
    "head.fc.weight": "plain",
    "head.fc.FC.weight": "bottleneck",
    "head.decoder.duplicate_pooling": "ML-Decoder",
}


class Weights(NamedTuple):
    """What every weights file tells. `head`: plain, bottleneck, ML-Decoder or none.

    `architecture`: the network's name as the file has it, else the TResNet that its weights look
    like.
    """

    state_dict: dict[str, torch.Tensor]
    num_classes: int | None
    idx_to_class: dict[int, str] | None
    architecture: str | None
    head: str


class Checkpoint(Weights):
    """The five of `Weights`, and beside them what our own runs write down.

    recorded: the entries of RECORDED that the file has, each checked; published files have none of
    them. single: whether the file holds one network only, not a model and its average.
    """

    recorded: Mapping[str, Any]
    single: bool

    def __new__(
        cls, *told: Any, recorded: Mapping[str, Any] | None = None, single: bool = True
    ) -> "Checkpoint":
        """`told`: the fields of `Weights`."""
        found = super().__new__(cls, *told)
        found.recorded = recorded or {}
        found.single = single
        return found

    def of(self, architecture: str) -> "Checkpoint":
        """The same under the name of the network that was built for it."""
        told = self._asdict() | {"architecture": architecture}
        return Checkpoint(*told.values(), recorded=self.recorded, single=self.single)


RECORDED = (
    *("model_name", "image_size", "interpolation", "mean", "std", "class_keys", "keep_empty"),
    "split_seed",  # of own data
)


def find_file(path: str | Path) -> Path | None:
    """The file as given, or with .pth, .pt, .ckpt or .safetensors added."""
    start = expanded(path, "--model_path")
    return next((p for suffix in SUFFIXES if (p := Path(f"{start}{suffix}")).is_file()), None)


def read_checkpoint(path: str | Path, *, averaged: bool = True) -> Checkpoint:
    """Read a weights file, tensors and plain data only.

    `averaged`: from a checkpoint of train.py that holds both, take the averaged model.
    MissingFileError names the tried paths; DomainError says what a damaged or foreign file is.
    """
    file = find_file(path)
    if file is None:
        raise MissingFileError(
            f"{Path(path)}: no such file (tried also {', '.join(SUFFIXES[1:])}); {ZOO}"
        )
    content = _load(file)
    if not isinstance(content, Mapping):
        raise DomainError(f"{file}: holds a {type(content).__name__}, not weights")
    return _described(content, averaged, file)


def _described(content: Mapping[str, Any], averaged: bool, source: object) -> Checkpoint:
    state, info, single = _weights_in(content, averaged)
    if not state:
        raise DomainError(
            f"{source}: holds no weights; its entries are {', '.join(map(str, list(content)[:5]))}"
        )
    head = next((kind for key, kind in HEADS.items() if key in state), "none")
    if head == "none" and is_cam_network(state) and "head.weight" in state:
        head = "plain"
    if head == "none" and any(key.startswith("head.decoder") for key in state):
        head = "ML-Decoder"
    outputs = state.get(
        {"plain": "head.fc.weight", "bottleneck": "head.fc.FC.weight"}.get(head, "")
    )
    if outputs is not None and outputs.dim() != 2:
        raise DomainError(
            f"{source}: a head of shape {tuple(outputs.shape)}, expected (classes, features)"
        )
    count = info.get("num_classes") if outputs is None else len(outputs)
    names = info.get("idx_to_class")
    try:
        count = None if count is None else int(count)
        if names is not None:
            pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
            names = {int(index): str(name) for index, name in pairs}
    except (TypeError, ValueError, OverflowError) as error:
        raise DomainError(
            f"{source}: num_classes or idx_to_class is no number, or no names by index ({error})"
        ) from error
    architecture = info.get("model_name")
    if not isinstance(architecture, str | None):
        raise DomainError(f"{source}: model_name {architecture!r:.40} is no text")
    architecture = architecture or looks_like(state)
    return Checkpoint(
        state, count, names, architecture, head, recorded=_recorded(info, source), single=single
    )


def _weights_in(
    content: Mapping[str, Any], averaged: bool
) -> tuple[dict[str, torch.Tensor], Mapping[str, Any], bool]:
    """The weights, empty where there are none; what stands beside them.

    Whether they are of one network only.
    """
    info = content
    single = True
    try:
        if "state" in content and "progress" in content:  # last.pt, best.pt of train.py
            parts = content["state"]
            settings = content.get("settings") or {}
            # What an earlier version did not write beside the classes stands in the run's settings.
            info = {key: settings[key] for key in ("image_size", "keep_empty") if key in settings}
            info |= parts.get("info", {})
            single = "ema" not in parts
            state = averaged_state(parts["ema"]) if averaged and not single else parts["model"]
        elif "ema" in content:
            single = "model" not in content
            state = content["ema"] if averaged or single else content["model"]
        else:
            state = content.get("model", content.get("state_dict", content))
        state = {
            k: v for k, v in checkpoint.strip_prefixes(state).items() if isinstance(v, torch.Tensor)
        }
    except (AttributeError, KeyError, TypeError):  # no mapping where one belongs
        return {}, {}, True
    return state, info, single


def averaged_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The averaged model in the state of a `ModelEma`; earlier versions kept it as one entry."""
    if "module" in state:
        return state["module"]
    start = "module."
    return {k.removeprefix(start): value for k, value in state.items() if k.startswith(start)}


def _recorded(info: Mapping[str, Any], source: object) -> dict[str, Any]:
    """The entries of RECORDED that a file has, usable ones; DomainError names one that is not."""
    found = {key: info[key] for key in RECORDED if key in info}
    recorded_size(info, source)
    recorded_interpolation(info, source)
    if "mean" in info or "std" in info:
        statistics_of(info.get("mean"), info.get("std"), source)
    keys = found.get("class_keys")
    if keys is not None and not (
        isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    ):
        raise DomainError(f"{source}: class_keys is no list of texts")
    if not is_kind(found.get("split_seed", 0), int):
        raise DomainError(f"{source}: split_seed is no whole number")
    if not isinstance(found.get("keep_empty", False), bool):
        raise DomainError(f"{source}: keep_empty is neither true nor false")
    return found


def _load(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        with suppress(SafetensorError):  # whatever it is instead, the next reader tells
            return load_file(file)
    with as_domain_errors():
        return checkpoint.load(file)


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Any] | Checkpoint, load_head: bool = True
) -> Checkpoint:
    """Load a file, or what was loaded from one, into `model`; returns what it holds.

    `load_head=False` leaves `head.*` of the model as it is. Every other tensor must be there with
    its shape, else DomainError names the first five misfits and the architecture that the file
    looks like.
    """
    name = "the checkpoint"
    if isinstance(source, Checkpoint):
        found = source
    elif isinstance(source, Mapping):
        found = _described(source, True, name)
    else:
        name = str(source)
        found = read_checkpoint(source)
    wanted = model.state_dict()
    given = found.state_dict
    if isinstance(model, CamNetwork) and not is_cam_network(given):
        _fill_cam_network(model, given, name, load_head=load_head)
        return found
    if is_timm(given, wanted):
        given = from_timm(given, wanted)
    is_head = _head_test(model)
    if load_head:
        _require_head(model, found, name)
    body = [key for key in wanted if load_head or not is_head(key)]
    needed = [key for key in body if not key.endswith("num_batches_tracked")]
    bad = _misfits(given, wanted, needed)
    bad += [f"{key} is unknown" for key in given if key not in wanted and not is_head(key)]
    if bad:
        likely = ""
        if found.architecture:
            likely = f"; the file looks like {found.architecture}"
            if looks_like(wanted) != looks_like(found.state_dict):
                likely += f": use --model-name {found.architecture}"
        raise DomainError(
            f"{name}: does not fit the network: {'; '.join(bad[:5])} ({len(bad)} in all){likely}"
        )
    model.load_state_dict({key: given[key] for key in body if key in given}, strict=False)
    return found


def is_cam_network(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state dict is of a `CamNetwork`."""
    return any(key.startswith("features.body.") for key in state)


def _fill_cam_network(
    model: CamNetwork, given: Mapping[str, torch.Tensor], name: str, *, load_head: bool
) -> None:
    """Weights under the names of timm, torchvision or an original into a `CamNetwork`."""
    target = model.weight_target() if load_head else model.features.weight_target()
    with as_domain_errors():
        print(fill(target, given, name, strict_head=load_head), flush=True)


def _misfits(
    given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], needed: Sequence[str]
) -> list[str]:
    """What is wrong with the needed entries: those that are missing, then shapes, then values."""
    missing = []
    shapes = []
    values = []
    for key in needed:
        if key not in given:
            missing.append(f"{key} is missing")
            continue
        found = given[key]
        if found.shape != wanted[key].shape:
            shapes.append(f"{key} is {tuple(found.shape)}, not {tuple(wanted[key].shape)}")
        problem = _unusable(found, wanted[key])
        if problem:
            values.append(f"{key} {problem}")
    return missing + shapes + values


def _unusable(given: torch.Tensor, wanted: torch.Tensor) -> str | None:
    """Return why values cannot stand for others of their shape.

    They would be cut off, or make every score NaN.
    """
    if given.layout != torch.strided or given.is_quantized:
        return "is sparse or quantized"
    if not wanted.is_floating_point():
        return None
    if not given.is_floating_point():
        return f"holds {str(given.dtype).removeprefix('torch.')}, expected floating-point numbers"
    if not given.isfinite().all():
        return "is not finite"
    return None


def _head_test(model: nn.Module) -> Any:
    classifier = getattr(model, "default_cfg", None) or {}
    names = classifier.get("classifier") or ()
    prefixes = ("head.", *(f"{n}." for n in ([names] if isinstance(names, str) else names)))
    return lambda key: key.startswith(prefixes)


def _require_head(model: nn.Module, found: Checkpoint, name: str) -> None:
    if found.head == "ML-Decoder":
        told = "has an ML-Decoder head, which this network has not; load_head=False takes the body"
        raise DomainError(f"{name}: {told}")
    count = getattr(model, "num_classes", None)
    if found.num_classes is not None and count is not None and found.num_classes != count:
        raise DomainError(
            f"{name}: a head of {found.num_classes} classes, the network has {count}; "
            f"use --num-classes {found.num_classes}, or load_head=False to take the body only"
        )
    bottleneck = "head.fc.FC.weight" in model.state_dict()
    if found.head in ("plain", "bottleneck") and (found.head == "bottleneck") != bottleneck:
        ours = "bottleneck"
        if not bottleneck:
            ours = "plain"
        raise DomainError(
            f"{name}: a {found.head} head, the network has a {ours} one (do_bottleneck_head)"
        )


def official(model_state: Mapping[str, torch.Tensor], **info: Any) -> dict[str, Any]:
    """A file in the form of the published ones: {"model", "num_classes", "idx_to_class", ...}."""
    return {"model": {k: v.detach().cpu() for k, v in model_state.items()}, **info}


def load_pretrained(model: nn.Module, path: str | None, *, is_given: bool) -> None:
    """Start from the body of a file.

    The default one may be missing (one line says so), a given one not.
    """
    if not path:
        say(f"no --model_path: random initialisation ({ZOO})")
        return
    if isinstance(model, CamNetwork) and not is_given:
        say("no --weights and no --pretrained: random initialisation")
        return
    if find_file(path) is None and not is_given:
        say(f"{path} is not there: random initialisation ({ZOO})")
        return
    found = load_weights(model, path, load_head=False)
    network = found.architecture or "network"
    print(f"pretrained {network} from {path}, without its head", flush=True)


def network_of(
    path: str | Path,
    model_name: str,
    *,
    averaged: bool = True,
    image_size: int | None = None,
    is_told: bool = True,
) -> tuple[nn.Module, Checkpoint]:
    """The network that a file holds, loaded, with the file's own class count and head.

    Where the file is of another network than `model_name`, that one is built and a line says so;
    the Checkpoint's architecture is the one that was built.

    image_size: of networks that are made for one size; None: that of the file. is_told: whether the
    line is printed.
    """
    found = read_checkpoint(path, averaged=averaged)
    name = canonical_name(model_name)
    if found.architecture not in (None, name):
        if is_told:
            told = f"not a {name}: using {found.architecture}"
            print(f"{path} is a {found.architecture}, {told}", flush=True)
        name = found.architecture
    if found.num_classes is None:
        raise DomainError(
            f"{path}: has no head that tells the number of classes ({found.head}); {ZOO}"
        )
    for what, names in (
        ("idx_to_class", found.idx_to_class),
        ("class_keys", found.recorded.get("class_keys")),
    ):
        if names is not None and len(names) != found.num_classes:
            raise DomainError(
                f"{path}: {len(names)} entries of {what} for {found.num_classes} outputs"
            )
    if found.idx_to_class is not None and set(found.idx_to_class) != set(range(found.num_classes)):
        raise DomainError(
            f"{path}: the indices of idx_to_class are not 0 to {found.num_classes - 1}"
        )
    bottleneck = found.head == "bottleneck"
    size = image_size or found.recorded.get("image_size")
    model = build_network(name, found.num_classes, bottleneck=bottleneck, image_size=size)
    load_weights(model, found)
    return model, found.of(name)


def require_choice(found: Checkpoint, path: object, which: str, *, is_given: bool) -> None:
    """DomainError where --which asks for one of two networks and the file holds a single one."""
    if is_given and found.single:
        raise DomainError(
            f"--which {which}: {path} holds one network, not a model and its average; leave it out"
        )


def names_of(found: Checkpoint) -> list[str]:
    """The names of the outputs, in their order; "class 0" and so on where the file has none."""
    count = found.num_classes or 0
    names = found.idx_to_class or {index: f"class {index}" for index in range(count)}
    return [names[index] for index in range(len(names))]


def columns_of(found: Checkpoint, path: object) -> Columns | None:
    """The classes of the outputs, in their order; None where the file has no names."""
    if found.idx_to_class is None:
        return None
    names = [found.idx_to_class[index] for index in range(len(found.idx_to_class))]
    return Columns(names, found.recorded.get("class_keys"), str(path))
