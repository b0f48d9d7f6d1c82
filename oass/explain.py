"""What the puzzle does with your own picture: maps, peaks, cut, tiles, the glued map (figure 2).

    python3 explain.py --image my.jpg --checkpoint experiments/cTopk-w [--classes person dog]

--image takes files, folders and patterns. Writes for each picture a figure, a row for each class
(those named, else the three likeliest), and pictures/NAME.json; with --npz its maps; and of all
figures/explain.png and figures/contact_sheet.png. Network, image size and strategy are the
checkpoint's; the tiles' maps are the teacher's where it has one.
`--before RUN` sets the maps of another checkpoint beside them, say those of `--strategies none` of
ablation.py.
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.aliases import one_module
from common.cli import UserError, parse_or_exit, run_main
from oass.options import Settings
from oass.options_flags import WITH_TEACHER
from oass.options_own import shown_classes
from oass.options_trained import parse_explain

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings = parse_or_exit(parse_explain)

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import default_collate

from common.pictures import Answers, printable, read_pictures, readable_pictures
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from oass.build import build_cut, build_trained
from oass.build_objective import TilePass
from oass.build_trained import Trained
from oass.core.networks import Classifier
from oass.data import EvalTransform, Picture, normalise
from oass.figures import MOST_ROWS, PuzzlePictures
from oass.method import make_cam

one_module(__name__, "oass.explain")


def shown_whole(image: Image.Image, size: int, resample: str) -> Picture:
    """A batch of one picture, resized so that its longer side fits a square of `size`."""
    transform = EvalTransform(size, scale=size / max(image.size), resample=resample)
    return default_collate([transform(image)])


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
        if earlier.classes != trained.classes:
            raise UserError(f"--before {args.before}: a network of other classes")
        before = earlier.network().to(device)

    pictures, told = readable_pictures(args.image, "--image", skip_corrupt=args.skip_corrupt)
    images, damaged = read_pictures(pictures, skip_corrupt=args.skip_corrupt)
    if not images:
        raise UserError("--image: none of the pictures can be read")

    run = start_run(args, "experiments/explain", accelerator)
    run.print(trained.describe(model))
    if earlier is not None and before is not None:
        run.print(f"before: {earlier.describe(before)}")
    for line in (*told, *damaged):
        run.print(line)
    drawing = PuzzlePictures(
        build_cut(settings),
        TilePass(args.teacher_bn, args.tile_chunk),
        args.image_size,
        len(images),
        accelerator,
        trained.classes,
    )
    answers = Answers(run.folder / "pictures")
    first: list[tuple[Picture, torch.Tensor]] = []
    for path, image in images.items():
        picture = shown_whole(image, args.image_size, model.interpolation)
        answer = answer_of(model, picture, accelerator, is_pooled=trained.is_pooled)
        shown = answer.probabilities.topk(min(3, len(trained.classes))).indices.tolist()
        if args.classes:
            shown = [trained.classes.index(name) for name in args.classes]
        labels = torch.zeros(1, len(trained.classes))
        labels[0, shown] = 1
        found = {trained.classes[c]: round(float(answer.probabilities[c]), 4) for c in shown}
        run.log("image", **found)
        line = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        run.print(printable(f"{path}: {line}"))
        if len(first) < MOST_ROWS:
            first.append((picture, labels))
        if run.is_main:
            name = write_answer(answers, path, image, answer, found, trained.classes, npz=args.npz)
            drawing.draw(run.figure(name), model, tiler, picture, labels, before)

    figure = run.figure("explain")
    batch = Picture(*map(torch.cat, zip(*(picture for picture, _ in first), strict=True)))
    marked = torch.cat([labels for _, labels in first])
    drawing.draw(figure, model, tiler, batch, marked, before)
    if run.is_main:
        answers.finish(run.figure("contact_sheet"))
    run.print(f"figure: {figure}")
    run.finish(
        images=list(map(str, images)),
        strategy=args.strategy,
        architecture=args.architecture,
        image_size=args.image_size,
    )


class Answer(NamedTuple):
    """Of one picture: probabilities (C,), normalised maps (C,G,G), on the host."""

    probabilities: torch.Tensor
    maps: torch.Tensor


@torch.no_grad()
def answer_of(
    model: Classifier, picture: Picture, accelerator: Accelerator, *, is_pooled: bool
) -> Answer:
    """What the network says of a batch of one picture.

    is_pooled: its instance head is not trained.
    """
    with accelerator.autocast():
        images = normalise(picture, accelerator.device, *model.normalisation)
        logits, features = model(images, with_cam=True)
    if is_pooled:
        logits = model.global_average_pooling_2d(features)
    maps = make_cam(features.float())
    return Answer(logits[0].float().sigmoid().cpu(), maps[0].cpu())


def write_answer(
    answers: Answers,
    path: Path,
    image: Image.Image,
    answer: Answer,
    found: Mapping[str, float],
    classes: Sequence[str],
    *,
    npz: bool,
) -> str:
    """The json of a picture, and with `npz` its maps; returns the name of its files."""
    values = map(float, answer.probabilities)
    record: dict[str, Any] = {"shown": dict(found)}
    record["probabilities"] = dict(zip(classes, values, strict=True))
    arrays = None
    if npz:
        arrays = {"maps": answer.maps.numpy(), "classes": np.array(classes)}
    caption = [f"{name} {value:.3f}" for name, value in found.items()]
    return answers.add(path, record, shown=image, caption=caption, arrays=arrays)


if __name__ == "__main__":
    run_main(partial(main, settings=settings))
