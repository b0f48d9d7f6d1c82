"""Weights that a formula fills in: golden outputs of networks need no stored weights.

The formula stands in golden/cavl/README.md.

The hashes of the other four golden sets differ, see their READMEs.
"""

from math import prod

import numpy as np
import torch
from torch import nn

MASK_32 = np.uint64(0xFFFFFFFF)


def hashed_uniform(size: int, key_number: int) -> np.ndarray:
    """The numbers r in [0, 1) of key number j, entries t = 0..size-1: (size,) float64."""
    start = (0x9E3779B9 * (key_number + 1)) & 0xFFFFFFFF
    h = (np.arange(size, dtype=np.uint64) + np.uint64(start)) & MASK_32
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(0x85EBCA6B)) & MASK_32
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(0xC2B2AE35)) & MASK_32
    h ^= h >> np.uint64(16)
    return h / 2.0**32


def hashed_entry(key: str, shape: tuple[int, ...], key_number: int) -> np.ndarray:
    """The values of one state-dict entry, float64."""
    r = hashed_uniform(prod(shape), key_number).reshape(shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if key.endswith("running_mean"):
        return 0.2 * r - 0.1
    if key.endswith("running_var"):
        return 0.5 + r
    if len(shape) == 1:
        return 0.8 + 0.4 * r if key.endswith("weight") else 0.2 * r - 0.1
    return (2 * r - 1) * np.sqrt(6 / prod(shape[1:]))


def fill_hashed_weights(model: nn.Module, keys: list[str]) -> None:
    """Fill a model; `keys` are its state-dict keys in the order of the golden file."""
    state = model.state_dict()
    model.load_state_dict(
        {
            key: torch.from_numpy(hashed_entry(key, tuple(state[key].shape), j)).to(
                state[key].dtype
            )
            for j, key in enumerate(keys)
        }
    )
