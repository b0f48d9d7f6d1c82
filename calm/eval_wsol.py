"""Weakly supervised localisation: MaxBoxAcc, MaxBoxAccV2 and top-1 localisation, or PxAP.

    python eval_wsol.py --experiment_name=NAME --attribution_method=CALM_EM \\
        --score_map_process=jointll

Boxes are those of CUB and ILSVRC, with the map of the ground-truth class; top-1 localisation counts
only images that are classified correctly. Masks are those of OpenImages, and of CUB where it has
segmentations. The maps go through bicubic resizing and min-max normalisation.
"""

# ruff: noqa: E402  (imports after the command line was read)
try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Sequence

from calm.options_script import Script, Settings

# --help and mistakes are answered here, before torch is imported
script = Script("eval_wsol", __name__)

from calm.build import build_masks, build_tester
from calm.data_own import OwnImages
from calm.evaluate_maps import get_threshold_list
from calm.evaluate_wsol import check_boxes, evaluate_boxes, evaluate_masks, maps_of
from calm.report_tables import write_wsol
from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "calm.eval_wsol")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Boxes where there are boxes, masks where there are masks."""
    settings = script.settings(argv, settings)
    args = settings.args
    tester = build_tester(settings, script.name)
    data = tester.data
    masks = build_masks(settings, tester)
    own_boxes = None
    if isinstance(data, OwnImages):
        has_boxes = data.require_whole_boxes()
        if has_boxes:
            own_boxes = {"boxes": data.boxes(), "sizes": data.sizes()}
        elif masks is None:
            problem = "the data have neither boxes nor masks of the classes, nothing to localise"
            raise UserError(f"{problem}; eval_pixel_perturb.py measures the maps without them")
    else:
        has_boxes = args.dataset_name != "OpenImages"
    if has_boxes and own_boxes is None:
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
            known_boxes=own_boxes,
        )
    if masks is not None:
        batches = maps_of(tester, args.save_maps)
        scores |= evaluate_masks(batches, tester.accelerator, masks, thresholds)
    write_wsol(tester, scores)


script.run(main)
