"""Small tensor functions of PuzzleCAM's tools: the normalised map, pixel losses, seeds, saving."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common import checkpoint
from common.aliases import one_module
from common.rundir import seed_everything
from oass.core.domain import require_number

one_module(__name__, "oass.tools.ai.torch_utils")


def make_cam(x: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """M = relu(relu(F) - eps) / (max over pixels of relu(F) + eps), in [0,1); 0 where F <= 0 everywhere.

    x: class maps F (...,H,W), same shape out. The gradient also flows through the maximum. Each map by itself: none
    depends on the other images or classes. ValueError for an epsilon that is not above 0.
    """
    require_number(epsilon, "epsilon", above=0)
    x = x.relu()
    peak = (
        x.flatten(-2).max(-1).values[..., None, None]
    )  # amax would share the gradient among equal maxima
    return (x - epsilon).relu() / (peak + epsilon)


def L1_Loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|a - b|, elementwise."""
    return (a - b).abs()


def L2_Loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(a - b)^2, elementwise."""
    return (a - b) ** 2


def shannon_entropy_loss(
    logits: torch.Tensor,
    activation: Callable[[torch.Tensor], torch.Tensor] = torch.sigmoid,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    """-sum_c p log(p + eps), p = activation(logits) (N,C), averaged over N (PuzzleCAM's `conf`); 0 for N = 0."""
    p = activation(logits)
    return -(p * torch.log(p + epsilon)).sum() / max(len(logits), 1)


def one_hot_embedding(label: Sequence[int], classes: int) -> np.ndarray:
    """The multi-hot vector (classes,) float32 of a list of class indices; ValueError for one outside 0 .. classes-1."""
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
    """Load a state dict, with or without `module.` prefixes; UserError names the first keys that differ."""
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
    """Maps (N,C,h,w) at (N,C,*size). Half precision on a CPU is interpolated in float32 and cast back."""
    is_half = tensors.dtype in (torch.float16, torch.bfloat16) and tensors.device.type == "cpu"
    wide = tensors.float() if is_half else tensors
    corners = align_corners if mode == "bilinear" else None
    return F.interpolate(wide, size, mode=mode, align_corners=corners).to(tensors.dtype)
