"""Exploiting Class Activation Value for Partial-Label Learning (ICLR 2022), from top to bottom.

    1  the problem    candidate sets, and the laws by which the experiments draw them
    2  the loss       cross-entropy, weighted by a table of how much each candidate is believed
    3  CAM            the candidate with the largest class activation map tends to be the true label
    4  CAV            the class activation value carries this to any network: v = |z - 1| z
    5  CAVL           averages over the candidates first, then learns the label with the largest CAV

Notation: n training samples, B of them in a batch, K classes. The network's logits are z (B, K),
and p = softmax(z). Sample i has the candidate set S_i, which holds the unknown true label y_i. Sets
are rows of a matrix Y of 0 and 1, (n, K) or (B, K). Other values in it, an empty row and another
shape are a ValueError; on a GPU, and under torch.compile and torch.func, values are not looked at.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "CAVL",
    "FLIP_CASES",
    "PartialLabelMethod",
    "activation_area",
    "argmax_within",
    "average_loss",
    "candidate_probabilities",
    "candidate_set_size_probabilities",
    "class_activation_map",
    "class_activation_value",
    "class_dependent_flip_probability",
    "confidence_weighted_loss",
    "draw_flipped_sets",
    "draw_uniform_sets",
    "initial_confidence",
    "instance_dependent_flip_probability",
    "label_smoothing",
    "select_by_cam",
    "select_by_cav",
    "soft_confidence",
]

Law = Literal["released", "exact"]
CavKind = Literal["logit", "softmax", "grad"]
Mask = Literal["candidates", "product"]

# ---- 1. The problem: candidate sets and how they are drawn ---------------------------------------


class RandomStream(Protocol):
    """Uniform numbers from [0, 1): a np.random.Generator, or np.random, the global stream."""

    def random(self, size: tuple[int, ...], /) -> np.ndarray: ...


def candidate_set_size_probabilities(num_classes: int, law: Law = "released") -> list[float]:
    """P(|S| = s) for s = 1 .. K-1 under uniform sampling; the full set never occurs.

        released:  comb(K, s) / (2^K - 2)             every proper subset counts (mean size K / 2)
        exact:     comb(K-1, s-1) / (2^(K-1) - 1)     the proper subsets that hold the true label

    Python's integers: in 64 bits 2^K is 0 from K = 64 on (README, deviations: K >= 64).
    """
    K = num_classes
    if K < 2:
        raise ValueError(f"candidate sets need at least 2 classes, not {K}")
    sizes = range(1, K)
    if law == "released":
        return [comb(K, s) / (2**K - 2) for s in sizes]
    if law == "exact":
        return [comb(K - 1, s - 1) / (2 ** (K - 1) - 1) for s in sizes]
    raise ValueError(f"law {law!r} is unknown; use 'released' or 'exact'")


def draw_uniform_sets(
    labels: np.ndarray, num_classes: int, generator: RandomStream, law: Law = "released"
) -> Tensor:
    """Uniformly sampled sets: a size s a sample, then s - 1 false labels without replacement.

    Args:
        labels: (n,) int64, the true labels, 0 to K-1.
        num_classes: K. With K = 2 every set is {y}: ordinary supervised learning.
        law: of the size, see `candidate_set_size_probabilities`.
    Returns:
        (n, K) float32 of 0 and 1.
    """
    n = len(labels)
    cumulated = np.cumsum(candidate_set_size_probabilities(num_classes, law))
    sizes = 1 + np.searchsorted(cumulated, generator.random((n,)))
    sizes = np.minimum(sizes, num_classes - 1)

    # The s smallest of K random keys make a random set of s classes. The true label's is smallest.
    keys = generator.random((n, num_classes))
    keys[np.arange(n), labels] = -1.0
    largest_key_inside = np.take_along_axis(np.sort(keys, axis=1), sizes[:, None] - 1, axis=1)
    return torch.from_numpy((keys <= largest_key_inside).astype(np.float32))


def draw_flipped_sets(
    labels: np.ndarray,
    num_classes: int,
    flip_probability: float | np.ndarray,
    generator: RandomStream,
) -> Tensor:
    """Flipped sets: each false label joins by itself with its probability, the true one always.

    Args:
        labels: (n,) int64, the true labels, 0 to K-1.
        flip_probability: the paper's q, one number for all; or (n, K), each label's own.
    Returns:
        (n, K) float32 of 0 and 1. Sets of one label and full sets are kept.
    """
    n = len(labels)
    joins = generator.random((n, num_classes)) < flip_probability
    joins[np.arange(n), labels] = True
    return torch.from_numpy(joins.astype(np.float32))


# Of an earlier release: distance (k - y) mod 10 of a false class k -> its probability to join.
FLIP_CASES = {
    "01": {1: 0.5},
    "02": {1: 0.1, 9: 0.1},
    "03": dict.fromkeys(range(1, 10), 0.7),
    "04": {1: 0.5, 9: 0.5, 2: 0.3, 8: 0.3, 3: 0.1, 7: 0.1},
}


def class_dependent_flip_probability(labels: np.ndarray, case: str) -> np.ndarray:
    """The chance of each of 10 classes to join the set, by its distance from the true one: (n, 10).

    labels: (n,) int64, 0 to 9. case: a key of FLIP_CASES.
    """
    by_distance = np.zeros(10)
    for distance, probability in FLIP_CASES[case].items():
        by_distance[distance] = probability
    distances = (np.arange(10)[None, :] - labels[:, None]) % 10
    return by_distance[distances]


def instance_dependent_flip_probability(probs: Tensor, labels: Tensor, rate: float = 0.4) -> Tensor:
    """The chance of each label to join, high where a trained network is in doubt (VALEN, POP).

        P[i, k] = min(1, rate * p[i, k] / mean_k p[i, :])     with p[i, y_i] set to 0 first

    The mean runs over all K columns, the zero included. A network without doubt gives a row of 0.

    Args:
        probs: (n, K), p = softmax(z) of a network trained on the true labels.
        labels: (n,) int64, the true labels.
        rate: 0.4 for 10 classes, 0.04 for 100.
    Returns:
        (n, K) in the dtype of `probs`; 0 at the true label.
    """
    false = probs.scatter(1, labels[:, None], 0.0)
    mean = false.mean(1, keepdim=True).clamp_min(torch.finfo(false.dtype).tiny)
    return (false / mean * rate).clamp(max=1.0)


# ---- 2. The loss: a table of beliefs -------------------------------------------------------------


def initial_confidence(candidates: Tensor) -> Tensor:
    """The table C (n, K) at the start, all candidates alike: C[i, k] = Y[i, k] / sum_k Y[i, k]."""
    _require_sets(candidates)
    Y = candidates if candidates.is_floating_point() else candidates.float()
    return Y / Y.sum(dim=1, keepdim=True)


def confidence_weighted_loss(logits: Tensor, confidence: Tensor) -> Tensor:
    """The loss of a batch, a scalar: cross-entropy with the beliefs as targets.

        L = -(1/B) sum_i sum_k C[i, k] log p_k(x_i)

    With one-hot rows this is F.cross_entropy(logits, labels), in value and gradient.

    Args:
        logits: (B, K). confidence: (B, K), the batch's rows of C, finite and not negative.
    """
    _require_shape(confidence, logits)
    _require_weights(confidence)
    log_p = F.log_softmax(_at_least_float32(logits), dim=1)
    return -(confidence * log_p).sum(dim=1).mean()


def average_loss(logits: Tensor, candidates: Tensor) -> Tensor:
    """The loss while nothing is known, a scalar: the weighted loss of `initial_confidence`.

    L = -(1/B) sum_i (1/|S_i|) sum_{k in S_i} log p_k(x_i)
    """
    _require_sets(candidates, logits)
    log_p = F.log_softmax(_at_least_float32(logits), dim=1)
    return -((log_p * candidates).sum(dim=1) / candidates.sum(dim=1)).mean()


def candidate_probabilities(logits: Tensor, candidates: Tensor) -> Tensor:
    """What the network itself believes, p_k / sum_{j in S} p_j in the set and 0 outside: (B, K).

    As the softmax over the candidates, so that it holds where all their p underflow to 0.
    """
    _require_sets(candidates, logits)
    z = _at_least_float32(logits)
    return (z + candidates.to(z.dtype).log()).softmax(dim=1)


# ---- 3. The class activation map -----------------------------------------------------------------


def class_activation_map(features: Tensor, weight: Tensor) -> Tensor:
    """The map of each class, M_k = relu(sum_c W[k, c] A_c): (B, K, h, w).

    For a network z = W mean_positions(A) + b. relu comes last, without b: its mean is not z_k.

    Args:
        features: (B, C, h, w), A, the activations before global average pooling.
        weight: (K, C), W, of the last layer.
    """
    return torch.einsum("bchw,kc->bkhw", features, weight).relu()


def activation_area(maps: Tensor) -> Tensor:
    """How many positions a class's map covers, #{positions with M_k > 0}: (B, K) int64."""
    return (maps > 0).sum(dim=(2, 3))


def select_by_cam(maps: Tensor, candidates: Tensor) -> Tensor:
    """The candidate whose map covers the largest area: (B,) int64.

    Ties go to the larger sum of M_k, then to the lowest class. maps: M, (B, K, h, w).
    """
    _require_sets(candidates, maps[..., 0, 0])
    area = activation_area(maps).masked_fill(candidates == 0, -1)
    is_largest = area == area.amax(dim=1, keepdim=True)
    mass = _at_least_float32(maps).sum(dim=(2, 3))
    return argmax_within(mass, is_largest)


# ---- 4. The class activation value ---------------------------------------------------------------


def class_activation_value(logits: Tensor, kind: CavKind = "logit") -> Tensor:
    """The class activation value v (B, K): activation times gradient, as in CAM, of the output.

        logit:    v_k = |z_k - 1| z_k      (the default, as released)
        softmax:  v_k = p_k (1 - p_k)
        grad:     v_k = (1 - p_k) z_k      (the gradient of -log p_k by z_k is p_k - 1)

    On logits v is not monotone: negative below 0, 0.25 at z = 0.5, 0 at z = 1. Above z = 1.2071 it
    orders as z does.
    """
    z = logits
    if kind == "logit":
        return (z - 1).abs() * z
    p = z.softmax(dim=1)
    if kind == "softmax":
        return p * (1 - p)
    if kind == "grad":
        return (1 - p) * z
    raise ValueError(f"cav {kind!r} is unknown; use logit, softmax or grad")


def select_by_cav(
    logits: Tensor,
    candidates: Tensor,
    *,
    cav: CavKind = "logit",
    mask: Mask = "candidates",
) -> Tensor:
    """The selected label, argmax_{k in S} v_k: (B,) int64, ties to the lowest class.

    mask "product" is the released rule, argmax_k v_k Y_k: where every candidate's v is negative,
    the zeros outside win, and a class outside S is selected (README, deviations: outside S).
    """
    _require_sets(candidates, logits)
    value = class_activation_value(_at_least_float32(logits), cav)
    if mask == "candidates":
        return argmax_within(value, candidates)
    if mask == "product":
        return (value * candidates).argmax(dim=1)
    raise ValueError(f"mask {mask!r} is unknown; use candidates or product")


def argmax_within(values: Tensor, candidates: Tensor) -> Tensor:
    """The candidate with the largest of values (B, K): (B,) int64, ties to the lowest class."""
    # The clamp keeps a candidate whose value overflowed to -inf above the classes outside.
    finite = values.clamp(min=torch.finfo(values.dtype).min)
    return finite.masked_fill(candidates == 0, -torch.inf).argmax(dim=1)


def soft_confidence(
    logits: Tensor, candidates: Tensor, temperature: float, cav: CavKind = "logit"
) -> Tensor:
    """Ours: a soft selection, softmax(v / temperature) over the candidates, (B, K)."""
    _require_sets(candidates, logits)
    value = class_activation_value(_at_least_float32(logits), cav)
    return (value / temperature).masked_fill(candidates == 0, -torch.inf).softmax(dim=1)


def label_smoothing(confidence: Tensor, epsilon: float = 0.1) -> Tensor:
    """Beliefs with a share spread over all K classes, (1 - epsilon) C + epsilon / K: (B, K)."""
    return (1 - epsilon) * confidence + epsilon / confidence.shape[1]


# ---- 5. CAVL -------------------------------------------------------------------------------------


class PartialLabelMethod(ABC):
    """How a method learns from candidate sets: what it believes of a sample, loss, and update.

    What it believes is its state: a tensor with a row for each of the n training samples, or None.
    A training loop keeps it, hands `loss` the rows of a batch, and writes what `update` returns in
    their place. A row that is written in one epoch is read in the next. A field of a method's
    dataclass is the flag of main.py of the same name.
    """

    # Whether `update` takes the logits of a second forward, after the step.
    looks_again: ClassVar[bool] = True
    # Whether there is no update before the warm-up is over.
    warms_up: ClassVar[bool] = False

    @abstractmethod
    def init(self, candidates: Tensor) -> Tensor | None:
        """The state before training, from all sets (n, K); None where nothing is kept."""

    @abstractmethod
    def loss(self, logits: Tensor, candidates: Tensor, state: Tensor | None) -> Tensor:
        """The loss of a batch, a scalar. state: its rows; None before the first update."""

    def update(
        self, logits: Tensor, candidates: Tensor, maps: Tensor | None = None
    ) -> Tensor | None:
        """The batch's new rows. maps: (B, K, h, w), where the method selects by them."""
        return None

    def confidence(self, state: Tensor | None, candidates: Tensor) -> Tensor | None:
        """The table C (n, K) of a state in any form; None for a method without a table."""
        return state

    def belief(
        self, state: Tensor | None, candidates: Tensor, logits: Callable[[], Tensor]
    ) -> Tensor:
        """How much each candidate is believed in the end, (n, K): the largest is the chosen label.

        The table C; where a method learns none, p in the set, of the logits (n, K) that `logits()`
        makes.
        """
        confidence = self.confidence(state, candidates)
        if state is None or confidence is None:
            return candidate_probabilities(logits(), candidates)
        return confidence


@dataclass(frozen=True)
class CAVL(PartialLabelMethod):
    """The paper's method: learn the candidate with the largest class activation value.

        C[i] <- one-hot(argmax_{k in S_i} v_k(x_i))     after every step, for its batch

    Until a label is selected, in the first epoch and in a warm-up, the loss averages over the
    candidates. A selected label is kept as its class, (n,) int64, -1 for none yet; with smoothing
    or a temperature the state is the table C.

    In somebody else's loop, with sets (n, K): `state = cavl.init(sets)`; for a batch of indices i
    `loss = cavl.loss(logits, sets[i], state[i] if epoch else None)`; after the step, without a
    gradient, `state[i] = cavl.update(logits, sets[i])`.
    Args:
        num_classes: K, which logits and sets must have then; None for any.
        cav, mask: see `select_by_cav`.
        select: by the CAV, or by the area of the CAM.
        smoothing: see `label_smoothing`; 0 for none.
        temperature: see `soft_confidence`; None for the hard selection.
    """

    num_classes: int | None = None
    cav: CavKind = "logit"
    mask: Mask = "candidates"
    select: Literal["cav", "cam"] = "cav"
    smoothing: float = 0.0
    temperature: float | None = None

    warms_up: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.select not in ("cav", "cam"):
            raise ValueError(f"select {self.select!r} is unknown; use cav or cam")
        if self.num_classes is not None and self.num_classes < 2:
            raise ValueError(f"num_classes is {self.num_classes}, expected at least 2")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}, expected 0 <= smoothing < 1")
        if self.temperature is None:
            return
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}, expected a number above 0")
        if self.mask == "product":
            raise ValueError("a temperature needs mask 'candidates'; product is for hard selection")

    @property
    def keeps_labels(self) -> bool:
        """Whether the state is one class a sample, not a row of K numbers."""
        return self.smoothing == 0 and self.temperature is None

    def _require_classes(self, values: Tensor) -> None:
        if values.dim() != 2 or self.num_classes not in (None, values.shape[1]):
            raise ValueError(f"{tuple(values.shape)}, expected (B, {self.num_classes or 'K'})")

    def init(self, candidates: Tensor) -> Tensor:
        self._require_classes(candidates)
        if self.keeps_labels:
            _require_sets(candidates)
            return torch.full((len(candidates),), -1, device=candidates.device)
        return initial_confidence(candidates)

    def loss(self, logits: Tensor, candidates: Tensor, state: Tensor | None) -> Tensor:
        self._require_classes(logits)
        if state is None:
            return average_loss(logits, candidates)
        if self.keeps_labels:
            if _is_readable(state) and state.min() < 0:
                raise ValueError("state: -1, expected selected labels; None before the update")
            return F.cross_entropy(_at_least_float32(logits), state)
        return confidence_weighted_loss(logits, state)

    def update(self, logits: Tensor, candidates: Tensor, maps: Tensor | None = None) -> Tensor:
        self._require_classes(logits)
        if self.temperature is not None:
            rows = soft_confidence(logits, candidates, self.temperature, self.cav)
            return label_smoothing(rows, self.smoothing)

        if self.select == "cav":
            labels = select_by_cav(logits, candidates, cav=self.cav, mask=self.mask)
        elif maps is not None:
            labels = select_by_cam(maps, candidates)
        else:
            raise ValueError("select 'cam' needs the class activation maps")
        if self.keeps_labels:
            return labels
        one_hot = F.one_hot(labels, candidates.shape[1]).float()
        return label_smoothing(one_hot, self.smoothing)

    def confidence(self, state: Tensor | None, candidates: Tensor) -> Tensor:
        if state is None:
            return initial_confidence(candidates)
        if not self.keeps_labels:
            return state
        is_selected = (state >= 0)[:, None]
        one_hot = F.one_hot(state.clamp(min=0), candidates.shape[1])
        return torch.where(is_selected, one_hot, initial_confidence(candidates))


# ---- What the functions take ---------------------------------------------------------------------


def _at_least_float32(values: Tensor) -> Tensor:
    """In float16 |z - 1| z overflows from z = -256 on."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _is_readable(tensor: Tensor) -> bool:
    """Whether values may be looked at: a plain tensor on the CPU, and nothing traces the call."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"


def _require_shape(tensor: Tensor, logits: Tensor) -> None:
    if tensor.shape != logits.shape:
        raise ValueError(f"shape {tuple(tensor.shape)}, expected {tuple(logits.shape)}")


def _require_sets(candidates: Tensor, logits: Tensor | None = None) -> None:
    """ValueError unless these are 0 and 1 without an empty row, and of the logits' shape."""
    if logits is not None:
        _require_shape(candidates, logits)
    if not _is_readable(candidates):
        return
    values = candidates.detach()
    is_one = values == 1
    if not (is_one | (values == 0)).all():
        raise ValueError("candidates: values other than 0 and 1, expected 0 or 1")
    is_empty = ~is_one.any(dim=1)
    if is_empty.any():
        empty = is_empty.nonzero().flatten().tolist()
        first = ", ".join(map(str, empty[:5]))
        raise ValueError(f"candidates: {len(empty)} rows have no candidate; first: {first}")


def _require_weights(confidence: Tensor) -> None:
    """ValueError for a weight that is negative, infinite or NaN."""
    if not _is_readable(confidence):
        return
    values = confidence.detach()
    if not ((values >= 0) & values.isfinite()).all():
        raise ValueError("confidence: expected finite weights, not negative")
