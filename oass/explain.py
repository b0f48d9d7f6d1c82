"""What the puzzle does with your own picture: class maps, peaks, the cut, its tiles, the glued map (paper, figure 2).

    python3 explain.py --image my.jpg --checkpoint experiments/cTopk-w [--classes person dog]

Writes figures/explain.png, a row for each class: those named, else the three likeliest. Network, image size and
strategy are the checkpoint's; the tiles' maps are the teacher's where it has one. `--before RUN` sets the maps of
another checkpoint beside them, say those of `--strategies none` of ablation.py.
"""

import common.interrupt  # noqa: F401

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from common.aliases import one_module
from common.cli import OneLineParser, UserError, add_shared_flags, parse_given, run_main
from common.images import read_own_picture
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from common.text import expanded
from oass.core.build import Trained
from oass.core.keypoints import STRATEGIES
from oass.core.options import ONLY_IN_TRAINING, WITH_TEACHER, add_network_flags, refuse_flags
from oass.core.pictures import draw_puzzles
from oass.core.transforms import EvalTransform, Picture, normalise
from oass.tools.dataset.voc_utils import CLASS_DIC, CLASS_NAMES

one_module(__name__, "oass.explain")

WITHOUT_EFFECT = {**ONLY_IN_TRAINING, "sample": "the pictures are those of --image"}


def build_parser() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = OneLineParser(description="OASS: the puzzle on your own picture.")
    add = parser.add_argument
    add("--image", type=expanded, nargs="+", required=True, help="picture files")
    add(
        "--before",
        type=expanded,
        default=None,
        metavar="CHECKPOINT",
        help="another one, whose maps stand beside",
    )
    add(
        "--classes",
        nargs="+",
        default=None,
        metavar="NAME",
        help="VOC's names (default: the three likeliest)",
    )
    add(
        "--strategy",
        choices=STRATEGIES,
        default=None,
        help="where to cut (default: the checkpoint's)",
    )
    add_network_flags(parser)
    add_shared_flags(parser, skip_corrupt=False)
    return parser


def read_pictures(paths: Sequence[Path], size: int) -> Picture:
    """The pictures as a batch, each resized so that its longer side fits a square of `size`."""
    images = [read_own_picture(path) for path in paths]
    parts = [EvalTransform(size, scale=size / max(image.size))(image) for image in images]
    return Picture(*(torch.stack(column) for column in zip(*parts, strict=True)))


def main(argv: Sequence[str] | None = None) -> None:
    """Load, classify, draw."""
    args = build_parser().parse_args(argv)
    refuse_flags(parse_given(build_parser, argv)[1], WITHOUT_EFFECT)
    strange = [name for name in args.classes or () if name not in CLASS_DIC]
    if strange:
        raise UserError(f"--classes {strange[0]}: choose from {', '.join(CLASS_NAMES)}")
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    trained = Trained(args.checkpoint, args)
    model = tiler = trained.network().to(accelerator.device)
    if args.strategy in WITH_TEACHER and trained.has_teacher:
        tiler = trained.network("teacher").to(accelerator.device)
    before = None
    if args.before:
        earlier = Trained(args.before, argparse.Namespace(image_size=args.image_size))
        before = earlier.network().to(accelerator.device)
    picture = read_pictures(args.image, args.image_size)

    with torch.no_grad(), accelerator.autocast():
        logits, features = model(
            normalise(picture, accelerator.device, *model.normalisation), with_cam=True
        )
    if trained.is_pooled:  # its instance head is not trained
        logits = model.global_average_pooling_2d(features)
    run = start_run(args, "experiments/explain", accelerator)
    run.print(trained.describe(model, args))
    if args.before:
        run.print(f"before: {earlier.describe(before, args)}")
    labels = torch.zeros_like(logits)
    for path, row, p in zip(args.image, labels, logits.sigmoid(), strict=True):
        shown = (
            [CLASS_DIC[name] for name in args.classes]
            if args.classes
            else p.topk(3).indices.tolist()
        )
        row[shown] = 1
        found = {CLASS_NAMES[c]: round(float(p[c]), 4) for c in shown}
        run.log("image", **found)
        run.print(f"{path}: {', '.join(f'{name} {value:.3f}' for name, value in found.items())}")
    figure = run.figure("explain")
    draw_puzzles(figure, model, tiler, picture, labels, args, accelerator, before)
    run.print(f"figure: {figure}")
    run.finish(
        images=[str(path) for path in args.image],
        strategy=args.strategy,
        architecture=args.architecture,
        image_size=args.image_size,
    )


if __name__ == "__main__":
    run_main(main)
