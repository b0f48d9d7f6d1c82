"""Why this class: overlays of images, for their most probable classes, and "why A and not B".

    python explain.py --image bird.jpg --load_checkpoint save/em [--classes 12 34]
    python explain.py --image pics/ more/*.jpg --load_checkpoint save/em --npz

The network, its input size and its map (CAM: vanilla; CALM: jointll) are the checkpoint's unless
flags say otherwise; an official checkpoint needs the flags. Writes figures/explain.png: the image,
a map per class with its probability, and for the first two classes map(A) - map(B), red where the
evidence is for A, blue where it is for B. Several pictures have a figure each and a contact sheet;
pictures/ holds a json for each picture, with --npz also its maps.
"""

# ruff: noqa: E402  (imports after the command line was read)
try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from calm.options_script import Script, Settings
from common.cli import UserError
from common.precision import doubled

# --help and mistakes are answered here, before torch is imported
script = Script("explain", __name__)

import numpy as np
import torch
from PIL import Image

from calm.build import start_evaluation
from calm.build_figures import Explanation, build_explanation
from calm.data import make_transforms
from calm.figures import draw_explanation, name_of, over
from calm.report import comparable, told_of_idle_flags
from common.aliases import one_module
from common.images import CorruptImage, read_image, read_own_picture
from common.pictures import Answers, figure_name
from common.run import Run

one_module(__name__, "calm.explain")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Load, explain each image, draw."""
    settings = script.settings(argv, settings)
    parts = build_explanation(settings)
    args = parts.settings.args
    chosen_classes(args.labels, torch.zeros(parts.classes))
    run = start_evaluation(parts.settings, script.name, parts.accelerator)
    run.print(comparable(vars(args), parts.trained, parts.classes))
    for line in parts.told:
        run.print(line)
    if settings.idle:
        run.print(told_of_idle_flags(settings.idle))

    answers = Answers(run.folder / "pictures")
    dead = 0
    for number, path in enumerate(parts.images):
        try:
            explained = explain(parts, path)
        except CorruptImage as error:  # damage in the middle of a file
            if not args.skip_corrupt:
                raise
            run.print(f"{error}; left out")
            continue
        dead += int(parts.mapper.dead.count)
        parts.mapper.dead.count = 0
        name = "explain" if len(parts.images) == 1 else figure_name(number, path)
        show(run, args, explained, name, answers)
    parts.mapper.dead.warn(dead, len(parts.images))
    if len(parts.images) > 1:
        answers.finish(run.figure("contact_sheet"))
        run.print(f"contact sheet: {run.figure('contact_sheet')}")
    if not answers.records:
        raise UserError("--image: none of the pictures can be read")
    first = answers.records[0]
    labels = [found["label"] for found in first["classes"]]
    probabilities = [found["probability"] for found in first["classes"]]
    run.finish(image=str(parts.images[0]), classes=labels, probabilities=probabilities)


class Explained(NamedTuple):
    """A picture, its maps (n,h,w) float64 of n classes, and p(y|x) of each."""

    path: Path
    image: Image.Image
    maps: torch.Tensor
    probabilities: dict[int, float]


def explain(parts: Explanation, path: Path) -> Explained:
    """The maps of a picture's chosen classes."""
    args = parts.settings.args
    if args.image is None:
        image = read_image(path, upright=False)
    else:
        image = read_own_picture(path)
    interpolation = parts.mapper.model.interpolation
    fixed, tail = make_transforms(args.resize_size, args.crop_size, interpolation)["test"]
    x = tail(fixed(image))[None].to(parts.accelerator.device)

    _, probs = parts.mapper.with_probs(x, torch.zeros(1, dtype=torch.long, device=x.device))
    count = parts.mapper.dead.count
    classes = chosen_classes(args.labels, probs[0])
    maps = doubled(parts.mapper.of_classes(x, [0] * len(classes), classes))
    parts.mapper.dead.count = count  # each image once
    return Explained(path, image, maps, {label: float(probs[0, label]) for label in classes})


def show(
    run: Run, args: argparse.Namespace, explained: Explained, name: str, answers: Answers
) -> None:
    """Lines, figure and json of a picture."""
    path, image, maps, p = explained
    run.log("image", **{f"p/{label}": value for label, value in p.items()})
    found = []
    for label, score_map in zip(p, maps, strict=True):
        named = name_of(label, args.class_names)
        run.print(f"{named}: p(y|x) {p[label]:.4f}, mass of its map {score_map.sum():.4f}")
        found.append({"label": label, "name": named, "probability": p[label]})
    figure = run.figure(name)
    title = f"{args.attribution_method}, {args.score_map_process}, {args.norm_type}"
    shown = path.name[:24]
    draw_explanation(figure, image, shown, maps, p, args.norm_type, title, args.class_names)
    run.print(f"figure: {figure}")
    best = found[0]
    answers.add(
        path,
        {"classes": found, "figure": figure.name},
        shown=over(image, maps[0], args.norm_type),
        caption=[f"{best['name']} {best['probability']:.2f}"],
        arrays={"maps": maps.cpu().numpy(), "labels": np.array(list(p))} if args.npz else None,
    )


def chosen_classes(wanted: Sequence[int] | None, probabilities: torch.Tensor) -> list[int]:
    """Return the labels to explain.

    They are `wanted`, else the three likeliest of p(y|x) (C,); UserError for one that is none.
    """
    count = len(probabilities)
    if not wanted:
        return probabilities.topk(min(3, count)).indices.tolist()
    for label in wanted:
        if not 0 <= label < count:
            raise UserError(f"--classes {label}: labels are 0..{count - 1}")
    if len(set(wanted)) < len(wanted):
        raise UserError(f"--classes {' '.join(map(str, wanted))}: each label once")
    return list(wanted)


script.run(main)
