"""Scores of a whole split, each image once, and everything that is measured on them."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.aliases import one_module
from common.cli import NonFiniteError
from common.data import eval_loader, gather_in_order
from common.images import left_out as those_left_out
from common.run import Run
from oass.core.datasets import Split, VOC_Dataset_For_Classification
from oass.core.networks import Classifier
from oass.core.transforms import Picture, normalise
from oass.core.views import MeanMap, View, Views, on_the_picture, views_of
from oass.tools.ai import evaluate_utils as E
from oass.tools.ai.torch_utils import make_cam
from oass.tools.dataset.voc_utils import CLASS_DIC, CLASS_NAMES

one_module(__name__, "oass.core.evaluate")


class Scores(NamedTuple):
    """logits (n,C) float32; peaks (n,C,2) int64, the arg-max [y, x] of each upsampled class map; alive (n,C) bool."""

    logits: torch.Tensor
    peaks: torch.Tensor
    alive: torch.Tensor


@contextmanager
def evaluating(
    model: nn.Module, data: VOC_Dataset_For_Classification, transform: Callable
) -> Iterator[None]:
    """Inside, the network is in eval mode and the data set has this transform; both come back after it."""
    was_training = model.training
    before = data.transform
    model.eval()
    data.transform = transform
    try:
        yield
    finally:
        model.train(was_training)
        data.transform = before


def look(
    model: Classifier,
    pictures: Sequence[Sequence[torch.Tensor]],
    sizes: torch.Tensor,
    views: Sequence[View],
    run: Run,
    *,
    side: int,
    plain: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B,C) and normalised maps (B,C,S,S), both averaged over the views, float32.

    Each view's maps are normalised by themselves, then averaged pixel by pixel. `plain`: logits of GAP(F) instead
    of the instance head's. pictures: a batch of `Picture` for each view; sizes (B,2): heights and widths.
    """
    logits = []
    maps = MeanMap()
    for view, picture in zip(views, pictures, strict=True):
        images = normalise(Picture(*picture), run.accelerator.device, *model.normalisation)
        with run.accelerator.autocast():
            head, features = model(images, with_cam=True)
        logits.append(features.mean((2, 3)) if plain else head.float())
        maps.add(*on_the_picture(make_cam(features.float()), view, sizes, side))
    return torch.stack(logits).mean(0), maps.get()


@torch.no_grad()
def score_split(
    model: Classifier,
    data: VOC_Dataset_For_Classification,
    args: argparse.Namespace,
    run: Run,
    *,
    views: Sequence[View] | None = None,
    plain: bool = False,
) -> Scores:
    """Logits of the instance head (`plain`: of GAP(F)) and the peaks of the class maps, eval mode, in order.

    Averaged over `views` (default: the picture as it is). With --skip_corrupt pictures that turn out to be
    unreadable leave `data` and are named. NonFiniteError names the first image without a score.
    """
    views = views_of(args.image_size) if views is None else views
    rows = []
    with evaluating(model, data, Views(views)):
        for batch in eval_loader(
            data,
            args.batch_size,
            accelerator=run.accelerator,
            workers=args.num_workers,
            skip_corrupt=args.skip_corrupt,
        ):
            if batch.data is None:
                continue
            pictures, sizes = batch.data[0]
            logits, maps = look(
                model, pictures, sizes, views, run, side=args.image_size, plain=plain
            )
            flat = maps.flatten(2)
            place = flat.argmax(2)
            peaks = torch.stack([place // args.image_size, place % args.image_size], 2)
            rows.append((batch.index, logits, peaks, flat.amax(2) > 0))
            run.poll()
    C = model.num_classes
    nothing = (
        torch.zeros(0).long(),
        torch.zeros(0, C),
        torch.zeros(0, C, 2).long(),
        torch.zeros(0, C).bool(),
    )
    columns = [
        torch.cat([part.cpu() for part in column]) for column in zip(nothing, *rows, strict=True)
    ]
    index, *found = gather_in_order(*columns, accelerator=run.accelerator)
    leave_out_unread(data, index, run)
    scores = Scores(*found)
    broken = torch.nonzero(scores.logits.isnan().any(1)).flatten().tolist()
    if broken:
        first = data.split.ids[broken[0]]
        raise NonFiniteError(
            f"{data.domain}: the scores of {len(broken)} images are NaN, first {first}; lower --lr"
        )
    return scores


def leave_out_unread(data: VOC_Dataset_For_Classification, index: torch.Tensor, run: Run) -> None:
    """Take the images whose position is not in `index` (k,) out of the data, and name them."""
    if len(index) == len(data):
        return
    paths = [data.image_path(k) for k in range(len(data))]
    missing = np.setdiff1d(np.arange(len(data)), index.numpy())
    run.print(those_left_out(paths, missing, data.domain))
    data.leave_out([data.split.ids[k] for k in missing.tolist()])


def pointing_accuracy(scores: Scores, split: Split) -> float | None:
    """Share of (image, present class) pairs whose map peaks inside one of the class's boxes; None if there are none.

    An all-zero map is a miss. Boxes count from 1 and hold their last row and column. A class whose boxes all lack
    an area is left out.
    """
    hits = []
    for i, objects in enumerate(split.objects[: len(scores.logits)]):
        boxed = [o for o in objects if o.has_area]
        for c in {CLASS_DIC[o.name] for o in boxed}:
            y, x = scores.peaks[i, c].tolist()
            boxes = [o.box for o in boxed if CLASS_DIC[o.name] == c]
            inside = any(x0 - 1 <= x < x1 and y0 - 1 <= y < y1 for x0, y0, x1, y1 in boxes)
            hits.append(inside and bool(scores.alive[i, c]))
    return float(np.mean(hits)) if hits else None


def measure(
    scores: Scores, split: Split, *, difficult: str = "include", drop_last: int = 0
) -> dict[str, object]:
    """mAP and its relatives in per cent, eval class loss, pointing accuracy, the per-class AP.

    `map` is the released definition. difficult="ignore": every mAP leaves (image, class) entries out that are only
    difficult, as `map without difficult` always does. `drop_last`: everything over whole batches of so many images
    only, as released (D12). Classes without a positive have no AP (None) and are left out of the means.
    """
    n = len(scores.logits)
    if drop_last:
        n = n // drop_last * drop_last
    whole = Scores(*(column[:n] for column in scores))
    z = whole.logits.numpy()
    y = split.labels[:n]
    only_difficult = split.only_difficult[:n]

    def each_class(definition: Callable) -> np.ndarray:
        if difficult == "ignore":
            return E.average_precision_ignoring(z, y, only_difficult, definition)
        return definition(z, y)

    def percent(ap: np.ndarray) -> float:
        return 100 * E.mean_of_defined(ap)

    ap = each_class(E.average_precision)
    loss = (
        F.binary_cross_entropy_with_logits(whole.logits, torch.from_numpy(y)).item()
        if n
        else float("nan")
    )
    return {
        "map": percent(ap),
        "eval class loss": loss,
        "map without difficult": percent(E.average_precision_ignoring(z, y, only_difficult)),
        "map voc2010": percent(each_class(E.average_precision_voc2010)),
        "map ties": percent(each_class(E.average_precision_ties)),
        "pointing": pointing_accuracy(whole, split),
        "classes": int((~np.isnan(ap)).sum()),
        "ap": [None if np.isnan(v) else round(100 * float(v), 4) for v in ap],
    }


def left_out(ap: Sequence[float | None]) -> str:
    """Which classes an mAP leaves out, in words; "" where it leaves out none.

    >>> left_out([50.0, None] + [75.0] * 18)
    'mAP over 19 of 20 classes; without positives, and left out: bicycle'
    """
    absent = [name for name, value in zip(CLASS_NAMES, ap, strict=True) if value is None]
    if not absent:
        return ""
    return f"mAP over {len(ap) - len(absent)} of {len(ap)} classes; without positives, and left out: {', '.join(absent)}"
