"""What the puzzle does with your own picture: maps, peaks, cut, tiles, the glued map (figure 2).

    python3 explain.py --image my.jpg --checkpoint experiments/cTopk-w [--classes person dog]

Writes figures/explain.png, a row for each class: those named, else the three likeliest. Network,
image size and strategy are the checkpoint's; the tiles' maps are the teacher's where it has one.
`--before RUN` sets the maps of another checkpoint beside them, say those of `--strategies none` of
ablation.py.
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.aliases import one_module
from common.cli import UserError, parse_or_exit, run_main
from oass.options import Settings
from oass.options_flags import WITH_TEACHER
from oass.options_own import shown_classes
from oass.options_trained import parse_explain

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse_explain)

import torch
from torch.utils.data import default_collate

from common.images import read_own_picture
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from oass.build import build_cut, build_trained
from oass.build_objective import TilePass
from oass.build_trained import Trained
from oass.data import EvalTransform, Picture, normalise
from oass.figures import PuzzlePictures

one_module(__name__, "oass.explain")


def read_pictures(paths: Sequence[Path], size: int, resample: str = "bicubic") -> Picture:
    """The pictures as a batch, each resized so that its longer side fits a square of `size`."""
    parts = []
    for path in paths:
        image = read_own_picture(path)
        parts.append(EvalTransform(size, scale=size / max(image.size), resample=resample)(image))
    return default_collate(parts)


def require_known(asked: Sequence[str], classes: Sequence[str]) -> None:
    """UserError for the first name that is none of the network's classes."""
    strange = [name for name in asked if name not in classes]
    if strange:
        raise UserError(f"--classes {strange[0]}: choose from {shown_classes(classes)}")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Load, classify, draw."""
    settings = settings or parse_explain(argv)
    accelerator = make_accelerator(settings.args)
    device = accelerator.device
    seed_everything(settings.args.seed)

    trained, settings = build_trained(settings)
    args = settings.args
    require_known(args.classes or (), trained.classes)
    model = tiler = trained.network().to(device)
    if args.strategy in WITH_TEACHER and trained.has_teacher:
        tiler = trained.network("teacher").to(device)
    earlier = before = None
    if args.before:
        earlier = Trained(args.before, image_size=args.image_size)
        before = earlier.network().to(device)
    picture = read_pictures(args.image, args.image_size, model.interpolation)

    with torch.no_grad(), accelerator.autocast():
        images = normalise(picture, device, *model.normalisation)
        logits, features = model(images, with_cam=True)
    if trained.is_pooled:  # its instance head is not trained
        logits = model.global_average_pooling_2d(features)

    run = start_run(args, "experiments/explain", accelerator)
    run.print(trained.describe(model))
    if earlier is not None and before is not None:
        run.print(f"before: {earlier.describe(before)}")
    labels = torch.zeros_like(logits)
    for path, row, p in zip(args.image, labels, logits.sigmoid(), strict=True):
        shown = p.topk(min(3, len(p))).indices.tolist()
        if args.classes:
            shown = [trained.classes.index(name) for name in args.classes]
        row[shown] = 1
        found = {trained.classes[c]: round(float(p[c]), 4) for c in shown}
        run.log("image", **found)
        run.print(f"{path}: {', '.join(f'{name} {value:.3f}' for name, value in found.items())}")

    figure = run.figure("explain")
    tile_maps = TilePass(args.teacher_bn, args.tile_chunk)
    pictures = PuzzlePictures(
        build_cut(settings),
        tile_maps,
        args.image_size,
        len(labels),
        accelerator,
        trained.classes,
    )
    pictures.draw(figure, model, tiler, picture, labels, before)
    run.print(f"figure: {figure}")
    run.finish(
        images=list(map(str, args.image)),
        strategy=args.strategy,
        architecture=args.architecture,
        image_size=args.image_size,
    )


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
