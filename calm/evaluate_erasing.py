"""Remove and classify: how accuracy falls when the highest-scoring pixels are erased.

Deletion and insertion are here too.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from calm.evaluate_maps import GaussianSmoothing, resize_scoremaps
from calm.method import erase, keep_mask, rank_pixels, removal_ratio
from calm.options_names import BASELINES
from common.aliases import one_module
from common.domain import DomainError, require_number
from common.loading import gather_in_order, seed_of

one_module(__name__, "calm.evaluate_erasing")

TIE_ORDERS = 5
BOOTSTRAPS = 1000
DRAWN_AT_ONCE = 2_000_000
# Of the erased copies that share a forward. On a CPU larger ones fall out of its caches.
PIXELS_PER_FORWARD = {"cpu": 8 * 224 * 224, "other": 64 * 224 * 224}
# In place of a repeat's number: the noise that replaces pixels is drawn apart from their positions.
NOISE = -1


class Erased(NamedTuple):
    """What was measured, image by image, in the order of the data set.

    areas: (n,2) of deletion and insertion, NaN where they were not asked for. Correct or not: preds
        (n,) on the
    whole image, top (n,T,K) without the first pixels, at_random (n,R,K) without as many random
    ones.
    """

    areas: np.ndarray
    preds: np.ndarray
    top: np.ndarray
    at_random: np.ndarray


# ---- which pixels, and what replaces them --------------------------------------------


def masks_from_ranking(ranking: torch.Tensor, k: float, size: tuple[int, int]) -> torch.Tensor:
    """(B,1,H,W) float32: 0 at the first int(k H W) pixels of each ranking (B,H W), else 1."""
    require_number(k, "k", 0, 1)
    count = int(k * size[0] * size[1])  # multiplied in this order, as released
    return keep_mask(ranking, count, size)


def get_topk_to_zero_mask(
    mu: torch.Tensor, k: float, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Return a mask, 0 at the int(k H W) highest values of each map mu (B,1,H,W), else 1.

    Ties go to the lowest flat index.
    """
    return masks_from_ranking(rank_pixels(mu.to(device)), k, _size_of(mu))


def random_mask_generator(
    inputs: torch.Tensor, device: torch.device | str, k: float
) -> torch.Tensor:
    """Return masks (B,1,H,W) that are 0 at int(k H W) random positions per image.

    The positions are distinct, and drawn from NumPy's global generator.
    """
    size = _size_of(inputs)
    rows = []
    for _ in range(len(inputs)):
        rows.append(np.random.permutation(size[0] * size[1]))  # noqa: NPY002 - as the original
    return masks_from_ranking(torch.from_numpy(np.stack(rows)).to(device), k, size)


def random_ranking(index: torch.Tensor, pixels: int, seed: int, repeat: int = 0) -> torch.Tensor:
    """(B,pixels) a random order per image, from (seed, repeat, dataset index) alone."""
    noise = []
    for number in index.tolist():
        generator = torch.Generator().manual_seed(seed_of(seed, repeat, number))
        noise.append(torch.rand(pixels, generator=generator))
    return torch.stack(noise).argsort(dim=1)


def get_baseline(
    kind: str, inputs: torch.Tensor, device: torch.device | str, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what erased pixels of inputs (B,C,H,W) become.

    It is zero, mean (per image and channel), noise or blur.

    noise: mean + 0.2 n with n (B,C,H,W) standard normal, from the global generator where none is
        given.
    """
    x = inputs.detach().to(device)
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if kind == "noise":
        drawn = torch.randn_like(x) if noise is None else noise.to(x)
        return x.mean((2, 3), keepdim=True) + 0.2 * drawn
    if kind == "blur":
        return GaussianSmoothing(x.shape[1], 31, 15.0).to(x.device)(x)
    raise ValueError(f"baseline {kind!r}: choose from {', '.join(BASELINES)}")


def make_baseline(
    kind: str, inputs: torch.Tensor, index: torch.Tensor, seed: int
) -> torch.Tensor | None:
    """Return what replaces erased pixels of inputs (B,C,H,W); None for 0.

    Noise comes from (seed, dataset index) alone.
    """
    if kind == "zero":
        return None
    noise = None
    if kind == "noise":
        drawn = []
        for number in index.tolist():
            generator = torch.Generator().manual_seed(seed_of(seed, NOISE, number))
            drawn.append(torch.randn(inputs.shape[1:], generator=generator))
        noise = torch.stack(drawn)
    return get_baseline(kind, inputs, inputs.device, noise)


# ---- remove and classify -------------------------------------------------------------


def classify_erased(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    ranking: torch.Tensor,
    ks: Sequence[float],
    baseline: torch.Tensor | None = None,
) -> torch.Tensor:
    """Tell whether the argmax is the target once the first pixels are replaced: (K,B) bool.

    These are the first int(k H W) pixels of `ranking` (B,H W).

    baseline: what replaces them, (B,C,H,W); None for 0.
    """
    return classify_rankings(model, inputs, targets, [ranking], ks, baseline)[0]


def classify_rankings(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    rankings: Sequence[torch.Tensor],
    ks: Sequence[float],
    baseline: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `classify_erased` of R rankings (B,H W): (R,K,B) bool.

    The copies of several rankings and k share a forward, up to PIXELS_PER_FORWARD.
    """
    size = _size_of(inputs)
    step = copies_per_forward(inputs)
    wanted = [(ranking, k) for ranking in rankings for k in ks]
    correct = []
    for first in range(0, len(wanted), step):
        part = wanted[first : first + step]
        keep = torch.cat([masks_from_ranking(ranking, k, size) for ranking, k in part])
        repeated = inputs.repeat(len(part), 1, 1, 1)
        other = None if baseline is None else baseline.repeat(len(part), 1, 1, 1)
        erased = erase(repeated, keep, other)
        if inputs.is_contiguous(memory_format=torch.channels_last):
            erased = erased.contiguous(memory_format=torch.channels_last)
        predicted = _probabilities(model, erased).argmax(1)
        correct.append(predicted.unflatten(0, (len(part), -1)) == targets)
    return torch.cat(correct).unflatten(0, (len(rankings), len(ks)))


def copies_per_forward(images: torch.Tensor) -> int:
    """How many copies of a batch (B,C,H,W) fit a forward; one at least."""
    kind = "cpu" if images.device.type == "cpu" else "other"
    return max(1, PIXELS_PER_FORWARD[kind] // images[:, 0].numel())


@torch.inference_mode()
def erase_and_classify(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    scoremaps: torch.Tensor,
    ks: Sequence[float],
    erase_method: str = "topk",
    baseline: str = "zero",
    *,
    seed: int = 0,
    index: torch.Tensor | None = None,
) -> dict[float, list[bool]]:
    """{k: correct after erasing} for inputs (B,C,H,W), targets (B,), scoremaps (B,1,H,W).

    erase_method: "topk", the highest scores, or "random", as many drawn from (seed, index).
    """
    if erase_method not in ("topk", "random"):
        raise ValueError(f"erase_method {erase_method!r}: choose from topk, random")
    if index is None:
        index = torch.arange(len(inputs))
    if erase_method == "topk":
        ranking = rank_pixels(scoremaps)
    else:
        ranking = random_ranking(index, scoremaps[0].numel(), seed).to(inputs.device)
    other = make_baseline(baseline, inputs, index, seed)
    correct = classify_erased(model, inputs, targets, ranking, list(ks), other)
    return {k: row.tolist() for k, row in zip(ks, correct, strict=True)}


@torch.inference_mode()
def evaluate_batch(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    index: torch.Tensor,
    maps: torch.Tensor,
    *,
    ks: Sequence[float],
    seed: int,
    repeats: int,
    baseline: str,
    tie_break: str,
    auc_steps: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the areas of deletion and insertion, and what is still correct.

    The areas are (B,2); correct or not are top (B,T,K) and at_random (B,R,K) (`Erased`).
    """
    other = make_baseline(baseline, images, index, seed)
    scores = resize_scoremaps(maps, "tensor", _size_of(images))
    pixels = scores[0].numel()
    try:
        rankings = [rank_pixels(scores)]
    except ValueError as error:
        raise DomainError(str(error)) from error
    if tie_break == "random":
        rankings = []
        for number in range(TIE_ORDERS):
            order = random_ranking(index, pixels, seed_of(seed, TIE_ORDERS), number)
            rankings.append(rank_pixels(scores, order.to(images.device)))

    drawn = []
    for number in range(repeats):
        drawn.append(random_ranking(index, pixels, seed, number).to(images.device))
    correct = classify_rankings(model, images, labels, [*rankings, *drawn], ks, other)
    top, at_random = correct.permute(2, 0, 1).split([len(rankings), repeats], dim=1)

    areas = torch.full((2, len(images)), torch.nan)
    if auc_steps > 0:
        curves = probability_curves(model, images, labels, rankings[0], auc_steps)
        areas = torch.stack(list(map(area_under, curves)))
    return areas.T, top, at_random


def gather_erased(parts: Iterable[tuple[torch.Tensor, ...]], accelerator: object) -> Erased:
    """The batches' (index, areas, preds, top, at_random) of all processes as one table."""
    whole = map(torch.cat, zip(*parts, strict=True))
    gathered = gather_in_order(*whole, accelerator=accelerator)
    return Erased(*(tensor.numpy() for tensor in gathered[1:]))


def bootstrap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return sum a / sum b of (K,n) over random draws of the images: (K,BOOTSTRAPS).

    There are BOOTSTRAPS draws of n images with replacement, the same for all K.
    """
    rng = np.random.default_rng(0)
    n = a.shape[1]
    step = max(1, DRAWN_AT_ONCE // n)
    parts = []
    for first in range(0, BOOTSTRAPS, step):
        draws = rng.integers(n, size=(min(step, BOOTSTRAPS - first), n))
        parts.append([x[draws].sum(1) / y[draws].sum(1) for x, y in zip(a, b, strict=True)])
    return np.concatenate(parts, axis=1)


def summarize(
    top: np.ndarray, at_random: np.ndarray, ks: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Return for each k both accuracies in percent, both counts, and R_k.

    R_k has a 95 % interval over images (None where undefined).
    """
    top_share = top.mean(1).T.copy()  # (K,n)
    random_share = at_random.mean(1).T.copy()
    ratios = removal_ratio(top_share, random_share)
    with np.errstate(divide="ignore", invalid="ignore"):
        spreads = bootstrap(top_share, random_share)

    rows = {}
    for number, k in enumerate(ks):
        of_top = top_share[number]
        of_random = random_share[number]
        low, high = _interval(spreads[number])
        rows[f"{k:g}"] = {
            "R": float(ratios[number]),
            "low": low,
            "high": high,
            "topk": float(100 * of_top.mean()),
            "random": float(100 * of_random.mean()),
            "topk_count": float(of_top.sum()),
            "random_count": float(of_random.sum()),
        }
    return rows


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of the finite values; NaN without one."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, (0.025, 0.975))
    return float(low), float(high)


# ---- deletion and insertion ----------------------------------------------------------


@torch.inference_mode()
def probability_curves(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, ranking: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return p(target) (B,steps+1) after deleting, and after inserting, pixels.

    They are the first k/steps of the pixels of `ranking` (B,H W).

    Deleted pixels become 0 (the mean colour); insertion starts from the blurred image (RISE,
    Petsiuk et al. 2018).
    """
    require_number(steps, "steps", 1)
    pixels = inputs.shape[-2] * inputs.shape[-1]
    # Whole numbers: 47 / 49 of 224 x 224 in floating point loses a pixel.
    counts = [k * pixels // steps for k in range(steps + 1)]
    blurred = get_baseline("blur", inputs, inputs.device)
    deletion = _curve(model, inputs, torch.zeros_like(inputs), targets, ranking, counts)
    insertion = _curve(model, blurred, inputs, targets, ranking, counts)
    return deletion, insertion


def _curve(
    model: nn.Module,
    images: torch.Tensor,
    other: torch.Tensor,
    targets: torch.Tensor,
    ranking: torch.Tensor,
    counts: Sequence[int],
) -> torch.Tensor:
    """Return p(target) (B,len(counts)) where the first pixels are replaced.

    The first pixels of `images` (B,C,H,W) are those of `other`.
    """
    size = _size_of(images)
    step = copies_per_forward(images)
    columns = []
    for first in range(0, len(counts), step):
        part = counts[first : first + step]
        n = len(part)
        keep = torch.cat([keep_mask(ranking, count, size) for count in part])
        mixed = erase(images.repeat(n, 1, 1, 1), keep, other.repeat(n, 1, 1, 1))
        probs = _probabilities(model, mixed)
        columns.append(probs.gather(1, targets.repeat(n)[:, None]).view(n, -1))
    return torch.cat(columns).T


def area_under(curves: torch.Tensor) -> torch.Tensor:
    """Return the area (B,) under curves (B,n) over 0..1, by trapezoids.

    ValueError where n is not 2 at least.
    """
    if curves.ndim != 2 or curves.shape[1] < 2:
        raise ValueError(f"curves must be (B,n) with n of at least 2, not {tuple(curves.shape)}")
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2


def _probabilities(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """p(y|x) (B,C) of a network, or what another module returns."""
    out = model(images)
    return out["probs"] if isinstance(out, dict) else out


def _size_of(images: torch.Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
