"""The class-aware selective loss (CSL): which un-annotated labels take part, and with which weight.

Targets: 1 annotated positive (set P), 0 annotated negative (N), -1 un-annotated (U). B batch, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from common.aliases import one_module
from csl.src.domain import (
    is_readable,
    is_transformed,
    require_count,
    require_labels,
    require_number,
)
from csl.src.errors import SettingsError
from csl.src.loss_functions.losses import at_least_float32, nan_outside
from csl.src.loss_functions.prior import ComputePrior, match_prior, read_prior

one_module(__name__, "csl.src.loss_functions.partial_asymmetric_loss")

__all__ = [
    "ComputePrior",
    "PartialSelectiveLoss",
    "edit_targets_parital_labels",
    "negative_backprop_fun_jit",
]

MODES = ("none", "negative", "ignore", "ignore_normalize_classes", "selective")
SCOPES = ("batch", "sample")
EPS = 1e-8


class PartialSelectiveLoss(nn.Module):
    """L = - sum over (b,c) of w * alpha_S * (1 - pt)^gamma_S * log(max(pt, 1e-8)).

    pt = p on P and q = 1 - p on N and U, p the sigmoid of the logits; S = pos, neg, unann on P, N, U; with
    clip m: q <- min(q + m, 1). P-ASL is gamma_unann > gamma_neg >= gamma_pos. The weight w, which the mode
    decides (edit_targets_parital_labels), and the focusing factor (1 - pt)^gamma carry no gradient. A sum, not
    a mean: learning rate and weight decay depend on batch size and number of classes. `kept`: what selective
    mode left of U in the last batch, as 0/1 numbers (B,C); None in the other modes and in transforms of torch.func.
    """

    prior_classes: torch.Tensor | None
    kept: torch.Tensor | None = None

    def __init__(self, args: Any, class_names: Sequence[str] | None = None) -> None:
        """`args`: clip, gamma_{pos,neg,unann}, alpha_{pos,neg,unann}, partial_loss_mode, likelihood_topk,
        prior_threshold, prior_path; optional likelihood_scope ("batch", "sample"), likelihood_share, stable_loss.

        With `class_names` the figures of the prior file are matched by name, else taken in file order.
        SettingsError (a ValueError): unknown mode, a number out of its range, unusable prior; MissingFileError: no
        prior file.
        """
        super().__init__()
        self.args = args
        require_settings(args)
        path = getattr(args, "prior_path", None)
        prior = None if not path else match_prior(read_prior(path), class_names, path)
        self.register_buffer("prior_classes", prior)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar: logits (B,C) of any float dtype, targets (B,C) in {1, 0, -1} of any dtype, left alone.

        SettingsError (a ValueError) names the shapes that do not belong together and, in eager mode on the CPU,
        targets other than 1, 0, -1. On a GPU, under torch.compile and inside torch.func such a target makes the loss
        NaN: a check would wait for the device, or break the graph.
        """
        if is_transformed():
            return self._differentiable(logits, targets)
        with torch.inference_mode():  # a tenth faster than no_grad at 64 x 80
            terms, slope, self.kept = self.terms(logits, targets)
        return _Known.apply(logits, terms, slope)

    def _differentiable(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss for torch.compile and torch.func, which derive it themselves; the weights are held fixed."""
        z = at_least_float32(logits)
        fixed = self._fixed(z.detach(), targets)
        self.kept = fixed.kept if torch.compiler.is_compiling() else None
        p, q = self._probabilities(z)
        log_pt = self._log_pt(z, torch.lerp(q, p, fixed.positive), fixed.positive)
        return -(fixed.weight * log_pt).sum()

    @torch.no_grad()
    def terms(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The addends (B,C) of the loss, their derivatives by the logits, and `kept`.

        In float32, also under autocast (float64 for float64 logits). The weight w and the focusing factor are
        held fixed; the derivative of -log(pt) is p - y.
        """
        z = at_least_float32(logits)
        fixed = self._fixed(z, targets)
        log_pt = self._log_pt(z, fixed.pt, fixed.positive)

        p = fixed.p
        clip = self.args.clip
        slope = p - fixed.positive
        if clip:
            slope = torch.where(
                targets == 1, slope, slope * (1 - p) / fixed.q * (1 - p + clip <= 1)
            )
        if not self._is_stable():
            slope = slope.masked_fill(fixed.pt < EPS, 0)
        return fixed.weight * -log_pt, fixed.weight * slope, fixed.kept

    def _fixed(self, z: torch.Tensor, targets: torch.Tensor) -> "_Fixed":
        """Everything that carries no gradient, from logits (B,C) of at least float32."""
        self._require(z, targets)
        # Sets as 0/1 numbers: products run several times faster than masked selections.
        positive = (targets == 1).to(z.dtype)
        negative = (targets == 0).to(z.dtype)
        unannotated = (targets == -1).to(z.dtype)

        p, q = self._probabilities(z)
        pt = torch.lerp(q, p, positive)  # exactly p on P, q elsewhere
        kept = None
        if mode_of(self.args) == "selective":
            kept = selected(self.args, unannotated, q, self.prior_classes)
        weight = self._weight(1 - pt, positive, negative, unannotated if kept is None else kept)
        if not is_readable(targets):
            weight = nan_outside(weight, positive + negative + unannotated)
        return _Fixed(positive, p, q, pt, weight, kept)

    def _require(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """SettingsError where shapes or, if they can be read, labels are not those of the loss."""
        prior = self.prior_classes
        if logits.dim() != 2 or logits.shape != targets.shape:
            raise SettingsError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: both must be (B,C), of one shape"
            )
        if prior is not None and len(prior) != logits.shape[1]:
            raise SettingsError(
                f"{self.args.prior_path}: a prior of {len(prior)} classes, but the logits have {logits.shape[1]}"
            )
        if is_readable(targets):
            require_labels(targets, "targets")

    def _probabilities(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """p, and q = 1 - p with the clip added."""
        p = torch.sigmoid(z)
        q = 1 - p
        if self.args.clip:
            q = (q + self.args.clip).clamp(max=1)
        return p, q

    def _log_pt(self, z: torch.Tensor, pt: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        """log(max(pt, 1e-8)); with stable_loss log(pt) without a lower bound, from logits that are not rounded to 0."""
        if self._is_stable():
            return F.logsigmoid((2 * positive - 1) * z)
        return pt.clamp(min=EPS).log()

    def _is_stable(self) -> bool:
        return bool(getattr(self.args, "stable_loss", False))

    def _weight(
        self,
        base: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor,
        unannotated: torch.Tensor,
    ) -> torch.Tensor:
        """w * alpha * base^gamma (B,C), base = 1 - pt; the sets P, N and what is kept of U as 0/1 numbers (B,C)."""
        args = self.args
        weight = focused(positive, base, args.alpha_pos, args.gamma_pos)
        weight = weight + focused(negative, base, args.alpha_neg, args.gamma_neg)
        mode = mode_of(args)
        if mode.startswith("ignore"):
            return (
                weight * normalisation(positive + negative)
                if mode == "ignore_normalize_classes"
                else weight
            )
        return weight + focused(unannotated, base, args.alpha_unann, args.gamma_unann)

    def parts(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """The loss of each set: annotated positives (P), annotated negatives (N), un-annotated (U)."""
        terms, *_ = self.terms(logits, targets)
        return {
            name: terms[targets == value].sum().item()
            for name, value in (("P", 1), ("N", 0), ("U", -1))
        }

    def explain(self, logits: torch.Tensor, targets: torch.Tensor) -> str:
        """The parts as text, and how many labels are none, for the message of a loss that is not finite."""
        told = "its parts: " + ", ".join(
            f"{k} {v:.4g}" for k, v in self.parts(logits.detach(), targets).items()
        )
        unknown = int(((targets != 1) & (targets != 0) & (targets != -1)).sum())
        return told if not unknown else f"{told}; {unknown} targets are none of 1, 0, -1"


class _Fixed(NamedTuple):
    """What carries no gradient, each (B,C): the set P, p, q, pt, the weight w alpha (1 - pt)^gamma, and `kept`."""

    positive: torch.Tensor
    p: torch.Tensor
    q: torch.Tensor
    pt: torch.Tensor
    weight: torch.Tensor
    kept: torch.Tensor | None


class _Known(torch.autograd.Function):
    """The sum of `terms` (B,C), functions of `z` (B,C) with known derivatives `slope` (B,C): one product backwards."""

    @staticmethod
    def forward(
        ctx: Any, z: torch.Tensor, terms: torch.Tensor, slope: torch.Tensor
    ) -> torch.Tensor:
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


def require_settings(args: Any) -> None:
    """SettingsError (a ValueError) where a setting of the loss is unknown, no finite number, or out of its range."""
    mode_of(args)
    for name in ("pos", "neg", "unann"):
        require_number(getattr(args, f"gamma_{name}"), f"gamma_{name}", 0)
        require_number(getattr(args, f"alpha_{name}"), f"alpha_{name}", 0)
    require_number(args.clip or 0, "clip", 0, 1, below_high=True)
    require_number(args.prior_threshold or 0, "prior_threshold", 0)
    require_number(getattr(args, "likelihood_share", None) or 0, "likelihood_share", 0, 1)
    require_count(args.likelihood_topk or 0, "likelihood_topk")
    scope = getattr(args, "likelihood_scope", "batch")
    if scope not in SCOPES:
        raise SettingsError(f"likelihood_scope {scope!r}: choose from {', '.join(SCOPES)}")
    if args.clip and getattr(args, "stable_loss", False):
        raise SettingsError("stable_loss: not together with a clip, which bounds q already")


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

    SettingsError (a ValueError): other shapes, and, in eager mode on the CPU, targets other than 1, 0, -1; elsewhere
    the weight of such a target is NaN.
    """
    mode = mode_of(args)
    _require_pair(targets, xs_neg)
    if mode in ("none", "negative"):
        return 1.0, xs_neg
    unannotated = (targets == -1).to(xs_neg.dtype)
    annotated = ((targets == 1) | (targets == 0)).to(xs_neg.dtype)
    if mode == "selective":
        weights = annotated + selected(args, unannotated, xs_neg, prior_classes)
    elif mode == "ignore_normalize_classes":
        weights = annotated * normalisation(annotated)
    else:
        weights = annotated
    return nan_outside(weights, annotated + unannotated), xs_neg


def _require_pair(targets: torch.Tensor, q: torch.Tensor) -> None:
    """SettingsError where targets and probabilities differ in shape, or where readable targets are no labels."""
    if targets.shape != q.shape:
        raise SettingsError(
            f"targets {tuple(targets.shape)} and probabilities {tuple(q.shape)}: both must be of one shape"
        )
    if is_readable(targets):
        require_labels(targets, "targets")


def selected(
    args: Any,
    unannotated: torch.Tensor,
    q: torch.Tensor,
    prior: torch.Tensor | Mapping[str, float] | None,
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
    """Set targets_weights (B,C) to 0, in place, at the num_top_k smallest xs_neg_prob (B,C) where targets == -1.

    SettingsError (a ValueError): other shapes, a count that is no whole number from 0 on, and, in eager mode on the
    CPU, targets other than 1, 0, -1.
    """
    require_count(num_top_k, "num_top_k")
    _require_pair(targets, xs_neg_prob)
    _require_pair(targets, targets_weights)
    unannotated = (targets == -1).to(xs_neg_prob.dtype)
    kept = without_first(unannotated, xs_neg_prob, num_top_k)
    targets_weights.masked_fill_(kept < unannotated, 0)


def without_first(
    unannotated: torch.Tensor, q: torch.Tensor, count: int, *, per_image: bool = False
) -> torch.Tensor:
    """U without its `count` entries of smallest q (B,C), of the whole batch or of each image, as 0/1 numbers.

    Nothing looks at how many U has, which would wait for the device: where it is used up, entries outside are
    picked, which are 0 already.
    """
    along, order = _in_order(unannotated, q, per_image)
    first = order.topk(min(count, along.shape[1]), dim=1, largest=False, sorted=False).indices
    return along.scatter(1, first, 0).view_as(unannotated)


def without_share(
    unannotated: torch.Tensor, q: torch.Tensor, share: float, *, per_image: bool = False
) -> torch.Tensor:
    """As `without_first`, with a count of its own: this share (0..1) of U, of the whole batch or of each image."""
    along, order = _in_order(unannotated, q, per_image)
    count = (share * along.sum(1, keepdim=True)).round()
    is_first = (torch.arange(along.shape[1], device=along.device) < count).to(
        along.dtype
    )  # in the order of `order`
    dropped = torch.zeros_like(along).scatter(1, order.argsort(1), is_first)
    return (along * (1 - dropped)).view_as(unannotated)


def _in_order(
    unannotated: torch.Tensor, q: torch.Tensor, per_image: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """U and its order, both (1,B*C) or, for each image, (B,C).

    The order is q, a probability, inside U, exactly, and 2 outside.
    """
    order = torch.lerp(q.new_full((), 2.0), q, unannotated)
    if per_image:
        return unannotated, order
    return unannotated.reshape(1, -1), order.reshape(1, -1)
