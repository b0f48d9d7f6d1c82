"""How well the class maps cover the objects: mask IoU over background thresholds, as PuzzleCAM measures it."""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import default_collate

from common.aliases import one_module
from common.run import Run
from oass.core.datasets import VOC_Dataset_For_Testing_CAM
from oass.core.evaluate import evaluating, look
from oass.core.networks import Classifier
from oass.core.views import View, Views, views_of
from oass.tools.ai.evaluate_utils import Calculator_For_mIoU
from oass.tools.dataset.voc_utils import CLASS_NAMES

one_module(__name__, "oass.core.cam_quality")

THRESHOLDS = tuple(round(0.10 + 0.05 * k, 2) for k in range(8))  # 0.10 ... 0.45


def label_map(cams: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """The label image of maps (C,H,W): background where no present class exceeds `threshold`, (H,W) int64."""
    scores = np.concatenate(
        [np.full((1, *cams.shape[1:]), threshold, cams.dtype), cams * labels[:, None, None]]
    )
    return scores.argmax(0)


@torch.no_grad()
def mask_iou(
    model: Classifier,
    data: VOC_Dataset_For_Testing_CAM,
    args: argparse.Namespace,
    run: Run,
    *,
    views: Sequence[View] | None = None,
) -> dict[str, float | int | None]:
    """Mean IoU (per cent, with the background) at the best threshold, that threshold, and how many images have a mask.

    The image's labels are given, as in PuzzleCAM: the maps are measured, not the classification. The maps are those
    that are also scored: averaged over `views` (default: the picture as it is).
    """
    views = views_of(args.image_size) if views is None else views
    counts = {threshold: Calculator_For_mIoU(CLASS_NAMES) for threshold in THRESHOLDS}
    images = 0
    with evaluating(model, data, Views(views)):
        for i in run.bar(range(len(data)), "mask IoU", len(data)):
            if not data.has_mask(i):
                continue
            images += 1
            mask = data.mask(i)[: args.image_size, : args.image_size]
            pictures, sizes = default_collate([data.transform(data.image(i))])
            maps = look(model, pictures, sizes, views, run, side=args.image_size)[1][0]
            maps = maps[:, : mask.shape[0], : mask.shape[1]].cpu().numpy()
            for threshold, count in counts.items():
                count.add(label_map(maps, data.split.labels[i], threshold), mask)
            run.poll()
    found = {threshold: count.get()[0] for threshold, count in counts.items()}
    if all(np.isnan(v) for v in found.values()):
        return {"cam miou": None, "cam threshold": None, "cam images": images}
    best = max(found, key=found.get)
    return {"cam miou": found[best], "cam threshold": best, "cam images": images}
