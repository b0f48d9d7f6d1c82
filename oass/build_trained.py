"""A network after its training: read from a checkpoint, with the settings that its numbers need."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.own import class_names_of
from oass.core.networks import HEAD, Classifier, load_classifier, read_state
from oass.data_voc import CLASS_NAMES
from oass.options_check import check_size
from oass.options_flags import BASELINES, DIFFICULT, PUZZLES, RULES, TILE_MODES

one_module(__name__, "oass.build_trained")

# What a trained network's numbers depend on: taken from its checkpoint where no flag says
# otherwise. The values here are for files without settings (official state dicts).
KEPT: dict[str, object] = {
    "architecture": "resnet50",
    "image_size": 512,
    "strategy": "cMax",
    "keypoint_rule": "paper",
    "topk": 5,
    "min_distance": None,
    "radius": None,
    "teacher_bn": "group",
    "tile_chunk": None,
    "difficult": "include",
    "drop_last_eval": False,
    "batch_size": 32,
}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_count_or_none(value: object) -> bool:
    return value is None or _is_count(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _one_of(*choices: str) -> Callable[[object], bool]:
    return lambda value: _is_text(value) and value in choices


# Which values of a checkpoint's settings can be such.
WHAT_HOLDS: dict[str, Callable[[object], bool]] = {
    "architecture": _is_text,
    "val_domain": _is_text,
    "strategy": _one_of(*PUZZLES, *BASELINES),
    "keypoint_rule": _one_of(*RULES),
    "teacher_bn": _one_of(*TILE_MODES),
    "difficult": _one_of(*DIFFICULT),
    **dict.fromkeys(("image_size", "topk", "batch_size"), _is_count),
    **dict.fromkeys(("min_distance", "radius", "tile_chunk"), _is_count_or_none),
    "drop_last_eval": lambda value: isinstance(value, bool),
}


def run_checkpoint(path: Path) -> Path:
    """The file of a checkpoint, or of a run directory's best (else last) one."""
    if not path.is_dir():
        return path
    best = path / "checkpoints" / "best.pt"
    last = path / "checkpoints" / "last.pt"
    return last if last.is_file() and not best.is_file() else best


class Trained:
    """A checkpoint or run directory, read once: the settings that describe it, and its networks.

    asked: settings of `KEPT` by name that hold instead of the checkpoint's; None is not asked.
    `in_use` has a value for each name of `KEPT`. `strategy` is what the checkpoint was trained
    with, whatever was asked. UserError where there is no such file, or it holds a backbone alone.
    """

    def __init__(self, path: Path, **asked: object) -> None:
        self.path = run_checkpoint(path)
        self.saved = checkpoint.load(self.path)
        self.settings = self._part("settings")
        self._check_settings()
        self.in_use: dict[str, Any] = {}
        self.overruled: list[str] = []
        for name, default in KEPT.items():
            kept = self.settings.get(name, default)
            value = asked.get(name)
            if value is None:
                value = kept
            elif name in self.settings and value != kept:
                self.overruled.append(f"--{name} {value} (trained with {kept})")
            self.in_use[name] = value
        self.architecture: str = self.in_use["architecture"]
        self.image_size: int = self.in_use["image_size"]
        check_size(self.image_size)
        self.strategy = self.settings.get("strategy", KEPT["strategy"])
        names = read_state(self.path, self.saved)
        if "fc.weight" in names:
            raise UserError(
                f"{self.path}: holds a backbone with classes of its own, no classifier to use"
            )
        self.has_head = any(name.startswith(HEAD) for name in names)
        saved_names = class_names_of(self.saved) if isinstance(self.saved, Mapping) else None
        self.classes: tuple[str, ...] = tuple(saved_names or CLASS_NAMES)

    @property
    def val_domain(self) -> object:
        """The split, or the path of the list, that the run was evaluated on; val where unknown."""
        return self.settings.get("val_domain", "val")

    @property
    def seed(self) -> int:
        """The run's, by which the val part of own data was drawn."""
        seed = self.settings.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    def _part(self, name: str) -> Mapping[str, object]:
        """What the file holds under a name, by names; empty where nothing, as in a state dict."""
        if not isinstance(self.saved, Mapping):
            return {}
        part = self.saved.get(name, {})
        if isinstance(part, torch.Tensor):
            return {}
        if not isinstance(part, Mapping):
            shown = f"{name} is {part!r:.40}"
            raise UserError(f"{self.path}: not a whole checkpoint of a run ({shown})")
        return part

    def _check_settings(self) -> None:
        """UserError for the first kept setting, or name of a split, that cannot be one."""
        for name, holds in WHAT_HOLDS.items():
            if name in self.settings and not holds(self.settings[name]):
                shown = f"{name} is {self.settings[name]!r:.40}"
                raise UserError(f"{self.path}: not a whole checkpoint of a run ({shown})")

    @property
    def is_pooled(self) -> bool:
        """Whether its logits are GAP(F): trained as gap, or without instance head (PuzzleCAM)."""
        return self.strategy == "gap" or not self.has_head

    @property
    def has_teacher(self) -> bool:
        """Whether it holds the averaged network too."""
        return isinstance(self._part("state").get("teacher"), Mapping)

    def describe(self, network: Classifier) -> str:
        """What its numbers depend on, in a line; in a second one what flags overruled."""
        epoch = self._part("progress").get("epoch")
        place = str(self.path)
        if epoch is not None:
            place += f", epoch {epoch}"
        head = "GAP of the class maps" if self.is_pooled else "instance head"
        mean, std = network.normalisation
        number = "{:g}".format
        pixels = f"{' '.join(map(number, mean))} / {' '.join(map(number, std))}"
        text = (
            f"{place}: {self.strategy}, {self.architecture}, {head}, "
            f"{network.num_classes} classes, {self.image_size} px, pixels normalised by {pixels}"
        )
        if self.overruled:
            text += f"\nother than in training: {', '.join(self.overruled)}"
        return text

    def network(self, name: str = "student") -> Classifier:
        """The student or the teacher, in eval mode. UserError where none fits."""
        model = Classifier(
            self.architecture, len(self.classes), pretrained=False, image_size=self.image_size
        )
        model.set_input(self._part("state").get("input"))
        if name == "student":
            load_classifier(model, self.path, self.saved)
            return model.eval()
        if not self.has_teacher:
            raise UserError(f"{self.path}: holds no teacher; --network student")
        # The teacher's own running statistics are not averaged: the student's belong to it.
        buffers = {key for key, _ in model.named_buffers(remove_duplicate=False)}
        saved = self.saved["state"]
        state = dict(saved["teacher"])
        state.update({key: saved["model"][key] for key in buffers if key in state})
        checkpoint.load_into(model, state, self.path)
        return model.eval()
