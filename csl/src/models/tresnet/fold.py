"""The same network for inference and export, with every norm folded into the convolution before it."""

from copy import deepcopy

from torch import nn

from common.aliases import one_module
from csl.src.models.tresnet.layers.anti_aliasing import AntiAliasDownsampleLayer, blur_kernel
from csl.src.models.tresnet.layers.general_layers import ABN

one_module(__name__, "csl.src.models.tresnet.fold")


def fold(model: nn.Module) -> nn.Module:
    """A copy in eval mode in which convolution + ABN is one convolution with a bias, then the activation.

    gamma * (conv(x) - mean) / sqrt(var + eps) + beta is linear in the convolution's weights, gamma = |weight| +
    1e-5. Blurs become convolutions with a fixed kernel. The logits are the same up to rounding; a network that
    is no TResNet is copied as it is.
    """
    model = deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Sequential) and len(module) == 2:
            if isinstance(module[1], ABN):
                module[0], module[1] = _folded(*module)
            elif isinstance(module[1], AntiAliasDownsampleLayer):
                module[1] = _blur(module[0][0])
    return model


def _folded(conv: nn.Conv2d, norm: ABN) -> tuple[nn.Conv2d, nn.Module]:
    scale = norm.gamma() / (norm.running_var + norm.eps).sqrt()
    out = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
    out.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    out.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
    return out, nn.Identity() if norm.slope is None else nn.LeakyReLU(norm.slope, inplace=True)


def _blur(before: nn.Conv2d) -> nn.Conv2d:
    channels = before.out_channels
    out = nn.Conv2d(
        channels, channels, 3, 2, 1, groups=channels, bias=False, padding_mode="reflect"
    )
    out.weight = nn.Parameter(
        blur_kernel(before.weight, channels).contiguous(), requires_grad=False
    )
    return out
