"""The partial asymmetric loss with its derivative written down: what training calls.

Equal to `csl.method.partial_asymmetric_loss` in value, gradient and second derivative, and faster
forwards and backwards: the derivative of log(pt) by the logit is y - p, one product in place of
seven operations, and small whole exponents are products in place of powers.
"""

from typing import Any

import torch
import torch.nn.functional as F

from csl import method

__all__ = ["partial_asymmetric_loss"]


def partial_asymmetric_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | float = 1.0,
    **factors: Any,
) -> torch.Tensor:
    """The loss, a scalar; arguments as those of the function in `csl.method`.

    torch.compile and the transforms of torch.func derive the plain form themselves: they get it.
    So does a caller who wants a gradient of the focusing factor.
    """
    if method.is_transformed() or factors.get("focus_gradient"):
        return method.partial_asymmetric_loss(logits, targets, weights, **factors)

    method.require_targets(logits, targets)
    z = method.at_least_float32(logits)
    return _Loss.apply(z, targets, weights, factors)


class _Loss(torch.autograd.Function):
    """The sum over labels, and its derivative by the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | float,
        factors: dict[str, Any],
    ) -> torch.Tensor:
        p, q = method.probabilities(z, factors.get("clip"))
        positive, negative, unknown = method.label_sets(targets, z.dtype)
        pt = torch.lerp(q, p, positive)  # exactly p on P, q elsewhere

        base = 1 - pt
        weight = _focused(positive, base, factors.get("alpha_pos", 1), factors.get("gamma_pos", 0))
        weight = weight + _focused(
            negative, base, factors.get("alpha_neg", 1), factors.get("gamma_neg", 1)
        )
        weight = weight + _focused(
            unknown, base, factors.get("alpha_unann", 1), factors.get("gamma_unann", 4)
        )
        weight = weight * weights
        if not method.is_readable(targets):
            weight = method.nan_outside(weight, targets)

        if factors.get("stable"):
            log_pt = F.logsigmoid((2 * positive - 1) * z)
            slope_weight = weight
        else:
            eps = factors.get("eps", method.EPS)
            log_pt = pt.clamp(min=eps).log()
            slope_weight = weight.masked_fill(pt < eps, 0)
        ctx.clip = factors.get("clip")
        ctx.save_for_backward(z, positive, slope_weight)
        return -(weight * log_pt).sum()

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Made of operations that can be derived once more; the weight carries no gradient."""
        z, positive, weight = ctx.saved_tensors
        p = torch.sigmoid(z)
        slope = p - positive
        if ctx.clip:
            _, q = method.probabilities(z, ctx.clip)
            is_within = 1 - p + ctx.clip <= 1  # beyond, q stands still
            slope = torch.where(positive == 1, slope, slope * (1 - p) / q * is_within)
        return outer * (weight * slope), None, None, None


def _focused(members: torch.Tensor, base: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """alpha * base^gamma on a set of labels and 0 elsewhere, 0^0 being 1.

    Args:
        members: the set as numbers 0 and 1.
        base: 1 - pt, of the same shape.
    """
    focus = members
    if gamma in (2, 3, 4):
        square = base * base
        focus = focus * square if gamma < 4 else focus * (square * square)
    if gamma in (1, 3):
        focus = focus * base
    elif gamma not in (0, 2, 4):
        focus = focus * base**gamma
    return focus if alpha == 1 else focus * alpha
