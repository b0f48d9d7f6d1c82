"""Deletion and insertion: the probability of the label while pixels vanish, or appear, from the highest score on."""

from collections.abc import Sequence

import torch
from torch import nn

from calm.domain import check_count
from calm.erasing import get_baseline, masks_of_first
from common.aliases import one_module

one_module(__name__, "calm.faithfulness")

IMAGES_PER_FORWARD = 64


@torch.inference_mode()
def probability_curves(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, ranking: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """p(target) (B,steps+1) after deleting, and after inserting, the first k/steps of the pixels of `ranking` (B,H*W).

    Deleted pixels become 0 (the mean colour); insertion starts from the blurred image (RISE, Petsiuk et al. 2018).
    """
    check_count(steps, "steps")
    pixels = inputs.shape[-2] * inputs.shape[-1]
    counts = [
        k * pixels // steps for k in range(steps + 1)
    ]  # whole numbers: 47 / 49 of 224 x 224 loses a pixel
    blurred = get_baseline("blur", inputs, inputs.device)
    deletion = _curve(
        model, inputs, torch.zeros_like(inputs), targets, ranking, counts, keep_first=False
    )
    insertion = _curve(model, inputs, blurred, targets, ranking, counts, keep_first=True)
    return deletion, insertion


def _curve(
    model: nn.Module, inputs: torch.Tensor, other: torch.Tensor, targets: torch.Tensor, ranking: torch.Tensor,
    counts: Sequence[int], keep_first: bool,
) -> torch.Tensor:  # fmt: skip
    size, columns = tuple(inputs.shape[-2:]), []
    step = max(1, IMAGES_PER_FORWARD // len(inputs))
    for first in range(0, len(counts), step):
        part = counts[first : first + step]
        keep = torch.cat([masks_of_first(ranking, count, size) for count in part])
        keep = 1 - keep if keep_first else keep
        mixed = inputs.repeat(len(part), 1, 1, 1) * keep + other.repeat(len(part), 1, 1, 1) * (
            1 - keep
        )
        out = model(mixed)
        probs = out["probs"] if isinstance(out, dict) else out
        columns.append(probs.gather(1, targets.repeat(len(part))[:, None]).view(len(part), -1))
    return torch.cat(columns).T


def area_under(curves: torch.Tensor) -> torch.Tensor:
    """(B,) area under curves (B,n) over 0..1, by trapezoids; ValueError where n is not 2 at least."""
    if curves.ndim != 2 or curves.shape[1] < 2:
        raise ValueError(f"curves must be (B,n) with n of at least 2, not {tuple(curves.shape)}")
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2
