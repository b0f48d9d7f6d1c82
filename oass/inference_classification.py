"""OASS, after training: evaluate a checkpoint, write predictions, server files, instances.

    python3 inference_classification.py --checkpoint experiments/ResNet50_cTopk_w \\
        --data_dir $your_dir
    python3 inference_classification.py --checkpoint best.pt --data_dir $your_dir \\
        --domain test --server_files

A run's checkpoint knows its architecture and image size; for an official state dict give
--architecture. A list without annotations (the test list) is only predicted.
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.aliases import one_module
from common.cli import UserError, parse_or_exit, run_main
from oass.options import Settings
from oass.options_trained import parse_inference

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse_inference)

from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything
from oass import report
from oass.build import build_evaluated, build_measure, build_trained, build_walk
from oass.data import VOC_Dataset_For_Classification, VOC_Dataset_For_Testing_CAM, views_of
from oass.data_own import OwnPictures
from oass.data_views import describe
from oass.evaluate import (
    collect_instances,
    left_out,
    mask_iou,
    measure,
    neighbour_precision,
    score_split,
)
from oass.figures import save_neighbours

one_module(__name__, "oass.inference_classification")


def masks_of(data: VOC_Dataset_For_Classification, domain: str) -> VOC_Dataset_For_Testing_CAM:
    """The images of a split with their masks; UserError where none has one."""
    if isinstance(data, OwnPictures):
        masks: VOC_Dataset_For_Testing_CAM = data
    else:
        masks = VOC_Dataset_For_Testing_CAM(data.root, domain)
    masks.leave_out(set(masks.split.ids) - set(data.split.ids))
    if not any(masks.has_mask(i) for i in range(len(masks))):
        folder = data.root if isinstance(data, OwnPictures) else masks.mask_path(0).parent
        problem = f"{folder} has no mask of {domain}'s images"
        raise UserError(f"--cam_iou: {problem}; take the list of the segmentation")
    masks.check_masks()
    return masks


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Load, score, measure, write."""
    settings = settings or parse_inference(argv)
    accelerator = make_accelerator(settings.args)
    seed_everything(settings.args.seed)
    trained, settings = build_trained(settings)
    args = settings.args
    model = trained.network(args.network).to(accelerator.device)

    data = build_evaluated(settings, trained)
    data.resample = model.interpolation
    data.leave_out(data.unreadable(args.skip_corrupt, accelerator.print))
    for name in ("cam_iou", "neighbours"):
        if getattr(args, name) and not data.has_labels:
            problem = f"{args.domain} has no annotations, and needs the classes of its images"
            raise UserError(f"--{name}: {problem}")
    masks = masks_of(data, args.domain) if args.cam_iou else None
    views = views_of(args.image_size, args.scales, args.flip)
    walk = build_walk(settings)

    run = start_run(args, f"experiments/inference_{Path(args.domain).stem}", accelerator)
    run.print(trained.describe(model))
    run.print(f"{report.describe_data(data)}; {args.network}, {describe(views)}")
    scores = score_split(model, data, walk, run, views=views, plain=trained.is_pooled)
    summary: dict[str, Any] = {
        "domain": args.domain,
        "images": len(data),
        "architecture": args.architecture,
        "image_size": args.image_size,
        "network": args.network,
        "head": "pooled" if trained.is_pooled else "instances",
        "scales": args.scales,
        "flip": args.flip,
        "difficult": args.difficult,
        **report.count_of(data),
    }
    if data.has_labels:
        measured = build_measure(settings)
        if measured["drop_last"]:
            summary["images"] -= len(data) % measured["drop_last"]
        summary |= measure(scores, data.split, **measured)
    else:
        run.print(f"{args.domain} has no annotations: predictions only")

    if run.is_main:
        table = run.folder / "predictions.csv"
        report.write_predictions(table, data.split.ids, scores.logits, data.classes)
    if args.server_files and run.is_main:
        probabilities = scores.logits.sigmoid().numpy()
        test_set = Path(args.domain).stem
        written = report.write_server_files(run.folder, data.split.ids, probabilities, test_set)
        run.print(f"server files: {written}")
    if masks is not None:
        masks.leave_out(set(masks.split.ids) - set(data.split.ids))
        summary |= mask_iou(model, masks, args.image_size, run, views=views)
    if args.export_instances or args.neighbours:
        instances = collect_instances(model, data, walk, run, views=views)
        if args.export_instances and run.is_main:
            report.save_instances(args.export_instances, instances, data)
        if args.neighbours and run.is_main:
            save_neighbours(run.figure("neighbours"), instances, data)
            summary["neighbour precision"] = neighbour_precision(instances, data.split.labels)
    conclude(run, summary, data.classes)


def conclude(run: Run, summary: dict[str, Any], classes: Sequence[str]) -> None:
    """Log, print and save what was measured; classes: their names."""
    numbers = {name: value for name, value in summary.items() if isinstance(value, float)}
    run.log("Inference", **summary)
    shown = report.log_line(numbers)
    run.print(f"{summary['images']} images: {shown}{report.without(summary)}")
    if "ap" in summary and left_out(summary["ap"], classes):
        run.print(left_out(summary["ap"], classes))
    run.finish(**{name.replace(" ", "_"): value for name, value in summary.items()})


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
