"""What a network takes and says: shape and normalisation of its input, number of classes.

Kept in every checkpoint.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cavl.data import PartialData
from common.aliases import one_module

one_module(__name__, "cavl.data_input")


LARGEST = 1_000_000_000  # features, pixels of a side, or classes


@dataclass
class InputFormat:
    """shape (C,H,W) of images or (d,) of features.

    Mean and std of each colour, or None; K classes. How pictures are resized; None: bilinear.
    """

    shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None

    @classmethod
    def of(cls, data: PartialData) -> "InputFormat":
        """That of a data set."""
        shape = tuple(data.train_x.shape[1:])
        return cls(shape, data.num_classes, data.mean, data.std, data.interpolation)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "InputFormat":
        """That of a checkpoint; KeyError, TypeError or ValueError where it holds none."""
        shape = tuple(state["shape"])
        classes = state["num_classes"]
        sizes = (*shape, classes)
        if not shape or not all(isinstance(size, int) and 1 <= size <= LARGEST for size in sizes):
            raise ValueError(f"shape {shape}, {classes} classes")

        interpolation = state.get("interpolation")
        if not isinstance(interpolation, str | None):
            raise TypeError(f"interpolation {interpolation!r:.40}")

        if state["mean"] is None and state["std"] is None:
            return cls(shape, classes, interpolation=interpolation)
        mean = tuple(state["mean"])
        std = tuple(state["std"])
        _require_scale(mean, std, shape[0])
        return cls(shape, classes, mean, std, interpolation)

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        state = asdict(self)
        if self.interpolation is None:
            del state["interpolation"]
        for name, value in state.items():
            if isinstance(value, tuple):
                state[name] = list(value)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Find the checkpoint's format equal to the data's.

        ValueError where the data have changed.
        """
        saved = self.from_state(state)
        if saved != self:
            raise ValueError(f"{saved} then, {self} now")

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        scale = ""
        if self.mean is not None and self.std is not None:
            scale = f", mean {_numbers(self.mean)}, deviation {_numbers(self.std)}"
        return f"input {size}{scale}, {self.num_classes} classes"


class ClassNames:
    """The names of the classes, in a checkpoint as `common.own_names.class_names_of` finds them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [str(name) for name in names]

    def state_dict(self) -> dict[str, list[str]]:
        """Plain data for a checkpoint."""
        return {"names": self.names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Find the checkpoint's names equal to the data's; ValueError where they are others."""
        if list(state["names"]) != self.names:
            raise ValueError(f"{state['names']!r:.80} then, {self.names!r:.80} now")


def _require_scale(mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> None:
    """Check that every channel has a finite mean and a deviation above 0.

    Raises ValueError, or TypeError, where one has not.
    """
    are_finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != channels or len(std) != channels or not are_finite or min(std) <= 0:
        raise ValueError(f"mean {mean}, deviation {std} of {channels} channels")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
