"""Dilated depthwise convolutions, which a CPU's kernels are slow at: the same by phases.

A kernel with dilation d links only places whose distance is a multiple of d. So a map falls apart
into d x d phases, each of every d-th row and column, that never meet: they are convolved without
dilation, as one batch. The numbers are the same up to the order of their sums.

Shapes: B batch, C channels, H W map, k kernel, d dilation; rows first where both sides have one.
"""

import torch
import torch.nn.functional as F
from torch import nn

Pair = tuple[int, int]

LARGE_REACH = 8  # places to each side of the middle: from here on, forward is slow as well


def convolve_by_phases(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dilation: Pair,
    groups: int,
) -> torch.Tensor:
    """`F.conv2d` with stride 1 and as much padding as keeps H and W, for an odd kernel.

    Args:
        images: (B,C,H,W), in any memory format, which the result keeps.
        weight: (K, C / groups, k, k), k odd.
        bias: (K,) or none.

    Returns:
        (B,K,H,W).
    """
    height, width = images.shape[-2:]
    rows, columns = dilation
    padded = F.pad(images, (0, -width % columns, 0, -height % rows))
    phases = _split(padded, dilation)
    middle = (weight.shape[-2] // 2, weight.shape[-1] // 2)
    convolved = F.conv2d(phases, weight, bias, padding=middle, groups=groups)
    joined = _join(convolved, dilation)[..., :height, :width]
    return joined.contiguous(memory_format=_format_of(images))


def _split(images: torch.Tensor, dilation: Pair) -> torch.Tensor:
    """(B,C,H,W) to (rows * columns * B, C, H / rows, W / columns), in channels_last."""
    rows, columns = dilation
    last = images.permute(0, 2, 3, 1)
    apart = last.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))  # B, H', rows, W', columns, C
    phases = apart.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)
    return phases.permute(0, 3, 1, 2)


def _join(phases: torch.Tensor, dilation: Pair) -> torch.Tensor:
    """The inverse of `_split`."""
    rows, columns = dilation
    last = phases.permute(0, 2, 3, 1)
    apart = last.unflatten(0, (rows, columns, -1))  # rows, columns, B, H', W', C
    together = apart.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
    return together.permute(0, 3, 1, 2)


def _format_of(images: torch.Tensor) -> torch.memory_format:
    if images.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


class PhasedConv2d(nn.Conv2d):
    """A dilated depthwise convolution that goes by phases where a CPU gains by it.

    It gains where a gradient is wanted, and where the kernel reaches beyond a small map. Compiled
    and exported it is the plain convolution.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self._gains(input):
            return super().forward(input)
        rows, columns = self.dilation
        return convolve_by_phases(input, self.weight, self.bias, (rows, columns), self.groups)

    def _gains(self, images: torch.Tensor) -> bool:
        if images.device.type != "cpu" or images.dim() != 4:
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if torch.is_grad_enabled() and (images.requires_grad or self.weight.requires_grad):
            return True
        reach = max(_reach(self))
        return reach >= LARGE_REACH or min(images.shape[-2:]) < reach


def by_phases(network: nn.Module) -> None:
    """Make each dilated depthwise convolution of the network a `PhasedConv2d`, in place.

    Parameters, their names and the random numbers that are still to come stay what they are.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            # one that is more than a convolution has a forward of its own
            if type(child) is nn.Conv2d and _can_go_by_phases(child):
                setattr(parent, name, _phased(child))


def _can_go_by_phases(conv: nn.Conv2d) -> bool:
    is_depthwise = conv.groups == conv.in_channels > 1
    is_dilated = max(conv.dilation) > 1
    is_odd = all(side % 2 for side in conv.kernel_size)
    keeps_size = conv.stride == (1, 1) and tuple(conv.padding) == _reach(conv)
    return is_depthwise and is_dilated and is_odd and keeps_size and conv.padding_mode == "zeros"


def _reach(conv: nn.Conv2d) -> Pair:
    """How many places the kernel reaches to each side of its middle."""
    (height, width), (rows, columns) = conv.kernel_size, conv.dilation
    return rows * (height // 2), columns * (width // 2)


def _phased(conv: nn.Conv2d) -> PhasedConv2d:
    phased = PhasedConv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        padding=_reach(conv),
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",  # drawn and kept nowhere
    )
    phased.weight = conv.weight
    phased.bias = conv.bias
    return phased.train(conv.training)
