"""The class-aware selective loss (CSL): which un-annotated labels take part, and with which weight.

Targets: 1 annotated positive (set P), 0 annotated negative (N), -1 un-annotated (U). B batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from csl.src.errors import SettingsError
from csl.src.loss_functions.prior import ComputePrior, match_prior, read_prior

__all__ = ["ComputePrior", "PartialSelectiveLoss", "edit_targets_parital_labels", "negative_backprop_fun_jit"]

MODES = ("none", "negative", "ignore", "ignore_normalize_classes", "selective")
EPS = 1e-8


class PartialSelectiveLoss(nn.Module):
    """L = - sum over (b,c) of w * alpha_S * (1 - pt)^gamma_S * log(max(pt, 1e-8)).

    pt = p on P and q = 1 - p on N and U, p the sigmoid of the logits; S = pos, neg, unann on P, N, U; with
    clip m: q <- min(q + m, 1). P-ASL is gamma_unann > gamma_neg >= gamma_pos. The weight w, which the mode
    decides (edit_targets_parital_labels), and the focusing factor (1 - pt)^gamma carry no gradient. A sum, not
    a mean: learning rate and weight decay depend on batch size and number of classes.
    """

    prior_classes: torch.Tensor | None

    def __init__(self, args: Any, class_names: Sequence[str] | None = None) -> None:
        """`args`: clip, gamma_{pos,neg,unann}, alpha_{pos,neg,unann}, partial_loss_mode, likelihood_topk,
        prior_threshold, prior_path; optional likelihood_scope ("batch", "sample"), stable_loss.

        With `class_names` the figures of the prior file are matched by name, else taken in file order.
        SettingsError (a ValueError): unknown mode, unusable prior; MissingFileError: no prior file.
        """
        super().__init__()
        self.args = args
        mode_of(args)
        path = getattr(args, "prior_path", None)
        prior = None if not path else match_prior(read_prior(path), class_names, path)
        self.register_buffer("prior_classes", prior)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar: logits (B,C) of any float dtype, targets (B,C) of any numeric dtype, left alone."""
        return self.terms(logits, targets).sum()

    def terms(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The addends (B,C) of the loss, in float32, also under autocast (float64 for float64 logits)."""
        args, prior = self.args, self.prior_classes
        if prior is not None and len(prior) != logits.shape[1]:
            raise SettingsError(
                f"{args.prior_path}: a prior of {len(prior)} classes, but the logits have {logits.shape[1]}"
            )
        z = logits if logits.dtype == torch.float64 else logits.float()
        # Sets as 0/1 numbers: products run several times faster than masked selections.
        positive, negative, unannotated = ((targets == value).to(z.dtype) for value in (1, 0, -1))
        p = torch.sigmoid(z)
        q = 1 - p
        if args.clip:
            q = (q + args.clip).clamp(max=1)
        pt = torch.lerp(q, p, positive)  # exactly p on P, q elsewhere
        with torch.no_grad():
            base = 1 - pt
            weight = focused(unannotated, base, args.alpha_unann, args.gamma_unann)
            weight = weight + focused(negative, base, args.alpha_neg, args.gamma_neg)
            weight += focused(positive, base, args.alpha_pos, args.gamma_pos)
            w, _ = edit_targets_parital_labels(args, targets, None, q, prior)
            weight *= w
        if getattr(args, "stable_loss", False) and not args.clip:
            return weight.neg_() * F.logsigmoid((2 * positive - 1) * z)  # no rounding of q to 0, no lower bound
        return weight.neg_() * pt.clamp(min=EPS).log()


def focused(mask: torch.Tensor, base: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """mask * alpha * base^gamma with 0^0 = 1; small whole exponents as products, an order of magnitude faster."""
    if gamma in (2, 3, 4):
        square = base * base
        mask = mask * square if gamma < 4 else mask * (square * square)
    if gamma in (1, 3):
        mask = mask * base
    elif gamma not in (0, 2, 4):
        mask = mask * base**gamma
    return mask if alpha == 1 else mask * alpha


def mode_of(args: Any) -> str:
    """The mode, with "None" and None as "none"; SettingsError for an unknown one."""
    mode = args.partial_loss_mode
    mode = "none" if mode in (None, "None") else mode
    if mode not in MODES:
        raise SettingsError(f"partial_loss_mode {mode!r}: choose from {', '.join(MODES)}")
    return mode


@torch.no_grad()
def edit_targets_parital_labels(
    args: Any,
    targets: torch.Tensor,
    targets_weights: torch.Tensor | None,
    xs_neg: torch.Tensor,
    prior_classes: torch.Tensor | Mapping[str, float] | None = None,
) -> tuple[torch.Tensor | float, torch.Tensor]:
    """The weights w (B,C) of the mode, or 1.0 where all are 1; and `xs_neg` (B,C), the probabilities q, unchanged.

    none, negative: 1. ignore: 0 on U. ignore_normalize_classes: 0 on U, else 1 + 1 / (1 + number of annotated
    labels of the image). selective: 0 on the classes of U with a prior above the threshold and on the K * B
    entries of U, of the whole batch, with the smallest q; both are chosen on their own, and their union is
    dropped. `targets_weights` is where the original kept a buffer; it is not used.
    """
    mode = mode_of(args)
    if mode in ("none", "negative"):
        return 1.0, xs_neg
    unannotated = targets == -1
    if mode != "selective":
        weights = (~unannotated).to(xs_neg.dtype)
        if mode == "ignore_normalize_classes":
            weights = weights * (1 + 1 / (1 + weights.sum(1, keepdim=True)))
        return weights, xs_neg
    dropped = None
    if args.likelihood_topk:
        per_image = getattr(args, "likelihood_scope", "batch") == "sample"
        count = args.likelihood_topk * (1 if per_image else len(targets))
        dropped = most_likely(unannotated, xs_neg, count, dim=1 if per_image else None)
    if prior_classes is not None and args.prior_threshold:
        by_prior = unannotated & frequent_classes(prior_classes, args.prior_threshold, xs_neg.device)
        dropped = by_prior if dropped is None else dropped | by_prior
    return (1.0 if dropped is None else (~dropped).to(xs_neg.dtype)), xs_neg


def frequent_classes(
    prior: torch.Tensor | Mapping[str, float], threshold: float, device: torch.device | None = None
) -> torch.Tensor:
    """(C,) bool: classes with a prior P(c) above the threshold."""
    if isinstance(prior, Mapping):
        prior = torch.tensor(list(prior.values()), device=device)
    return prior > threshold


def negative_backprop_fun_jit(
    targets: torch.Tensor, xs_neg_prob: torch.Tensor, targets_weights: torch.Tensor, num_top_k: int
) -> None:
    """Set targets_weights (B,C) to 0, in place, at the num_top_k smallest xs_neg_prob (B,C) where targets == -1."""
    targets_weights.masked_fill_(most_likely(targets == -1, xs_neg_prob, num_top_k), 0)


def most_likely(unannotated: torch.Tensor, q: torch.Tensor, count: int, dim: int | None = None) -> torch.Tensor:
    """(B,C) bool: the `count` un-annotated entries with the smallest q, of the whole batch or along `dim`.

    Without a look at how many there are, so that nothing waits for the device: others get 2 more, above every
    q, and where they are picked because the un-annotated ones are used up, the last line puts them back.
    """
    masked = q.detach() + (~unannotated).to(q.dtype).mul_(2)
    along = masked.view(1, -1) if dim is None else masked
    chosen = along.topk(min(count, along.shape[1]), dim=1, largest=False, sorted=False).indices
    picked = torch.zeros_like(along, dtype=torch.bool).scatter_(1, chosen, True)
    return picked.view_as(q) & unannotated
