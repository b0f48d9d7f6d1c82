"""The attribution gallery: a figure per class pair, trained models beside gradient baselines.

    python gallery.py --runs save/cub_CAM save/cub_CALM_EM --dataset=CUB [--max_pairs 1] \\
        [--experiment_name=gallery]

Rows are test images; columns: the image, |map(i) - map(j)| of every run (CAM: vanilla, min-max;
CALM: joint, divided by its maximum), of gradient baselines on the first run, and the true parts.
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Sequence
from functools import partial

from calm.options import Settings, parse
from common.cli import UserError, parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(partial(parse, script="gallery"))

from calm.build import start_evaluation, test_ids, with_data
from calm.build_figures import build_gallery
from calm.data import ImageLabelDataset, make_transforms
from calm.evaluate_cue import NUM_DIFF_LIST, CueLocaliser, labels_of_classes, make_trait
from calm.evaluate_pixels import UnfitDataset
from calm.figures import draw_gallery_pair
from calm.report import told_of_idle_flags
from common.aliases import one_module
from common.rundir import make_accelerator, seed_everything

one_module(__name__, "calm.gallery")

GRADIENTS = ("input_grad", "integrated_grad", "smooth_grad", "var_grad")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Load the runs, draw the pairs."""
    settings = settings or parse(argv, script="gallery")
    settings, data_set = with_data(settings)
    args = settings.args
    if args.dataset_name != "CUB":
        raise UnfitDataset(f"the gallery needs CUB's parts; {args.dataset_name} has none")
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    trait, foreground = make_trait(data_set.root, args.foreground, args.attribute_rule)
    settings, columns = build_gallery(settings, data_set, accelerator, GRADIENTS)

    side = settings.args.crop_size
    data = ImageLabelDataset(
        data_set.paths["test"],
        data_set.metadata / "test",
        make_transforms(args.resize_size, side)["test"],
        image_ids=test_ids(settings, data_set),
    )
    data.leave_out(data.check(args.skip_corrupt))
    trait.check_segmentations(data.image_ids)
    label_of = labels_of_classes(data.image_ids, data.image_labels)
    first = next(iter(columns.values()))
    cues = CueLocaliser(trait, first, label_of, [0.0], "minmax", args.max_pairs or 1)
    if not cues.pairs:
        classes = f"no pair of the {len(label_of)} test classes"
        raise UserError(f"{classes} differs in {NUM_DIFF_LIST} parts")

    run = start_evaluation(settings, "gallery", accelerator)
    run.print(f"{side} x {side} pixels, bilinear, ImageNet's mean and deviation")
    if settings.idle:
        run.print(told_of_idle_flags(settings.idle))
    for number, pair in enumerate(cues.pairs):
        path = run.figure(f"parts{cues.parts_of[number]}_{pair[0]:03d}_{pair[1]:03d}")
        draw_gallery_pair(path, number, cues, columns, data, side, args.images)
        run.print(path)
    run.log("gallery", pairs=len(cues.pairs))
    run.finish(pairs=[list(p) for p in cues.pairs], foreground=foreground, columns=list(columns))


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
