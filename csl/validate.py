"""Score a checkpoint on a test set: mAP, CF1 and OF1.

On partial labels the mAP of the annotated ones.

Image size, interpolation, normalisation, classes and head are those of the checkpoint, unless a
flag is given.

    python validate.py --model_name=tresnet_l --model_path=COCO_TResNet_L_448_86.6.pth [--data DIR]
    python validate.py --sample --model_path=RUN/checkpoints/best_ema.pth
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from common.cli import parse_or_exit, run_main
from csl.options import Settings
from csl.options_validate import build_parser, parse

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings_of_command = parse_or_exit(parse)

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from csl import report
from csl.build import build_scored, build_test_set
from csl.data import DataSet, require_images, require_scorable, scoring_loader
from csl.data_pixels import Pixels
from csl.evaluate import (
    Forward,
    count_skipped,
    eval_kind,
    metrics_of,
    predict_rows,
    rates_of,
    uncounted_classes,
)
from csl.src.models.tresnet.fold import fold
from csl.src.models.utils.checkpoint import Checkpoint
from csl.src.models.utils.checkpoint_input import describe_network

one_module(__name__, "csl.validate")

parser = build_parser()


def open_scored(
    settings: Settings, accelerator: Accelerator | None = None
) -> tuple[nn.Module, Checkpoint, Pixels, DataSet]:
    """Return the network, what its file says, its input, and the test set.

    The test set is in the columns of the network's outputs.
    """
    args = settings.args
    found = settings.found
    model, checkpoint, pixels = build_scored(args, settings.given, "image_size")
    args.image_size = pixels.size
    args.interpolation = pixels.interpolation
    if "keep_empty" not in settings.given:
        args.keep_empty = bool(checkpoint.recorded.get("keep_empty", False))

    data = build_test_set(settings, checkpoint, pixels)
    require_images(
        data,
        "val",
        found,
        accelerator or make_accelerator(args),
        skip_missing=args.skip_missing,
        skip_corrupt=args.skip_corrupt,
    )
    require_scorable(data, found)
    return model, checkpoint, pixels, data


def validate(settings: Settings) -> dict[str, Any]:
    """Load the network, predict every test image once, report; returns the summary."""
    args = settings.args
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    model, checkpoint, pixels, data = open_scored(settings, accelerator)
    model = fold(model).to(accelerator.device).to(memory_format=torch.channels_last)

    run = start_run(args, f"./outputs/validate_{settings.found.name}", accelerator)
    run.print(f"{args.model_path}: {describe_network(checkpoint, pixels)}")
    empty = ", those without annotation too" if args.keep_empty else ""
    run.print(f"val: {len(data)} images{empty}")
    loader = scoring_loader(
        data,
        accelerator,
        batch_size=args.batch_size,
        workers=args.workers,
        skip_corrupt=args.skip_corrupt,
    )
    batches = 0

    def poll() -> None:
        nonlocal batches
        batches += 1
        if batches % args.print_freq == 0:
            run.print(f"batch {batches} of {len(loader)}")
        run.poll()

    numbers = pixels.to_numbers().to(accelerator.device)
    forward = Forward(eval_kind(args.eval_autocast, accelerator))
    half = args.half_scores
    scored = predict_rows(
        [model], loader, accelerator, numbers=numbers, poll=poll, forward=forward, half=half
    )
    scores = scored.scores[0]
    targets = scored.targets
    run.progress.images = len(scores)

    no_positive, _ = uncounted_classes(targets)
    summary = metrics_of(targets, scores, args.thre)
    summary |= rates_of(targets, scores, args.thre, calibrate=args.calibrate)
    summary |= {
        "images": len(scores),
        "classes": scores.shape[1],
        "image_size": pixels.size,
        "classes_without_positives": int(no_positive.sum()),
        "offline_sample": settings.found.is_sample,
        "eval_skipped": count_skipped(data, scored),
    }
    run.log("test", **summary)
    report.print_scores(run, summary)
    names = list(data.classes.values())
    told = report.describe_uncounted(names, targets, summary.get(report.OTHERS))
    if told:
        run.print(told)
    run.finish(**summary)
    return summary


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Score the checkpoint."""
    validate(settings or parse(argv))


if __name__ == "__main__":
    run_main(partial(main, settings=settings_of_command))
