"""Score a checkpoint on a test set: mAP, CF1 and OF1; on partial labels the mAP of the annotated ones.

python validate.py --model_name=tresnet_l --model_path=COCO_TResNet_L_448_86.6.pth [--data DIR]
python validate.py --sample --model_path=outputs/COCO_2014_tresnet_tiny_selective/checkpoints/best_ema.pth
"""

import common.interrupt  # noqa: F401

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from common.cli import add_shared_flags, positive_int, run_main
from common.data import eval_loader
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from csl.src.errors import SettingsError
from csl.src.evaluation import metrics_of, predict
from csl.src.helper_functions.get_data import collate_of, open_dataset
from csl.src.helper_functions.locate import locate_data
from csl.src.helper_functions.metrics import best_thresholds, conventional_f1, prf_metrics, top_k_only
from csl.src.models.tresnet.fold import fold
from csl.src.models.utils.checkpoint import network_of
from csl.src.options import EitherDash, parse_given


def build_parser() -> argparse.ArgumentParser:
    """The flags of validate.py: the released names and defaults, ours beside them."""
    parser = EitherDash(prog="validate.py", description="Score a checkpoint on a test set.")
    parser.add_argument("positional_data", metavar="DATA", nargs="?", default=None, help="as --data")
    parser.add_argument("--data", default="./data")
    parser.add_argument("--metadata", default="./data/COCO_2014")
    parser.add_argument("--debug_mode", choices=("auto", "on_farm", "hyperml"), default="auto")
    parser.add_argument("--dataset", choices=("auto", "coco", "lvis", "openimages"), default="auto")
    parser.add_argument("--class_list", type=Path, default=None, help="Open Images: only these classes, a MID a line")
    parser.add_argument("--model_name", default="tresnet_l")
    parser.add_argument("--model_path", default="./TRresNet_L_448_86.6.pth")
    parser.add_argument("--num_classes", type=positive_int, default=80, help="checked where it is given")
    parser.add_argument("--image_size", type=positive_int, default=448)
    parser.add_argument("--thre", type=float, default=0.8, help="predicted iff the probability is above it")
    parser.add_argument("-b", "--batch_size", type=positive_int, default=32)
    parser.add_argument("-j", "--workers", type=int, default=8)
    parser.add_argument("-p", "--print_freq", type=positive_int, default=64, help="batches between printed lines")
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    parser.add_argument("--keep_empty", action="store_true", help="keep images without any annotation")
    parser.add_argument("--skip_missing", action="store_true", help="leave out images whose file is not there")
    parser.add_argument("--which", choices=("ema", "model"), default="ema", help="of a run's last.pt or best.pt")
    parser.add_argument("--calibrate", action="store_true", help="also F with the best threshold per class; they are"
        " chosen on this very set")  # fmt: skip
    add_shared_flags(parser, skip_corrupt=False)
    return parser


parser = build_parser()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; a sample run gets the sample's image size. `args._found` says where the data are."""
    defaults, given = parse_given(parser, argv)
    if data := given.pop("positional_data", None):
        given["data"] = data
    found = locate_data(argparse.Namespace(**(defaults | given)), is_given="data" in given)
    if found.is_sample:
        defaults |= {"image_size": 64, "workers": 0, "model_name": "tresnet_tiny"}
    args = argparse.Namespace(**(defaults | given))
    args._found, args._given = found, set(given)
    return args


def validate(args: argparse.Namespace) -> dict[str, float]:
    """Load the network, predict every test image once, report; returns the summary."""
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    model, found = network_of(args.model_path, args.model_name, averaged=args.which == "ema")
    model = fold(model).to(accelerator.device, memory_format=torch.channels_last)

    data = open_dataset(args._found, "val", None, args)
    counts = {str(args.model_path): found.num_classes, str(args._found.files.val): len(data.classes)}
    if "num_classes" in args._given:
        counts["--num_classes"] = args.num_classes
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {source}" for source, count in counts.items())
        raise SettingsError(f"the numbers of classes disagree: {told}")
    run = start_run(args, f"./outputs/validate_{args._found.name}", accelerator)
    loader = eval_loader(data, args.batch_size, accelerator=accelerator, workers=args.workers, collate=collate_of(data))
    seen = [0]

    def poll() -> None:
        seen[0] += 1
        if seen[0] % args.print_freq == 0:
            run.print(f"batch {seen[0]} of {len(loader)}")
        run.poll()

    (scores,), targets = predict([model], loader, accelerator, poll=poll)
    run.progress.images = len(scores)
    summary = metrics_of(targets, scores, args.thre) | prf_metrics(targets, scores, args.thre)
    top3 = conventional_f1(prf_metrics(targets, top_k_only(scores), args.thre))
    summary |= {f"{name}_top3": value for name, value in top3.items()}
    if args.calibrate:
        margins = (scores > best_thresholds(targets, scores)).astype(scores.dtype)
        summary |= {f"{k}_calibrated": v for k, v in conventional_f1(prf_metrics(targets, margins, 0.5)).items()}
    summary |= {"images": len(scores), "classes": scores.shape[1], "offline_sample": args._found.is_sample}
    run.log("test", **summary)
    rates = "  ".join(f"{k} {summary[k]:.2f}" for k in ("P_C", "R_C", "F_C", "P_O", "R_O", "F_O"))
    if "classes_counted" in summary:
        counted = f"{summary['classes_counted']} of {summary['classes']} classes"
        run.print(f"mAP (annotated labels only, {counted}): {summary['mAP']:.2f}")
        run.print(f"un-annotated as negative: mAP {summary['mAP_unannotated_as_negative']:.2f}  {rates}")
    else:
        run.print(f"mAP: {summary['mAP']:.2f}  {rates}")
    run.finish(**summary)
    return summary


def main(argv: Sequence[str] | None = None) -> None:
    """Parse and validate."""
    validate(parse_args(argv))


if __name__ == "__main__":
    run_main(main)
