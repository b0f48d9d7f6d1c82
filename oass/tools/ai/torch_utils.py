"""Small tensor functions of PuzzleCAM's tools: the normalised map, pixel losses, seeds, saving."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common import checkpoint
from common.aliases import one_module
from common.cam import at_least_float32
from common.domain import require_number
from common.rundir import seed_everything
from oass import method
from oass.method import L1_Loss, L2_Loss

one_module(__name__, "oass.tools.ai.torch_utils")

__all__ = ["L1_Loss", "L2_Loss", "make_cam", "one_hot_embedding", "shannon_entropy_loss"]
__all__ += ["calculate_parameters", "get_numpy_from_tensor", "load_model", "resize_for_tensors"]
__all__ += ["save_model", "set_seed"]


def make_cam(x: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """`oass.method.make_cam`; ValueError for an epsilon that is not above 0."""
    require_number(epsilon, "epsilon", 0, open_low=True)
    return method.make_cam(x, epsilon)


def shannon_entropy_loss(
    logits: torch.Tensor,
    activation: Callable[[torch.Tensor], torch.Tensor] = torch.sigmoid,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    """PuzzleCAM's `conf`: -sum_c p log(p + eps) of p = activation(logits), over N."""
    p = activation(logits)
    return -(p * torch.log(p + epsilon)).sum() / max(len(logits), 1)


def one_hot_embedding(label: Sequence[int], classes: int) -> np.ndarray:
    """The multi-hot vector (classes,) float32 of indices; ValueError outside 0 .. classes-1."""
    strange = [index for index in label if not 0 <= index < classes]
    if strange:
        raise ValueError(f"label: {strange[0]} is none of {classes} classes")
    vector = np.zeros(classes, np.float32)
    vector[list(label)] = 1
    return vector


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    seed_everything(seed)


def calculate_parameters(model: nn.Module) -> float:
    """The number of parameters in millions; shared tensors count once."""
    return sum(p.numel() for p in model.parameters()) / 1e6


def save_model(model: nn.Module, model_path: str | Path, parallel: bool = False) -> None:
    """Save the state dict atomically; `parallel` is accepted, wrappers are taken off anyway."""
    checkpoint.save(Path(model_path), checkpoint.unwrap(model).state_dict())


def load_model(model: nn.Module, model_path: str | Path, parallel: bool = False) -> None:
    """Load a state dict, also with `module.` prefixes; UserError names what differs."""
    checkpoint.load_into(checkpoint.unwrap(model), checkpoint.load(Path(model_path)), model_path)


def get_numpy_from_tensor(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's values on the host."""
    return tensor.detach().cpu().numpy()


def resize_for_tensors(
    tensors: torch.Tensor,
    size: tuple[int, int],
    mode: str = "bilinear",
    align_corners: bool = False,
) -> torch.Tensor:
    """Maps (N,C,h,w) at (N,C,*size); half precision on a CPU is interpolated in float32."""
    wide = at_least_float32(tensors) if tensors.device.type == "cpu" else tensors
    corners = align_corners if mode == "bilinear" else None
    return F.interpolate(wide, size, mode=mode, align_corners=corners).to(tensors.dtype)
