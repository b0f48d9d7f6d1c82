"""Weakly supervised localisation of a checkpoint: MaxBoxAcc, MaxBoxAccV2 and top-1 localisation, or PxAP.

    python eval_wsol.py --experiment_name=NAME --attribution_method=CALM_EM --score_map_process=jointll

Boxes: CUB, ILSVRC (map of the ground-truth class; top-1: of images classified correctly only). Masks:
OpenImages, and CUB where it has segmentations. The maps go through bicubic resizing and min-max.
"""

import common.interrupt  # noqa: F401

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from calm.config import Configs, cub_root
from calm.data_loaders import get_bounding_boxes, get_mask_paths
from calm.evaluation import (
    RESIZE,
    BoxEvaluator,
    check_masks,
    get_mask,
    load_mask_image,
    wsol_scoremap,
)
from calm.pixel_pr import PixelPR, try_average_precision
from calm.tester import Tester, start
from calm.util import get_threshold_list
from calm.util_cub_trait import has_segmentations
from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import run_main
from common.data import gather_in_order
from common.loading import loader_processes
from common.run import plain

one_module(__name__, "calm.eval_wsol")

SCRIPT = "eval_wsol"
_evaluator: BoxEvaluator | None = None  # of this process, or of a worker


def _use(evaluator: BoxEvaluator) -> None:
    global _evaluator
    _evaluator = evaluator


def _best_iou(job: tuple[np.ndarray, str]) -> np.ndarray:
    """(thresholds,) best IoU of one map; runs in the pool."""
    cam, image_id = job
    return _evaluator.accumulate(wsol_scoremap(cam, (RESIZE, RESIZE)), image_id)


def score_maps(
    tester: Tester, images: torch.Tensor, labels: torch.Tensor, ids: Sequence[str]
) -> tuple:
    """Maps (B,h,w) float32 on the host, kept with --save_maps, and p(y|x) (B,C)."""
    maps, probs = tester.mapper.with_probs(images, labels)
    maps = maps.float().cpu().numpy()
    for image_id, score_map in zip(ids, maps, strict=True) if tester.args.save_maps else ():
        path = tester.run.folder / "scoremaps" / f"{image_id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, score_map)
    return maps, probs


def best_ious(tester: Tester, evaluator: BoxEvaluator) -> tuple[np.ndarray, np.ndarray]:
    """(n,thresholds) best IoU per test image in dataset order, and (n,) whether it was classified correctly."""
    _use(evaluator)
    workers, parts = loader_processes(tester.args.workers), []
    pool = (
        ProcessPoolExecutor(workers, initializer=_use, initargs=(evaluator,))
        if workers > 1
        else None
    )
    run_all = pool.map if pool else map
    try:
        for images, labels, ids, index in tester.batches():
            maps, probs = score_maps(tester, images, labels, ids)
            best = torch.from_numpy(np.stack(list(run_all(_best_iou, zip(maps, ids, strict=True)))))
            parts.append((index, best, (probs.argmax(1) == labels).cpu()))
    finally:
        if pool:
            pool.shutdown()
    whole = [torch.cat(column) for column in zip(*parts, strict=True)]
    return tuple(t.numpy() for t in gather_in_order(*whole, accelerator=tester.accelerator)[1:])


def evaluate_boxes(tester: Tester) -> dict[str, float | None]:
    """MaxBoxAcc per IoU and their mean (V2 with all contours), and the same counting only correct classifications."""
    args = tester.args
    metadata, thresholds = (
        tester.loader.dataset.dataset.metadata,
        get_threshold_list(args.cam_curve_interval),
    )

    def make() -> BoxEvaluator:
        return BoxEvaluator(
            metadata,
            args.dataset_name,
            "test",
            thresholds,
            args.iou_thresholds,
            args.mask_root,
            args.multi_contour_eval,
        )

    best, correct = best_ious(tester, make())
    known, top1 = make(), make()
    for row, is_correct in zip(best, correct, strict=True):
        known.add(row, "")
        top1.add(row if is_correct else np.full_like(row, -1.0), "")
    name = "MaxBoxAccV2" if args.multi_contour_eval else "MaxBoxAcc"
    values = dict(zip(args.iou_thresholds, known.compute(), strict=True))
    top_values = dict(zip(args.iou_thresholds, top1.compute(), strict=True))
    return {
        "accuracy": float(100 * correct.mean()),
        **{f"{name}/{iou}": value for iou, value in values.items()},
        name: float(np.mean(list(values.values()))),
        **{f"top1/{iou}": value for iou, value in top_values.items()},
        "top1": float(np.mean(list(top_values.values()))),
    }


def has_masks(args: Configs) -> bool:
    """Whether the data set comes with masks of the objects."""
    if args.dataset_name == "CUB":
        return has_segmentations(cub_root(args._data))
    return args.dataset_name == "OpenImages"


def look_ahead(tester: Tester) -> None:
    """UserError for a box or a mask of a test image that is not there, before the first map is computed."""
    args = tester.args
    data = tester.loader.dataset.dataset
    if args.dataset_name != "OpenImages":
        boxes = get_bounding_boxes(data.metadata)
        for image_id in data.image_ids:
            boxes[image_id]

    if args.dataset_name == "OpenImages":
        masks, ignore = get_mask_paths(data.metadata)
        named = [name for i in data.image_ids for name in (*masks[i], ignore[i]) if name]
        check_masks(Path(args.mask_root) / name for name in named)
    elif has_masks(args):
        folder = cub_root(args._data) / "segmentations"
        check_masks((folder / image_id).with_suffix(".png") for image_id in data.image_ids)


def evaluate_masks(tester: Tester) -> dict[str, float | None]:
    """PxAP of the minmax map with even thresholds against OpenImages' masks or CUB's segmentations."""
    args = tester.args
    pixels = PixelPR(get_threshold_list(args.cam_curve_interval))
    data = tester.loader.dataset.dataset
    if args.dataset_name == "OpenImages":
        masks, ignore = get_mask_paths(data.metadata)
    for images, labels, ids, _ in tester.batches():
        maps, _ = score_maps(tester, images, labels, ids)
        scores = np.stack([wsol_scoremap(m, (RESIZE, RESIZE)) for m in maps])
        if args.dataset_name == "OpenImages":
            gt = [get_mask(args.mask_root, masks[i], ignore[i]) for i in ids]
        else:
            folder = cub_root(args._data) / "segmentations"
            gt = [load_mask_image((folder / i).with_suffix(".png")) for i in ids]
        pixels.add(torch.from_numpy(scores), torch.from_numpy(np.stack(gt)))
    if tester.run.world > 1:
        pixels.counts = tester.accelerator.reduce(pixels.counts.to(tester.device), "sum").cpu()
    return {"PxAP": try_average_precision(*pixels.histograms())}


def main(argv: list[str] | None = None) -> None:
    """Boxes where there are boxes, masks where there are masks."""
    tester = start(argv, SCRIPT)
    args, run, scores = tester.args, tester.run, {}
    look_ahead(tester)
    if args.dataset_name != "OpenImages":
        scores |= evaluate_boxes(tester)
    if has_masks(args):
        scores |= evaluate_masks(tester)
    run.log("test", **scores)
    for name, value in scores.items():
        run.print(f"  {name:<16} {'none' if value is None else f'{value:.2f}'}")
    if run.is_main:
        atomic_write(
            run.folder / "wsol.json", (json.dumps(plain(scores), indent=1) + "\n").encode()
        )
    tester.finish(**scores)


if __name__ == "__main__":
    run_main(main)
