"""What a network takes and says: shape and normalisation of its input, number of classes; kept in every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cavl.utils.datasets import PartialData
from common.aliases import one_module

one_module(__name__, "cavl.utils.input_format")


@dataclass
class InputFormat:
    """shape (C,H,W) of images or (d,) of features; mean and std of each colour, or None; K classes."""

    shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, data: PartialData) -> "InputFormat":
        """That of a data set."""
        return cls(tuple(data.train_x.shape[1:]), data.num_classes, data.mean, data.std)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "InputFormat":
        """That of a checkpoint; KeyError or TypeError where it holds none."""
        parts = {name: state[name] and tuple(state[name]) for name in ("shape", "mean", "std")}
        return cls(num_classes=int(state["num_classes"]), **parts)

    def state_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Find the checkpoint's format equal to the data's; ValueError where the data have changed."""
        saved = self.from_state(state)
        if saved != self:
            raise ValueError(f"{saved} then, {self} now")

    def __str__(self) -> str:
        size = "x".join(str(side) for side in self.shape)
        scale = "" if self.mean is None else f", mean {_numbers(self.mean)}, deviation {_numbers(self.std)}"
        return f"input {size}{scale}, {self.num_classes} classes"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
