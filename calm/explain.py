"""Why this class: overlays of one image, for its most probable classes, and "why A and not B".

    python explain.py --image bird.jpg --load_checkpoint save/em [--classes 12 34]

The network, its input size and its map (CAM: vanilla; CALM: jointll) are the checkpoint's unless flags say
otherwise; an official checkpoint needs the flags. Writes figures/explain.png: the image, a map per class with its
probability, and for the first two classes map(A) - map(B), red where the evidence is for A, blue where it is for B.
"""

import common.interrupt  # noqa: F401

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from calm.config import Configs, configure, parse
from calm.data_loaders import configure_metadata, get_image_ids, make_transforms
from calm.flags import EXPLAIN
from calm.score_map_method import GRADIENT_SETTINGS
from calm.score_mapper import ScoreMapper
from calm.training import (
    build_model,
    checkpoint_file,
    comparable,
    read_superclass,
    start_evaluation,
    take_from_checkpoint,
    told_of_idle_flags,
)
from common.aliases import one_module
from common.cam import normalize_maps, overlay
from common.cli import OneLineParser, UserError, run_main
from common.images import read_image, read_own_picture
from common.plots import save_grid
from common.rundir import make_accelerator, seed_everything

one_module(__name__, "calm.explain")

SCRIPT = "explain"
SHOWN_OF_CAM = {"score_map_process": "vanilla", "norm_type": "minmax"}
SHOWN_OF_CALM = {"score_map_process": "jointll", "norm_type": "max"}


def difference_overlay(picture: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """A picture (H,W,3) uint8 under a signed map (h,w): red where positive, blue where negative."""
    height, width = picture.shape[:2]
    d = cv2.resize(difference.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    d = d / max(1e-12, float(np.abs(d).max()))
    colour = np.stack([np.clip(d, 0, 1), np.zeros_like(d), np.clip(-d, 0, 1)], -1) * 255
    alpha = np.abs(d)[..., None] * 0.8
    return (alpha * colour + (1 - alpha) * picture).round().astype(np.uint8)


def own_flags() -> OneLineParser:
    """The flags that only this script has."""
    own = OneLineParser(description=__doc__.split("\n")[0], add_help=False)
    own.add_argument(
        "--image", type=Path, default=None, help="an image file (default: the first test image)"
    )
    own.add_argument(
        "--classes",
        type=int,
        nargs="+",
        default=None,
        help="labels from 0 (default: the three likeliest)",
    )
    return own


def first_test_image(argv: Sequence[str] | None) -> Path:
    """Of the data set, or of the sample where there is none."""
    args = configure(argv, f"{SCRIPT}.py", own_flags())
    return (
        Path(args.data_paths.test) / get_image_ids(configure_metadata(args._metadata / "test"))[0]
    )


def load(argv: Sequence[str] | None) -> tuple[Configs, Accelerator, ScoreMapper]:
    """The settings, the checkpoint's where the command line says nothing, and the maps of its network."""
    args = parse(argv, f"{SCRIPT}.py", own_flags(), EXPLAIN)
    file = checkpoint_file(args, fallback=args.experiment)
    take_from_checkpoint(args, file, same_data=args.image is None)
    shown = SHOWN_OF_CAM if args.attribution_method == "CAM" else SHOWN_OF_CALM
    for name, value in shown.items():
        if name not in args._given:
            setattr(args, name, value)
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    model = build_model(args, file).to(accelerator.device).eval().requires_grad_(False)
    numbers = {name: getattr(args, name) for name in GRADIENT_SETTINGS}
    superclass = read_superclass(args)
    mapper = ScoreMapper(
        model,
        args.score_map_process,
        args.score_map_method,
        superclass,
        args.smoothing_ksize,
        numbers,
        autocast=accelerator.autocast,
    )
    return args, accelerator, mapper


def main(argv: list[str] | None = None) -> None:
    """Load, explain one image, draw."""
    args, accelerator, mapper = load(argv)
    path = args.image or first_test_image(argv)
    image = read_image(path, upright=False) if args.image is None else read_own_picture(path)
    fixed, tail = make_transforms(args.resize_size, args.crop_size)["test"]
    x = tail(fixed(image))[None].to(accelerator.device)

    _, probs = mapper.with_probs(x, torch.zeros(1, dtype=torch.long, device=x.device))
    mapper.dead.warn(int(mapper.dead.count), 1)
    classes = args.classes or probs[0].topk(min(3, probs.shape[1])).indices.tolist()
    strange = [c for c in classes if not 0 <= c < probs.shape[1]]
    if strange:
        raise UserError(f"--classes {strange[0]}: labels are 0..{probs.shape[1] - 1}")
    if len(set(classes)) < len(classes):
        raise UserError(f"--classes {' '.join(map(str, classes))}: each label once")
    maps = mapper.of_classes(x, [0] * len(classes), classes).double()
    run = start_evaluation(args, SCRIPT, accelerator)
    run.print(comparable(args))
    if args._idle:
        run.print(told_of_idle_flags(args))
    run.log("image", **{f"p/{c}": float(probs[0, c]) for c in classes})
    for label, score_map in zip(classes, maps, strict=True):
        run.print(
            f"class {label}: p(y|x) {probs[0, label]:.4f}, mass of its map {score_map.sum():.4f}"
        )
    figure = run.figure("explain")
    draw(figure, image, path.name[:24], args, maps, {c: float(probs[0, c]) for c in classes})
    run.print(f"figure: {figure}")
    run.finish(
        image=str(path), classes=classes, probabilities=[float(probs[0, c]) for c in classes]
    )


def draw(
    figure: Path,
    image: Image.Image,
    name: str,
    args: Configs,
    maps: torch.Tensor,
    p: dict[int, float],
) -> None:
    """The image, a normalised map (k,h,w) per class, and the difference of the first two."""
    picture, classes = np.asarray(image.resize((224, 224))), list(p)
    row, titles = [picture], [name]
    for label, score_map in zip(
        classes, normalize_maps(maps, args.norm_type).cpu().numpy(), strict=True
    ):
        row.append(overlay(picture, score_map))
        titles.append(f"class {label}, p {p[label]:.3f}")
    if len(classes) > 1:
        row.append(difference_overlay(picture, (maps[0] - maps[1]).cpu().numpy()))
        titles.append(f"why {classes[0]} and not {classes[1]}")
    title = f"{args.attribution_method}, {args.score_map_process}, {args.norm_type}"
    save_grid(figure, [row], [titles], cell=2.4, suptitle=title)


if __name__ == "__main__":
    run_main(main)
