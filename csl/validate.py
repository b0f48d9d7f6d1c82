"""Score a checkpoint on a test set: mAP, CF1 and OF1; on partial labels the mAP of the annotated ones.

Image size, interpolation, normalisation, classes and head are those of the checkpoint, unless a flag is given.

python validate.py --model_name=tresnet_l --model_path=COCO_TResNet_L_448_86.6.pth [--data DIR]
python validate.py --sample --model_path=outputs/COCO_2014_tresnet_tiny_selective/checkpoints/best_ema.pth
"""

import common.interrupt  # noqa: F401

import argparse
from collections.abc import Sequence

import torch
from accelerate import Accelerator

from common.aliases import one_module
from common.cli import (
    add_shared_flags,
    image_size,
    non_negative_int,
    number,
    parse_given,
    positive_int,
    run_main,
    settle,
)
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything
from csl.src import contradictions, report
from csl.src.errors import SettingsError
from csl.src.evaluation import count_skipped, metrics_of, predict_rows, uncounted_classes
from csl.src.helper_functions.classes import tell
from csl.src.helper_functions.get_data import (
    DataSet,
    open_dataset,
    require_images,
    require_scorable,
    scoring_loader,
)
from csl.src.helper_functions.metrics import (
    best_thresholds,
    conventional_f1,
    prf_metrics,
    top_k_only,
)
from csl.src.models.tresnet.fold import fold
from csl.src.models.utils.checkpoint import (
    Checkpoint,
    columns_of,
    describe_network,
    network_of,
    pixels_for,
    require_choice,
)
from csl.src.options import DATA_HELP, EitherDash, any_path, find_data
from csl.src.pixels import INTERPOLATIONS, Pixels

one_module(__name__, "csl.validate")

# Where the checkpoint does not say it; the sample's pictures have 64 pixels.
SAMPLE_DEFAULTS = {"image_size": 64, "workers": 0, "model_name": "tresnet_tiny"}


def build_parser() -> argparse.ArgumentParser:
    """The flags of validate.py: the released names and defaults, ours beside them."""
    parser = EitherDash(prog="validate.py", description="Score a checkpoint on a test set.")
    parser.add_argument(
        "positional_data", metavar="DATA", nargs="?", default=None, help="as --data"
    )
    parser.add_argument("--data", default="./data", help=DATA_HELP)
    parser.add_argument(
        "--metadata", default="./data/COCO_2014", help="hyperml: folder of val.json"
    )
    parser.add_argument("--debug_mode", choices=("auto", "on_farm", "hyperml"), default="auto")
    parser.add_argument("--dataset", choices=("auto", "coco", "lvis", "openimages"), default="auto")
    parser.add_argument("--class_list", type=any_path, default=None, help="Open Images: the classes, a MID a line;"
        " needed where the checkpoint does not name them")  # fmt: skip
    parser.add_argument(
        "--model_name", default="tresnet_l", help="used where the checkpoint does not tell"
    )
    parser.add_argument("--model_path", default="./TRresNet_L_448_86.6.pth")
    parser.add_argument(
        "--num_classes", type=positive_int, default=80, help="checked where it is given"
    )
    parser.add_argument(
        "--image_size", type=image_size, default=448, help="default: the checkpoint's, else 448"
    )
    parser.add_argument(
        "--thre", type=number(0, 1), default=0.8, help="predicted iff the probability is above it"
    )
    parser.add_argument("-b", "--batch_size", type=positive_int, default=32)
    parser.add_argument("-j", "--workers", type=non_negative_int, default=8)
    parser.add_argument(
        "-p", "--print_freq", type=positive_int, default=64, help="batches between printed lines"
    )
    parser.add_argument("--interpolation", choices=INTERPOLATIONS, default="bilinear", help="default: the checkpoint's,"
        " else bilinear")  # fmt: skip
    empty = parser.add_mutually_exclusive_group()
    empty.add_argument("--keep_empty", action="store_true", help="COCO: keep images without any annotation; default:"
        " as the checkpoint was scored")  # fmt: skip
    empty.add_argument(
        "--leave_empty", dest="keep_empty", action="store_false", help="leave them out"
    )
    parser.add_argument(
        "--skip_missing", action="store_true", help="leave out images whose file is not there"
    )
    parser.add_argument(
        "--which", choices=("ema", "model"), default="ema", help="of a run's last.pt or best.pt"
    )
    parser.add_argument("--calibrate", action="store_true", help="also F with the best threshold per class; they are"
        " chosen on this very set")  # fmt: skip
    add_shared_flags(parser)
    return parser


parser = build_parser()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; a sample run gets the sample's image size. `args._found` says where the data are."""
    defaults, given = parse_given(parser, argv)
    data = given.pop("positional_data", None)
    if data is not None and given.get("data", data) != data:
        raise SettingsError(
            f"DATA {data}: not together with --data {given['data']}; give one of them"
        )
    if data is not None:
        given["data"] = data
    first = settle(defaults, given)
    contradictions.refuse_flags_of_training(first, set(given))
    contradictions.refuse_contradictions_of_data(first, set(given))
    found = find_data(first, set(given))
    args = settle(defaults, given, SAMPLE_DEFAULTS if found.is_sample else {})
    args._found = found
    contradictions.refuse_other_layouts(args, set(given))
    return args


def open_scored(
    args: argparse.Namespace, accelerator: Accelerator | None = None
) -> tuple[torch.nn.Module, Checkpoint, Pixels, DataSet]:
    """The network, what its file says, its input, and the test set in the columns of its outputs.

    Image size, interpolation, normalisation, classes and head are the checkpoint's unless their flag was given.
    """
    model, found = network_of(args.model_path, args.model_name, averaged=args.which == "ema")
    require_choice(found, args.model_path, args.which, args._given)
    flags = {"image_size": "size", "interpolation": "interpolation"}
    pixels = pixels_for(
        found, args.image_size, args.interpolation, {flags[f] for f in flags if f in args._given}
    )
    contradictions.require_size(found.architecture, pixels.size, "--image_size")
    args.image_size = pixels.size
    args.interpolation = pixels.interpolation
    if "keep_empty" not in args._given:
        args.keep_empty = bool(found.recorded.get("keep_empty", False))
    data = _test_set(args, found, pixels)
    require_images(data, "val", args._found, args, accelerator or make_accelerator(args))
    require_scorable(data, args._found)
    return model, found, pixels, data


def _test_set(args: argparse.Namespace, found: Checkpoint, pixels: Pixels) -> DataSet:
    """The test images; their classes are matched with the network's by name.

    Where no name is common, or the file has none, they are matched by position, and a line says so. SettingsError where
    the numbers of classes disagree.
    """
    columns = columns_of(found, args.model_path)
    data = open_dataset(args._found, "val", args, pixels)
    own = data.columns
    if columns is not None and columns.names != own.names:
        by_key = (
            columns.keys is not None and own.keys is not None and set(columns.keys) & set(own.keys)
        )
        if by_key or not columns.has_nothing_of(own.names):
            data = open_dataset(args._found, "val", args, pixels, columns=columns)
        elif len(columns.names) == len(own.names):
            tell(
                f"{own.source}: no class of it has a name of {args.model_path}; matched by position"
            )
    elif columns is None:
        tell(f"{args.model_path}: has no names of classes; matched with {own.source} by position")
    counts = {
        str(args.model_path): found.num_classes,
        str(args._found.files.val): len(data.classes),
    }
    if "num_classes" in args._given:
        counts["--num_classes"] = args.num_classes
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {source}" for source, count in counts.items())
        raise SettingsError(f"the numbers of classes disagree: {told}")
    return data


def validate(args: argparse.Namespace) -> dict[str, float]:
    """Load the network, predict every test image once, report; returns the summary."""
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    model, found, pixels, data = open_scored(args, accelerator)
    model = fold(model).to(accelerator.device, memory_format=torch.channels_last)

    run = start_run(args, f"./outputs/validate_{args._found.name}", accelerator)
    run.print(f"{args.model_path}: {describe_network(found, pixels)}")
    run.print(
        f"val: {len(data)} images{', those without annotation too' if args.keep_empty else ''}"
    )
    loader = scoring_loader(data, args, accelerator)
    seen = [0]

    def poll() -> None:
        seen[0] += 1
        if seen[0] % args.print_freq == 0:
            run.print(f"batch {seen[0]} of {len(loader)}")
        run.poll()

    scored = predict_rows([model], loader, accelerator, poll=poll)
    scores = scored.scores[0]
    targets = scored.targets
    run.progress.images = len(scores)
    summary = metrics_of(targets, scores, args.thre) | prf_metrics(targets, scores, args.thre)
    top3 = conventional_f1(prf_metrics(targets, top_k_only(scores), args.thre))
    summary |= {f"{name}_top3": value for name, value in top3.items()}
    if args.calibrate:
        margins = (scores > best_thresholds(targets, scores)).astype(scores.dtype)
        summary |= {
            f"{k}_calibrated": v
            for k, v in conventional_f1(prf_metrics(targets, margins, 0.5)).items()
        }
    summary |= {"images": len(scores), "classes": scores.shape[1], "image_size": pixels.size}
    no_positive, _ = uncounted_classes(targets)
    summary |= {
        "classes_without_positives": int(no_positive.sum()),
        "offline_sample": args._found.is_sample,
    }
    summary["eval_skipped"] = count_skipped(data, scored)
    run.log("test", **summary)
    print_scores(run, summary)
    told = report.describe_uncounted(
        list(data.classes.values()), targets, summary.get(report.OTHERS)
    )
    if told:
        run.print(told)
    run.finish(**summary)
    return summary


def print_scores(run: Run, summary: dict[str, float]) -> None:
    """The mAP, and precision, recall and F at the threshold."""
    without = report.told_skipped(summary)
    rates = "  ".join(f"{k} {summary[k]:.2f}" for k in ("P_C", "R_C", "F_C", "P_O", "R_O", "F_O"))
    if "classes_counted" in summary:
        counted = f"{summary['classes_counted']} of {summary['classes']} classes"
        run.print(f"{without}mAP (annotated labels only, {counted}): {summary['mAP']:.2f}")
        run.print(
            f"{without}un-annotated as negative: mAP {summary['mAP_unannotated_as_negative']:.2f}  {rates}"
        )
    else:
        run.print(f"{without}mAP: {summary['mAP']:.2f}  {rates}")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse and validate."""
    validate(parse_args(argv))


if __name__ == "__main__":
    run_main(main)
