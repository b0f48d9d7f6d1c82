"""The class-aware selective loss in one step, weights and derivative included: what training calls.

Equal to `csl.method.label_weights` and then `csl.method.partial_asymmetric_loss` in value, gradient
and second derivative, and faster: weights and loss share p, the derivative of log(pt) by the logit
is y - p, one product in place of seven operations, and small whole exponents are products in place
of powers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from csl import method

__all__ = ["selective_loss"]

NOTHING: Mapping[str, Any] = {}


def selective_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    mode: str = "selective",
    selection: Mapping[str, Any] = NOTHING,
    **factors: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, a scalar, and what the weights leave of U, (B, C), as numbers 0 and 1.

    torch.compile and the transforms of torch.func derive the plain form themselves: they get it.
    So does a caller who wants a gradient of the focusing factor.

    Args:
        logits, targets: (B, C).
        mode: one of `method.MODES`.
        selection: the other arguments of `method.selective_weights`, for its mode.
        factors: the other arguments of `method.partial_asymmetric_loss`.
    """
    clip = factors.get("clip")
    if method.is_transformed() or factors.get("focus_gradient"):
        _, q = method.probabilities(logits, clip)
        derived = method.label_weights(mode, targets, q, **selection)
        loss = method.partial_asymmetric_loss(logits, targets, derived, **factors)
        return loss, (targets == method.UNKNOWN) * derived

    z = method.at_least_float32(logits)
    with torch.inference_mode():  # a tenth faster than no_grad at 64 x 80
        p, q = method.probabilities(z, clip)
        positive, negative, unknown = _label_sets(targets, z.dtype)
        weights: torch.Tensor | None = None  # all 1
        if mode == "selective" and _is_by_count(selection):
            method.require_targets(logits, targets)
            unknown = _without_likely(unknown, positive + negative, q, selection)
            if not method.is_readable(targets):
                weights = method.nan_outside(torch.ones_like(q), targets)
        else:
            weights = method.label_weights(mode, targets, q, **selection)
        pt = torch.lerp(q, p, positive)  # exactly p on P, q elsewhere

        base = 1 - pt
        focus = _focus(positive, base, factors, "pos", gamma=0)
        focus = focus + _focus(negative, base, factors, "neg", gamma=1)
        focus = focus + _focus(unknown, base, factors, "unann", gamma=4)
        weight = focus if weights is None else focus * weights

        if factors.get("stable"):
            value = weight * F.logsigmoid((2 * positive - 1) * z)
        else:
            eps = factors.get("eps", method.EPS)
            value = weight * pt.clamp(min=eps).log()
            weight = weight * (pt >= eps)  # a product, which keeps NaN
        slope = weight * _slope(p, positive, clip)
        loss = -value.sum()
        kept = unknown if weights is None else unknown * weights
    return _Known.apply(z, _Found(loss, slope, weight, positive, clip)), kept


def _label_sets(
    targets: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`method.label_sets` without a comparison; what is no label has the weight NaN anyhow."""
    y = targets.to(dtype)
    positive = y.relu()
    unknown = (-y).relu()
    return positive, 1 - positive - unknown, unknown


def _slope(p: torch.Tensor, positive: torch.Tensor, clip: float | None) -> torch.Tensor:
    """The derivative of -log(pt) by the logit, (B, C), where nothing bounds pt from below.

    Args:
        p: sigmoid(z).
        positive: the set P as numbers 0 and 1.
    """
    slope = p - positive
    if not clip:
        return slope
    q = (1 - p + clip).clamp(max=1)
    is_within = 1 - p + clip <= 1  # beyond, q stands still
    return torch.where(positive == 1, slope, slope * (1 - p) / q * is_within)


def _is_by_count(selection: Mapping[str, Any]) -> bool:
    """Whether K * B labels of the whole batch are left out, as released."""
    return not selection.get("share") and selection.get("scope", "batch") == "batch"


def _without_likely(
    unknown: torch.Tensor, annotated: torch.Tensor, q: torch.Tensor, selection: Mapping[str, Any]
) -> torch.Tensor:
    """What `method.selective_weights` leaves of U; all sets as numbers: without a comparison."""
    topk = selection.get("topk", 5)
    prior = selection.get("prior")
    kept = unknown
    if topk:
        order = torch.add(q, annotated, alpha=2)  # q on U, 2 or more elsewhere
        count = min(topk * len(q), q.numel())
        first = _smallest(order.view(-1), count)
        kept = kept.view(-1).scatter(0, first, 0).view_as(q)
    if prior is not None and selection.get("prior_threshold"):
        kept = kept * ~method.frequent_classes(prior, selection["prior_threshold"])
    return kept


def _smallest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Where the `count` smallest of values (n,) stand, in any order: (count,) int64."""
    if method.is_readable(values):  # NumPy's partition takes a third of topk's time
        order = values.numpy().argpartition(count - 1)
        return torch.from_numpy(order[:count])
    return values.topk(count, largest=False, sorted=False).indices


class _Found(NamedTuple):
    """The loss, its derivative by z, and from what the derivative is made; each (B, C)."""

    loss: torch.Tensor
    slope: torch.Tensor
    weight: torch.Tensor
    positive: torch.Tensor
    clip: float | None


class _Known(torch.autograd.Function):
    """The loss as a function of `z`, (B, C), whose derivative is known: one product backwards.

    Where the derivative is to be derived once more, it is made again of operations that can be. The
    weight carries no gradient.
    """

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, found: _Found) -> torch.Tensor:
        ctx.save_for_backward(z)
        ctx.found = found  # made above, where nothing else can change it
        return found.loss.clone()

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None]:
        _, slope, weight, positive, clip = ctx.found
        if torch.is_grad_enabled():
            (z,) = ctx.saved_tensors
            slope = weight.clone() * _slope(torch.sigmoid(z), positive.clone(), clip)
        return outer * slope, None


def _focus(
    members: torch.Tensor,
    base: torch.Tensor,
    factors: Mapping[str, Any],
    name: str,
    *,
    gamma: float,
) -> torch.Tensor:
    """alpha * base^gamma on a set of labels and 0 elsewhere, 0^0 being 1.

    Args:
        members: the set as numbers 0 and 1.
        base: 1 - pt, of the same shape.
        factors, name: where gamma and alpha of the set stand.
        gamma: the exponent where none stands there.
    """
    alpha = factors.get(f"alpha_{name}", 1)
    gamma = factors.get(f"gamma_{name}", gamma)
    focus = members
    if gamma in (2, 3, 4):
        power = base * base
        if gamma == 4:
            power = power * power
        focus = focus * power
    if gamma in (1, 3):
        focus = focus * base
    elif gamma not in (0, 2, 4):
        focus = focus * base**gamma
    if alpha != 1:
        focus = focus * alpha
    return focus
