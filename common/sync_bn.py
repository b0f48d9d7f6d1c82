"""Batch norm over the images of all processes: several train as one with the whole batch.

    model = synchronised(model, accelerator)

One class for every batch norm, on any device: torch's own SyncBatchNorm is for GPUs only, and its
conversion drops the activation that timm keeps inside its norm layers.
"""

from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from common.errors import UserError

PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TIMM_NORMS = ("BatchNormAct2d", "SyncBatchNormAct")


def world_size() -> int:
    """The number of processes."""
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not is_distributed:
        return 1
    return torch.distributed.get_world_size()


@torch.no_grad()
def batch_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and biased variance of every channel over all processes' batches, and how many values.

    Each process takes two passes over its own n_i values: m_i is their mean, q_i the sum of their
    squared distances from it. Together (Chan, Golub and LeVeque, 1979)

        n = sum_i n_i,    m = sum_i n_i m_i / n,    s = (1/n) sum_i [ q_i + n_i (m_i - m)^2 ].

    The shorter E[x^2] - E[x]^2 loses every digit in float32 where the mean is large against the
    deviation.

    Args:
        x: (N,C,...) float32 or float64; N may differ between processes, and be 0.
    Returns:
        m (C,), s (C,), n () of the dtype of x.
    """
    others, shape = _axes(x)
    count = x.numel() // x.shape[1]

    mean = x.sum(others) / max(count, 1)
    squares = (x - mean.view(shape)).square().sum(others)

    own = torch.cat([x.new_tensor([count]), mean, squares])
    parts = [torch.empty_like(own) for _ in range(world_size())]
    torch.distributed.all_gather(parts, own)

    counts, means, all_squares = torch.stack(parts).split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (all_squares + counts * (means - mean).square()).sum(0) / total
    return mean, variance, total


def _axes(x: torch.Tensor) -> tuple[list[int], list[int]]:
    """The axes of (N,C,...) beside the channels, and the shape in which (C,) broadcasts to it."""
    others = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    return others, shape


class _Normalise(torch.autograd.Function):
    """y = (x - m) r w + b with r = 1 / sqrt(s + eps); m and s depend on the x of all processes.

    With n values a channel over all processes, x' = (x - m) r and g = dL/dy the gradients are

        dL/dx = w r [ g - (1/n) sum g - x' (1/n) sum g x' ]      sums over all processes
        dL/dw = sum g x',   dL/db = sum g                         sums over this process alone
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        rate: torch.Tensor,
        count: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, rate, count)
        _, shape = _axes(x)
        scale = rate if weight is None else rate * weight
        y = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        if bias is not None:
            y = y + bias.view(shape)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, rate, count = ctx.saved_tensors
        others, shape = _axes(x)

        g = gradient.to(mean.dtype)
        normalised = (x.to(mean.dtype) - mean.view(shape)) * rate.view(shape)
        sum_g = g.sum(others)
        sum_gx = (g * normalised).sum(others)

        grad_x = None
        if ctx.needs_input_grad[0]:
            both = torch.stack([sum_g, sum_gx])
            torch.distributed.all_reduce(both)
            mean_g, mean_gx = (both / count).view(2, *shape)
            scale = rate if weight is None else rate * weight
            grad_x = (g - mean_g - normalised * mean_gx) * scale.view(shape)
            grad_x = grad_x.to(x.dtype)
        grad_weight = sum_gx.to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = sum_g if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None, None, None


def normalise_over_processes(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x normalised with the statistics of all processes' batches, and these statistics.

    Gradients run through x and the statistics.

    Args:
        x: (N,C,...) of any floating dtype; computed in float32 at least.
        weight, bias: (C,), or None for 1 and 0.
        eps: added to the variance.
    Returns:
        y (N,C,...) of the dtype of x; mean (C,), biased variance (C,), number of values ().
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        mean, variance, count = batch_statistics(x.detach().to(dtype))
        y = _Normalise.apply(x, weight, bias, mean, torch.rsqrt(variance + eps), count)
    return y, mean, variance, count


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch norm of (N,C,...) with the statistics of all processes' batches, then `drop` and `act`.

    `drop` and `act` are what timm's norm layers hold besides (BatchNormAct2d). In one process, and
    in evaluation, it is torch's own F.batch_norm. `synchronised` makes them.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (N,C,...), got {tuple(input.shape)}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N,C,...) to the same shape and dtype."""
        if self.training and world_size() > 1:
            self._check_input_dim(input)
            y, *statistics = normalise_over_processes(input, self.weight, self.bias, self.eps)
            if self.running_mean is not None and self.track_running_stats:
                move_running_statistics(self, *statistics)
        else:
            y = super().forward(input)
        for name in ("drop", "act"):
            if hasattr(self, name):
                y = getattr(self, name)(y)
        return y


@torch.no_grad()
def move_running_statistics(
    norm: nn.modules.batchnorm._BatchNorm,
    mean: torch.Tensor,
    variance: torch.Tensor,
    count: torch.Tensor,
) -> None:
    """r <- (1 - a) r + a (statistic), with the unbiased variance; counts the batch.

    a is the momentum, or without one 1 / (batches so far).
    """
    batches: Any = norm.num_batches_tracked
    batches += 1
    unbiased = variance * count / (count - 1).clamp_min(1)
    pairs: Any = ((norm.running_mean, mean), (norm.running_var, unbiased))
    for running, now in pairs:
        share: Any = norm.momentum
        if share is None:
            share = 1 / batches.to(running.dtype)
        running.lerp_(now.to(running.dtype), share)


def synchronised(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The network itself, with every batch norm (1d, 2d, 3d, timm's) over all processes.

    The norms stay the objects that they are, with all that they hold, and change their class; one
    with an attribute `is_synchronised` knows how itself, and gets True there.

    Raises:
        UserError: several processes, and a layer with batch statistics of another kind.
    """
    if accelerator.num_processes > 1:
        _refuse_other_norms(model)
    for module in model.modules():
        if hasattr(module, "is_synchronised"):
            module.is_synchronised = True  # type: ignore[assignment]  # a plain attribute
        elif _is_batch_norm(module):
            module.__class__ = SynchronisedBatchNorm
    return model


def _is_batch_norm(module: nn.Module) -> bool:
    is_timm = type(module).__module__.startswith("timm.") and type(module).__name__ in TIMM_NORMS
    return type(module) in PLAIN_NORMS or is_timm


def _refuse_other_norms(model: nn.Module) -> None:
    """UserError for the first layer with running statistics that `synchronised` does not know."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        is_known = isinstance(module, (SynchronisedBatchNorm, _InstanceNorm))
        is_known = is_known or hasattr(module, "is_synchronised")
        if is_known or _is_batch_norm(module) or kind.startswith("Frozen"):
            continue
        if getattr(module, "running_var", None) is not None:
            problem = f"a {kind} cannot take its statistics over several processes"
            advice = "train in one process, or take a network with plain batch norms"
            raise UserError(f"{name or kind}: {problem}; {advice}")
