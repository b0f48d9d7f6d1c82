"""The class-aware selective loss (CSL): which un-annotated labels take part, and with which weight.

Targets: 1 annotated positive (set P), 0 annotated negative (N), -1 un-annotated (U). B batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from csl.src.errors import SettingsError
from csl.src.loss_functions.losses import at_least_float32
from csl.src.loss_functions.prior import ComputePrior, match_prior, read_prior

__all__ = ["ComputePrior", "PartialSelectiveLoss", "edit_targets_parital_labels", "negative_backprop_fun_jit"]

MODES = ("none", "negative", "ignore", "ignore_normalize_classes", "selective")
EPS = 1e-8


class PartialSelectiveLoss(nn.Module):
    """L = - sum over (b,c) of w * alpha_S * (1 - pt)^gamma_S * log(max(pt, 1e-8)).

    pt = p on P and q = 1 - p on N and U, p the sigmoid of the logits; S = pos, neg, unann on P, N, U; with
    clip m: q <- min(q + m, 1). P-ASL is gamma_unann > gamma_neg >= gamma_pos. The weight w, which the mode
    decides (edit_targets_parital_labels), and the focusing factor (1 - pt)^gamma carry no gradient. A sum, not
    a mean: learning rate and weight decay depend on batch size and number of classes. `kept`: what selective
    mode left of U in the last batch, as 0/1 numbers (B,C); None in the other modes.
    """

    prior_classes: torch.Tensor | None
    kept: torch.Tensor | None = None

    def __init__(self, args: Any, class_names: Sequence[str] | None = None) -> None:
        """`args`: clip, gamma_{pos,neg,unann}, alpha_{pos,neg,unann}, partial_loss_mode, likelihood_topk,
        prior_threshold, prior_path; optional likelihood_scope ("batch", "sample"), likelihood_share, stable_loss.

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
        """The loss, a scalar: logits (B,C) of any float dtype, targets (B,C) of any numeric dtype, left alone.

        SettingsError (a ValueError) names the shapes that do not belong together.
        """
        with torch.inference_mode():  # a tenth faster than no_grad at 64 x 80
            terms, slope, self.kept = self.terms(logits, targets)
        return _Known.apply(logits, terms, slope)

    @torch.no_grad()
    def terms(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The addends (B,C) of the loss, their derivatives by the logits, and `kept`.

        In float32, also under autocast (float64 for float64 logits). The weight w and the focusing factor are
        held fixed; the derivative of -log(pt) is p - y.
        """
        args, prior = self.args, self.prior_classes
        if logits.dim() != 2 or logits.shape != targets.shape:
            raise SettingsError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: both must be (B,C), of one shape"
            )
        if prior is not None and len(prior) != logits.shape[1]:
            raise SettingsError(
                f"{args.prior_path}: a prior of {len(prior)} classes, but the logits have {logits.shape[1]}"
            )
        z = at_least_float32(logits)
        # Sets as 0/1 numbers: products run several times faster than masked selections.
        positive, negative, unannotated = ((targets == value).to(z.dtype) for value in (1, 0, -1))
        p = torch.sigmoid(z)
        q = 1 - p
        if args.clip:
            q = (q + args.clip).clamp(max=1)
        pt = torch.lerp(q, p, positive)  # exactly p on P, q elsewhere
        kept = selected(args, unannotated, q, prior) if mode_of(args) == "selective" else None
        weight = self._weight(1 - pt, positive, negative, unannotated if kept is None else kept)
        slope = p - positive
        if args.clip:
            slope = torch.where(targets == 1, slope, slope * (1 - p) / q * (1 - p + args.clip <= 1))
        if getattr(args, "stable_loss", False) and not args.clip:  # q is not rounded to 0, pt has no lower bound
            log_pt = F.logsigmoid((2 * positive - 1) * z)
        else:
            log_pt = pt.clamp(min=EPS).log()
            slope.masked_fill_(pt < EPS, 0)
        return weight * log_pt.neg_(), weight * slope, kept

    def _weight(
        self, base: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, unannotated: torch.Tensor
    ) -> torch.Tensor:
        """w * alpha * base^gamma (B,C), base = 1 - pt; the sets P, N and what is kept of U as 0/1 numbers (B,C)."""
        args = self.args
        weight = focused(positive, base, args.alpha_pos, args.gamma_pos)
        weight = weight + focused(negative, base, args.alpha_neg, args.gamma_neg)
        mode = mode_of(args)
        if mode.startswith("ignore"):
            return weight * normalisation(positive + negative) if mode == "ignore_normalize_classes" else weight
        return weight + focused(unannotated, base, args.alpha_unann, args.gamma_unann)

    def parts(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """The loss of each set: annotated positives (P), annotated negatives (N), un-annotated (U)."""
        terms, *_ = self.terms(logits, targets)
        return {name: terms[targets == value].sum().item() for name, value in (("P", 1), ("N", 0), ("U", -1))}

    def explain(self, logits: torch.Tensor, targets: torch.Tensor) -> str:
        """The parts as text, for the message of a loss that is not finite."""
        return "its parts: " + ", ".join(f"{k} {v:.4g}" for k, v in self.parts(logits.detach(), targets).items())


class _Known(torch.autograd.Function):
    """The sum of `terms` (B,C), functions of `z` (B,C) with known derivatives `slope` (B,C): one product backwards."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, terms: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.slope = slope  # not an input or output that could change: nothing for save_for_backward to watch
        return terms.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return outer * ctx.slope, None, None


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


def normalisation(annotated: torch.Tensor) -> torch.Tensor:
    """g (B,1) = 1 + 1 / (1 + number of annotated labels of the image), from the set (B,C) as 0/1 numbers."""
    return 1 + 1 / (1 + annotated.sum(1, keepdim=True))


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
    unannotated = (targets == -1).to(xs_neg.dtype)
    if mode == "selective":
        return 1 - unannotated + selected(args, unannotated, xs_neg, prior_classes), xs_neg
    annotated = 1 - unannotated
    return (annotated * normalisation(annotated) if mode == "ignore_normalize_classes" else annotated), xs_neg


def selected(
    args: Any, unannotated: torch.Tensor, q: torch.Tensor, prior: torch.Tensor | Mapping[str, float] | None
) -> torch.Tensor:
    """What selective mode keeps of U, as 0/1 numbers (B,C) like `unannotated`, which is left alone; q (B,C)."""
    kept = unannotated
    per_image = getattr(args, "likelihood_scope", "batch") == "sample"
    if getattr(args, "likelihood_share", None):
        kept = without_share(unannotated, q, args.likelihood_share, per_image=per_image)
    elif args.likelihood_topk:
        count = args.likelihood_topk * (1 if per_image else len(q))
        kept = without_first(unannotated, q, count, per_image=per_image)
    if prior is not None and args.prior_threshold:
        kept = kept * ~frequent_classes(prior, args.prior_threshold, q.device)
    return kept


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
    unannotated = (targets == -1).to(xs_neg_prob.dtype)
    kept = without_first(unannotated, xs_neg_prob, num_top_k)
    targets_weights.masked_fill_(kept < unannotated, 0)


def without_first(unannotated: torch.Tensor, q: torch.Tensor, count: int, *, per_image: bool = False) -> torch.Tensor:
    """U without its `count` entries of smallest q (B,C), of the whole batch or of each image, as 0/1 numbers.

    Nothing looks at how many U has, which would wait for the device: where it is used up, entries outside are
    picked, which are 0 already.
    """
    kept, along, order = _in_order(unannotated, q, per_image)
    along.scatter_(1, order.topk(min(count, along.shape[1]), dim=1, largest=False, sorted=False).indices, 0)
    return kept


def without_share(unannotated: torch.Tensor, q: torch.Tensor, share: float, *, per_image: bool = False) -> torch.Tensor:
    """As `without_first`, with a count of its own: this share (0..1) of U, of the whole batch or of each image."""
    kept, along, order = _in_order(unannotated, q, per_image)
    count = (share * along.sum(1, keepdim=True)).round()
    first = torch.arange(along.shape[1], device=along.device) < count  # in the order of `order`
    along.masked_fill_(torch.zeros_like(first).scatter_(1, order.argsort(1), first), 0)
    return kept


def _in_order(
    unannotated: torch.Tensor, q: torch.Tensor, per_image: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A copy of U (B,C), a view of it and its order, both (1,B*C) or, for each image, (B,C).

    The order is q, a probability, inside U, exactly, and 2 outside.
    """
    kept = unannotated.clone(memory_format=torch.contiguous_format)
    order = torch.lerp(q.new_full((), 2.0), q, unannotated)
    return (kept, kept, order) if per_image else (kept, kept.view(1, -1), order.reshape(1, -1))
