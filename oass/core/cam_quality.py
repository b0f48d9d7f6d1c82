"""How well the class maps cover the objects: mask IoU over background thresholds, as PuzzleCAM measures it."""

import argparse

import numpy as np
import torch

from common.run import Run
from oass.core.datasets import VOC_Dataset_For_Testing_CAM
from oass.core.keypoints import upsample_cams
from oass.core.networks import Classifier
from oass.core.transforms import EvalTransform, Picture, normalise
from oass.tools.ai.evaluate_utils import Calculator_For_mIoU
from oass.tools.ai.torch_utils import make_cam
from oass.tools.dataset.voc_utils import CLASS_NAMES

THRESHOLDS = tuple(round(0.10 + 0.05 * k, 2) for k in range(8))  # 0.10 ... 0.45


def label_map(cams: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """The label image of maps (C,H,W): background where no present class exceeds `threshold`, (H,W) int64."""
    scores = np.concatenate([np.full((1, *cams.shape[1:]), threshold, cams.dtype), cams * labels[:, None, None]])
    return scores.argmax(0)


@torch.no_grad()
def mask_iou(
    model: Classifier, data: VOC_Dataset_For_Testing_CAM, args: argparse.Namespace, run: Run
) -> dict[str, float | None]:
    """Mean IoU (per cent, with the background) at the best threshold, and that threshold.

    The image's labels are given, as in PuzzleCAM: the maps are measured, not the classification.
    """
    transform = EvalTransform(args.image_size)
    counts = {threshold: Calculator_For_mIoU(CLASS_NAMES) for threshold in THRESHOLDS}
    for i in run.bar(range(len(data)), "mask IoU", len(data)):
        mask = data.mask(i)[: args.image_size, : args.image_size]
        if (mask == 255).all():  # no mask file
            continue
        parts = transform(data.image(i))
        images = normalise(Picture(*(part[None] for part in parts)), run.accelerator.device)
        cams = upsample_cams(make_cam(model.class_maps(images).float()), args.image_size)[0]
        cams = cams[:, : mask.shape[0], : mask.shape[1]].cpu().numpy()
        for threshold, count in counts.items():
            count.add(label_map(cams, data.split.labels[i], threshold), mask)
        run.poll()
    found = {threshold: count.get()[0] for threshold, count in counts.items()}
    if all(np.isnan(v) for v in found.values()):
        return {"cam miou": None, "cam threshold": None}
    best = max(found, key=found.get)
    return {"cam miou": found[best], "cam threshold": best}
