"""A trained network back from a run's checkpoint, with its input and its rule of selection."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cavl.build import build_network
from cavl.cifar_models.class_activation import ClassActivationNetwork
from cavl.data import CIFAR_MEAN, CIFAR_STD
from cavl.data_input import InputFormat
from cavl.method import CavKind, Mask
from cavl.options_datasets import DATA_SETS, OWN_DATA
from cavl.options_rules import MAP_MODELS, has_maps, is_resnet_depth
from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.own_names import class_names_of

one_module(__name__, "cavl.build_saved")

LARGEST_SIDE = 16384  # pixels
SIDES = {"idx": 28, "cifar": 32, "plcifar": 32}  # pixels, of checkpoints that do not say theirs
CHOICES = {
    "cav": ("logit", "softmax", "grad"),
    "mask": ("candidates", "product"),
    "select": ("cav", "cam"),
    "head": ("linear", "mlp"),
}


@dataclass(frozen=True)
class SavedRun:
    """A network in evaluation mode, its input, its run's settings; names of its classes or None."""

    model: Any
    takes: InputFormat
    ds: str
    mo: str
    depth: int
    cav: CavKind
    mask: Mask
    select: str
    head: str = "linear"
    names: list[str] | None = None

    def called(self, k: int) -> str:
        """The name of class number k, which is its number where the run has no names."""
        return str(k) if self.names is None else self.names[k]

    def __str__(self) -> str:
        name = f"{self.mo} of depth {self.depth}" if self.mo == "resnet" else self.mo
        rule = f"-cav {self.cav}, -mask {self.mask}"
        return f"{name} trained on {self.ds}: {self.takes}, {rule}"


def load_run(folder: Path) -> SavedRun:
    """The trained network of a run directory; UserError where it has no maps."""
    saved = load_any_run(folder, needs_maps=True)
    assert isinstance(saved.model, ClassActivationNetwork)
    return saved


def load_any_run(folder: Path, *, needs_maps: bool = False) -> SavedRun:
    """The trained network of a run directory. All of it comes from checkpoints/last.pt."""
    file = folder / "checkpoints" / "last.pt"
    if not file.is_file():
        raise UserError(
            f"--run {folder}: no checkpoints/last.pt in it; name a run directory of main.py"
        )
    saved = checkpoint.load(file)
    settings = settings_in(saved, folder)
    if needs_maps and not has_maps(settings["mo"], settings["head"]):
        have = f"{', '.join(MAP_MODELS)} have them, and the networks of timm and torchvision"
        raise UserError(f"--run {folder}: its network has no class activation maps; {have}")
    weights = load_weights(file)
    takes = input_format_of(saved, settings["ds"], settings["mo"], weights, file)
    how = {name: settings[name] for name in ("ds", "depth", "head")}
    model = build_network(settings["mo"], takes, **how)
    checkpoint.load_into(model, weights, file)
    names = class_names_of(saved)
    if names is not None and len(names) != takes.num_classes:
        problem = f"{len(names)} names of classes, but {takes.num_classes} classes"
        raise UserError(f"{file}: {problem}; name another checkpoint")
    return SavedRun(model.eval(), takes, **settings, names=names)


def settings_in(saved: Any, folder: Path) -> dict[str, Any]:
    """ds, mo, depth and what CHOICES lists; UserError where it is a checkpoint of others."""
    settings: Mapping[str, Any] = {}
    if isinstance(saved, Mapping) and isinstance(saved.get("settings"), Mapping):
        settings = {"head": "linear", **saved["settings"]}  # older ones do not say theirs
    is_known = str(settings.get("ds")) in (*DATA_SETS, *OWN_DATA)
    if not is_known or not isinstance(settings.get("mo"), str):
        raise UserError(
            f"--run {folder}: not a checkpoint of main.py of this paper; name a run directory of it"
        )
    if not saved.get("state"):
        raise UserError(f"--run {folder}: holds several runs, a folder each; name one of them")
    fits = {name: settings.get(name) in choices for name, choices in CHOICES.items()}
    fits["depth"] = is_resnet_depth(settings.get("depth"))
    for name, is_value in fits.items():
        if not is_value:
            found = f"its checkpoint holds {name} {settings.get(name)!r:.40}"
            raise UserError(f"--run {folder}: {found}, which is no value of -{name}")
    return {name: settings[name] for name in ("ds", "mo", *fits)}


def load_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """The weights in a checkpoint of main.py or in a file of nothing else; else a UserError."""
    saved = checkpoint.load(path)
    for key in ("state", "model"):
        if isinstance(saved, Mapping):
            saved = saved.get(key, saved)
    is_named = isinstance(saved, Mapping)
    if not is_named or not all(isinstance(value, torch.Tensor) for value in saved.values()):
        raise UserError(f"{path}: not a checkpoint of main.py, which holds weights by name")
    for name, value in saved.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinite values; name another checkpoint")
    return saved


def input_format_of(
    saved: Any,
    ds: str,
    mo: str,
    weights: Mapping[str, torch.Tensor],
    source: object = "checkpoint",
) -> InputFormat:
    """What the checkpoint says; of an older one, what the data set `ds` and the weights say."""
    state = saved.get("state") if isinstance(saved, Mapping) else None
    if mo not in MAP_MODELS and isinstance(state, Mapping):
        return _format_in(state.get("input"), None, source)
    first_convolution = next((w for w in weights.values() if w.ndim == 4), None)
    last_layer = next((w for w in reversed(list(weights.values())) if w.ndim == 2), None)
    if first_convolution is None or last_layer is None:
        raise UserError(f"{source}: its weights are not those of {', '.join(MAP_MODELS)}")
    channels = first_convolution.shape[1]
    classes = last_layer.shape[0]

    if isinstance(state, Mapping) and "input" in state:
        return _format_in(state["input"], (channels, classes), source)

    kind = DATA_SETS[ds].kind
    if kind not in SIDES:
        raise UserError(f"{source}: a network of images, trained on {ds}, which holds none")
    shape = (channels, SIDES[kind], SIDES[kind])
    if kind == "idx":
        return InputFormat(shape, classes)
    return InputFormat(shape, classes, CIFAR_MEAN, CIFAR_STD)


def _format_in(state: Any, of_weights: tuple[int, int] | None, source: object) -> InputFormat:
    """A checkpoint's format of images; UserError where it is none, or not that of the weights.

    of_weights: the channels and classes of the weights; None where they are compared later, by
    loading them.
    """
    try:
        found = InputFormat.from_state(state)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source}: the format of its input is {state!r:.80}, which is none"
        ) from error
    if len(found.shape) == 1:
        raise UserError(f"{source}: {found}; it was trained on features and takes no pictures")
    if len(found.shape) != 3 or max(found.shape) > LARGEST_SIDE:
        raise UserError(f"{source}: {found}, expected channels, height and width")
    if of_weights is not None and (found.shape[0], found.num_classes) != of_weights:
        channels, classes = of_weights
        weights = f"weights of {channels} channels and {classes} classes"
        raise UserError(f"{source}: {found}, but {weights}")
    return found
