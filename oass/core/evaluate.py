"""Scores of a whole split, each image once, and everything that is measured on them."""

import argparse
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.data import eval_loader, gather_in_order
from common.run import Run
from oass.core.datasets import Split, VOC_Dataset_For_Classification
from oass.core.keypoints import upsample_cams
from oass.core.transforms import EvalTransform, Picture, normalise
from oass.tools.ai import evaluate_utils as E
from oass.tools.ai.torch_utils import make_cam
from oass.tools.dataset.voc_utils import CLASS_DIC


class Scores(NamedTuple):
    """logits (n,C) float32; peaks (n,C,2) int64, the arg-max [y, x] of each upsampled class map; alive (n,C) bool."""

    logits: torch.Tensor
    peaks: torch.Tensor
    alive: torch.Tensor


@torch.no_grad()
def score_split(
    model: nn.Module,
    data: VOC_Dataset_For_Classification,
    args: argparse.Namespace,
    run: Run,
    *,
    transform: EvalTransform | None = None,
    plain: bool = False,
) -> Scores:
    """Logits of the instance head (`plain`: of GAP(F)) and the peaks of the class maps, eval mode, in order."""
    own, data.transform = data.transform, transform or EvalTransform(args.image_size)
    was_training, rows = model.training, []
    model.eval()
    try:
        for batch in eval_loader(data, args.batch_size, accelerator=run.accelerator, workers=args.num_workers):
            images = normalise(Picture(*batch.data[0]), run.accelerator.device)
            with run.accelerator.autocast():
                logits, features = model(images, with_cam=True)
            if plain:
                logits = features.mean((2, 3))
            cams = upsample_cams(make_cam(features.float()), args.image_size).flatten(2)
            place, side = cams.argmax(2), args.image_size
            peaks = torch.stack([place // side, place % side], 2)
            rows.append((batch.index, logits.float(), peaks, cams.amax(2) > 0))
            if run.world == 1:
                run.poll()
    finally:
        model.train(was_training)
        data.transform = own
    columns = [torch.cat(column) for column in zip(*rows, strict=True)]
    return Scores(*gather_in_order(*columns, accelerator=run.accelerator)[1:])


def pointing_accuracy(scores: Scores, split: Split) -> float | None:
    """How often the map of a present class peaks inside a box of that class; a dead map misses. None without."""
    hits = []
    for i, objects in enumerate(split.objects[: len(scores.logits)]):
        for c in {CLASS_DIC[o.name] for o in objects}:
            y, x = scores.peaks[i, c].tolist()
            boxes = [o.box for o in objects if CLASS_DIC[o.name] == c]
            inside = any(x0 - 1 <= x < x1 and y0 - 1 <= y < y1 for x0, y0, x1, y1 in boxes)
            hits.append(inside and bool(scores.alive[i, c]))
    return float(np.mean(hits)) if hits else None


def measure(scores: Scores, split: Split, *, difficult: str = "include", drop_last: int = 0) -> dict[str, object]:
    """mAP and its relatives in per cent, eval class loss, pointing accuracy, the per-class AP.

    `map` is the released definition; with difficult="ignore" it leaves (image, class) entries out that are
    only difficult. `drop_last`: whole batches of so many images only, as released (D12).
    """
    n = len(scores.logits) // drop_last * drop_last if drop_last else len(scores.logits)
    z, y, skip = scores.logits[:n].numpy(), split.labels[:n], split.only_difficult[:n]
    ap, ap_official = E.average_precision(z, y), E.average_precision_ignoring(z, y, skip)
    chosen = ap_official if difficult == "ignore" else ap
    percent = lambda a: 100 * E.mean_of_defined(a)  # noqa: E731
    loss = F.binary_cross_entropy_with_logits(scores.logits[:n], torch.from_numpy(y)).item() if n else float("nan")
    return {
        "map": percent(chosen),
        "eval class loss": loss,
        "map without difficult": percent(ap_official),
        "map voc2010": percent(E.average_precision_voc2010(z, y)),
        "map ties": percent(E.average_precision_ties(z, y)),
        "pointing": pointing_accuracy(scores, split),
        "classes": int((~np.isnan(chosen)).sum()),
        "ap": [None if np.isnan(v) else round(100 * float(v), 4) for v in chosen],
    }
