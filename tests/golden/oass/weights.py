"""The hashed weights and images of golden/oass/README.md, section network_resnet50."""

import numpy as np
import torch
from torch import nn

GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)


def hashed(size: int, multiplier: int) -> np.ndarray:
    """(x >> 11) 2^-53 in [0,1) of elements 0..size-1, (size,) float64."""
    with np.errstate(over="ignore"):
        x = np.arange(size, dtype=np.uint64) + np.uint64(multiplier) * GOLDEN_RATIO
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) * 2.0**-53


def entry(name: str, shape: list[int], multiplier: int) -> torch.Tensor:
    """The values of one state-dict entry."""
    u = 2 * hashed(int(np.prod(shape)), multiplier) - 1
    if len(shape) >= 2:
        u = u * np.sqrt(6 / np.prod(shape[1:]))
    elif name.endswith("running_mean"):
        u = 0.1 * u
    elif name.endswith("running_var"):
        u = 1 + 0.5 * u
    elif name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    elif name.endswith("weight"):
        u = (1 + 0.2 * u) * (0.3 if ".bn3." in name else 1)
    else:
        u = 0.1 * u
    return torch.from_numpy(u.reshape(shape)).float()


def fill(model: nn.Module, keys: list, phase: int) -> nn.Module:
    """Fill every tensor that is no alias; the aliases share its memory."""
    state = model.state_dict()
    names = [
        (name, shape)
        for name, shape in keys
        if not name.startswith("stage") or name.startswith("stage6")
    ]
    with torch.no_grad():
        for j, (name, shape) in enumerate(names):
            state[name].copy_(entry(name, shape, 100_000 * phase + j + 1))
    return model


def image(batch: int, size: int, stream: int) -> torch.Tensor:
    """The image of a stream, (batch,3,size,size) float32."""
    cells = size // 8
    v = hashed(batch * 3 * cells**2, stream + 1).reshape(batch, 3, cells, cells) * 4 - 2
    w = hashed(batch * 3 * size**2, stream + 2).reshape(batch, 3, size, size) - 0.5
    return torch.from_numpy(v.repeat(8, 2).repeat(8, 3) + 0.5 * w).float()
