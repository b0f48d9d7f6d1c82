"""Keypoints on objects, batched over all (image, class) pairs of a step, without leaving the device.

Shapes: P pairs, C classes, G cells of the class map, S pixels of the image. A keypoint is [y, x].
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from common.aliases import one_module
from oass.core.domain import (
    require_choice,
    require_count,
    require_finite,
    require_in_range,
    require_labels,
    require_shape,
)

one_module(__name__, "oass.core.keypoints")

STRATEGIES = ("max", "cMax", "cTopk", "cTopk-w")
RULES = ("paper", "released")


class Keypoints(NamedTuple):
    """keypoints (P,2) int64 [y, x]; image_index (P,) int64; class_index (P,) int64, -1 where per image."""

    keypoints: torch.Tensor
    image_index: torch.Tensor
    class_index: torch.Tensor


def upsample_cams(cams: torch.Tensor, size: int) -> torch.Tensor:
    """Maps (P,G,G) or (B,C,G,G) bilinearly at size x size: half-pixel centres, edges replicated.

    Half precision on a CPU is interpolated in float32 and cast back. ValueError for another rank, or size below 1.
    """
    require_count(size, "size", 1)
    if cams.dim() not in (3, 4):
        raise ValueError(f"cams: shape {tuple(cams.shape)}, expected (P,G,G) or (B,C,G,G)")
    maps = cams if cams.dim() == 4 else cams[:, None]
    is_half = maps.dtype in (torch.float16, torch.bfloat16) and maps.device.type == "cpu"
    wide = maps.float() if is_half else maps
    up = F.interpolate(wide, (size, size), mode="bilinear", align_corners=False).to(maps.dtype)
    return up if cams.dim() == 4 else up[:, 0]


def _sliding_maximum(maps: torch.Tensor, radius: int, dim: int) -> torch.Tensor:
    """The maximum over 2*radius + 1 neighbours along `dim`, by doubling: log2 passes instead of 2*radius."""
    window, size = 2 * radius + 1, maps.shape[dim]
    pad = (0, 0, radius, radius) if dim == -2 else (radius, radius)
    out, width = F.pad(maps, pad, value=-torch.inf), 1
    while width < window:
        shift = min(width, window - width)
        length = out.shape[dim] - shift
        out = torch.maximum(out.narrow(dim, 0, length), out.narrow(dim, shift, length))
        width += shift
    return out.narrow(dim, 0, size)


def topk_peaks(
    maps: torch.Tensor, k: int = 5, min_distance: int = 20, exclude_border: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k highest local maxima of each map, as scikit-image's `peak_local_max(map, min_distance)`.

    maps (P,H,W). A peak is the maximum of the (2d+1)^2 window around it and above the map's minimum; those
    nearer than d to a border are dropped (`exclude_border`) but still suppress others. Order: value
    falling, ties in raster order; a peak nearer than d (Chebyshev) to an earlier one is rejected.
    Returns coords (P,k,2) int64, -1 where there are fewer; values (P,k), 0 there; count (P,), at most k.
    ValueError for NaN, k or min_distance below 1.
    """
    require_shape(maps, (None, None, None), "maps")
    require_finite(maps, "maps")
    require_count(k, "k", 1)
    require_count(min_distance, "min_distance", 1)
    _, H, W = maps.shape
    d = int(min_distance)
    highest = _sliding_maximum(_sliding_maximum(maps, d, -1), d, -2)
    open_ = (maps == highest) & (maps > maps.amin((1, 2), keepdim=True))
    ys, xs = torch.arange(H, device=maps.device), torch.arange(W, device=maps.device)
    if exclude_border:
        open_ &= ((ys >= d) & (ys < H - d))[:, None] & ((xs >= d) & (xs < W - d))
    candidates = maps.masked_fill(~open_, -torch.inf)
    coords, values = [], []
    for _ in range(k):
        if coords:  # the one before suppresses its neighbourhood
            near_y, near_x = (
                (t - c[:, None]).abs() < d
                for t, c in zip((ys, xs), coords[-1].unbind(1), strict=True)
            )
            candidates = candidates.masked_fill(near_y[:, :, None] & near_x[:, None, :], -torch.inf)
        value, place = candidates.flatten(1).max(1)  # the first of equals
        y, x = place // W, place % W
        found = value > -torch.inf
        coords.append(torch.where(found[:, None], torch.stack([y, x], 1), -1))
        values.append(torch.where(found, value, 0))
    coords, values = torch.stack(coords, 1), torch.stack(values, 1)
    return coords, values, (coords[:, :, 0] >= 0).sum(1)


def positive_pairs(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """image_index and class_index (P,) int64 of the ones of labels (B,C), in row-major order.

    ValueError for labels that are neither 0 nor 1 (a 0.9 would have no pair), on the CPU.
    """
    require_labels(labels)
    return torch.nonzero(labels == 1, as_tuple=True)


def scaled_distances(image_size: int) -> tuple[int, int]:
    """min_distance and radius at an image size: 20 and 128 pixels at 512. ValueError below 1."""
    require_count(image_size, "image_size", 1)
    return max(1, round(20 * image_size / 512)), image_size // 4


@torch.no_grad()
def detect_keypoints(
    cams: torch.Tensor,
    labels: torch.Tensor,
    strategy: str,
    image_size: int = 512,
    *,
    k: int = 5,
    min_distance: int | None = None,
    radius: int | None = None,
    exclude_border: bool = True,
    rule: str = "paper",
    pairs: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Keypoints:
    """One keypoint per image (`max`) or per image and present class (`cMax`, `cTopk`, `cTopk-w`).

    cams: normalised maps M (B,C,G,G); labels (B,C) 0/1. rule "paper": the arg-max; the centre of the k
    highest peaks; their centre weighted by their values; each clipped by one cell so that no tile is a
    sliver. rule "released": the released code's fallbacks, radius and truncation, its bug included (D8-D10).
    A map of zeros, or without peaks, gives the centre. `pairs` (from `positive_pairs`, say of labels that
    are still on the host) saves the one wait for the device.
    ValueError for another strategy or rule, labels that are neither 0 nor 1, NaN in the maps, k, min_distance or
    radius below 1, an image smaller than its map.
    """
    require_choice(strategy, STRATEGIES, "strategy")
    require_choice(rule, RULES, "rule")
    require_count(k, "k", 1)
    require_count(image_size, "image_size", cams.shape[-1])
    for name, distance in (("min_distance", min_distance), ("radius", radius)):
        if distance is not None:
            require_count(distance, name, 1)
    require_finite(cams, "cams")
    require_labels(labels)
    require_shape(labels, tuple(cams.shape[:2]), "labels")
    if pairs is not None:
        require_in_range(pairs[0], 0, cams.shape[0] - 1, "pairs: image_index")
        require_in_range(pairs[1], 0, cams.shape[1] - 1, "pairs: class_index")

    if strategy == "max":
        maps = (cams * labels[:, :, None, None]).amax(1)
        image_index = torch.arange(len(cams), device=cams.device)
        class_index = torch.full_like(image_index, -1)
    else:
        image_index, class_index = pairs if pairs is not None else positive_pairs(labels)
        maps = cams[image_index, class_index]
    default_distance, default_radius = scaled_distances(image_size)
    d = default_distance if min_distance is None else min_distance
    r = default_radius if radius is None else radius
    up = upsample_cams(maps.float(), image_size)
    centre = torch.full((len(maps), 2), image_size // 2, device=cams.device)
    if strategy in ("max", "cMax"):
        points = _arg_max(up)
        is_void = up.amax((1, 2)) <= 0
    else:
        points, is_void = _peak_centres(up, strategy, k, d, r, exclude_border, rule)
    if rule == "released":
        is_void = is_void | (points == 0).any(1)
        return Keypoints(torch.where(is_void[:, None], centre, points), image_index, class_index)
    cell = image_size // cams.shape[-1]
    points = torch.where(is_void[:, None], centre, points).clamp(cell, image_size - cell)
    return Keypoints(points, image_index, class_index)


def _arg_max(maps: torch.Tensor) -> torch.Tensor:
    """[y, x] of each map's maximum, first in raster order, (P,2) int64."""
    place = maps.flatten(1).argmax(1)
    return torch.stack([place // maps.shape[-1], place % maps.shape[-1]], 1)


def _peak_centres(
    up: torch.Tensor, strategy: str, k: int, d: int, r: int, exclude_border: bool, rule: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The (weighted) centre of the k highest peaks of maps (P,S,S), and where there is none (P,) bool."""
    wants_more = rule == "released" and strategy == "cTopk"  # it asks whether there are more than k
    coords, values, count = topk_peaks(up, k + wants_more, d, exclude_border)
    has_more = count > k
    coords, values = coords[:, :k], values[:, :k].double()
    used = coords[:, :, 0] >= 0
    if rule == "released" and strategy == "cTopk":
        y, x = coords.unbind(-1)
        top_y, top_x = (a[:, None] for a in _arg_max(up).unbind(-1))
        second = torch.where(
            has_more[:, None], y, x
        )  # the released code's slip: the row where the column belongs
        used = used & ((y - top_y) ** 2 + (second - top_x) ** 2 < r**2)
    total = used.sum(1)
    if strategy == "cTopk":
        centres = (coords * used[..., None]).sum(1) // total.clamp_min(1)[:, None]
        return centres, total == 0
    weighted, weight = (
        coords * values[..., None],
        values.sum(1).clamp_min(torch.finfo(torch.float64).tiny),
    )
    if rule == "released":
        centres = (weighted / weight[:, None, None]).trunc().sum(1)
    else:
        centres = (weighted.sum(1) / weight[:, None]).floor()
    return centres.long(), total == 0
