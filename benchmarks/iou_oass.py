"""The mask IoU of oass on real masks: scikit-learn's, and how good a stride's maps can be.

    python benchmarks/iou_oass.py --masks DATA/CamVid/testannot --classes 11
    python benchmarks/iou_oass.py --masks DATA/coco/semantic_masks/val2017 --classes 200

Each mask is turned into perfect class maps at a stride (the share of a cell that a class fills),
and those are scored as `inference_classification.py --cam_iou` scores a network's: upsampled,
background below a threshold, the best of eight thresholds. Pixels from --classes on are void; class
0 is the background. The mIoU is a ceiling: no network with this output stride can do much better on
these masks.
"""

import common.interrupt  # noqa: F401

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch.nn import functional as F

from common.cli import OneLineParser, UserError, positive_int, run_main
from oass.core.keypoints import upsample_cams
from oass.data import VOID
from oass.evaluate import THRESHOLDS, label_map
from oass.evaluate_metrics import Calculator_For_mIoU


def perfect_maps(
    mask: np.ndarray, classes: int, stride: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (C, H, W) in [0, 1] of classes from 1 on, at a stride and back; those present (C,)."""
    square = torch.zeros(1, side, side, dtype=torch.long)
    square[0, : mask.shape[0], : mask.shape[1]] = torch.from_numpy(
        np.where(mask < classes, mask, 0)
    )
    present = torch.unique(square)
    present = present[present > 0]
    shares = F.avg_pool2d((square == present[:, None, None]).float()[None], stride)
    maps = np.zeros((classes - 1, *mask.shape), np.float32)
    labels = np.zeros(classes - 1, np.float32)
    index = (present - 1).numpy()
    maps[index] = upsample_cams(shares, side)[0, :, : mask.shape[0], : mask.shape[1]].numpy()
    labels[index] = 1
    return maps, labels


def best_miou(masks: list[np.ndarray], classes: int, stride: int) -> tuple[float, float, float]:
    """mIoU in per cent at the best threshold, that threshold, the seconds that counting took.

    Every confusion matrix is compared with scikit-learn's.
    """
    counts = {t: Calculator_For_mIoU([str(c) for c in range(1, classes)]) for t in THRESHOLDS}
    theirs = {t: np.zeros((classes, classes), np.int64) for t in THRESHOLDS}
    seconds = 0.0
    for mask in masks:
        side = -(-max(mask.shape) // 32) * 32
        maps, labels = perfect_maps(mask, classes, stride, side)
        valid = mask < classes
        truth = np.where(valid, mask, VOID)
        for threshold, count in counts.items():
            predicted = label_map(maps, labels, threshold)
            start = time.process_time()
            count.add(predicted, truth)
            seconds += time.process_time() - start
            theirs[threshold] += confusion_matrix(
                mask[valid], predicted[valid], labels=range(classes)
            )
    for threshold, count in counts.items():
        assert np.array_equal(count.confusion, theirs[threshold]), threshold
    found = {threshold: count.get()[0] for threshold, count in counts.items()}
    best = max(found, key=found.get)
    return found[best], best, seconds


def main(argv: list[str] | None = None) -> None:
    """Read the masks, score, print."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--masks", type=Path, required=True, help="a folder of PNG masks, a class index a pixel"
    )
    parser.add_argument(
        "--classes", type=positive_int, default=21, help="with the background (VOC: 21)"
    )
    parser.add_argument("--strides", type=positive_int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--limit", type=positive_int, default=50, help="the first so many masks")
    args = parser.parse_args(argv)
    if args.classes > VOID:
        raise UserError(f"--classes {args.classes}: at most {VOID}; {VOID} itself is void")
    found = sorted(path for path in args.masks.glob("*.png") if not path.name.startswith("."))
    files = found[: args.limit]
    if not files:
        raise UserError(f"--masks {args.masks}: no PNG files there")
    masks = [np.asarray(Image.open(file), np.int64) for file in files]
    checked = "confusion matrices equal scikit-learn's at every threshold"
    print(f"{len(masks)} masks of {args.masks}; {checked}")
    for stride in args.strides:
        miou, threshold, seconds = best_miou(masks, args.classes, stride)
        milliseconds = 1000 * seconds / len(masks) / len(THRESHOLDS)
        best = f"mIoU {miou:.1f} % at threshold {threshold:.2f}"
        print(f"stride {stride:>2}: {best}; {milliseconds:.2f} ms a mask")


if __name__ == "__main__":
    run_main(main)
