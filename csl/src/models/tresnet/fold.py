"""The same network for inference and export, in a folded form.

Every norm is folded into the convolution before it.
"""

from copy import deepcopy

import torch
from torch import nn

from common.aliases import one_module
from csl.src.models.tresnet.layers.anti_aliasing import AntiAliasDownsampleLayer, blur_kernel
from csl.src.models.tresnet.layers.general_layers import ABN

one_module(__name__, "csl.src.models.tresnet.fold")


def fold(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode, with every norm folded into its convolution.

    In it convolution + ABN is one convolution with a bias, then the activation.

    gamma * (conv(x) - mean) / sqrt(var + eps) + beta is linear in the convolution's weights, gamma
    = |weight| + 1e-5. Blurs become convolutions with a fixed kernel. The logits are the same up to
    rounding; a network that is no TResNet is copied as it is.
    """
    model = deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Sequential) and len(module) == 2:
            first, second = module
            if isinstance(first, nn.Conv2d) and isinstance(second, ABN):
                module[0] = _folded(first, second)
                module[1] = nn.Identity()
                if second.slope is not None:
                    module[1] = nn.LeakyReLU(second.slope, inplace=True)
            elif isinstance(second, AntiAliasDownsampleLayer):
                module[1] = _blur(first.get_submodule("0"))
    return model


def _folded(conv: nn.Conv2d, norm: ABN) -> nn.Conv2d:
    """The convolution that does the norm's work too."""
    variance = norm.get_buffer("running_var")
    mean = norm.get_buffer("running_mean")
    scale = norm.gamma() / torch.sqrt(variance + norm.eps)
    out = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]  # torch declares a tuple of any length
        padding=conv.padding,  # type: ignore[arg-type]
    )
    out.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    out.bias = nn.Parameter(norm.bias - mean * scale, requires_grad=False)
    return out


def _blur(before: nn.Module) -> nn.Conv2d:
    """The blur behind a convolution, as a convolution of its own."""
    weight = before.get_parameter("weight")
    channels = len(weight)
    out = nn.Conv2d(
        channels, channels, 3, 2, 1, groups=channels, bias=False, padding_mode="reflect"
    )
    out.weight = nn.Parameter(blur_kernel(weight, channels).contiguous(), requires_grad=False)
    return out
