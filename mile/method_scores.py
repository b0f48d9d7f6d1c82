"""How label sets are predicted, and scored against all labels that are true of an image (ReaL).

Of image i: R_i the set of its true labels, A_i the predicted set, y_i the one label that an
annotator wrote down. V: the images with a non-empty R_i. Shapes: N images, C classes.
"""

import math
from typing import Any, NamedTuple

import torch

from mile.method_checks import require_one_of, require_rho

SCHEMAS = ("softmax", "sigmoid", "MILe")
PROTOCOLS = ("authors", "unofficial")


def probabilities(logits: torch.Tensor, schema: str) -> torch.Tensor:
    """The probabilities p (N,C) float32: the sigmoid of z, for the schema softmax its softmax."""
    require_one_of(schema, SCHEMAS, "schema")
    z = logits.detach().float()
    return z.softmax(1) if schema == "softmax" else z.sigmoid()


def set_at(p: torch.Tensor, rho: float, top: torch.Tensor, protocol: str) -> torch.Tensor:
    """The classes with p_c > rho, bool (N,C), of p (N,C).

    authors: and the top class (N,), so that no set is empty.
    """
    require_rho(rho)
    require_one_of(protocol, PROTOCOLS, "protocol")
    chosen = p > rho
    if protocol == "unofficial":
        return chosen
    return chosen.scatter_(1, top[:, None], True)


def prediction_set(
    logits: torch.Tensor,
    rho: float,
    schema: str = "MILe",
    protocol: str = "authors",
    top: torch.Tensor | None = None,
) -> torch.Tensor:
    """The predicted label sets A, bool (N,C).

        authors:     A = {argmax z} and {c: sigmoid(z_c) > rho}, never empty; softmax: {argmax z}
        unofficial:  A = {c: p_c > rho}, p softmax or sigmoid by the schema, may be empty

    Args:
        logits: z (N,C).
        rho: between 0 and 1; the comparison is strict.
        top: argmax z (N,) where it is known; of equal logits the lowest class.
    """
    require_rho(rho)
    require_one_of(schema, SCHEMAS, "schema")
    require_one_of(protocol, PROTOCOLS, "protocol")
    if top is None:
        top = logits.detach().float().argmax(1)
    if schema == "softmax" and protocol == "authors":
        nothing = torch.zeros_like(logits, dtype=torch.bool)
        return nothing.scatter_(1, top[:, None], True)
    return set_at(probabilities(logits, schema), rho, top, protocol)


class Overlap(NamedTuple):
    """What predicted set A and true set R of each image have in common."""

    predicted: torch.Tensor  # (N,) int64, |A|
    true: torch.Tensor  # (N,) int64, |R|
    hits: torch.Tensor  # (N,) int64, |A and R|
    top_is_true: torch.Tensor  # (N,) bool, whether the top class is in R


def overlap_of(predicted: torch.Tensor, real: torch.Tensor, top: torch.Tensor) -> Overlap:
    """Count the sets A and R, bool (N,C) each, and look the top class (N,) up in R."""
    return Overlap(
        predicted=predicted.sum(1),
        true=real.sum(1),
        hits=(predicted & real).sum(1),
        top_is_true=real.gather(1, top[:, None])[:, 0],
    )


def set_f1(hits: torch.Tensor, predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """F1 of predicted and true sets by their sizes, 2 |A and R| / (|A| + |R|); 0 of empty ones.

    All three are of one shape and of floating point.
    """
    return 2 * hits / (predicted + true).clamp(min=1)


class RealScores(NamedTuple):
    """The metrics of each image (N,), their sums over images, or their means."""

    n: Any  # images
    n_real: Any  # images of V
    acc: Any  # top class = y
    acc5: Any  # y among the five highest logits
    real_acc: Any  # top class in R
    real_f1: Any  # see set_f1
    label_coverage: Any  # |A|, a number of labels
    any_hit: Any  # A and R overlap
    precision: Any  # |A and R| / |A|
    recall: Any  # |A and R| / |R|


def real_scores(
    overlap: Overlap, top_is_label: torch.Tensor, in_five: torch.Tensor | None = None
) -> RealScores:
    """The scores of each image, (N,) float64 (float32 on MPS); those of R are 0 outside of V.

    Args:
        overlap: of its predicted and its true set.
        top_is_label: (N,) bool, whether the top class is y.
        in_five: (N,) bool, whether y is among the five highest; None where that is not asked.
    """
    dtype = torch.float32 if overlap.hits.device.type == "mps" else torch.float64
    known = (overlap.true > 0).to(dtype)
    hits = overlap.hits.to(dtype)
    predicted = overlap.predicted.to(dtype)
    true = overlap.true.to(dtype)
    return RealScores(
        n=torch.ones_like(known),
        n_real=known,
        acc=top_is_label.to(dtype),
        acc5=torch.zeros_like(known) if in_five is None else in_five.to(dtype),
        real_acc=overlap.top_is_true * known,
        real_f1=set_f1(hits, predicted, true) * known,
        label_coverage=predicted * known,
        any_hit=(hits > 0).to(dtype),
        precision=hits / predicted.clamp(min=1),
        recall=hits / true.clamp(min=1),
    )


def real_means(sums: RealScores, protocol: str) -> RealScores:
    """The metrics of a set from the sums over its images; NaN over no image.

    acc and acc5 are means over all n images, the others over V. unofficial: real_acc, real_f1 and
    label_coverage are divided by n too, where V is not empty, and so cannot reach 1 where images
    have no true label.
    """
    require_one_of(protocol, PROTOCOLS, "protocol")
    over_all = {"acc", "acc5"}
    if protocol == "unofficial" and sums.n_real:
        over_all |= {"real_acc", "real_f1", "label_coverage"}

    means = sums._asdict()
    for name in RealScores._fields[2:]:
        divisor = sums.n if name in over_all else sums.n_real
        means[name] = means[name] / divisor if divisor else math.nan
    return RealScores(**means)
