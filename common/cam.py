"""Class activation maps: the arithmetic, score-map normalisation, overlays.

Shapes: B batch, C channels, K classes, h w map, H W image.
"""

import warnings

import cv2
import numpy as np
import torch
from torch.nn import functional as F

NORM_TYPES = ("max", "minmax", "clipping")


def class_activation_map(
    features: torch.Tensor, weight: torch.Tensor, *, relu: bool = True
) -> torch.Tensor:
    """The maps M_k = sum_c W[k,c] A_c of a linear head (Zhou et al., CVPR 2016), (B,K,h,w).

    features A: (B,C,h,w); weight W: (K,C) or (K,C,1,1); no bias. `relu`: negative values become 0.
    """
    maps = torch.einsum("bchw,kc->bkhw", features, weight.flatten(1))
    if relu:
        maps = maps.relu()
    return maps


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 where it is float16 or bfloat16; unchanged otherwise.

    For convolution and interpolation: in half precision they lose digits everywhere, and on
    processors with AVX512-FP16 torch 2.14's depthwise convolution of float16 does not return.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        return x.float()
    return x


def resize_maps(maps: torch.Tensor, size: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """Maps (B,K,h,w) at (B,K,H,W), corners not aligned, same dtype; computed in float32."""
    corners = None if mode == "nearest" else False
    wide = at_least_float32(maps)
    return F.interpolate(wide, size=size, mode=mode, align_corners=corners).to(maps.dtype)


def normalize_maps(maps: torch.Tensor, norm_type: str = "minmax") -> torch.Tensor:
    """Maps (n,...) to [0,1], each by itself; same shape and (floating) dtype, the input stays.

    max: m / max; minmax: subtract the minimum, divide by the new maximum; clipping: only clip.
    A map with a NaN, a constant one, and for max one whose maximum is 0, become zero. With max and
    a negative maximum the sign flips: 1 everywhere, as in the original, and a warning. ValueError
    lists the types.
    """
    if norm_type not in NORM_TYPES:
        raise ValueError(f"norm_type {norm_type!r}: choose from {', '.join(NORM_TYPES)}")
    m = maps.flatten(1)
    low = m.amin(1, keepdim=True)
    high = m.amax(1, keepdim=True)
    useless = m.isnan().any(1, keepdim=True) | (low == high)
    if norm_type == "max" and ((high < 0) & ~useless).any():
        warnings.warn(
            "norm_type max: a map has a negative maximum and becomes 1 everywhere; minmax keeps it",
            stacklevel=1,
        )
    if norm_type == "minmax":
        m = m - low
        high = high - low
    if norm_type != "clipping":
        m = torch.where(high == 0, 0.0, m / torch.where(high == 0, 1.0, high))
    return torch.where(useless, 0.0, m.clamp(0, 1)).view(maps.shape)


def normalize_scoremap(map: np.ndarray, norm_type: str = "minmax") -> np.ndarray:
    """A score map of any shape in [0,1] by `normalize_maps`; whole numbers come as float64."""
    m = np.array(map)
    if not np.issubdtype(m.dtype, np.floating):
        m = m.astype(np.float64)
    return normalize_maps(torch.from_numpy(m)[None], norm_type)[0].numpy()


def overlay(image: np.ndarray, score_map: np.ndarray, *, alpha: float = 0.5) -> np.ndarray:
    """An image (H,W,3) uint8 under a map (h,w) in [0,1] in the JET colours; (H,W,3) uint8."""
    height, width = image.shape[:2]
    m = cv2.resize(score_map.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    heat = cv2.applyColorMap((np.clip(m, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return (alpha * heat + (1 - alpha) * image).round().astype(np.uint8)
