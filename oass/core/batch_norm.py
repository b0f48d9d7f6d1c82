"""Which statistics the batch norms use on tiles (deviations D6, D7), and batch norm over all processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
import torch.distributed
import torch.distributed.nn
from torch import nn
from torch.nn import functional as F

TILES = 4


def _normalise(bn: nn.BatchNorm2d, x: torch.Tensor, statistics: tuple | None, training: bool) -> torch.Tensor:
    mean, var = statistics or (None, None)
    return F.batch_norm(x, mean, var, bn.weight, bn.bias, training, bn.momentum, bn.eps)


def _group_forward(bn: nn.BatchNorm2d, x: torch.Tensor, update: bool) -> torch.Tensor:
    """Statistics of each pair's four tiles; x (4P,C,h,w), pair-major. Equal to one call per pair, in order."""
    if update:
        bn.num_batches_tracked += len(x) // TILES
    if not update and x.device.type != "cpu":
        return grouped_in_one_call(bn, x)
    if update or torch.is_grad_enabled():
        statistics = (bn.running_mean, bn.running_var) if update else None
        return torch.cat([_normalise(bn, part, statistics, True) for part in x.split(TILES)]) if len(x) else x
    return _grouped_in_place(bn, x)


def _grouped_in_place(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The same without a graph: chunk by chunk into one output, the fastest on a CPU."""
    out = torch.empty_like(x)
    for part, place in zip(x.split(TILES), out.split(TILES), strict=True):
        unused = (torch.empty_like(bn.weight), torch.empty_like(bn.weight))  # mean and deviation
        torch.native_batch_norm(
            *(part, bn.weight, bn.bias, None, None, True, bn.momentum, bn.eps), out=(place, *unused)
        )
    return out


def grouped_in_one_call(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The same for all pairs at once, pairs and channels side by side: (4P,C,h,w) seen as (4,P*C,h,w)."""
    P, C = len(x) // TILES, x.shape[1]
    tiles = x.view(P, TILES, *x.shape[1:]).transpose(0, 1).reshape(TILES, P * C, *x.shape[2:])
    out = F.batch_norm(tiles, None, None, bn.weight.repeat(P), bn.bias.repeat(P), True, 0.0, bn.eps)
    return out.view(TILES, P, *x.shape[1:]).transpose(0, 1).reshape(x.shape)


def _tile_forward(bn: nn.BatchNorm2d, mode: str, update: bool, x: torch.Tensor) -> torch.Tensor:
    if mode == "group":
        out = _group_forward(bn, x, update)
    elif mode == "batch":
        out = _normalise(bn, x, None, True)
    else:
        out = _normalise(bn, x, (bn.running_mean, bn.running_var), False)
    return bn.act(bn.drop(out)) if hasattr(bn, "act") else out  # timm's BatchNormAct2d


def _fused_forward(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """The convolution and the norm after it, with running statistics, in one."""
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    shift = bn.bias - bn.running_mean * scale
    return F.conv2d(
        x, conv.weight * scale[:, None, None, None], shift, conv.stride, conv.padding, conv.dilation, conv.groups
    )


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def _norms_after_convolutions(backbone: nn.Module) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Each plain norm of a ResNet or ResNeSt that follows a convolution; nothing for other networks."""
    if not hasattr(backbone, "layer1"):
        return {}
    neighbours = (pair for parent in backbone.modules() for pair in pairwise(parent.children()))
    return {
        bn: conv
        for conv, bn in neighbours
        if type(conv) is nn.Conv2d and conv.bias is None and type(bn) is nn.BatchNorm2d
    }


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
def tile_statistics(backbone: nn.Module, mode: str = "group", update: bool = False) -> Iterator[None]:
    """Inside, the batch norms of `backbone` treat their input as tiles (4P,...), four of each pair in a row.

    group: each pair by its own four tiles, as the released loop; batch: all tiles together; eval: the
    running statistics (without a graph: within the convolutions). Running statistics stay, unless `update`
    (group only: they move pair by pair).
    """
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    forwards: dict[nn.Module, Callable] = {bn: partial(_tile_forward, bn, mode, update) for bn in norms}
    if mode == "eval" and not torch.is_grad_enabled():
        for bn, conv in _norms_after_convolutions(backbone).items():
            forwards |= {conv: partial(_fused_forward, conv, bn), bn: _unchanged}
    with _forwards(forwards):
        yield


def mean_over_processes(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The mean of x over all processes, differentiable, and their number."""
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return (torch.distributed.nn.all_reduce(x) / world, world) if world > 1 else (x, 1)


def _synchronised_forward(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    if not bn.training:
        return _normalise(bn, x, (bn.running_mean, bn.running_var), False)
    with torch.autocast(x.device.type, enabled=False):
        values = x.float()
        first = values.mean((0, 2, 3))
        mean, world = mean_over_processes(first)
        variance, _ = mean_over_processes((values - mean[:, None, None]).square().mean((0, 2, 3)))
        scale = bn.weight * torch.rsqrt(variance + bn.eps)
        out = values * scale[:, None, None] + (bn.bias - mean * scale)[:, None, None]
    with torch.no_grad():
        count = x.numel() // x.shape[1] * world
        bn.running_mean.lerp_(mean, bn.momentum)
        bn.running_var.lerp_(variance * count / max(count - 1, 1), bn.momentum)
        bn.num_batches_tracked += 1
    return out.to(x.dtype)


def synchronise(model: nn.Module) -> None:
    """Batch norm over the images of all processes (`--sync_bn`), on any device; CSI's head included.

    Every process must hold the same number of images.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.over_processes = True
            module.forward = partial(_synchronised_forward, module)
