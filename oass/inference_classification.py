"""OASS, after training: evaluate a checkpoint, write predictions, VOC server files, instances, CAM quality.

    python3 inference_classification.py --checkpoint experiments/ResNet50_cTopk_w --data_dir $your_dir
    python3 inference_classification.py --checkpoint best.pt --data_dir $your_dir --domain test --server_files

A run's checkpoint knows its architecture and image size; for an official state dict give --architecture. A list
without annotations (the test list) is only predicted.
"""

import common.interrupt  # noqa: F401

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.aliases import one_module
from common.cli import (
    OneLineParser,
    UserError,
    add_shared_flags,
    non_negative_int,
    parse_given,
    positive_int,
    run_main,
)
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from common.text import expanded, write_csv
from oass.core.build import Trained
from oass.core.cam_quality import mask_iou
from oass.core.datasets import (
    VOC_Dataset_For_Classification,
    VOC_Dataset_For_Testing_CAM,
    locate_voc,
)
from oass.core.evaluate import left_out, measure, score_split
from oass.core.instances import (
    collect_instances,
    neighbour_precision,
    save_instances,
    save_neighbours,
)
from oass.core.options import (
    DIFFICULT,
    DIFFICULT_HELP,
    ONLY_IN_TRAINING,
    add_data_dir,
    add_network_flags,
    refuse_flags,
)
from oass.core.report import count_of, describe_data, without
from oass.core.views import describe, views_of
from oass.tools.ai.log_utils import log_line
from oass.tools.dataset.voc_utils import CLASS_NAMES, write_server_files

one_module(__name__, "oass.inference_classification")

LARGEST_SCALE = 8.0


def scale_list(text: str) -> list[float]:
    """argparse type: image scales with commas between, each above 0."""
    try:
        scales = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected numbers with commas between, not {text!r}"
        ) from error
    if not all(0 < scale <= LARGEST_SCALE for scale in scales):
        raise argparse.ArgumentTypeError(f"above 0 and at most {LARGEST_SCALE:g} each, not {text}")
    return scales


def new_file(text: str) -> Path:
    """argparse type: where a file can be written, no folder."""
    path = expanded(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: a folder, expected the name of a file")
    return path


def build_parser() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = OneLineParser(description="OASS: evaluate and use a trained classifier.")
    add = parser.add_argument_group("what").add_argument
    add(
        "--network",
        choices=("student", "teacher"),
        default="student",
        help="the trained one, or its average",
    )
    add_data_dir(add)
    add(
        "--domain",
        default=None,
        help="split or path of an id list (default: what the run was evaluated on, else val)",
    )
    add("--batch_size", type=positive_int, default=None, help="default: the checkpoint's, else 32")
    add("--num_workers", type=non_negative_int, default=4)
    add(
        "--difficult",
        choices=DIFFICULT,
        default=None,
        help=f"{DIFFICULT_HELP}; default: the checkpoint's, else include",
    )
    add(
        "--drop_last_eval",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="measure whole batches only (D12; default: as the checkpoint's run)",
    )
    add(
        "--scales",
        type=scale_list,
        default="1.0",
        help="image scales, commas between; logits, maps and instances are averaged, in every number and file",
    )
    add(
        "--flip",
        action="store_true",
        help="average with the mirrored image, in every number and file",
    )
    add = parser.add_argument_group("files, in the run directory").add_argument
    add(
        "--server_files",
        action="store_true",
        help="results/VOC2012/Main/comp2_cls_DOMAIN_CLASS.txt",
    )
    add(
        "--neighbours",
        action="store_true",
        help="figure of the nearest instances of each class, and precision",
    )
    add = parser.add_argument_group("more").add_argument
    add(
        "--export_instances",
        type=new_file,
        default=None,
        metavar="NPZ",
        help="descriptors of images and classes",
    )
    add(
        "--cam_iou", action="store_true", help="mask IoU of the class maps, thresholds 0.10 to 0.45"
    )
    add_network_flags(parser)
    add_shared_flags(parser)
    return parser


def check_labels(
    data: VOC_Dataset_For_Classification, args: argparse.Namespace
) -> VOC_Dataset_For_Testing_CAM | None:
    """The images with their masks where --cam_iou asks for them; UserError where a flag needs what the list lacks."""
    for name in ("cam_iou", "neighbours"):
        if getattr(args, name) and not data.has_labels:
            raise UserError(
                f"--{name}: {args.domain} has no annotations, and needs the classes of its images"
            )
    if not args.cam_iou:
        return None
    masks = VOC_Dataset_For_Testing_CAM(data.root, args.domain)
    masks.leave_out(set(masks.split.ids) - set(data.split.ids))
    if not any(masks.has_mask(i) for i in range(len(masks))):
        folder = masks.mask_path(0).parent
        raise UserError(
            f"--cam_iou: {folder} has no mask of {args.domain}'s images; take the list of the segmentation"
        )
    masks.check_masks()
    return masks


def write_predictions(path: Path, ids: Sequence[str], logits: torch.Tensor) -> None:
    """predictions.csv: id, then the probability of every class."""
    rows = [
        [i, *(f"{p:.6f}" for p in row)]
        for i, row in zip(ids, logits.sigmoid().tolist(), strict=True)
    ]
    write_csv(path, [["id", *CLASS_NAMES], *rows])


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, load, score, measure, write."""
    args = build_parser().parse_args(argv)
    given = parse_given(build_parser, argv)[1]
    refuse_flags(given, ONLY_IN_TRAINING)
    location = locate_voc(given.get("data_dir"), args.sample)
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    trained = Trained(args.checkpoint, args)
    if args.domain is None:
        args.domain = trained.settings.get("val_domain", "val")
    model = trained.network(args.network).to(accelerator.device)
    data = VOC_Dataset_For_Classification(location.path, args.domain, labels="if present")
    data.leave_out(data.unreadable(args.skip_corrupt, accelerator.print))
    masks = check_labels(data, args)
    views = views_of(args.image_size, args.scales, args.flip)

    run = start_run(args, f"experiments/inference_{Path(args.domain).stem}", accelerator)
    run.print(trained.describe(model, args))
    run.print(f"{describe_data(data)}; {args.network}, {describe(views)}")
    scores = score_split(model, data, args, run, views=views, plain=trained.is_pooled)
    if masks is not None:
        masks.leave_out(set(masks.split.ids) - set(data.split.ids))
    summary: dict[str, object] = {
        "domain": args.domain,
        "images": len(data),
        "architecture": args.architecture,
        "image_size": args.image_size,
        "network": args.network,
        "head": "pooled" if trained.is_pooled else "instances",
        "scales": args.scales,
        "flip": args.flip,
        "difficult": args.difficult,
        **count_of(data),
    }
    if data.has_labels:
        drop_last = args.batch_size if args.drop_last_eval else 0
        summary["images"] = len(data) - (len(data) % drop_last if drop_last else 0)
        summary |= measure(scores, data.split, difficult=args.difficult, drop_last=drop_last)
    else:
        run.print(f"{args.domain} has no annotations: predictions only")
    if run.is_main:
        write_predictions(run.folder / "predictions.csv", data.split.ids, scores.logits)
    if args.server_files and run.is_main:
        written = write_server_files(
            run.folder, data.split.ids, scores.logits.sigmoid().numpy(), Path(args.domain).stem
        )
        run.print(f"server files: {written}")
    if masks is not None:
        summary |= mask_iou(model, masks, args, run, views=views)
    if args.export_instances or args.neighbours:
        instances = collect_instances(model, data, args, run, views=views)
        if args.export_instances and run.is_main:
            save_instances(args.export_instances, instances, data)
        if args.neighbours and run.is_main:
            save_neighbours(run.figure("neighbours"), instances, data)
            summary["neighbour precision"] = neighbour_precision(
                instances, np.asarray(data.split.labels)
            )
    numbers = {k: v for k, v in summary.items() if isinstance(v, float)}
    run.log("Inference", **summary)
    run.print(f"{summary['images']} images: {log_line(numbers)}{without(summary)}")
    if data.has_labels and left_out(summary["ap"]):
        run.print(left_out(summary["ap"]))
    run.finish(**{key.replace(" ", "_"): value for key, value in summary.items()})


if __name__ == "__main__":
    run_main(main)
