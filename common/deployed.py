"""A trained network as other programs use it: with its input, its classes and what it answers.

Each paper says how one of its run directories becomes such a network: a function of its
`build_deployed.py`, registered in pyproject.toml as an entry point of the group below. Its name is
a setting that only runs of this paper have, by which a run is known; nothing here knows a paper.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.text import read_json

GROUP = "weak_supervision.runs"

# What a network answers, and how its answer becomes probabilities.
ANSWERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": torch.sigmoid,
    "probabilities": lambda probabilities: probabilities,
}


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an input: resized, cut, scaled to 0..1, normalised by channel.

    size: (height, width) of the input in pixels. resize: `squash` to the size, or the `shortest`
    side to `resize_to` pixels and the centre cut out.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squash"
    resize_to: int | None = None
    interpolation: str = "bilinear"
    channels: int = 3


@dataclass(frozen=True)
class Deployed:
    """A trained network in evaluation mode.

    network: (B, channels, height, width) float32, prepared -> (B, classes) float32.
    answer: a key of `ANSWERS`. maps: (B, channels, height, width) -> (B, classes, h, w) class
    activation maps, where the network has them. timm_name, timm_state: the same network as timm
    builds it, where it does.
    """

    paper: str
    architecture: str
    network: nn.Module
    classes: tuple[str, ...]
    preparation: Preparation
    answer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    maps: Callable[[torch.Tensor], torch.Tensor] | None = None
    timm_name: str | None = None
    timm_state: Mapping[str, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise ValueError(f"answer {self.answer!r}: expected one of {', '.join(ANSWERS)}")

    def example(self, batch: int = 1) -> torch.Tensor:
        """Random inputs (batch, channels, height, width), the same at every call."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch, self.preparation.channels, *self.preparation.size)
        return torch.randn(shape, generator=generator)

    @torch.inference_mode()
    def probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, classes) float32 in 0..1 of prepared inputs (B, channels, height, width)."""
        return ANSWERS[self.answer](self.network(inputs).float())

    def description(self) -> dict[str, Any]:
        """Everything but the weights, as plain data."""
        return {
            "paper": self.paper,
            "architecture": self.architecture,
            "classes": list(self.classes),
            "answer": self.answer,
            "input": asdict(self.preparation),
        }


def settings_of_run(run: Path) -> dict[str, Any]:
    """The settings that a run directory's config.json holds; UserError where it is none."""
    file = run / "config.json"
    if not file.is_file():
        raise UserError(f"{run}: not a run directory (it has no config.json)")
    settings = read_json(file, dict).get("settings")
    if not isinstance(settings, dict):
        raise UserError(f"{file}: holds no settings; name a run directory of a training script")
    return settings


def deployed(run: str | Path) -> Deployed:
    """The trained network of a run directory of any of the papers, on the CPU.

    UserError where the directory holds no run, or one that trained no network.
    """
    folder = Path(run)
    settings = settings_of_run(folder)
    known = entry_points(group=GROUP)
    for found in known:
        if found.name in settings:
            return found.load()(folder)
    if not known:
        raise UserError("the installed package lists no papers; install it again: pip install -e .")
    raise UserError(f"{folder}: a run of no paper that is installed here")


def in_words(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def as_json(description: Mapping[str, Any]) -> bytes:
    """Plain data as the text of a file."""
    return f"{json.dumps(description, indent=1, ensure_ascii=False)}\n".encode()
