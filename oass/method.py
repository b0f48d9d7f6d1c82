"""OASS: Object-Aware Self-Supervised Multi-Label Learning (Xu et al., ICIP 2022), as code.

A backbone gives the feature map X, a 1x1 convolution W the class maps F = W X. Each class looks at
X through its own map (class-specific instances). In training the image is cut in four at a keypoint
on an object; the maps of the tiles, glued together again, shall be the maps of the whole image,
wherever the cut goes:

    L = L_cl + alpha_p L_pcl + alpha_re(i) L_re

Shapes: B images of S x S pixels, K channels, C classes, G x G cells of a map, P pairs (image,
keypoint), tiles with h x h cells. Labels are 0 or 1. A keypoint is [y, x] in pixels. The functions
take what comes, on any device and under torch.compile and torch.func; the same names in oass/core
refuse values that do not belong to their domain.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = [
    "make_cam",
    *("class_specific_instances", "instance_moments", "csi_logits", "update_running_statistics"),
    *("positive_pairs", "scaled_distances", "upsample_cams", "topk_peaks", "detect_keypoints"),
    *("tile_at_keypoints", "tile_class_maps", "merge_at_keypoints"),
    *("class_loss", "mean_class_loss", "pair_targets", "L1_Loss", "L2_Loss"),
    *("reconstruction_loss", "puzzle_losses"),
    *("re_loss_weight", "total_loss", "update_ema_variables"),
]

TILES = 4


# ---- 1. Class maps -------------------------------------------------------------------------------


def make_cam(x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """The normalised map of each class map by itself, in [0, 1); all zero where F <= 0 everywhere.

        M = relu(relu(F) - eps) / (max over pixels of relu(F) + eps)

    x: class maps F (..., G, G). The gradient flows through the maximum too, the first of equals.
    """
    x = x.relu()
    peak = x.flatten(-2).max(-1).values[..., None, None]
    return (x - epsilon).relu() / (peak + epsilon)


# ---- 2. Class-specific instances (figure 1) ------------------------------------------------------


def class_specific_instances(x: Tensor, cams: Tensor) -> Tensor:
    """One descriptor per image and class, v_bc = mean over pixels of X_b M_bc, (B,C,K).

    x: feature map X (B,K,G,G); cams: normalised maps M (B,C,G,G). One product gates all classes.
    """
    return torch.bmm(cams.flatten(2), x.flatten(2).transpose(1, 2)) / x[0, 0].numel()


def instance_moments(x: Tensor, cams: Tensor) -> tuple[Tensor, Tensor]:
    """v (B,C,K), and the mean of (X M)^2 over images and pixels (C,K), without making X M."""
    values = len(x) * x[0, 0].numel()
    squares = torch.bmm(cams.flatten(2).square(), x.flatten(2).square().transpose(1, 2))
    return class_specific_instances(x, cams), squares.sum(0) / values


def csi_logits(
    x: Tensor,
    cams: Tensor,
    BN: Sequence[nn.BatchNorm2d],
    stage6: Sequence[nn.Conv2d],
    training: bool,
    sum_over_processes: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The image's logits (B,C), from each class's gated map, batch norm BN_c and projection w_c.

        l_bc = mean over pixels of sum_k w_ck BN_c(X_b M_bc)_k
             = sum_k w_ck [gamma_ck (v_bck - m_ck) / sqrt(s_ck + eps) + beta_ck]

    Everything after the gate is linear, so v of `class_specific_instances` suffices. In training m
    and s are the batch's mean and biased variance, and the running statistics of BN move; else they
    are the running statistics.

    Args:
        BN: a BatchNorm2d(K) for each class.
        stage6: a 1x1 convolution to one channel for each class, without bias.
        sum_over_processes: adds a tensor over all processes, where m and s shall be of all images.
    """
    if training:
        v, second = instance_moments(x, cams)
        mean = v.mean(0)
        count: Tensor | int = len(x) * x[0, 0].numel()
        if sum_over_processes is not None:  # each process counts with its own number of images
            images, count = sum_over_processes(mean.new_tensor([len(v), count])).unbind()
            sums = torch.stack([v.sum(0), second * len(v)])
            mean, second = (sum_over_processes(sums) / images).unbind()
        variance = (second - mean.square()).clamp_min(0)
        update_running_statistics(BN, mean, variance, count)
    else:
        v = class_specific_instances(x, cams)
        mean = torch.stack(_each(BN, "running_mean"))
        variance = torch.stack(_each(BN, "running_var"))

    w = torch.cat(_each(stage6, "weight")).flatten(1).to(v.dtype)
    gamma = torch.cat(_each(BN, "weight")).view_as(w)
    beta = torch.cat(_each(BN, "bias")).view_as(w)
    scale = w * gamma * torch.rsqrt(variance + BN[0].eps)
    return torch.einsum("bck,ck->bc", v, scale) + (w * beta - scale * mean).sum(1)


def _each(modules: Sequence[nn.Module], name: str) -> list[Tensor]:
    return [getattr(module, name) for module in modules]


@torch.no_grad()
def update_running_statistics(
    BN: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor, count: Tensor | int
) -> None:
    """What BatchNorm2d does after a batch of `count` values; mean, variance (C,K), a row each."""
    momentum: Any = BN[0].momentum
    stored = BN[0].weight.dtype
    torch._foreach_lerp_(_each(BN, "running_mean"), list(mean.to(stored).unbind()), momentum)
    freedom = count - 1
    freedom = freedom.clamp_min(1) if isinstance(freedom, Tensor) else max(freedom, 1)
    unbiased = variance * (count / freedom)
    torch._foreach_lerp_(_each(BN, "running_var"), list(unbiased.to(stored).unbind()), momentum)
    torch._foreach_add_(_each(BN, "num_batches_tracked"), 1)


# ---- 3. Keypoints on objects ---------------------------------------------------------------------


class Keypoints(NamedTuple):
    keypoints: Tensor  # (P,2) int64, [y, x]
    image_index: Tensor  # (P,) int64
    class_index: Tensor  # (P,) int64; -1: all classes of the image


def positive_pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """image_index and class_index (P,) int64 of the ones of labels (B,C), in row-major order."""
    image_index, class_index = torch.nonzero(labels == 1, as_tuple=True)
    return image_index, class_index


def scaled_distances(image_size: int) -> tuple[int, int]:
    """min_distance and radius at an image size: 20 and 128 pixels at 512."""
    return max(1, round(20 * image_size / 512)), image_size // 4


def upsample_cams(cams: Tensor, size: int) -> Tensor:
    """Maps (P,G,G) or (B,C,G,G) bilinearly at size x size: half-pixel centres, edge values."""
    maps = cams[:, None] if cams.dim() == 3 else cams
    if maps.dtype in (torch.float16, torch.bfloat16) and maps.device.type == "cpu":
        maps = maps.float()
    up = F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)
    return up.view(*cams.shape[:-2], size, size).to(cams.dtype)


def _sliding_maximum(maps: Tensor, radius: int, dim: int) -> Tensor:
    """The maximum over 2 * radius + 1 neighbours along `dim`, by doubling: log2 passes."""
    window = 2 * radius + 1
    size = maps.shape[dim]
    pad = (0, 0, radius, radius) if dim == -2 else (radius, radius)
    out = F.pad(maps, pad, value=-torch.inf)
    width = 1
    while width < window:
        shift = min(width, window - width)
        length = out.shape[dim] - shift
        out = torch.maximum(out.narrow(dim, 0, length), out.narrow(dim, shift, length))
        width += shift
    return out.narrow(dim, 0, size)


def topk_peaks(
    maps: Tensor, k: int = 5, min_distance: int = 20, exclude_border: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The k highest local maxima of maps (P,H,W), as scikit-image's `peak_local_max` finds them.

    A peak is the maximum of the (2d+1)^2 window around it and above the map's minimum; those nearer
    than d to a border are dropped (`exclude_border`) but still suppress others. Order: value
    falling, ties in raster order; a peak nearer than d (Chebyshev) to an earlier one is rejected.
    Returns coords (P,k,2) int64, -1 where there are fewer; values (P,k), 0 there; count (P,), at
    most k.
    """
    d = int(min_distance)
    H, W = maps.shape[1:]
    rows = torch.arange(H, device=maps.device)
    columns = torch.arange(W, device=maps.device)

    highest = _sliding_maximum(_sliding_maximum(maps, d, -1), d, -2)
    is_peak = (maps == highest) & (maps > maps.flatten(1).amin(1)[:, None, None])
    if exclude_border:
        is_peak &= ((rows >= d) & (rows < H - d))[:, None] & ((columns >= d) & (columns < W - d))
    candidates = maps.masked_fill(~is_peak, -torch.inf)

    pair = torch.arange(len(maps), device=maps.device)[:, None, None]
    near = torch.arange(1 - d, d, device=maps.device)
    peaks = []
    for _ in range(k):
        peaks.append(candidates.flatten(1).max(1))  # the first of equals
        place = peaks[-1].indices[:, None]
        near_y = (place // W + near).clamp(0, H - 1)[:, :, None]
        near_x = (place % W + near).clamp(0, W - 1)[:, None, :]
        candidates[pair, near_y, near_x] = -torch.inf
    values, place = (torch.stack(found, 1) for found in zip(*peaks, strict=True))
    exists = values > -torch.inf
    points = torch.where(exists[:, :, None], torch.stack([place // W, place % W], 2), -1)
    return points, torch.where(exists, values, 0), exists.sum(1)


def _arg_max(maps: Tensor) -> Tensor:
    """[y, x] of each map's maximum, first in raster order, (P,2) int64."""
    place = maps.flatten(1).argmax(1)
    return torch.stack([place // maps.shape[-1], place % maps.shape[-1]], 1)


def _peak_centres(
    up: Tensor, strategy: str, k: int, d: int, r: int, exclude_border: bool, rule: str
) -> tuple[Tensor, Tensor]:
    """The (weighted) centre (P,2) of each map's k highest peaks, and where there is none (P,)."""
    keeps_radius = rule == "released" and strategy == "cTopk"
    coords, values, count = topk_peaks(up, k + keeps_radius, d, exclude_border)
    coords = coords[:, :k]
    used = coords[:, :, 0] >= 0
    if keeps_radius:
        y, x = coords.unbind(-1)
        top = _arg_max(up)
        # Of more than k peaks the released code takes the row where the column belongs.
        second = torch.where((count > k)[:, None], y, x)
        used = used & ((y - top[:, :1]) ** 2 + (second - top[:, 1:]) ** 2 < r**2)
    total = used.sum(1)

    if strategy == "cTopk":
        centres = (coords * used[..., None]).sum(1) // total.clamp_min(1)[:, None]
        return centres, total == 0
    weights = values[:, :k].double()
    weight = weights.sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    weighted = coords * weights[..., None]
    if rule == "released":
        centres = (weighted / weight[:, None, None]).trunc().sum(1)
    else:
        centres = (weighted.sum(1) / weight[:, None]).floor()
    return centres.long(), total == 0


@torch.no_grad()
def detect_keypoints(
    cams: Tensor,
    labels: Tensor,
    strategy: str,
    image_size: int = 512,
    *,
    k: int = 5,
    min_distance: int | None = None,
    radius: int | None = None,
    exclude_border: bool = True,
    rule: str = "paper",
    pairs: tuple[Tensor, Tensor] | None = None,
) -> Keypoints:
    """A keypoint per image (`max`), or per image and present class (the others); figure 2.

        max         the maximum over the maps of the image's classes
        cMax        the maximum of the class's map
        cTopk       floor(sum_q p_q / n), the centre of its n <= k highest local maxima p_q
        cTopk-w     floor(sum_q w_q p_q / sum_q w_q), w_q the map's value at p_q

    Each is clipped by one cell, so that no tile is a sliver; a map without a peak gives the image's
    centre. The rule "released" has that code's fallbacks, radius and truncation (README,
    deviations: keypoint_rule).

    Args:
        cams: normalised maps M (B,C,G,G); labels: (B,C).
        k, min_distance, radius: of peaks; the distances in pixels (default: `scaled_distances`).
        pairs: `positive_pairs` of labels that are still on the host, saves waiting for the device.
    """
    default_distance, default_radius = scaled_distances(image_size)
    d = default_distance if min_distance is None else min_distance
    r = default_radius if radius is None else radius

    if strategy == "max":
        image_index = torch.arange(len(cams), device=cams.device)
        class_index = torch.full_like(image_index, -1)
        maps = (cams * labels[:, :, None, None]).amax(1)
    else:
        image_index, class_index = pairs if pairs is not None else positive_pairs(labels)
        maps = cams[image_index, class_index]

    up = upsample_cams(maps.float(), image_size)
    if strategy in ("max", "cMax"):
        points = _arg_max(up)
        is_void = up.amax((1, 2)) <= 0
    else:
        points, is_void = _peak_centres(up, strategy, k, d, r, exclude_border, rule)

    centre = torch.full_like(points, image_size // 2)
    if rule == "released":
        is_void = is_void | (points == 0).any(1)
    points = torch.where(is_void[:, None], centre, points)
    if rule == "paper":
        cell = image_size // cams.shape[-1]
        points = points.clamp(cell, image_size - cell)
    return Keypoints(points, image_index, class_index)


# ---- 4. Four tiles, and their maps glued together ------------------------------------------------


def _nearest(n: Tensor, m: int | Tensor, count: int) -> Tensor:
    """Nearest sampling of n cells to m: src(r) = min(floor(r (n / m)), n - 1), r < count.

    n (...), m a number or (...); (..., count). In float32, as torch's nearest resize.
    """
    scale = n.float() / m
    r = torch.arange(count, device=n.device, dtype=torch.float32)
    return torch.minimum((r * scale[..., None]).floor().long(), n[..., None] - 1).clamp_min(0)


def _tile_table(keypoints: Tensor, height: int, width: int, patch: int) -> Tensor:
    """What the tiles take of each axis: (P,2,2,patch) by axis, side of the cut, and place."""
    y, x = keypoints.unbind(1)
    lengths = torch.stack([y, height - y, x, width - x], 1).view(-1, 2, 2)
    starts = torch.stack([torch.zeros_like(keypoints), keypoints], 2)
    return starts[..., None] + _nearest(lengths, patch, patch)


def tile_at_keypoints(
    images: Tensor, image_index: Tensor, keypoints: Tensor, patch_size: int | None = None
) -> Tensor:
    """The four tiles of every pair, stretched to ps = patch_size (default S // 2); (P,4,c,ps,ps).

    Order: upper left, upper right, lower left, lower right. images (B,c,S,S); image_index (P,) in 0
    .. B-1; keypoints (P,2) in 1 .. S-1. One gather of colours takes the tiles of all cuts.
    """
    channels, height, width = images.shape[1:]
    patch = height // 2 if patch_size is None else patch_size

    table = _tile_table(keypoints, height, width, patch)
    rows = table[:, 0, :, None, :, None]
    columns = table[:, 1, None, :, None, :]
    pixel = (image_index[:, None, None, None, None] * height + rows) * width + columns
    colours = images.permute(0, 2, 3, 1).reshape(-1, channels)
    tiles = colours.index_select(0, pixel.flatten()).view(*pixel.shape, channels)
    return tiles.flatten(1, 2).permute(0, 1, 4, 2, 3)


def _merge_table(cut: Tensor, cells: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """For each row and column of `cells`: its side of the cut (0 or 1), and what lands there.

    cut (P,2); the tiles' maps have h rows and w columns. Both results (P,2,cells), rows first.
    """
    position = torch.arange(cells, device=cut.device)
    is_after = position >= cut[..., None]
    lengths = torch.stack([torch.full_like(cut[:, 0], length) for length in (h, w)], 1)
    before = _nearest(lengths, cut, cells)
    behind = (position - cut[..., None]).clamp_min(0)
    after = _nearest(lengths, cells - cut, cells).gather(2, behind)
    return is_after.long(), torch.where(is_after, after, before)


def merge_at_keypoints(
    tile_features: Tensor, keypoints: Tensor, image_size: int, grid_size: int | None = None
) -> Tensor:
    """R (P,C,G,G): the maps of the four tiles, each resized to the cells that it came from, glued.

    tile_features (P,4,C,h,h); keypoints (P,2) in 1 .. S-1; G defaults to 2h. The keypoint's cell is
    clamped to 1 .. G-1, so that every tile keeps a cell.
    """
    channels, h, w = tile_features.shape[2:]
    G = 2 * h if grid_size is None else grid_size

    cut = (keypoints * G // image_size).clamp(1, G - 1)
    side, place = _merge_table(cut, G, h, w)
    tile = 2 * side[:, :1, :, None] + side[:, 1:, None, :]
    pair = torch.arange(len(cut), device=cut.device)[:, None, None, None]
    channel = torch.arange(channels, device=cut.device)[None, :, None, None]
    return tile_features[pair, tile, channel, place[:, :1, :, None], place[:, 1:, None, :]]


def tile_class_maps(network: Any, tiles: Tensor) -> Tensor:
    """The class maps F (P,4,C,h,h) of tiles (P,4,c,ps,ps), one pair after the other, float32.

    So in training each pair is normalised by its own four tiles; fast.py has the batched form.
    """
    return torch.stack([network.class_maps(pair).float() for pair in tiles])


# ---- 5. The losses -------------------------------------------------------------------------------


def class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The multi-label loss of each row, (N,C) to (N,); NaN for a target that is not 0 or 1.

    B(z, t) = -(1/C) sum_c [t log sigma(z) + (1-t) log(1 - sigma(z))]
    """
    targets = torch.where((targets == 0) | (targets == 1), targets, torch.nan)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def pair_targets(labels: Tensor, image_index: Tensor, class_index: Tensor) -> Tensor:
    """Target t_p and mask m_p of every pair, (P,C): one-hot of its class, or all of the image's."""
    own = class_index.clamp_min(0)[:, None]
    one_hot = torch.zeros_like(labels[image_index]).scatter_(1, own, 1)
    return torch.where((class_index < 0)[:, None], labels[image_index], one_hot)


def L1_Loss(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|, elementwise."""
    return (a - b).abs()


def L2_Loss(a: Tensor, b: Tensor) -> Tensor:
    """(a - b)^2, elementwise."""
    return (a - b) ** 2


RE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"L1_Loss": L1_Loss, "L2_Loss": L2_Loss}


def reconstruction_loss(
    full: Tensor, merged: Tensor, mask: Tensor, re_loss: str = "L1_Loss", option: str = "masking"
) -> Tensor:
    """L_re = (1/P) sum_p mean over classes and pixels of |F - R| m_p (L2_Loss: squared); a scalar.

    full, merged (P,C,G,G), mask (P,C); 0 for P = 0. The mean counts masked zeros; option
    "selection" takes it over the mask's classes only, "none" leaves the mask out.
    """
    per_class = RE_LOSSES[re_loss](full, merged).mean((2, 3))
    if option != "none":
        per_class = per_class * mask
    per_pair = per_class.mean(1)
    if option == "selection":
        per_pair = per_class.sum(1) / mask.sum(1).clamp_min(1)
    return per_pair.sum() / max(len(full), 1)


def puzzle_losses(
    features: Tensor,
    merged: Tensor,
    labels: Tensor,
    image_index: Tensor,
    class_index: Tensor,
    re_loss: str = "L1_Loss",
    *,
    option: str = "masking",
    level: str = "feature",
) -> tuple[Tensor, Tensor]:
    """L_pcl = (1/P) sum_p B(GAP(R_p), t_p) and L_re between F and R, scalars; both 0 for P = 0.

    features F (B,C,G,G); merged R (P,C,G,G); labels (B,C). Pairs of one class have one-hot targets
    and compare their own channel only; class_index -1 (`max`) takes all labels of the image. level
    "cam" compares normalised maps.
    """
    targets = pair_targets(labels, image_index, class_index)
    p_class_loss = mean_class_loss(merged.mean((2, 3)), targets)
    if level == "cam":
        features = make_cam(features)
        merged = make_cam(merged)
    full = features[image_index]
    return p_class_loss, reconstruction_loss(full, merged, targets, re_loss, option)


def mean_class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of `class_loss` over the rows; 0 where there is none."""
    return class_loss(logits, targets).sum() / max(len(logits), 1)


# ---- 6. The sum, and the teacher -----------------------------------------------------------------


def re_loss_weight(
    alpha_re: float, alpha_schedule_re: float, iteration: int, max_iteration: int
) -> float:
    """alpha_re(i) = min(alpha_re * i / (i_max * schedule), alpha_re); schedule 0 is no ramp."""
    ramp = max_iteration * alpha_schedule_re
    if ramp == 0:
        return alpha_re
    return min(alpha_re * iteration / ramp, alpha_re)


def total_loss(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """L = L_cl + alpha_p L_pcl + alpha_re(i) L_re: the sum of the terms that have a weight."""
    terms = [weight * losses[name] for name, weight in weights.items()]
    return sum(terms[1:], terms[0])


@torch.no_grad()
def update_ema_variables(
    model: nn.Module, ema_model: nn.Module, alpha: float, global_step: int
) -> None:
    """The teacher after step i of the student: theta' <- a theta' + (1 - a) theta.

    a = min(1 - 1 / (i + 1), alpha). Step 0 copies the student. Parameters only: buffers (the
    running statistics) stay, as in the released code.
    """
    decay = min(1 - 1 / (global_step + 1), alpha)
    average = get_ema_multi_avg_fn(decay)
    average(list(ema_model.parameters()), list(model.parameters()), global_step)
