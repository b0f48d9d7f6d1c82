"""Which statistics the batch norms use on tiles (deviations D6, D7)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from common.aliases import one_module
from common.sync_bn import SynchronisedBatchNorm

one_module(__name__, "oass.core.batch_norm")

TILES = 4


Statistics = tuple[torch.Tensor | None, torch.Tensor | None]
NO_STATISTICS: Statistics = (None, None)


def _normalise(
    bn: nn.BatchNorm2d, x: torch.Tensor, statistics: Statistics, training: bool, share: float = 0.0
) -> torch.Tensor:
    """F.batch_norm with the norm's parameters; in training `statistics` move by `share`."""
    mean, variance = statistics
    return F.batch_norm(x, mean, variance, bn.weight, bn.bias, training, share, bn.eps)


def _group_forward(bn: nn.BatchNorm2d, x: torch.Tensor, update: bool) -> torch.Tensor:
    """Statistics of each pair's four tiles; x (4P,C,h,w), pair-major. Equal to one call per pair, in order."""
    if len(x) == 0:
        return x
    if update and bn.running_mean is not None:
        return torch.cat([_moving_forward(bn, part) for part in x.split(TILES)])
    if x.device.type != "cpu":
        return grouped_in_one_call(bn, x)
    if torch.is_grad_enabled():
        return torch.cat([_normalise(bn, part, NO_STATISTICS, True) for part in x.split(TILES)])
    return _grouped_in_place(bn, x)


def _moving_forward(bn: nn.BatchNorm2d, pair: torch.Tensor) -> torch.Tensor:
    """One pair's tiles by their own statistics, which also move the running ones."""
    bn.num_batches_tracked += 1
    share = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
    return _normalise(bn, pair, (bn.running_mean, bn.running_var), True, share)


def _grouped_in_place(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The same without a graph: chunk by chunk into one output, the fastest on a CPU."""
    out = torch.empty_like(x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    for part, place in zip(x.split(TILES), out.split(TILES), strict=True):
        mean = x.new_empty(x.shape[1], dtype=dtype)
        deviation = torch.empty_like(mean)
        torch.native_batch_norm(
            *(part, bn.weight, bn.bias, None, None, True, 0.0, bn.eps), out=(place, mean, deviation)
        )
    return out


def grouped_in_one_call(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The same for all pairs at once, pairs and channels side by side: (4P,C,h,w) seen as (4,P*C,h,w)."""
    P, C = len(x) // TILES, x.shape[1]
    tiles = x.view(P, TILES, *x.shape[1:]).transpose(0, 1).reshape(TILES, P * C, *x.shape[2:])
    weight = None if bn.weight is None else bn.weight.repeat(P)
    bias = None if bn.bias is None else bn.bias.repeat(P)
    out = F.batch_norm(tiles, None, None, weight, bias, True, 0.0, bn.eps)
    return out.view(TILES, P, *x.shape[1:]).transpose(0, 1).reshape(x.shape)


def _tile_forward(bn: nn.BatchNorm2d, mode: str, update: bool, x: torch.Tensor) -> torch.Tensor:
    if mode == "group":
        out = _group_forward(bn, x, update)
    elif mode == "batch" or bn.running_mean is None:
        out = _normalise(bn, x, NO_STATISTICS, True)
    else:
        out = _normalise(bn, x, (bn.running_mean, bn.running_var), False)
    if hasattr(bn, "act"):  # timm's norms, and synchronised ones
        out = bn.act(bn.drop(out))
    return out


def _fused_forward(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
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


def _norms_after_convolutions(backbone: nn.Module) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Each plain norm of a ResNet or ResNeSt that follows a convolution; nothing for other networks."""
    found: dict[nn.BatchNorm2d, nn.Conv2d] = {}
    if not hasattr(backbone, "layer1"):
        return found
    for parent in backbone.modules():
        for conv, bn in pairwise(parent.children()):
            if type(conv) is nn.Conv2d and conv.bias is None and _is_plain(bn):
                found[bn] = conv
    return found


def _is_plain(norm: nn.Module) -> bool:
    """Whether a module is a batch norm and nothing else, with parameters and running statistics."""
    if type(norm) not in (nn.BatchNorm2d, SynchronisedBatchNorm):
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
        for module, forward in before.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward


@contextmanager
def tile_statistics(
    backbone: nn.Module, mode: str = "group", update: bool = False
) -> Iterator[None]:
    """Inside, the batch norms of `backbone` treat their input as tiles (4P,...), four of each pair in a row.

    group: each pair by its own four tiles, as the released loop; batch: all tiles together; eval: the
    running statistics (without a graph: within the convolutions). Running statistics stay, unless `update`
    (group only: they move pair by pair).
    """
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    forwards: dict[nn.Module, Callable] = {
        bn: partial(_tile_forward, bn, mode, update) for bn in norms
    }
    if mode == "eval" and not torch.is_grad_enabled():
        for bn, conv in _norms_after_convolutions(backbone).items():
            forwards |= {conv: partial(_fused_forward, conv, bn), bn: _unchanged}
    with _forwards(forwards):
        yield
