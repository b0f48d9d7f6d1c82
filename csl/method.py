"""The method as code, in the order of the paper: which labels take part in the loss, and how much.

E. Ben-Baruch et al., "Multi-label Classification with Partial Annotations using Class-aware
Selective Loss", CVPR 2022. B images in a batch, C classes, and for every image and class a logit z
and a label y: annotated positive (set P), annotated negative (set N), or un-annotated (set U).

    1  partial annotation, and how it is simulated       fixed_per_class, random_per_sample
    2  the partial asymmetric loss                       partial_asymmetric_loss
    3  what becomes of U: ignored, negative, selected    ignore_weights, selective_weights
       both in one object                                PartialSelectiveLoss
    4  the class prior of a temporary network            summed_probabilities, class_prior
    5  the averaged network                              average_decay, update_average

A label that is none of the three is a ValueError where values can be looked at. On a GPU, and in a
graph of torch.compile or torch.func, it makes the loss NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

__all__ = [
    "average_decay",
    "class_prior",
    "fixed_per_class",
    "frequent_classes",
    "ignore_weights",
    "label_sets",
    "label_weights",
    "most_likely",
    "normalised_weights",
    "partial_asymmetric_loss",
    "probabilities",
    "random_per_sample",
    "selective_weights",
    "single_positive",
    "summed_probabilities",
    "update_average",
]

HELPERS = (
    *("as_array", "at_least_float32", "is_readable", "is_transformed", "nan_outside"),
    *("require_labels", "require_settings", "require_targets"),
)
POSITIVE = 1
NEGATIVE = 0
UNKNOWN = -1
MODES = ("none", "negative", "ignore", "ignore_normalize_classes", "selective")
SCOPES = ("batch", "sample")
EPS = 1e-8  # the smallest probability that a logarithm is taken of
LABELS = {
    UNKNOWN: "1 (positive), 0 (negative) or -1 (un-annotated)",
    NEGATIVE: "1 (positive) or 0 (negative)",
}

# --- 1  Partial annotation (section 5.1): complete labels, of which only some are kept ---


def fixed_per_class(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which labels stay under "fixed per class" (FPC), (N, C) bool.

    Of each class `count` positives and `count` negatives stay, chosen uniformly; all of them where
    there are fewer. So a frequent class has no more annotated positives than a rare one.

    Args:
        labels: (N, C), complete: 1 and 0.
        count: at least 1.
        rng: the source of every draw.
    """
    by_class = np.ascontiguousarray(labels.T)
    kept = np.zeros(by_class.shape, bool)
    for column, of_class in enumerate(by_class):
        for value in (POSITIVE, NEGATIVE):
            rows = np.flatnonzero(of_class == value)
            if len(rows) > count:
                rows = rng.choice(rows, int(count), replace=False, shuffle=False)
            kept[column, rows] = True
    return kept.T


def random_per_sample(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which labels stay under "random per sample" (RPS), (N, C) bool.

    Each label is dropped with the probability `share` in [0, 1], whatever its class and value.
    """
    return rng.random(labels.shape) >= share


def single_positive(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which labels stay where each image keeps one positive and nothing else, (N, C) bool."""
    keys = np.where(labels == POSITIVE, rng.random(labels.shape), -1)
    chosen = keys.argmax(axis=1)
    kept = np.zeros(labels.shape, bool)
    kept[np.arange(len(labels)), chosen] = keys.max(axis=1) >= 0
    return kept


# --- 2  The partial asymmetric loss (section 3.2) ---


def label_sets(
    targets: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sets P, N and U as numbers 0 and 1 of a dtype, each of the shape of `targets`."""
    positive = (targets == POSITIVE).to(dtype)
    negative = (targets == NEGATIVE).to(dtype)
    unknown = (targets == UNKNOWN).to(dtype)
    return positive, negative, unknown


def probabilities(
    logits: torch.Tensor, clip: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """That a label is positive, p = sigmoid(z), and that it is negative, q = 1 - p; (B, C) each.

    With a margin `clip` m negatives count as surer than they are (the asymmetric clipping of ASL,
    Ridnik et al., ICCV 2021):

        q = min(1 - p + m, 1)

    In float32 at least: q of half precision rounds to 0, and its logarithm overflows.
    """
    p = torch.sigmoid(at_least_float32(logits))
    q = 1 - p
    if clip:
        q = (q + clip).clamp(max=1)
    return p, q


def partial_asymmetric_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | float = 1.0,
    *,
    gamma_pos: float = 0,
    gamma_neg: float = 1,
    gamma_unann: float = 4,
    alpha_pos: float = 1,
    alpha_neg: float = 1,
    alpha_unann: float = 1,
    clip: float | None = None,
    eps: float = EPS,
    stable: bool = False,
    focus_gradient: bool = False,
) -> torch.Tensor:
    """The partial asymmetric loss (P-ASL), a scalar: a sum over labels, not a mean.

        L = - sum over (b, c) of  w alpha (1 - pt)^gamma log(pt),     pt = p on P, q on N and U

    gamma and alpha are those of the label's set. P-ASL has gamma_unann > gamma_neg >= gamma_pos:
    what is annotated weighs more than what is assumed. Without U it is the asymmetric loss (ASL);
    with every gamma 0 it is the cross entropy. As it is a sum, a learning rate belongs to a batch
    size.

    Args:
        logits: z, of any shape and float dtype; usually (B, C).
        targets: y of that shape and any dtype: 1 on P, 0 on N, -1 on U.
        weights: w of that shape, which take part (`label_weights`); they carry no gradient.
        gamma_pos, gamma_neg, gamma_unann: focusing exponents of P, N and U, from 0 on; 0^0 is 1.
        alpha_pos, alpha_neg, alpha_unann: factors of P, N and U.
        clip: the margin m of `probabilities`.
        eps: pt is taken for at least this in the logarithm, where its gradient is 0 then.
        stable: log(pt) from the logits, without that bound: confident errors keep their gradient.
        focus_gradient: whether (1 - pt)^gamma carries a gradient; not in the released code.
    """
    require_targets(logits, targets)
    p, q = probabilities(logits, clip)
    pt = torch.where(targets == POSITIVE, p, q)

    positive, negative, unknown = label_sets(targets, pt.dtype)
    gamma = gamma_pos * positive + gamma_neg * negative + gamma_unann * unknown
    alpha = alpha_pos * positive + alpha_neg * negative + alpha_unann * unknown
    alpha = nan_outside(alpha, targets)

    focus = (1 - pt) ** gamma
    if not focus_gradient:
        focus = focus.detach()

    if stable:
        log_pt = F.logsigmoid((2 * positive - 1) * at_least_float32(logits))
    else:
        log_pt = pt.clamp(min=eps).log()
    return -(weights * alpha * focus * log_pt).sum()


# --- 3  What becomes of the un-annotated labels (sections 3.1 and 3.3): the weights w ---


def ignore_weights(targets: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Mode "ignore": w = 0 on U and 1 on P and N, (B, C). U is wasted."""
    positive, negative, _ = label_sets(targets, dtype)
    return positive + negative


def normalised_weights(targets: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Mode "ignore_normalize_classes": "ignore", where few annotations weigh more, (B, C).

    w = 1 + 1 / (1 + n)   on P and N,     n: the annotated labels of the image
    """
    annotated = ignore_weights(targets, dtype)
    count = annotated.sum(dim=1, keepdim=True)
    return annotated * (1 + 1 / (1 + count))


def frequent_classes(prior: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which classes the prior calls frequent, (C,) bool: P(c) > threshold."""
    return prior > threshold


def most_likely(
    targets: torch.Tensor,
    q: torch.Tensor,
    *,
    topk: int = 0,
    share: float | None = None,
    scope: str = "batch",
) -> torch.Tensor:
    """The labels of U that the network believes in most, (B, C) bool: those of the smallest q.

    How many of U nothing looks at, as that would wait for the device. Where U has fewer than asked
    for, labels outside of it are chosen too, which the callers leave alone.

    Args:
        targets, q: (B, C), labels and probabilities 1 - p.
        topk: K; K * B labels of the batch, or K of each image.
        share: in its place this share of U, in [0, 1].
        scope: "batch" as released, or "sample": of each image, as figure 3 draws it.
    """
    order = torch.where(targets == UNKNOWN, q, 2.0)  # q is at most 1: what is annotated comes last
    if scope == "batch":
        order = order.reshape(1, -1)

    if share:
        is_unknown = (targets == UNKNOWN).view_as(order).to(q.dtype)
        count = (share * is_unknown.sum(dim=1, keepdim=True)).round()
        is_first = torch.arange(order.shape[1], device=q.device) < count
        first = order.argsort(dim=1)
        chosen = torch.zeros_like(is_unknown, dtype=torch.bool).scatter(1, first, is_first)
    else:
        count_of_row = topk * len(q) if scope == "batch" else topk
        count_of_row = min(count_of_row, order.shape[1])
        first = order.topk(count_of_row, dim=1, largest=False, sorted=False).indices
        chosen = torch.zeros_like(order, dtype=torch.bool).scatter(1, first, True)
    return chosen.view_as(targets)


def selective_weights(
    targets: torch.Tensor,
    q: torch.Tensor,
    *,
    topk: int = 5,
    share: float | None = None,
    scope: str = "batch",
    prior: torch.Tensor | None = None,
    prior_threshold: float | None = None,
) -> torch.Tensor:
    """Mode "selective": 0 where a missed positive is likely, else 1; (B, C) of the dtype of `q`.

    A label of U is left out if its class is frequent, or if the network itself believes in it:

        w = 0   on U where P(c) > prior_threshold
        w = 0   on the K * B labels of U with the smallest q in the batch

    Both are chosen on their own: labels of frequent classes use up K * B too.

    Args:
        targets: (B, C).
        q: (B, C), the probabilities 1 - p.
        topk, share, scope: as in `most_likely`; topk 0 leaves the second rule out.
        prior: (C,), P(c) of `class_prior`; None leaves the first rule out.
        prior_threshold: in [0, 1]; 0 leaves the first rule out too.
    """
    left_out = torch.zeros_like(targets, dtype=torch.bool)
    if topk or share:
        left_out = left_out | most_likely(targets, q, topk=topk, share=share, scope=scope)
    if prior is not None and prior_threshold:
        left_out = left_out | frequent_classes(prior, prior_threshold)
    return 1 - ((targets == UNKNOWN) & left_out).to(q.dtype)


def label_weights(
    mode: str, targets: torch.Tensor, q: torch.Tensor, **selection: Any
) -> torch.Tensor:
    """The weights w of a mode, (B, C) of the dtype of `q`, without a gradient.

    Mode "negative" (and "none") takes all of U for negatives, w = 1, so that every missed positive
    becomes a wrong label.

    Args:
        mode: one of MODES.
        targets, q: (B, C), labels and probabilities 1 - p.
        selection: the other arguments of `selective_weights`, for its mode.
    """
    _require_one_shape(targets=targets, probabilities=q)
    q = q.detach()
    if mode == "selective":
        weights = selective_weights(targets, q, **selection)
    elif mode == "ignore":
        weights = ignore_weights(targets, q.dtype)
    elif mode == "ignore_normalize_classes":
        weights = normalised_weights(targets, q.dtype)
    else:
        weights = torch.ones_like(q)
    if is_readable(targets):
        require_labels(targets)
        return weights
    return nan_outside(weights, targets)


class PartialSelectiveLoss(torch.nn.Module):
    """The weights of a mode and then the partial asymmetric loss, for any training loop."""

    prior: torch.Tensor | None

    def __init__(
        self,
        mode: str = "selective",
        *,
        prior: torch.Tensor | Sequence[float] | None = None,
        prior_threshold: float | None = 0.5,
        likelihood_topk: int = 5,
        likelihood_share: float | None = None,
        likelihood_scope: str = "batch",
        **factors: Any,
    ) -> None:
        """The arguments of `selective_weights`; `factors`: those of `partial_asymmetric_loss`."""
        super().__init__()
        require_settings(mode, factors, likelihood_topk, likelihood_share, likelihood_scope)
        if prior is not None:
            prior = torch.as_tensor(prior, dtype=torch.float32)
            if prior.dim() != 1 or not ((prior >= 0) & (prior <= 1)).all():
                raise ValueError("prior: expected (C,) numbers in 0..1")
        self.mode = mode
        counts: dict[str, Any] = {"topk": likelihood_topk, "share": likelihood_share}
        self.selection = counts | {"scope": likelihood_scope, "prior_threshold": prior_threshold}
        self.factors = factors
        self.register_buffer("prior", prior)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a scalar; ValueError as in `partial_asymmetric_loss`."""
        if self.prior is not None and logits.shape[1:] != self.prior.shape:
            raise ValueError(f"a prior of {len(self.prior)} classes: logits {tuple(logits.shape)}")
        _, q = probabilities(logits, self.factors.get("clip"))
        weights = label_weights(self.mode, targets, q, prior=self.prior, **self.selection)
        return partial_asymmetric_loss(logits, targets, weights, **self.factors)


# --- 4  The class prior (section 3.4): the mean prediction of a network trained in "ignore" ---


def summed_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The sums over a batch of sigmoid(z), and then the number of images; (C + 1,) float64."""
    p = torch.sigmoid(logits.detach().double())
    images = p.new_full((1,), len(p))
    return torch.cat([p.sum(dim=0), images])


def class_prior(sums: torch.Tensor) -> torch.Tensor:
    """The prior P(c), (C,) float32, of added up `summed_probabilities`.

        P(c) = 1 / N * sum over the training images i of  p_i(c)

    It cannot be counted from the annotations: under FPC all classes have as many.
    """
    return (sums[:-1] / sums[-1]).float()


# --- 5  The averaged network (EMA), which is the one that is scored ---


def average_decay(decay: float, updates: int, *, warmup: bool) -> float:
    """The decay d of an update, counted from 0; with `warmup` min(d, (1 + t) / (10 + t))."""
    if not warmup:
        return decay
    return min(decay, (1 + updates) / (10 + updates))


def update_average(
    average: Sequence[torch.Tensor], values: Sequence[torch.Tensor], decay: float
) -> None:
    """One step of the average, in place: e <- d e + (1 - d) m; what is no float becomes m.

    Args:
        average, values: the state of the averaged network and of the trained one, in one order.
        decay: d of `average_decay`.
    """
    means = []
    new = []
    counters = []
    counts = []
    for mean, value in zip(average, values, strict=True):
        if mean.is_floating_point():
            means.append(mean)
            new.append(value.to(mean))
        else:
            counters.append(mean)
            counts.append(value)
    if means:
        torch._foreach_lerp_(means, new, 1 - decay)
    if counters:
        torch._foreach_copy_(counters, counts)


# --- What labels and settings may be ---


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    if x.dtype == torch.float64:
        return x
    return x.float()


def is_transformed() -> bool:
    """Whether torch.compile or torch.jit traces this call, or a transform of torch.func runs it."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._are_functorch_transforms_active()


def is_readable(tensor: torch.Tensor) -> bool:
    """Whether values may be looked at: those of a plain tensor on the CPU, in eager mode."""
    if is_transformed():
        return False
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"


def require_labels(
    values: np.ndarray | torch.Tensor, what: str = "targets", lowest: int = UNKNOWN
) -> None:
    """ValueError that names the first value that is no label, and its place.

    NaN and fractions are no labels. lowest: UNKNOWN, or NEGATIVE where all must be annotated.
    """
    values = as_array(values)
    if values.size == 0:
        return
    is_whole = values.dtype.kind in "biu"
    if is_whole and lowest <= int(values.min()) and int(values.max()) <= POSITIVE:
        return
    known = np.isin(values, np.arange(lowest, POSITIVE + 1))
    if known.all():
        return
    place = np.argwhere(~known)[0].tolist()
    value = values[tuple(place)]
    raise ValueError(f"{what}: {value:g} at {place} is no label; labels are {LABELS[lowest]}")


def as_array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """A tensor of any device as an array, half precision as float32; others as numpy sees them."""
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    return values.numpy()


def nan_outside(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`values`, and NaN where the target, of the same place, is no label."""
    is_label = (targets == POSITIVE) | (targets == NEGATIVE) | (targets == UNKNOWN)
    return torch.where(is_label, values, torch.nan)


def require_settings(mode: str, factors: Any, topk: int, share: float | None, scope: str) -> None:
    """ValueError for modes, exponents, factors and numbers of labels that cannot be meant."""
    for what, word, words in (("mode", mode, MODES), ("likelihood_scope", scope, SCOPES)):
        if word not in words:
            raise ValueError(f"{what} {word!r}: choose from {', '.join(words)}")
    known = partial_asymmetric_loss.__kwdefaults__ or {}
    for name, value in factors.items():
        if name not in known:
            raise TypeError(f"{name}: no such argument; there are {', '.join(known)}")
        if not 0 <= (value or 0) < np.inf:
            raise ValueError(f"{name} {value!r}: expected a finite number from 0 on")
    clip = factors.get("clip") or 0
    if clip >= 1 or (clip and factors.get("stable")):
        raise ValueError(f"clip {clip!r}: expected a number below 1, and no `stable`")
    if topk != int(topk) or topk < 0:
        raise ValueError(f"likelihood_topk {topk!r}: expected a whole number from 0 on")
    if not 0 <= (share or 0) <= 1:
        raise ValueError(f"likelihood_share {share!r}: expected a number in 0..1")


def _require_one_shape(**tensors: torch.Tensor) -> None:
    """ValueError where two tensors differ in shape: they would be broadcast."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        told = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{told}: both must be of one shape")


def require_targets(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """ValueError for targets of another shape, and for readable ones that are no labels."""
    _require_one_shape(logits=logits, targets=targets)
    if is_readable(targets):
        require_labels(targets)
