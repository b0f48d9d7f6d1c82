"""Features of a backbone that is not trained, computed once: `--frozen_features` in all five.

    features = freeze(feature_network("efficientnet_lite0"))   # weights and statistics stay
    view = View(network_sha(features), "224 px, centre", sha_of_files(paths))
    maps = computed(features, pictures, view)                  # (N,C,h,w) float32, a file
    features(torch.from_numpy(maps[:8]))                       # what went through once passes

A frozen backbone answers a picture with its feature map, and a feature map with itself. So the rest
of a program, heads, losses, maps and evaluation, is the same for pictures and for computed
features, and training on either is equal up to the rounding of other batch sizes.

The file lies in the cache (`common.samples.cache_root()/features`), under the hash of what it
depends on: the network's weights, the view and the content of the data.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import shards
from common.errors import UserError
from common.files import atomic_write
from common.locks import locked
from common.samples import cache_root
from common.stages import Still, keep_still

BATCH = 64
VERSION = 1  # raised whenever the numbers in the files change
Network = TypeVar("Network", bound=nn.Module)


# --- the network ---


class _Frozen(Still, nn.Module):
    """What `freeze` puts before a network's own class."""

    frozen_channels: int

    def forward(self, images: torch.Tensor) -> Any:
        if images.shape[1] == self.frozen_channels:
            return images
        with torch.no_grad():
            return super().forward(images)


def freeze(network: Network, channels: int) -> Network:
    """The same network, whose weights and batch statistics stay, whatever train() is called.

    Args:
        network: from images (B,3,H,W) to a map (B,C,h,w). Its state dict keeps its names.
        channels: C, at least 4. An input of C channels passes through as it is.
    """
    if channels <= 3:
        raise ValueError(f"channels {channels}: a map of 3 or fewer cannot be told from a picture")
    keep_still(network, _Frozen, "Frozen")
    network.frozen_channels = channels  # type: ignore[assignment]
    return network


def is_frozen(network: nn.Module) -> bool:
    """Whether `freeze` was called on it."""
    return isinstance(network, _Frozen)


# --- what the features depend on ---


@dataclass(frozen=True)
class View:
    """What a file of features depends on.

    Args:
        network: `network_sha` of the backbone.
        transform: in words, all that happens to a picture before the network: size, crop, flip,
            tile, normalisation.
        content: `sha_of_files` or `sha_of_arrays` of the pictures, in the order of the rows.
        pooled: averages over the places (N,C,1,1) instead of maps (N,C,h,w).
    """

    network: str
    transform: str
    content: str
    pooled: bool = False

    @property
    def key(self) -> str:
        """24 hex digits over all of it."""
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def network_sha(network: nn.Module) -> str:
    """SHA-256, in hex, over the names, shapes and values of a network's weights and buffers."""
    digest = hashlib.sha256(type(network).__name__.removeprefix("Frozen").encode())
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def sha_of_files(paths: Iterable[str | Path]) -> str:
    """SHA-256, in hex, over the contents of files in their order; where they lie does not count."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            content = shards.content(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def sha_of_arrays(*arrays: np.ndarray) -> str:
    """SHA-256, in hex, over shapes, types and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# --- computing ---


def computed(
    network: nn.Module,
    pictures: Sequence[torch.Tensor] | Any,
    view: View,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
    workers: int = 0,
    poll: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The features (N,C,h,w) float32 of all pictures, read from the cache where they are known.

    Args:
        network: a frozen backbone; it is moved to `device`.
        pictures: a data set of N input tensors (3,H,W) of one size, as the network takes them.
        view: what the file depends on, all but N.
        poll: called before each batch that is computed; it may end the program.

    No random number is drawn from the global stream. The array is mapped from the file, read-only:
    a row is read when it is used. Safe for several processes: one computes, the others wait.
    UserError where the cache cannot be written.
    """
    if not is_frozen(network):
        raise ValueError("features of a network that is trained are out of date: freeze it first")
    path = cache_root() / "features" / f"{view.key}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.is_file():
                # Walking a loader draws a number; a run that finds the file draws none.
                with torch.random.fork_rng(devices=[]):
                    _compute(network, pictures, view, path, device, batch_size, workers, poll)
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        advice = "the environment variable WSL_SAMPLE_DIR moves the cache"
        raise UserError(f"{path}: features cannot be kept ({error}); {advice}") from error
    if len(found) != len(pictures):
        raise UserError(f"{path}: holds {len(found)} rows, expected {len(pictures)}; delete it")
    return found


def _compute(
    network: nn.Module,
    pictures: Any,
    view: View,
    path: Path,
    device: torch.device | str,
    batch_size: int,
    workers: int,
    poll: Callable[[], None],
) -> None:
    """Write the file; it appears whole."""
    network.to(device)
    loader = DataLoader(pictures, batch_size, num_workers=workers)
    part = path.with_name(f".{path.name}.part")
    array = None
    start = 0
    bar = tqdm(loader, desc="features, once", disable=not sys.stderr.isatty(), leave=False)
    with torch.inference_mode():
        for batch in bar:
            poll()
            maps = network(batch.to(device))
            if view.pooled:
                maps = maps.mean((2, 3), keepdim=True)
            if array is None:
                shape = (len(pictures), *maps.shape[1:])
                array = np.lib.format.open_memmap(part, "w+", np.float32, shape)
            array[start : start + len(maps)] = maps.float().cpu().numpy()
            start += len(maps)
    if array is None:
        raise UserError("features of no picture at all; is the list empty?")
    array.flush()
    part.replace(path)
    note = {**asdict(view), "rows": len(pictures), "shape": list(array.shape[1:])}
    atomic_write(path.with_suffix(".json"), json.dumps(note, indent=2).encode() + b"\n")
