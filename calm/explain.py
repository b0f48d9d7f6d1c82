"""Why this class: overlays of one image, for its most probable classes, and "why A and not B".

    python explain.py --image bird.jpg --load_checkpoint save/em [--classes 12 34]

The network, its input size and its map (CAM: vanilla; CALM: jointll) are the checkpoint's unless
flags say otherwise; an official checkpoint needs the flags. Writes figures/explain.png: the image,
a map per class with its probability, and for the first two classes map(A) - map(B), red where the
evidence is for A, blue where it is for B.
"""

# ruff: noqa: E402  (imports after the command line was read)
import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from collections.abc import Sequence

from calm.options_script import Script, Settings
from common.cli import UserError

# --help and mistakes are answered here, before torch is imported
script = Script("explain", __name__)

import torch

from calm.build import start_evaluation
from calm.build_figures import build_explanation
from calm.data import make_transforms
from calm.figures import draw_explanation
from calm.report import comparable, told_of_idle_flags
from common.aliases import one_module
from common.images import read_image, read_own_picture

one_module(__name__, "calm.explain")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Load, explain one image, draw."""
    settings = script.settings(argv, settings)
    parts = build_explanation(settings)
    args = parts.settings.args
    mapper = parts.mapper
    if args.image is None:
        image = read_image(parts.image, upright=False)
    else:
        image = read_own_picture(parts.image)
    fixed, tail = make_transforms(args.resize_size, args.crop_size)["test"]
    x = tail(fixed(image))[None].to(parts.accelerator.device)

    _, probs = mapper.with_probs(x, torch.zeros(1, dtype=torch.long, device=x.device))
    mapper.dead.warn(int(mapper.dead.count), 1)
    classes = chosen_classes(args.labels, probs[0])
    maps = mapper.of_classes(x, [0] * len(classes), classes).double()
    p = {}
    told = {}
    for label in classes:
        p[label] = float(probs[0, label])
        told[f"p/{label}"] = p[label]

    run = start_evaluation(parts.settings, script.name, parts.accelerator)
    run.print(comparable(vars(args), parts.trained, parts.classes))
    if settings.idle:
        run.print(told_of_idle_flags(settings.idle))
    run.log("image", **told)
    for label, score_map in zip(classes, maps, strict=True):
        run.print(f"class {label}: p(y|x) {p[label]:.4f}, mass of its map {score_map.sum():.4f}")
    figure = run.figure("explain")
    title = f"{args.attribution_method}, {args.score_map_process}, {args.norm_type}"
    draw_explanation(figure, image, parts.image.name[:24], maps, p, args.norm_type, title)
    run.print(f"figure: {figure}")
    run.finish(image=str(parts.image), classes=classes, probabilities=list(p.values()))


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
