"""Weakly supervised localisation of a network.

It is measured by MaxBoxAcc, MaxBoxAccV2 and top-1 localisation, or by PxAP.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from calm.data_lists import get_bounding_boxes, get_mask_paths
from calm.evaluate import Tester
from calm.evaluate_boxes import RESIZE, BoxEvaluator, wsol_scoremap
from calm.evaluate_masks import check_masks, get_mask, load_mask_image
from calm.evaluate_pixels import PixelPR, try_average_precision
from common.aliases import one_module
from common.loading import gather_in_order, loader_processes

one_module(__name__, "calm.evaluate_wsol")

_evaluator: BoxEvaluator | None = None  # of this process, or of a worker


class Maps(NamedTuple):
    """A batch of maps (B,h,w) float32 on the host, and what belongs to them.

    That is p(y|x) (B,C), labels (B,), image ids and index (B,).
    """

    maps: np.ndarray
    probs: torch.Tensor
    labels: torch.Tensor
    ids: Sequence[str]
    place: torch.Tensor


def maps_of(tester: Tester, save_maps: bool) -> Iterator[Maps]:
    """The maps of the test images, batch by batch, kept as scoremaps/ID.npy with `save_maps`."""
    for images, labels, ids, index in tester.batches():
        maps, probs = tester.mapper.with_probs(images, labels)
        on_host = maps.float().cpu().numpy()
        if save_maps:
            for image_id, score_map in zip(ids, on_host, strict=True):
                save_map(tester.run.folder, image_id, score_map)
        yield Maps(on_host, probs, labels, ids, index)


class Masks:
    """The masks of the objects: OpenImages' instances, or CUB's segmentations."""

    def __init__(self, dataset_name: str, metadata: Any, folder: Path) -> None:
        """folder: where OpenImages' masks lie (--mask_root), or CUB's segmentations."""
        self.folder = folder
        self.is_openimages = dataset_name == "OpenImages"
        self.paths: dict[str, list[str]] = {}
        self.ignore: dict[str, str] = {}
        if self.is_openimages:
            self.paths, self.ignore = get_mask_paths(metadata)

    def files_of(self, image_id: str) -> list[Path]:
        """The files of one image."""
        if not self.is_openimages:
            return [(self.folder / image_id).with_suffix(".png")]
        names = [*self.paths[image_id], self.ignore[image_id]]
        return [self.folder / name for name in names if name]

    def check(self, image_ids: Iterable[str]) -> None:
        """UserError, before the first map, for a file that is not there or cannot be read."""
        files: list[Path] = []
        for image_id in image_ids:
            files += self.files_of(image_id)
        check_masks(files)

    def of(self, image_id: str) -> np.ndarray:
        """(224,224) uint8: 1 on the object, 0 beside it, 255 where nothing counts."""
        if not self.is_openimages:
            return load_mask_image(self.files_of(image_id)[0])
        return get_mask(self.folder, self.paths[image_id], self.ignore[image_id])


def save_map(folder: Path, image_id: str, score_map: np.ndarray) -> None:
    """FOLDER/scoremaps/ID.npy."""
    path = folder / "scoremaps" / f"{image_id}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, score_map)


def check_boxes(metadata: Any, image_ids: Iterable[str]) -> None:
    """UserError, before the first map, for a test image without a box."""
    boxes = get_bounding_boxes(metadata)
    for image_id in image_ids:
        boxes[image_id]


def evaluate_boxes(
    batches: Iterator[Maps],
    accelerator: Accelerator,
    *,
    metadata: Any,
    dataset_name: str,
    thresholds: Sequence[float],
    iou_thresholds: Sequence[int],
    multi_contour: bool,
    workers: int,
    known_boxes: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return MaxBoxAcc for each IoU and their mean, also for correct classifications.

    `known_boxes`: boxes and sizes of own data, which have no lists. With all contours it is
    MaxBoxAccV2. The second figures count only correct classifications.
    """

    def make() -> BoxEvaluator:
        return BoxEvaluator(
            metadata,
            dataset_name,
            "test",
            thresholds,
            iou_thresholds,
            multi_contour_eval=multi_contour,
            **(known_boxes or {}),
        )

    best, correct = best_ious(batches, make(), workers, accelerator)
    known = make()
    top1 = make()
    for row, is_correct in zip(best, correct, strict=True):
        known.add(row, "")
        top1.add(row if is_correct else np.full_like(row, -1.0), "")

    scores = {"accuracy": float(100 * correct.mean())}
    name = "MaxBoxAccV2" if multi_contour else "MaxBoxAcc"
    for kind, evaluator in ((name, known), ("top1", top1)):
        values = evaluator.compute()
        for iou, value in zip(iou_thresholds, values, strict=True):
            scores[f"{kind}/{iou}"] = value
        scores[kind] = float(np.mean(values))
    return scores


def best_ious(
    batches: Iterator[Maps], evaluator: BoxEvaluator, workers: int, accelerator: Accelerator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best IoU of each test image, and whether it was classified correctly.

    They are (n,thresholds) in dataset order, and (n,).
    """
    _use(evaluator)
    processes = loader_processes(workers)
    parts = []
    with ExitStack() as stack:
        run_all: Callable = map
        if processes > 1:
            pool = ProcessPoolExecutor(processes, initializer=_use, initargs=(evaluator,))
            run_all = stack.enter_context(pool).map
        for batch in batches:
            jobs = zip(batch.maps, batch.ids, strict=True)
            best = torch.from_numpy(np.stack(list(run_all(_best_iou, jobs))))
            is_correct = (batch.probs.argmax(1) == batch.labels).cpu()
            parts.append((batch.place, best, is_correct))

    whole = [torch.cat(column) for column in zip(*parts, strict=True)]
    _, ious, correct = gather_in_order(*whole, accelerator=accelerator)
    return ious.numpy(), correct.numpy()


def _use(evaluator: BoxEvaluator) -> None:
    global _evaluator
    _evaluator = evaluator


def _best_iou(job: tuple[np.ndarray, str]) -> np.ndarray:
    """(thresholds,) best IoU of one map; runs in the pool."""
    cam, image_id = job
    assert _evaluator is not None
    return _evaluator.accumulate(wsol_scoremap(cam, (RESIZE, RESIZE)), image_id)


def evaluate_masks(
    batches: Iterator[Maps], accelerator: Accelerator, masks: Any, thresholds: Sequence[float]
) -> dict[str, float | None]:
    """PxAP of the minmax map with even thresholds against the masks."""
    pixels = PixelPR(thresholds)
    for batch in batches:
        scores = np.stack([wsol_scoremap(cam, (RESIZE, RESIZE)) for cam in batch.maps])
        gt = np.stack([masks.of(image_id) for image_id in batch.ids])
        pixels.add(torch.from_numpy(scores), torch.from_numpy(gt))
    pixels.reduce(accelerator)
    return {"PxAP": try_average_precision(*pixels.histograms())}
