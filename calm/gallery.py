"""The attribution gallery: a figure per class pair, trained models beside gradient baselines.

    python gallery.py --runs save/cub_CAM save/cub_CALM_EM --dataset=CUB [--max_pairs 1] \\
        [--experiment_name=gallery]

Rows are test images; columns: the image, |map(i) - map(j)| of every run (CAM: vanilla, min-max;
CALM: joint, divided by its maximum), of gradient baselines on the first run, and the true parts.
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
script = Script("gallery", __name__)

from calm.build import build_trait, start_evaluation, test_ids, with_data
from calm.build_figures import build_gallery
from calm.data import ImageLabelDataset, make_transforms
from calm.evaluate_cue import make_cues
from calm.figures import draw_gallery_pair
from calm.report import told_of_idle_flags
from common.aliases import one_module
from common.rundir import make_accelerator, seed_everything

one_module(__name__, "calm.gallery")

GRADIENTS = ("input_grad", "integrated_grad", "smooth_grad", "var_grad")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Load the runs, draw the pairs."""
    settings = script.settings(argv, settings)
    settings, data_set = with_data(settings)
    args = settings.args
    trait, foreground = build_trait(settings, "the gallery needs CUB's parts")
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    settings, columns = build_gallery(settings, data_set, accelerator, GRADIENTS)

    side = settings.args.crop_size
    data = ImageLabelDataset(
        data_set.paths["test"],
        data_set.metadata / "test",
        make_transforms(args.resize_size, side)["test"],
        image_ids=test_ids(settings, data_set),
    )
    data.leave_out(data.check(args.skip_corrupt))
    first = next(iter(columns.values()))
    cues = make_cues(trait, data, first, [0.0], "minmax", args.max_pairs or 1)

    run = start_evaluation(settings, script.name, accelerator)
    run.print(f"{side} x {side} pixels, bilinear, ImageNet's mean and deviation")
    if settings.idle:
        run.print(told_of_idle_flags(settings.idle))
    for number, pair in enumerate(cues.pairs):
        path = run.figure(f"parts{cues.parts_of[number]}_{pair[0]:03d}_{pair[1]:03d}")
        draw_gallery_pair(path, number, cues, columns, data, side, args.rows)
        run.print(path)
    run.log("gallery", pairs=len(cues.pairs))
    run.finish(pairs=[list(p) for p in cues.pairs], foreground=foreground, columns=list(columns))


script.run(main)
