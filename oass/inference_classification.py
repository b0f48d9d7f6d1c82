"""OASS, after training: evaluate a checkpoint, write predictions, VOC server files, instances, CAM quality.

    python3 inference_classification.py --checkpoint experiments/ResNet50_cTopk_w --data_dir $your_dir
    python3 inference_classification.py --checkpoint best.pt --data_dir $your_dir --domain test --server_files

A run's checkpoint knows its architecture and image size; for an official state dict give --architecture. A list
without annotations (the test list) is only predicted.
"""

import common.interrupt  # noqa: F401

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.checkpoint import atomic_write
from common.cli import OneLineParser, add_shared_flags, non_negative_int, positive_int, run_main
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from oass.core.build import Trained
from oass.core.cam_quality import mask_iou
from oass.core.datasets import VOC_Dataset_For_Classification, VOC_Dataset_For_Testing_CAM, locate_voc
from oass.core.evaluate import Scores, measure, score_split
from oass.core.instances import collect_instances, neighbour_precision, save_instances, save_neighbours
from oass.core.networks import Classifier
from oass.core.options import DEFAULT_DATA_DIR, add_network_flags
from oass.core.transforms import EvalTransform
from oass.tools.ai.log_utils import log_line
from oass.tools.dataset.voc_utils import CLASS_NAMES, write_server_files

LARGEST_SCALE = 8.0


def scale_list(text: str) -> list[float]:
    """argparse type: image scales with commas between, each above 0."""
    try:
        scales = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between, not {text!r}") from error
    if not all(0 < scale <= LARGEST_SCALE for scale in scales):
        raise argparse.ArgumentTypeError(f"above 0 and at most {LARGEST_SCALE:g} each, not {text}")
    return scales


def build_parser() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = OneLineParser(description="OASS: evaluate and use a trained classifier.")
    add = parser.add_argument_group("what").add_argument
    add("--network", choices=("student", "teacher"), default="student")
    add("--data_dir", nargs="?", const=DEFAULT_DATA_DIR, default=DEFAULT_DATA_DIR, help="VOC devkit")
    add("--domain", default="val", help="split or path of an id list")
    add("--batch_size", type=positive_int, default=32)
    add("--num_workers", type=non_negative_int, default=4)
    add("--difficult", choices=("include", "ignore"), default="include")
    add("--scales", type=scale_list, default="1.0", help="image scales, commas between; the logits are averaged")
    add("--flip", action="store_true", help="average with the mirrored image")
    add = parser.add_argument_group("files, in the run directory").add_argument
    add("--server_files", action="store_true", help="results/VOC2012/Main/comp2_cls_DOMAIN_CLASS.txt")
    add("--export_instances", type=Path, default=None, metavar="NPZ", help="one descriptor per image and class")
    add("--neighbours", action="store_true", help="figure of the nearest instances of each class, and precision")
    add("--cam_iou", action="store_true", help="mask IoU of the class maps, thresholds 0.10 to 0.45")
    add_network_flags(parser)
    add_shared_flags(parser, skip_corrupt=False)
    return parser


def score(model: Classifier, data: VOC_Dataset_For_Classification, args: argparse.Namespace, run: object) -> Scores:
    """Scores of the data, averaged over --scales and --flip; the peaks are those of the plain image."""
    plain = args.strategy == "gap"
    found = [score_split(model, data, args, run, plain=plain)]
    for scale in args.scales:
        size = max(64, round(args.image_size * scale / 32) * 32)
        for flip in (False, True)[: 1 + args.flip]:
            if (scale, flip) != (1.0, False):
                transform = EvalTransform(size, scale=scale, flip=flip)
                found.append(score_split(model, data, args, run, transform=transform, plain=plain))
    averaged = found if 1.0 in args.scales else found[1:]
    return found[0]._replace(logits=torch.stack([f.logits for f in averaged]).mean(0))


def write_predictions(path: Path, ids: Sequence[str], logits: torch.Tensor) -> None:
    """predictions.csv: id, then the probability of every class."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", *CLASS_NAMES])
    rows.writerows([i, *(f"{p:.6f}" for p in row)] for i, row in zip(ids, logits.sigmoid().tolist(), strict=True))
    atomic_write(path, text.getvalue().encode())


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, load, score, measure, write."""
    args = build_parser().parse_args(argv)
    location = locate_voc(args.data_dir, args.sample)
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    model = Trained(args.checkpoint, args).network(args.network).to(accelerator.device)
    run = start_run(args, f"experiments/inference_{args.domain.replace('/', '_')}", accelerator)

    data = VOC_Dataset_For_Classification(location.path, args.domain, labels="if present")
    scores = score(model, data, args, run)
    summary: dict[str, object] = {"domain": args.domain, "images": len(data), "architecture": args.architecture}
    if data.has_labels:
        summary |= measure(scores, data.split, difficult=args.difficult)
    else:
        run.print(f"{args.domain} has no annotations: predictions only")
    if run.is_main:
        write_predictions(run.folder / "predictions.csv", data.split.ids, scores.logits)
    if args.server_files and run.is_main:
        written = write_server_files(
            run.folder, data.split.ids, scores.logits.sigmoid().numpy(), Path(args.domain).stem
        )
        run.print(f"server files: {written}")
    if args.cam_iou:
        summary |= mask_iou(model, VOC_Dataset_For_Testing_CAM(location.path, args.domain), args, run)
    if args.export_instances or args.neighbours:
        instances = collect_instances(model, data, args, run)
        if args.export_instances and run.is_main:
            save_instances(args.export_instances, instances, data)
        if args.neighbours and run.is_main:
            save_neighbours(run.figure("neighbours"), instances, data)
            summary["neighbour precision"] = neighbour_precision(instances, np.asarray(data.split.labels))
    numbers = {k: v for k, v in summary.items() if isinstance(v, float)}
    run.log("Inference", **summary)
    run.print(log_line(numbers))
    run.finish(**{key.replace(" ", "_"): value for key, value in summary.items()})


if __name__ == "__main__":
    run_main(main)
