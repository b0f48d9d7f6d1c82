"""Cue localisation on CUB: mPxAP of |map(i) - map(j)| against the parts that tell i and j apart.

    python eval_cue_location.py --experiment_name=NAME --attribution_method=CALM_EM \\
        --score_map_process=jointll --norm_type=clipping --threshold_type=log

Two protocols stand side by side: the released one (one histogram that is never reset, values below
the first threshold dropped) and ours (a fresh histogram for each pair, all values kept).
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Sequence
from functools import partial

from calm.options import Settings, parse
from common.cli import UserError, parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(partial(parse, script="eval_cue_location"))

from calm.build import build_tester
from calm.evaluate_boxes import LocalizationEvaluator
from calm.evaluate_cue import NUM_DIFF_LIST, PROTOCOLS, CueLocaliser, labels_of_classes, make_trait
from calm.evaluate_maps import get_threshold_list
from calm.evaluate_masks import MaskEvaluator, get_mask, load_mask_image
from calm.evaluate_pixels import UnfitDataset
from calm.figures import draw_pairs
from calm.options import cub_root
from calm.report_tables import PUBLISHED, write_cues
from common.aliases import one_module

one_module(__name__, "calm.eval_cue_location")

__all__ = [
    "NUM_DIFF_LIST",
    "LocalizationEvaluator",
    "MaskEvaluator",
    "get_mask",
    "load_mask_image",
    "main",
]

SCRIPT = "eval_cue_location"


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """One pass over the test images; all protocols from its histograms."""
    settings = settings or parse(argv, script=SCRIPT)
    args = settings.args
    if args.dataset_name != "CUB":
        needs = "cue localisation needs CUB's parts and attributes"
        raise UnfitDataset(f"{needs}; {args.dataset_name} has none")
    folder = cub_root(settings.data_path)
    trait, foreground = make_trait(folder, args.foreground, args.attribute_rule)

    tester = build_tester(settings, SCRIPT)
    data = tester.data
    label_of = labels_of_classes(data.image_ids, data.image_labels)
    trait.check_segmentations(data.image_ids)
    thresholds = get_threshold_list(args.cam_curve_interval, args.threshold_type)
    cues = CueLocaliser(trait, tester.mapper, label_of, thresholds, args.norm_type, args.max_pairs)
    if not cues.pairs:
        classes = f"no pair of the {len(label_of)} test classes"
        raise UserError(f"{classes} differs in {NUM_DIFF_LIST} parts")

    for images, labels, ids, _ in tester.batches():
        cues.add(images, labels.tolist(), ids)
    cues.reduce(tester.accelerator)

    process = args.score_map_process
    method = tester.model.process.attribution_method
    if tester.run.is_main:
        figure = tester.run.figure("cue_pairs")
        draw_pairs(figure, cues, data, tester.device, f"{method}, {process}")
    protocols = PROTOCOLS if args.cue_protocol == "both" else (args.cue_protocol,)
    published = None if settings.is_sample else PUBLISHED.get((method, process))
    write_cues(tester, cues, protocols, foreground, published)


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
