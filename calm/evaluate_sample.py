"""Explain why R_2% comes out as it does on the drawn birds.

It is told by how much of the wing, which tells the classes apart, is erased.
"""

import numpy as np
import torch

from calm.data_cub_trait import PARTS, CUBTrait
from calm.evaluate import Tester
from calm.evaluate_erasing import classify_erased
from calm.evaluate_maps import resize_scoremaps
from calm.method import rank_pixels
from common.aliases import one_module

one_module(__name__, "calm.evaluate_sample")

ERASED = 0.02
RADIUS = 3 / 64  # of the wing's disc, in sides of the smallest picture (common/samples/cub.py)
WING = PARTS["wing"][0]


@torch.inference_mode()
def examine(tester: Tester, trait: CUBTrait) -> np.ndarray:
    """Return three values for each test image with a visible wing: (n,3).

    They are the distance to it, the share of its disc that is erased, and whether still correct.
    """
    rows = []
    for images, labels, ids, _ in tester.batches():
        side = images.shape[-1]
        scores = resize_scoremaps(tester.mapper(images, labels), "tensor", (side, side))
        ranking = rank_pixels(scores)
        correct = classify_erased(tester.model, images, labels, ranking, [ERASED])[0]
        for image_id, order, is_correct in zip(ids, ranking, correct.tolist(), strict=True):
            points, parts = trait.points_and_parts(image_id, side)
            wings = points[parts == WING]
            if not len(wings):
                continue
            pixels = np.stack([order.numpy() % side, order.numpy() // side], 1)
            away = np.hypot(*(pixels - wings[0]).T)
            on_disc = away <= RADIUS * side
            share = on_disc[: int(ERASED * side * side)].sum() / on_disc.sum()
            rows.append((away[0], share, float(is_correct)))
    return np.array(rows)


def describe(method: str, rows: np.ndarray) -> str:
    """Two lines on the rows (n,3) of `examine`."""
    distance, share, correct = rows.T
    few = correct[share < 0.5]
    many = correct[share >= 0.5]
    return (
        f"{method}: {len(share)} images; peak to wing {np.median(distance):.1f} pixels (median)\n"
        f"  {100 * share.mean():.0f} % of the disc erased; where less than half is, "
        f"correct {_percent(few)}, elsewhere {_percent(many)}"
    )


def _percent(correct: np.ndarray) -> str:
    return f"{100 * correct.mean():.0f} %" if len(correct) else "none"
