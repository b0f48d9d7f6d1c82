"""The tiles of all pairs in one forward pass: equal to `oass.method.tile_class_maps`, and faster.

Which statistics the batch norms use on tiles is a switch (README, deviations: teacher_bn,
tile_bn_stats). Equal by test in value, gradient, second derivative, under torch.func and
torch.compile.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from oass.method import TILES, instance_moments, make_cam, update_running_statistics


@torch.compiler.disable  # inside, modules get other forwards, which torch.compile cannot trace
def tile_class_maps(
    network: Any,
    tiles: torch.Tensor,
    *,
    mode: str = "group",
    update_statistics: bool = False,
    pairs_at_once: int | None = None,
) -> torch.Tensor:
    """The class maps F (P,4,C,h,h) of the tiles (P,4,c,ps,ps), float32, without the instances.

    Args:
        network: a Classifier; used are its `model`, `feature_map`, `classifier`, `num_classes`,
            and, with update_statistics, the instances' norms `BN`.
        mode: "group", "batch" or "eval", see `tile_statistics`.
        update_statistics: the running statistics move pair by pair, those of the instances too.
        pairs_at_once: so many pairs in one forward pass (default: all).
    """
    P = len(tiles)
    if P == 0:
        h = tiles.shape[-1] // 2
        return tiles.new_zeros((0, TILES, network.num_classes, h, h))
    parts = []
    for part in tiles.split(pairs_at_once or P):
        flat = part.flatten(0, 1)
        if not _is_transformed():
            flat = flat.contiguous(memory_format=torch.channels_last)  # the faster layout
        with tile_statistics(network.model, mode, update_statistics):
            X = network.feature_map(flat)
            maps = network.classifier(X)
        if update_statistics:
            _move_instance_statistics(network.BN, X, maps)
        parts.append(maps.float())
    return torch.cat(parts).unflatten(0, (P, TILES))


def _is_transformed() -> bool:
    """Whether a transform of torch.func is active."""
    return torch._C._are_functorch_transforms_active()


@torch.no_grad()
def _move_instance_statistics(BN: Any, X: torch.Tensor, maps: torch.Tensor) -> None:
    """The running statistics of the class-specific instances after each pair's four tiles."""
    with torch.autocast(X.device.type, enabled=False):
        cams = make_cam(maps.float())
        for x, cam in zip(X.float().split(TILES), cams.split(TILES), strict=True):
            v, second = instance_moments(x, cam)
            mean = v.mean(0)
            variance = (second - mean.square()).clamp_min(0)
            update_running_statistics(BN, mean, variance, len(x) * x[0, 0].numel())


Statistics = tuple[torch.Tensor | None, torch.Tensor | None]
NO_STATISTICS: Statistics = (None, None)


def _normalise(
    bn: nn.BatchNorm2d, x: torch.Tensor, statistics: Statistics, training: bool, share: float = 0.0
) -> torch.Tensor:
    """F.batch_norm with the norm's parameters; in training `statistics` move by `share`."""
    mean, variance = statistics
    return F.batch_norm(x, mean, variance, bn.weight, bn.bias, training, share, bn.eps)


def _group_forward(bn: nn.BatchNorm2d, x: torch.Tensor, update: bool) -> torch.Tensor:
    """Statistics of each pair's four tiles, as one call per pair; x (4P,C,h,w), pair-major."""
    if len(x) == 0:
        return x
    if update and bn.running_mean is not None:
        return torch.cat([_moving_forward(bn, part) for part in x.split(TILES)])
    if x.device.type != "cpu":
        return grouped_in_one_call(bn, x)
    if torch.is_grad_enabled() or _is_transformed():
        return torch.cat([_normalise(bn, part, NO_STATISTICS, True) for part in x.split(TILES)])
    return _grouped_in_place(bn, x)


def _moving_forward(bn: Any, pair: torch.Tensor) -> torch.Tensor:
    """One pair's tiles by their own statistics, which also move the running ones."""
    bn.num_batches_tracked += 1
    share = bn.momentum
    if share is None:
        share = 1 / float(bn.num_batches_tracked)
    return _normalise(bn, pair, (bn.running_mean, bn.running_var), True, share)


def _grouped_in_place(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The same without a graph: chunk by chunk into one output, the fastest on a CPU."""
    out = torch.empty_like(x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    means, deviations = x.new_empty((2, len(x) // TILES, x.shape[1]), dtype=dtype).unbind()
    norm = partial(torch.native_batch_norm, weight=bn.weight, bias=bn.bias)
    norm = partial(norm, running_mean=None, running_var=None, training=True)
    norm = partial(norm, momentum=0.0, eps=bn.eps)
    saved = zip(means.unbind(), deviations.unbind(), strict=True)
    for part, place, found in zip(x.split(TILES), out.split(TILES), saved, strict=True):
        norm(part, out=(place, *found))
    return out


OF_A_PAIR = (1, 3, 4)  # its tiles and their pixels, in (P,4,C,h,w)


def grouped_in_one_call(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The same for all pairs at once, on a GPU: a view (P,4,C,h,w) of x, nothing is moved.

    The output has x's dtype and memory format; statistics are of float32 at least.
    """
    tiles = x.unflatten(0, (-1, TILES))
    with torch.autocast(x.device.type, enabled=False):
        variance, mean = _moments_of_pairs(tiles)
        scale = torch.rsqrt(variance + bn.eps)
        if bn.affine:
            scale = scale * bn.weight[:, None, None]
            shift = torch.addcmul(bn.bias[:, None, None], mean, scale, value=-1)
        else:
            shift = -mean * scale
        if torch.is_grad_enabled() or _is_transformed():
            out = torch.addcmul(shift, tiles, scale).to(x.dtype)
        else:  # rounded where it is written: no float32 copy of bfloat16 tiles
            out = torch.empty_like(tiles)
            torch.addcmul(shift, tiles, scale, out=out)
    return out.flatten(0, 1)


def _moments_of_pairs(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Biased variance and mean (P,1,C,1,1) of tiles (P,4,C,h,w), of float32 at least.

    Numbers of 16 bits are widened while they are summed.
    """
    if torch.finfo(tiles.dtype).bits > 16:
        return torch.var_mean(tiles, OF_A_PAIR, correction=0, keepdim=True)
    wide = torch.float32
    count = tiles[0, :, 0].numel()
    mean = tiles.mean(OF_A_PAIR, keepdim=True, dtype=wide)
    norm = torch.linalg.vector_norm(tiles, 2, OF_A_PAIR, keepdim=True, dtype=wide)
    second = norm.square() / count
    return (second - mean.square()).clamp_min(0), mean


def _tile_forward(bn: Any, mode: str, update: bool, x: torch.Tensor) -> torch.Tensor:
    if mode == "group":
        out = _group_forward(bn, x, update)
    elif mode == "batch" or bn.running_mean is None:
        out = _normalise(bn, x, NO_STATISTICS, True)
    else:
        out = _normalise(bn, x, (bn.running_mean, bn.running_var), False)
    if hasattr(bn, "act"):  # timm's norms, and synchronised ones
        out = bn.act(bn.drop(out))
    return out


def _fused_forward(conv: nn.Conv2d, bn: Any, x: torch.Tensor) -> torch.Tensor:
    """The convolution and the norm after it, with running statistics, in one."""
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    shift = bn.bias - bn.running_mean * scale
    return F.conv2d(
        x,
        conv.weight * scale[:, None, None, None],
        shift,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def _norms_after_convolutions(backbone: nn.Module) -> dict[nn.Module, nn.Conv2d]:
    """Each plain norm of a ResNet or ResNeSt that follows a convolution; others: none."""
    found: dict[nn.Module, nn.Conv2d] = {}
    if not hasattr(backbone, "layer1"):
        return found
    for parent in backbone.modules():
        for conv, bn in pairwise(parent.children()):
            if type(conv) is nn.Conv2d and conv.bias is None and _is_plain(bn):
                found[bn] = conv
    return found


def _is_plain(norm: nn.Module) -> bool:
    """Whether a module is a batch norm and nothing else, with parameters and running statistics."""
    if not isinstance(norm, nn.BatchNorm2d):
        return False
    followers = [m for m in norm.children() if type(m) is not nn.Identity]
    return not followers and norm.affine and norm.running_mean is not None


@contextmanager
def _forwards(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del module.forward
            else:
                module.forward = own


@contextmanager
def tile_statistics(
    backbone: nn.Module, mode: str = "group", update: bool = False
) -> Iterator[None]:
    """Inside, the backbone's batch norms take their input as tiles (4P,...), pair after pair.

    group: each pair by its own four tiles, as the released loop; batch: all tiles together; eval:
    the running statistics (without a graph: within the convolutions). Running statistics stay,
    unless `update` (group only: they move pair by pair).
    """
    forwards: dict[nn.Module, Callable] = {}
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            forwards[module] = partial(_tile_forward, module, mode, update)
    if mode == "eval" and not torch.is_grad_enabled():
        for bn, conv in _norms_after_convolutions(backbone).items():
            forwards[conv] = partial(_fused_forward, conv, bn)
            forwards[bn] = _unchanged
    with _forwards(forwards):
        yield
