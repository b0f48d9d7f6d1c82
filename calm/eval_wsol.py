"""Weakly supervised localisation: MaxBoxAcc, MaxBoxAccV2 and top-1 localisation, or PxAP.

    python eval_wsol.py --experiment_name=NAME --attribution_method=CALM_EM \\
        --score_map_process=jointll

Boxes are those of CUB and ILSVRC, with the map of the ground-truth class; top-1 localisation counts
only images that are classified correctly. Masks are those of OpenImages, and of CUB where it has
segmentations. The maps go through bicubic resizing and min-max normalisation.
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from calm.options import Settings, parse
from common.cli import parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(partial(parse, script="eval_wsol"))

from calm.build import build_tester
from calm.data_cub_trait import has_segmentations
from calm.evaluate import Tester
from calm.evaluate_maps import get_threshold_list
from calm.evaluate_wsol import Maps, Masks, check_boxes, evaluate_boxes, evaluate_masks, save_map
from calm.options import cub_root
from calm.report_tables import write_wsol
from common.aliases import one_module

one_module(__name__, "calm.eval_wsol")

SCRIPT = "eval_wsol"


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Boxes where there are boxes, masks where there are masks."""
    settings = settings or parse(argv, script=SCRIPT)
    args = settings.args
    tester = build_tester(settings, SCRIPT)
    data = tester.data
    has_boxes = args.dataset_name != "OpenImages"
    masks = masks_of(settings, tester)
    if has_boxes:
        check_boxes(data.metadata, data.image_ids)
    if masks is not None:
        masks.check(data.image_ids)

    scores: dict[str, float | None] = {}
    thresholds = get_threshold_list(args.cam_curve_interval)
    if has_boxes:
        scores |= evaluate_boxes(
            maps_of(tester, args.save_maps),
            tester.accelerator,
            metadata=data.metadata,
            dataset_name=args.dataset_name,
            thresholds=thresholds,
            iou_thresholds=args.iou_thresholds,
            multi_contour=args.multi_contour_eval,
            workers=args.workers,
        )
    if masks is not None:
        batches = maps_of(tester, args.save_maps)
        scores |= evaluate_masks(batches, tester.accelerator, masks, thresholds)
    write_wsol(tester, scores)


def masks_of(settings: Settings, tester: Tester) -> Masks | None:
    """The masks of the data set; None where it has none."""
    name = settings.args.dataset_name
    if name == "OpenImages":
        return Masks(name, tester.data.metadata, Path(tester.mask_root))
    folder = cub_root(settings.data_path)
    if name == "CUB" and has_segmentations(folder):
        return Masks(name, tester.data.metadata, folder / "segmentations")
    return None


def maps_of(tester: Tester, save_maps: bool) -> Iterator[Maps]:
    """The maps of the test images, batch by batch, kept as scoremaps/ID.npy with `save_maps`."""
    for images, labels, ids, index in tester.batches():
        maps, probs = tester.mapper.with_probs(images, labels)
        on_host = maps.float().cpu().numpy()
        if save_maps:
            for image_id, score_map in zip(ids, on_host, strict=True):
                save_map(tester.run.folder, image_id, score_map)
        yield Maps(on_host, probs, labels, ids, index)


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
