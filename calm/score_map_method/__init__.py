"""The score maps.

activation_map reads the network's own; the others differentiate the label's logit.
"""

from collections.abc import Callable

import torch

from calm.score_map_method.activation_map import activation_map
from calm.score_map_method.baselines import grad_cam, noise_tunnel, noise_tunnel_variance, occlusion
from calm.score_map_method.gradients import (
    backprop,
    input_grad,
    integrated_grad,
    smooth_grad,
    smooth_grad_square,
    var_grad,
)
from common.aliases import one_module

one_module(__name__, "calm.score_map_method")

GRADIENT_PROCESSES: dict[str, Callable[..., torch.Tensor]] = {
    "input_grad": input_grad,
    "integrated_grad": integrated_grad,
    "smooth_grad": smooth_grad,
    "smooth_grad_square": smooth_grad_square,
    "var_grad": var_grad,
    # not in the original
    "grad_cam": grad_cam,
    "captum_smoothgrad": noise_tunnel,
    "captum_vargrad": noise_tunnel_variance,
    "occlusion": occlusion,
}

__all__ = [
    "GRADIENT_PROCESSES",
    "activation_map",
    "backprop",
    "grad_cam",
    "input_grad",
    "integrated_grad",
    "noise_tunnel",
    "noise_tunnel_variance",
    "occlusion",
    "smooth_grad",
    "smooth_grad_square",
    "var_grad",
]
