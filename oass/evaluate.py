"""What is measured on a split, each image once: scores, mAP, where the maps peak, masks, instances.

The definitions of average precision and of the mask IoU are in evaluate_metrics.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import default_collate

from common import modes
from common.aliases import one_module
from common.cli import NonFiniteError
from common.images import left_out as those_left_out
from common.loading import Batch, eval_loader, gather_in_order
from common.run import Run
from oass import evaluate_metrics as E
from oass.core.networks import Classifier
from oass.data import (
    Picture,
    Split,
    View,
    Views,
    VOC_Dataset_For_Classification,
    VOC_Dataset_For_Testing_CAM,
    normalise,
    views_of,
)
from oass.data_frozen import network_input
from oass.data_views import MeanMap, on_the_picture
from oass.data_voc import CLASS_NAMES
from oass.method import class_specific_instances, make_cam

one_module(__name__, "oass.evaluate")

THRESHOLDS = tuple(round(0.10 + 0.05 * k, 2) for k in range(8))  # of mask IoU: 0.10 ... 0.45


@dataclass(frozen=True)
class Walk:
    """How a split is walked: the pictures' side, how many at once, by how many workers."""

    image_size: int
    batch_size: int
    num_workers: int
    skip_corrupt: bool = False


class Scores(NamedTuple):
    """What is known of the n images of a split."""

    logits: torch.Tensor  # (n,C) float32
    peaks: torch.Tensor  # (n,C,2) int64, the arg-max [y, x] of each upsampled class map
    alive: torch.Tensor  # (n,C) bool, whether the map is above 0 anywhere


@contextmanager
def evaluating(
    model: Classifier, data: VOC_Dataset_For_Classification, views: Sequence[View]
) -> Iterator[None]:
    """Inside, the network is in eval mode and the data set gives these views; both come back."""
    before = data.transform
    data.transform = Views(views, model.interpolation)
    try:
        with modes.evaluating(model):
            yield
    finally:
        data.transform = before


def batches_of(
    data: VOC_Dataset_For_Classification, walk: Walk, run: Run, *, skip_corrupt: bool = False
) -> Iterator[Batch]:
    """The split in batches, those of this process; a signal is answered after each."""
    loader = eval_loader(
        data.computed or data,
        walk.batch_size,
        accelerator=run.accelerator,
        workers=walk.num_workers,
        skip_corrupt=skip_corrupt,
    )
    for batch in loader:
        if batch.data is not None:
            yield batch
            run.poll()


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

    Each view's maps are normalised by themselves, then averaged pixel by pixel. `plain`: logits of
    GAP(F) instead of the instance head's. pictures: a batch of `Picture` for each view; sizes
    (B,2): heights and widths. With a frozen backbone a view may be its computed features.
    """
    logits = []
    mean_map = MeanMap()
    for view, picture in zip(views, pictures, strict=True):
        images = network_input(picture, run.accelerator.device, model.normalisation)
        with run.accelerator.autocast():
            head, features = model(images, with_cam=True)
        logits.append(features.mean((2, 3)) if plain else head.float())
        maps, seen = on_the_picture(make_cam(features.float()), view, sizes, side)
        mean_map.add(maps, seen)
    return torch.stack(logits).mean(0), mean_map.get()


@torch.no_grad()
def score_split(
    model: Classifier,
    data: VOC_Dataset_For_Classification,
    walk: Walk,
    run: Run,
    *,
    views: Sequence[View] | None = None,
    plain: bool = False,
) -> Scores:
    """Logits of the instance head (`plain`: of GAP(F)) and the peaks of the class maps, in order.

    In eval mode, averaged over `views` (default: the picture as it is). With skip_corrupt pictures
    that turn out to be unreadable leave `data` and are named. NonFiniteError names the first image
    without a score.
    """
    side = walk.image_size
    views = views or views_of(side)
    C = model.num_classes
    # A process without a batch has these shapes all the same.
    none = (
        torch.zeros(0).long(),
        torch.zeros(0, C),
        torch.zeros(0, C, 2).long(),
        torch.zeros(0, C).bool(),
    )
    parts = [none]
    with evaluating(model, data, views):
        for batch in batches_of(data, walk, run, skip_corrupt=walk.skip_corrupt):
            pictures, sizes = batch.data[0]
            logits, maps = look(model, pictures, sizes, views, run, side=side, plain=plain)
            flat = maps.flatten(2)
            place = flat.argmax(2)
            peaks = torch.stack([place // side, place % side], 2)
            is_alive = flat.amax(2) > 0
            parts.append((batch.index, logits.cpu(), peaks.cpu(), is_alive.cpu()))

    columns = map(torch.cat, zip(*parts, strict=True))
    index, *ordered = gather_in_order(*columns, accelerator=run.accelerator)
    leave_out_unread(data, index, run)
    scores = Scores(*ordered)
    broken = torch.nonzero(scores.logits.isnan().any(1)).flatten().tolist()
    if broken:
        first = data.split.ids[broken[0]]
        problem = f"the scores of {len(broken)} images are NaN, first {first}"
        raise NonFiniteError(f"{data.domain}: {problem}; lower --lr")
    return scores


def leave_out_unread(data: VOC_Dataset_For_Classification, index: torch.Tensor, run: Run) -> None:
    """Take the images whose position is not in `index` (k,) out of the data, and name them."""
    if len(index) == len(data):
        return
    paths = list(map(data.image_path, range(len(data))))
    missing = np.setdiff1d(np.arange(len(data)), index.numpy())
    run.print(those_left_out(paths, missing, data.domain))
    data.leave_out([data.split.ids[k] for k in missing.tolist()])


def pointing_accuracy(scores: Scores, split: Split) -> float | None:
    """Share of present classes whose map peaks inside one of their boxes; None without boxes.

    An all-zero map is a miss. Boxes count from 1 and hold their last row and column. A class whose
    boxes all lack an area is left out.
    """
    number = {name: c for c, name in enumerate(split.classes)}
    hits = []
    for i, objects in enumerate(split.objects[: len(scores.logits)]):
        boxes: dict[int, list[tuple[int, int, int, int]]] = {}
        for found in objects:
            if found.has_area:
                boxes.setdefault(number[found.name], []).append(found.box)
        for c, own in boxes.items():
            y, x = scores.peaks[i, c].tolist()
            inside = any(x0 - 1 <= x < x1 and y0 - 1 <= y < y1 for x0, y0, x1, y1 in own)
            hits.append(inside and bool(scores.alive[i, c]))
    if not hits:
        return None
    return float(np.mean(hits))


def measure(
    scores: Scores, split: Split, *, difficult: str = "include", drop_last: int = 0
) -> dict[str, Any]:
    """mAP and its relatives in per cent, eval class loss, pointing accuracy, the per-class AP.

    `map` is the released definition. difficult="ignore": every mAP leaves (image, class) entries
    out that are only difficult, as `map without difficult` always does. `drop_last`: everything
    over whole batches of so many images only, as released. Classes without a positive have no AP
    (None) and are left out of the means. Labels that are unknown are left out of every number.
    """
    n = len(scores.logits)
    if drop_last:
        n = n // drop_last * drop_last
    whole = Scores(*(column[:n] for column in scores))
    z = whole.logits.numpy()
    y = split.labels[:n]
    only_difficult = split.only_difficult[:n]
    left_away = np.zeros_like(only_difficult)
    if split.unknown is not None:
        left_away = split.unknown[:n]
        only_difficult = only_difficult | left_away
    if difficult == "ignore":
        left_away = only_difficult

    def each_class(definition: Callable) -> np.ndarray:
        if left_away.any():
            return E.average_precision_ignoring(z, y, left_away, definition)
        return definition(z, y)

    def percent(ap: np.ndarray) -> float:
        return 100 * E.mean_of_defined(ap)

    ap = each_class(E.average_precision)
    loss = float("nan")
    if n:
        loss = _loss_of_known(whole.logits, torch.from_numpy(y), split.unknown)
    return {
        "map": percent(ap),
        "eval class loss": loss,
        "map without difficult": percent(E.average_precision_ignoring(z, y, only_difficult)),
        "map voc2010": percent(each_class(E.average_precision_voc2010)),
        "map ties": percent(each_class(E.average_precision_ties)),
        "pointing": pointing_accuracy(whole, split),
        "classes": int((~np.isnan(ap)).sum()),
        "ap": list(map(_shown, ap.tolist())),
    }


def _loss_of_known(logits: torch.Tensor, labels: torch.Tensor, unknown: np.ndarray | None) -> float:
    """The mean loss of a label, over those that are known."""
    if unknown is not None:
        known = torch.from_numpy(~unknown[: len(logits)])
        logits = logits[known]
        labels = labels[known]
    return F.binary_cross_entropy_with_logits(logits, labels).item()


def _shown(ap: float) -> float | None:
    """In per cent to four digits; None where it is undefined."""
    return None if np.isnan(ap) else round(100 * ap, 4)


def left_out(ap: Sequence[float | None], names: Sequence[str] = CLASS_NAMES) -> str:
    """Which classes an mAP leaves out, in words; "" where it leaves out none.

    >>> left_out([50.0, None] + [75.0] * 18)
    'mAP over 19 of 20 classes; without positives, and left out: bicycle'
    """
    absent = [name for name, value in zip(names, ap, strict=True) if value is None]
    if not absent:
        return ""
    counted = f"{len(ap) - len(absent)} of {len(ap)} classes"
    return f"mAP over {counted}; without positives, and left out: {', '.join(absent)}"


# --- the class maps against masks ---


def label_map(cams: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """The labels (H,W) int64 of maps (C,H,W): background where none exceeds `threshold`."""
    background = np.full((1, *cams.shape[1:]), threshold, cams.dtype)
    present = cams * labels[:, None, None]
    return np.concatenate([background, present]).argmax(0)


@torch.no_grad()
def mask_iou(
    model: Classifier,
    data: VOC_Dataset_For_Testing_CAM,
    image_size: int,
    run: Run,
    *,
    views: Sequence[View] | None = None,
) -> dict[str, float | int | None]:
    """Mean IoU of the maps with the masks, as PuzzleCAM measures it.

    The image's labels are given: the maps are measured, not the classification. They are averaged
    over `views` (default: the picture as it is).

    Returns:
        "cam miou": in per cent, with the background, at the best threshold; "cam threshold": that
        one; "cam images": how many images have a mask.
    """
    views = views or views_of(image_size)
    counts = {threshold: E.Calculator_For_mIoU(list(data.classes)) for threshold in THRESHOLDS}
    masked = list(filter(data.has_mask, range(len(data))))
    see = Views(views, model.interpolation)
    with evaluating(model, data, views):
        for i in run.bar(masked, "mask IoU", len(masked)):
            mask = data.mask(i)[:image_size, :image_size]
            pictures, sizes = default_collate([see(data.image(i))])
            cams = look(model, pictures, sizes, views, run, side=image_size)[1][0]
            maps = cams[:, : mask.shape[0], : mask.shape[1]].cpu().numpy()
            for threshold, count in counts.items():
                count.add(label_map(maps, data.split.labels[i], threshold), mask)
            run.poll()

    found = {threshold: count.get()[0] for threshold, count in counts.items()}
    best = max(found, key=lambda threshold: found[threshold])
    if np.isnan(list(found.values())).all():
        return {"cam miou": None, "cam threshold": None, "cam images": len(masked)}
    return {"cam miou": found[best], "cam threshold": best, "cam images": len(masked)}


# --- class-specific instances as features ---


@torch.no_grad()
def collect_instances(
    model: Classifier,
    data: VOC_Dataset_For_Classification,
    walk: Walk,
    run: Run,
    *,
    views: Sequence[View] | None = None,
) -> np.ndarray:
    """v_bc of all images, the mean over pixels of X M, (n,C,K) float32, in the data's order.

    In eval mode, averaged over `views` (default: the picture as it is).
    """
    views = views or views_of(walk.image_size)
    indices = []
    rows = []
    with evaluating(model, data, views):
        for batch in batches_of(data, walk, run):
            found = []
            for picture in batch.data[0][0]:
                images = normalise(Picture(*picture), run.accelerator.device, *model.normalisation)
                with run.accelerator.autocast():
                    X = model.feature_map(images)
                    maps = model.classifier(X)
                found.append(class_specific_instances(X.float(), make_cam(maps.float())))
            indices.append(batch.index)
            rows.append(torch.stack(found).mean(0))
    columns = (torch.cat(indices), torch.cat(rows))
    return gather_in_order(*columns, accelerator=run.accelerator)[1].numpy()


def nearest(instances: np.ndarray, c: int, query: int, count: int) -> np.ndarray:
    """The `count` images with the largest cosine to the query's descriptor of class c."""
    vectors = instances[:, c]
    norms = np.linalg.norm(vectors, axis=1).clip(1e-12)
    cosine = vectors @ vectors[query] / norms / norms[query]
    cosine[query] = -np.inf
    return np.argsort(-cosine, kind="stable")[:count]


def neighbour_precision(instances: np.ndarray, labels: np.ndarray, count: int = 5) -> float | None:
    """Share of the `count` nearest by a present class's descriptor that contain the class."""
    found = []
    for query, c in np.argwhere(labels).tolist():
        found.append(labels[nearest(instances, c, query, count), c].mean())
    if not found:
        return None
    return float(np.mean(found))
