"""CALM, from model to measures: a classifier that is trained with its attribution map.

The map is a probability.

Kim, Choe, Akata, Oh: Keep CALM and Improve Visual Feature Attribution, ICCV 2021, arXiv 2106.07861.

CAM explains a class by an activation that is rescaled by hand afterwards. CALM makes the position z
of the decisive cue a latent variable of the classifier:

    p(y,z|x) = p(y|x,z) p(z|x)          p(y|x) = sum over z of p(y,z|x)

B images x, C classes y, D feature channels, h x w grid; z is one of its h w positions.

    F   (B,D,h,w)   the last feature map of the network
    f   (B,C,h,w)   class scores at each position, a 1x1 convolution of F
    a   (B,1,h,w)   attention, not negative: a 1x1 convolution of F, then ReLU or softplus
    s   (B,C,h,w)   p(y|x,z)
    g   (B,1,h,w)   p(z|x)

In training the maps of the label alone, (B,1,h,w), take the place of (B,C,h,w). The README's table
of deviations says where the paper and the released code differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "add_superclass_maps",
    "all_class_saliency",
    "attribution_maps",
    "cam_likelihood",
    "cam_logits",
    "conditional_likelihood",
    "counterfactual",
    "erase",
    "expected_log_joint",
    "heads",
    "joint_likelihood",
    "keep_mask",
    "latent_posterior",
    "latent_prior",
    "likelihood",
    "log_conditional_likelihood",
    "log_likelihood",
    "map_of_label",
    "mean_over_pairs",
    "pixel_average_precision",
    "rank_pixels",
    "removal_ratio",
    "require_labels",
    "safe_log",
    "scale_to_unit",
]

EPS_LOG = 1e-8
EPS_DIVIDE = 1e-10

Superclass = Mapping[Any, Sequence[int]] | Sequence[Sequence[int]]


# ---- the network's two heads ---------------------------------------------------------


def heads(
    features: torch.Tensor, conv_last: nn.Module, attention: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores f (B,C,h,w) and the attention a (B,1,h,w) of the feature map F (B,D,h,w)."""
    return conv_last(features), attention(features)


# ---- CAM: scores, pooled over the positions ------------------------------------------


def cam_logits(f: torch.Tensor) -> torch.Tensor:
    """The logits of a CAM network, the mean over z of f: (B,C). Its loss is their cross entropy."""
    return f.mean((2, 3))


def cam_likelihood(f: torch.Tensor) -> torch.Tensor:
    """p(y|x) of a CAM network, the softmax over the classes of its logits: (B,C,1,1)."""
    return F.softmax(f.mean((2, 3), keepdim=True), 1)


# ---- CALM: the five probabilities ----------------------------------------------------


def conditional_likelihood(f: torch.Tensor) -> torch.Tensor:
    """s = p(y|x,z), the softmax over the classes at each position: (B,C,h,w)."""
    return F.softmax(f, 1)


def log_conditional_likelihood(f: torch.Tensor) -> torch.Tensor:
    """log p(y|x,z): (B,C,h,w)."""
    return F.log_softmax(f, 1)


def latent_prior(attention: torch.Tensor, full_gradient: bool = False) -> torch.Tensor:
    """g = p(z|x), the share of each position in the attention: (B,1,h,w), not negative, with sum 1.

        g_z = a_z / sum over z of a_z

    An image whose attention is zero everywhere gets 1 / (h w) at each position.

    Args:
        attention: a (B,1,h,w), not negative; ValueError otherwise. NaN passes.
        full_gradient: also through the sum. The released code stops it there (README, deviations:
            normaliser of p(z given x)).
    """
    _require_not_negative(attention, "the attention")
    total = attention.sum((2, 3), keepdim=True)
    if not full_gradient:
        total = total.detach()

    is_dead = total <= 0
    uniform = 1 / (attention.shape[2] * attention.shape[3])
    return torch.where(is_dead, uniform, attention / torch.where(is_dead, 1.0, total))


def safe_log(g: torch.Tensor) -> torch.Tensor:
    """log g, with 1e-8 added (not clamped) below 1e-8, so that value and gradient stay finite."""
    return (g + EPS_LOG * (g < EPS_LOG)).log()


def joint_likelihood(s: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """p(y,z|x) = p(y|x,z) p(z|x): (B,C,h,w), with sum 1 over y and z."""
    return s * g


def likelihood(joint: torch.Tensor) -> torch.Tensor:
    """p(y|x) = sum over z of p(y,z|x): (B,C,1,1)."""
    return joint.sum((2, 3), keepdim=True)


def latent_posterior(joint: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """p(z|x,y) = p(y,z|x) / p(y|x): (B,C,h,w), with sum 1 over z. 1e-10 is added to p (B,C,1,1)."""
    return joint / (p + EPS_DIVIDE)


# ---- training ------------------------------------------------------------------------


def log_likelihood(log_s: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """log p(y|x), which CALM-ML maximises for the label: (B,C).

        L_ML = - log sum over z of  p(y|x,z) p(z|x)

    Computed from logarithms, as p(y|x,z) may underflow.

    Args:
        log_s: log p(y|x,z), (B,C,h,w).
        g: p(z|x), (B,1,h,w), above 0 at one position at least.
    """
    prior = g.flatten(2)
    is_empty = prior < torch.finfo(prior.dtype).tiny
    log_prior = prior.masked_fill(is_empty, 1.0).log().masked_fill(is_empty, -torch.inf)
    return (log_s.flatten(2) + log_prior).logsumexp(2)


def expected_log_joint(
    log_s: torch.Tensor, g: torch.Tensor, posterior: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the expectation of log p(y,z|x) over the position: (B,C).

    CALM-EM maximises it for the label.

        E-step:  q_z = p(z|x,y), without gradient
        M-step:  L_EM = - sum over z of  q_z (log p(y|x,z) + log p(z|x))

    With one step per E-step its gradient is that of L_ML.

    Args:
        log_s: log p(y|x,z), (B,C,h,w).
        g: p(z|x), (B,1,h,w).
        posterior: q (B,C,h,w) of another model, an average over the training say; None for this
            model's own. ValueError where it is negative.
    """
    if posterior is None:
        joint = joint_likelihood(log_s.exp(), g).detach()
        posterior = latent_posterior(joint, likelihood(joint))
    else:
        _require_not_negative(posterior, "the posterior")

    return (posterior * (log_s + safe_log(g))).sum((2, 3))


# ---- attribution maps ----------------------------------------------------------------


def attribution_maps(
    kind: str, f: torch.Tensor, attention: torch.Tensor | None, is_cam: bool = False
) -> torch.Tensor:
    """The maps of all classes, (B,C,h,w), from the scores f and (but for vanilla) the attention a.

        vanilla     f_y           the class activation map
        saliency    p(z|x)        where a cue is, of whatever class
        jointll     p(y,z|x)      the cue is at z and the class is y; its sum over z is p(y|x)
        gtcond      p(z|x,y)      where the cue is, given the class; its sum over z is 1

    A CAM network has no p(y|x) = sum over z; with `is_cam` gtcond divides by its softmax instead.
    """
    if kind == "vanilla":
        return f
    if attention is None:
        raise ValueError(f"the map {kind} needs the attention")
    g = latent_prior(attention)
    if kind == "saliency":
        return g.expand_as(f)

    joint = joint_likelihood(conditional_likelihood(f), g)
    if kind == "jointll":
        return joint
    p = cam_likelihood(f) if is_cam else likelihood(joint)
    return latent_posterior(joint, p)


def map_of_label(maps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The map of the label out of the maps of all classes (B,C,h,w): (B,1,h,w)."""
    place = labels.view(-1, 1, 1, 1).expand(-1, 1, *maps.shape[2:])
    return maps.gather(1, place)


def counterfactual(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Why this class and not that one: map(y) - map(y'), positive where the evidence is for y.

    The maps have one shape (ValueError otherwise); the result has it too, in float32 at least.
    """
    if first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"maps of shapes {shapes} have no difference")
    if first.dtype in (torch.float16, torch.bfloat16):
        return first.float() - second.float()
    return first - second


def scale_to_unit(maps: torch.Tensor) -> torch.Tensor:
    """Scale each map (..., h, w) to [0,1]; a constant map becomes 0.

    The result is (m - min m) / max(m - min m) over the grid of each map.
    """
    shifted = maps - maps.amin((-2, -1), keepdim=True)
    top = shifted.amax((-2, -1), keepdim=True)
    return torch.where(top > 0, shifted / torch.where(top > 0, top, 1.0), 0.0)


def all_class_saliency(maps: torch.Tensor) -> torch.Tensor:
    """The sum over all classes of the maps (B,C,h,w), each scaled to [0,1]: (B,h,w)."""
    return scale_to_unit(maps).sum(1)


def add_superclass_maps(
    maps: torch.Tensor,
    labels: torch.Tensor,
    superclass: Superclass,
    mean: bool = False,
    minmax: bool = False,
) -> torch.Tensor:
    """Return the sum of the maps of all classes in the label's group: (B,h,w).

    It is evidence for the superclass.

    Args:
        maps: (B,C,h,w).
        labels: (B,).
        superclass: label (a number, or its text) -> classes of its group, or a list of such lists.
            A class that stands there twice counts twice. ValueError without a group of a label.
        mean: the mean over the group in place of the sum.
        minmax: scale each map to [0,1] before.
    """
    groups: Mapping[Any, Sequence[int]]
    groups = superclass if isinstance(superclass, Mapping) else dict(enumerate(superclass))
    found = []
    for of_image, label in zip(maps, labels.tolist(), strict=True):
        classes = list(groups.get(label, groups.get(str(label), ())))
        if not classes:
            raise ValueError(f"label {label} has no group of classes")
        for number in classes:
            if not 0 <= number < len(of_image):
                known = f"classes are 0..{len(of_image) - 1}"
                raise ValueError(f"the group of label {label} holds {number}; {known}")

        members = of_image[classes]
        if minmax:
            members = scale_to_unit(members)
        found.append(members.mean(0) if mean else members.sum(0))
    return torch.stack(found)


# ---- cue localisation: does map(y) - map(y') mark the parts in which the two classes differ?


def pixel_average_precision(
    hist_true: np.ndarray, hist_false: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the area under the curve of precision over recall, and the curve.

    The area is that of pixels (PxAP), in percent.

        PxAP = 100 sum over i of  precision_i (recall_i - recall_{i-1})

    A threshold is the lower edge of a bin; i counts the bins from the highest on, the first one and
    bins without a pixel above them left out.

    Args:
        hist_true: (bins,), how many pixels inside the parts have a score in each of the rising
            bins.
        hist_false: (bins,), the same outside.
    Returns:
        PxAP; recall (bins,); precision (bins,), NaN where it is 0/0.
    Raises:
        RuntimeError: no pixel inside a part, or no pixel at all.
    """
    total = hist_true.sum()
    if total <= 0:
        raise RuntimeError("no foreground pixel was counted: the ground-truth masks are empty")

    true_positives = hist_true[::-1].cumsum()
    positives = true_positives + hist_false[::-1].cumsum()
    is_seen = positives > 0
    if not is_seen.any():
        raise RuntimeError("no pixel was counted: the histograms are empty")

    undefined = np.full(len(positives), np.nan)
    precision = np.divide(true_positives, positives, out=undefined, where=is_seen)
    recall = true_positives / total

    is_counted = is_seen[1:]
    gain = np.diff(recall)[is_counted]
    area = (precision[1:][is_counted] * gain).sum()
    return float(100 * area), recall, precision


def mean_over_pairs(values: Sequence[float | None]) -> float | None:
    """mPxAP, the mean over class pairs; pairs without a value are left out, None where all are."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


# ---- remove and classify: does the accuracy fall with the pixels that the map ranks first?


def rank_pixels(scoremaps: torch.Tensor, among_equals: torch.Tensor | None = None) -> torch.Tensor:
    """Order the pixels of maps (B,1,H,W) from the highest score to the lowest.

    The result is flat indices (B,H W) int64.

    Args:
        scoremaps: no NaN, which has no rank; ValueError.
        among_equals: (B,H W), the order in which pixels of one score come; None for the lowest
            index first.
    """
    if _is_readable(scoremaps) and bool(scoremaps.isnan().any()):
        raise ValueError("a score map must not hold NaN")

    flat = scoremaps.flatten(1)
    if among_equals is None:
        return flat.sort(dim=1, descending=True, stable=True).indices
    shuffled = flat.gather(1, among_equals)
    return among_equals.gather(1, shuffled.sort(dim=1, descending=True, stable=True).indices)


def keep_mask(ranking: torch.Tensor, count: int, size: tuple[int, int]) -> torch.Tensor:
    """0 at the first `count` pixels of each ranking (B,H W), 1 elsewhere: (B,1,H,W) float32."""
    mask = torch.ones(ranking.shape, device=ranking.device)
    mask.scatter_(1, ranking[:, :count], 0.0)
    return mask.view(-1, 1, *size)


def erase(
    images: torch.Tensor, keep: torch.Tensor, other: torch.Tensor | None = None
) -> torch.Tensor:
    """Return images (B,3,H,W) in which the pixels where `keep` is 0 are replaced.

    Where `keep` (B,1,H,W) is 1 they stay; where it is 0 they become `other` (B,3,H,W), None for 0,
    the mean colour.
    """
    if other is None:
        return images * keep
    return images * keep + other * (1 - keep)


def removal_ratio(top: np.ndarray, at_random: np.ndarray) -> np.ndarray:
    """Return R_k, a ratio of accuracies after erasing; lower is better.

    It says how many images are still classified correctly without their first pixels.

        R_k = correct without the k H W highest-scoring pixels / correct without as many random
        pixels

    Args:
        top, at_random: (K,n) in [0,1] for K shares k and n images: correct (1) or not, or the mean
            over repeats.
    Returns:
        (K,), inf or NaN where no image survives the random pixels.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return top.sum(1) / at_random.sum(1)


# ---- what the functions take ---------------------------------------------------------


def require_labels(
    labels: torch.Tensor, classes: int, images: int | None = None, name: str = "labels"
) -> None:
    """ValueError unless `labels` are (images,) whole numbers in 0..classes - 1.

    Values are looked at in eager mode on a CPU only: -1 would be the last class, -100 no class at
    all.
    """
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ValueError(f"{name} must be whole numbers, not {labels.dtype}")
    if labels.ndim != 1 or (images is not None and len(labels) != images):
        expected = "(B,)" if images is None else f"({images},)"
        raise ValueError(f"{name} must be {expected}, not {tuple(labels.shape)}")
    if not _is_readable(labels) or not len(labels):
        return

    lowest = int(labels.min())
    highest = int(labels.max())
    if lowest < 0 or highest >= classes:
        found = lowest if lowest < 0 else highest
        raise ValueError(f"{name} must be in 0..{classes - 1}, found {found}")


def _require_not_negative(values: torch.Tensor, name: str) -> None:
    """Raise ValueError where a value is below 0.

    NaN passes: the guard of a run names the images that it comes from.
    """
    if _is_readable(values) and bool((values < 0).any()):
        lowest = float(values[values < 0].min())
        raise ValueError(f"{name} must not be negative, found {lowest:.4g}")


def _is_readable(tensor: torch.Tensor) -> bool:
    """Tell whether values may be looked at.

    They may where they are a plain tensor on the CPU, in eager mode, in no transform of torch.func.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return type(tensor) in (torch.Tensor, nn.Parameter) and tensor.device.type == "cpu"
