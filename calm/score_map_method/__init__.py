"""The score maps: activation_map reads the network's own; the others differentiate the label's logit."""

from calm.score_map_method.activation_map import activation_map
from calm.score_map_method.gradients import (
    backprop,
    input_grad,
    integrated_grad,
    smooth_grad,
    smooth_grad_square,
    var_grad,
)

GRADIENT_PROCESSES = {
    "input_grad": input_grad,
    "integrated_grad": integrated_grad,
    "smooth_grad": smooth_grad,
    "smooth_grad_square": smooth_grad_square,
    "var_grad": var_grad,
}

__all__ = [
    "GRADIENT_PROCESSES",
    "activation_map",
    "backprop",
    "input_grad",
    "integrated_grad",
    "smooth_grad",
    "smooth_grad_square",
    "var_grad",
]
