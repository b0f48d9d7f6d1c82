"""Weights that a formula fills in (tests/golden/csl/README.md), so that no weights are stored."""

from math import prod

import numpy as np
import torch


def uniform(shape, s):
    """The numbers u of key s in row-major order, float64."""
    with np.errstate(over="ignore"):
        x = np.arange(prod(shape), dtype=np.uint32) + np.uint32(1000003 * s % 2**32)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
    return (x / 2.0**32).reshape(shape)


def value_of(name, shape, s):
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape)
    u = uniform(shape, s)
    if len(shape) >= 2:
        return (2 * u - 1) * np.sqrt(3 / prod(shape[1:]))
    if name.endswith("running_var"):
        return 0.5 + u
    if name.endswith(("running_mean", ".bias")):
        return 0.2 * (u - 0.5)
    value = 0.5 + u
    value[::7] *= -1
    return value


def filled_state(shapes, fill_seed):
    """name -> tensor for name -> shape, in order."""
    return {
        name: torch.from_numpy(value_of(name, tuple(shape), k + 1 + 7919 * fill_seed)).to(
            torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        )
        for k, (name, shape) in enumerate(shapes.items())
    }


def filled_input(shape, fill_seed):
    return torch.from_numpy(uniform(tuple(shape), 424242 + fill_seed).astype(np.float32))
