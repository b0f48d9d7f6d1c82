"""Dilated depthwise convolutions by phases are the plain ones."""

import copy
import io

import pytest
import torch
from torch import nn

from common.backbones import feature_network
from common.backbones_dilated import PhasedConv2d, by_phases, convolve_by_phases

SHAPES = [  # (H, W), (kh, kw), (rows, columns)
    ((6, 6), (5, 5), (2, 2)),
    ((3, 3), (5, 5), (2, 2)),
    ((7, 10), (3, 5), (2, 4)),
    ((1, 2), (3, 3), (4, 4)),
    ((5, 9), (1, 7), (1, 3)),
    ((8, 8), (5, 5), (4, 4)),
]


def plain(kernel, dilation, *, multiplier=1, bias=True, channels=6) -> nn.Conv2d:
    padding = tuple(d * (k // 2) for k, d in zip(kernel, dilation, strict=True))
    return nn.Conv2d(
        channels,
        channels * multiplier,
        kernel,
        padding=padding,
        dilation=dilation,
        groups=channels,
        bias=bias,
    ).double()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("multiplier, bias", [(1, False), (2, True)])
@pytest.mark.parametrize("size, kernel, dilation", SHAPES)
def test_output_and_gradients_are_those_of_the_convolution(
    size, kernel, dilation, multiplier, bias, memory_format
):
    torch.manual_seed(0)
    conv = plain(kernel, dilation, multiplier=multiplier, bias=bias)
    images = torch.randn(3, 6, *size).double().contiguous(memory_format=memory_format)
    images.requires_grad_()
    inputs = [images, *conv.parameters()]

    expected = conv(images)
    ours = convolve_by_phases(images, conv.weight, conv.bias, dilation, 6)

    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    assert ours.is_contiguous(memory_format=memory_format)
    cotangent = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_second_derivative():
    conv = plain((3, 3), (2, 2), channels=2)
    images = torch.randn(1, 2, 3, 4).double().requires_grad_()

    def ours(x, w):
        return convolve_by_phases(x, w, conv.bias, (2, 2), 2)

    assert torch.autograd.gradgradcheck(ours, (images, conv.weight))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Sequential(nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8), nn.ReLU()),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # not dilated
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),  # not depthwise
        nn.Conv2d(8, 8, 3, padding=1, dilation=2, groups=8),  # the map gets smaller
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=8),
    )


def test_what_is_replaced_and_what_stays():
    one = network()
    other = copy.deepcopy(one)
    other[1][0].weight.requires_grad_(False)
    random_numbers = torch.get_rng_state()

    by_phases(other)

    assert torch.equal(torch.get_rng_state(), random_numbers)
    kinds = [type(m) for m in other.modules() if isinstance(m, nn.Conv2d)]
    assert kinds == [nn.Conv2d, PhasedConv2d, *5 * [nn.Conv2d]]
    assert not other[1][0].weight.requires_grad
    assert list(one.state_dict()) == list(other.state_dict())
    images = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(one(images), other(images))
    other.load_state_dict(one.state_dict())


def went_by_phases(conv: nn.Module, images: torch.Tensor) -> bool:
    """Whether the call convolves without dilation."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True, with_stack=False
    ) as profile:
        conv(images)
    calls = [event for event in profile.events() if event.name == "aten::conv2d"]
    (call,) = calls
    return call.input_shapes[0][0] > len(images)


def test_phases_are_for_gradients_and_for_small_maps():
    images = torch.randn(2, 8, 9, 9)
    conv = network()[1][0]
    holder = nn.Sequential(conv)
    by_phases(holder)
    phased = holder[0]
    assert went_by_phases(phased, images)
    with torch.no_grad():
        assert not went_by_phases(phased, images)
        assert went_by_phases(phased, images[..., :3])
    phased.requires_grad_(False)
    assert not went_by_phases(phased, images)
    assert went_by_phases(phased, images.requires_grad_())


def test_exported_and_traced_it_is_the_plain_convolution():
    holder = nn.Sequential(network()[1][0])
    by_phases(holder)
    images = torch.randn(1, 8, 3, 3)

    exported = torch.export.export(holder, (images,))
    file = io.BytesIO()
    torch.export.save(exported, file)
    nodes = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
    assert len(nodes) == 1 and "conv2d" in nodes[0]
    traced = torch.jit.trace(holder, images)
    assert "permute" not in str(traced.inlined_graph)
    torch.testing.assert_close(exported.module()(images), holder(images))


def test_networks_of_timm_have_them():
    features = feature_network("tf_efficientnet_lite0", stride=16)
    dilated = [m for m in features.body.modules() if isinstance(m, PhasedConv2d)]
    assert len(dilated) == 4  # a stage's 5 x 5 ones and the 3 x 3 one of the last
    plain_network = feature_network("tf_efficientnet_lite0", stride=32)
    assert not any(isinstance(m, PhasedConv2d) for m in plain_network.body.modules())
