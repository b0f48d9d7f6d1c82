"""Score maps as arrays: making, checking, resizing, normalising; thresholds; logging to a file.

The public names of the released util.py; erasing lives in calm/erasing.py, normalisation in common/cam.py.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
import torch

from calm.erasing import (  # noqa: F401
    GaussianSmoothing,
    compute_padding,
    get_baseline,
    get_topk_to_zero_mask,
    random_mask_generator,
    smoothing,
)
from calm.score_map_method import GRADIENT_PROCESSES, GRADIENT_SETTINGS, activation_map, backprop
from common.aliases import one_module
from common.cam import normalize_scoremap, resize_maps  # noqa: F401
from common.checkpoint import atomic_write

one_module(__name__, "calm.util")

THRESHOLD_TYPES = ("even", "log")


def get_score_map(process: str, method: str) -> Callable[..., torch.Tensor]:
    """The function (model=, images=, targets=, ...) -> maps of a process; `*_grad` means backprop in any case."""
    if process in GRADIENT_PROCESSES:
        return partial(GRADIENT_PROCESSES[process], method=backprop)
    if method != "activation_map":
        raise ValueError(
            f"score_map_method {method!r} has no process {process!r}; use activation_map"
        )
    return partial(activation_map, score_map_process=process)


def get_scoremaps(
    tester: Any, inputs: torch.Tensor, targets: torch.Tensor, dataset_name: str = "CUB"
) -> np.ndarray:
    """The maps of `targets` on `inputs` with tester.model and tester.args: float32 (B,h,w) or (B,H,W)."""
    args = tester.args
    settings = {name: getattr(args, name) for name in GRADIENT_SETTINGS if hasattr(args, name)}
    maps = get_score_map(args.score_map_process, args.score_map_method)(
        model=tester.model,
        images=inputs,
        targets=targets,
        num_classes=_count_classes(tester, dataset_name),
        superclass=getattr(tester, "superclass", None),
        **settings,
    )
    return t2n(smoothing(maps, getattr(args, "smoothing_ksize", 1))).astype(np.float32)


def _count_classes(tester: Any, dataset_name: str) -> int | None:
    """The network's own number (a sample has few); else the data set's official one."""
    last = getattr(tester.model, "conv_last", None)
    return (
        last.out_channels
        if last is not None
        else getattr(tester, "_NUM_CLASSES_MAPPING", {}).get(dataset_name)
    )


def get_threshold_list(interval: float, type: str = "even") -> list[float]:
    """even: 0, d, 2d, ... below 1; log: 10^-t for t descending over arange(0, 7, 7d), ending in exactly 1.

    ValueError for another type, and for an interval that is not strictly between 0 and 1.
    """
    if not 0 < interval < 1:
        raise ValueError(f"interval {interval!r}: must lie strictly between 0 and 1")
    if type == "even":
        return list(np.arange(0, 1, interval))
    if type == "log":
        return [10.0**-t for t in np.arange(0, 7, 7 * interval)[::-1]]
    raise ValueError(f"threshold_type {type!r}: choose from {', '.join(THRESHOLD_TYPES)}")


def check_scoremap_validity(scoremap: np.ndarray, name: str = "") -> None:
    """TypeError unless a float64 array; ValueError unless 2-D, free of NaN and inside [0,1]; `name` is the image."""
    where = f"score map of {name}: " if name else "score map: "
    if not isinstance(scoremap, np.ndarray) or scoremap.dtype != np.float64:
        raise TypeError(
            f"{where}expected a float64 array, got {getattr(scoremap, 'dtype', type(scoremap).__name__)}"
        )
    if scoremap.ndim != 2:
        raise ValueError(f"{where}expected two axes, got shape {scoremap.shape}")
    if np.isnan(scoremap).any():
        raise ValueError(f"{where}contains NaN")
    if (scoremap > 1).any() or (scoremap < 0).any():
        raise ValueError(f"{where}outside [0, 1]: {scoremap.min():.4g} to {scoremap.max():.4g}")


def resize_scoremap(scoremap: np.ndarray, size: tuple[int, int] = (224, 224)) -> np.ndarray:
    """A map (h,w) at `size` (H,W), bilinear, unless it has that size already."""
    return resize_scoremaps(np.asarray(scoremap)[None], "numpy", size)[0]


def resize_scoremaps(
    scoremaps: np.ndarray | torch.Tensor, kind: str = "tensor", size: tuple[int, int] = (224, 224)
) -> np.ndarray | torch.Tensor:
    """Maps (B,h,w) at `size`, bilinear: "tensor" gives (B,1,H,W), "numpy" (B,H,W) of the input's dtype."""
    if kind not in ("tensor", "numpy"):
        raise ValueError(f"kind {kind!r}: choose from tensor, numpy")
    maps = (
        scoremaps
        if isinstance(scoremaps, torch.Tensor)
        else torch.from_numpy(np.ascontiguousarray(scoremaps))
    )
    maps = maps[:, None]
    if tuple(maps.shape[-2:]) != tuple(size):
        maps = resize_maps(maps, tuple(size))
    return maps if kind == "tensor" else t2n(maps[:, 0])


def string_contains_any(text: str, substrings: list[str] | tuple[str, ...]) -> bool:
    """Whether `text` contains one of `substrings`."""
    return any(part in text for part in substrings)


def t2n(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array on the host."""
    return tensor.detach().cpu().numpy()


class Reporter:
    """Collects the values of one epoch and writes them as ROOT/EPOCH.json."""

    def __init__(self, root: str | Path, epoch: int | str) -> None:
        self.path = Path(root) / f"{epoch}.json"
        self.epoch_dict: dict[str, Any] = {"epoch": epoch}

    def add(self, key: str, val: Any) -> None:
        """Note a value under a name."""
        self.epoch_dict[key] = val

    def write(self) -> Path:
        """Write the file atomically and return its path."""
        atomic_write(
            self.path, (json.dumps(self.epoch_dict, indent=1, default=float) + "\n").encode()
        )
        return self.path


class Logger:
    """While open as a context, what is printed also goes to a file; stdout is restored on leaving."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.terminal: TextIO | None = None
        self.file: TextIO | None = None

    def __enter__(self) -> "Logger":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a")
        self.terminal, sys.stdout = sys.stdout, self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stdout = self.terminal
        self.file.close()

    def write(self, message: str) -> int:
        """Write to the terminal and the file."""
        self.file.write(message)
        return self.terminal.write(message)

    def flush(self) -> None:
        """Flush both."""
        self.file.flush()
        self.terminal.flush()

    def isatty(self) -> bool:
        """What the terminal says."""
        return self.terminal.isatty()
