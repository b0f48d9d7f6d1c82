"""Class-specific instances as features: one descriptor per image and class, and who is nearest to whom."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.aliases import one_module
from common.checkpoint import atomic_save
from common.data import eval_loader, gather_in_order
from common.run import Run
from oass.core.csi import class_specific_instances
from oass.core.datasets import VOC_Dataset_For_Classification
from oass.core.evaluate import evaluating
from oass.core.networks import Classifier
from oass.core.transforms import Picture, normalise
from oass.core.views import View, Views, views_of
from oass.tools.ai.demo_utils import caption, mosaic, save_png
from oass.tools.ai.torch_utils import make_cam
from oass.tools.dataset.voc_utils import CLASS_NAMES

one_module(__name__, "oass.core.instances")

SIDE = 96


@torch.no_grad()
def collect_instances(
    model: Classifier,
    data: VOC_Dataset_For_Classification,
    args: argparse.Namespace,
    run: Run,
    *,
    views: Sequence[View] | None = None,
) -> np.ndarray:
    """v_bc of all images, the mean over pixels of X M, (n,C,K) float32, in the data's order, in eval mode.

    Averaged over `views` (default: the picture as it is).
    """
    views = views_of(args.image_size) if views is None else views
    rows = []
    with evaluating(model, data, Views(views)):
        for batch in eval_loader(
            data, args.batch_size, accelerator=run.accelerator, workers=args.num_workers
        ):
            pictures, _ = batch.data[0]
            found = []
            for picture in pictures:
                images = normalise(Picture(*picture), run.accelerator.device, *model.normalisation)
                with run.accelerator.autocast():
                    X = model.feature_map(images)
                    F = model.classifier(X)
                found.append(class_specific_instances(X.float(), make_cam(F.float())))
            rows.append((batch.index, torch.stack(found).mean(0)))
            run.poll()
    columns = [torch.cat(column) for column in zip(*rows, strict=True)]
    return gather_in_order(*columns, accelerator=run.accelerator)[1].numpy()


def save_instances(path: Path, instances: np.ndarray, data: VOC_Dataset_For_Classification) -> None:
    """An npz with instances (n,C,K) float16, labels (n,C), ids (n,), class_names (C,)."""
    arrays = {
        "instances": instances.astype(np.float16),
        "labels": data.split.labels.astype(np.uint8),
    }
    arrays |= {"ids": np.array(data.split.ids), "class_names": np.array(CLASS_NAMES)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    atomic_save(path, write)


def nearest(instances: np.ndarray, c: int, query: int, count: int) -> np.ndarray:
    """The `count` images whose descriptor of class c has the largest cosine with the query's, without it."""
    vectors = instances[:, c]
    norms = np.linalg.norm(vectors, axis=1).clip(1e-12)
    cosine = vectors @ vectors[query] / norms / norms[query]
    cosine[query] = -np.inf
    return np.argsort(-cosine, kind="stable")[:count]


def neighbour_precision(instances: np.ndarray, labels: np.ndarray, count: int = 5) -> float | None:
    """How many of the `count` nearest by a present class's descriptor contain the class; mean over all queries."""
    found = [
        labels[nearest(instances, c, query, count), c].mean()
        for query, c in zip(*np.nonzero(labels), strict=True)
    ]
    return float(np.mean(found)) if found else None


def save_neighbours(
    path: Path,
    instances: np.ndarray,
    data: VOC_Dataset_For_Classification,
    *,
    queries: int = 1,
    count: int = 6,
) -> None:
    """A row for each query: the image, then its nearest by that class's descriptor, + where they contain the class."""
    rows = []
    for c, name in enumerate(CLASS_NAMES):
        for query in np.flatnonzero(data.split.labels[:, c])[:queries].tolist():
            near = nearest(instances, c, query, count).tolist()
            texts = [name, *("+" if data.split.labels[i, c] else "-" for i in near)]
            pictures = [np.asarray(data.image(i)) for i in (query, *near)]
            rows.append([caption(p, t, SIDE) for p, t in zip(pictures, texts, strict=True)])
    save_png(path, mosaic(rows))
