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
from calm.score_map_method import GRADIENT_SETTINGS
from calm.score_mapper import ScoreMapper
from calm.training import build_model, checkpoint_file, read_superclass, settings_of_checkpoint, start_evaluation
from common.cam import normalize_maps, overlay, save_grid
from common.cli import OneLineParser, UserError, run_main
from common.data import read_image
from common.rundir import make_accelerator, seed_everything

SCRIPT = "explain"


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
    own.add_argument("--image", type=Path, default=None, help="an image file (default: the first test image)")
    own.add_argument(
        "--classes", type=int, nargs="+", default=None, help="labels from 0 (default: the three likeliest)"
    )
    return own


def first_test_image(argv: Sequence[str] | None) -> Path:
    """Of the data set, or of the sample where there is none."""
    args = configure(argv, f"{SCRIPT}.py", own_flags())
    return Path(args.data_paths.test) / get_image_ids(configure_metadata(args._metadata / "test"))[0]


def load(argv: Sequence[str] | None) -> tuple[Configs, Accelerator, ScoreMapper]:
    """The settings, the checkpoint's where the command line says nothing, and the maps of its network."""
    args = parse(argv, f"{SCRIPT}.py", own_flags())
    file = checkpoint_file(args, fallback=args.experiment)
    own = settings_of_checkpoint(file)
    is_cam = own.get("attribution_method", args.attribution_method) == "CAM"
    shown = {"score_map_process": "vanilla", "norm_type": "minmax"}
    shown = shown if is_cam else {"score_map_process": "jointll", "norm_type": "max"}
    args = parse(argv, f"{SCRIPT}.py", own_flags(), **shown, **own)
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    model = build_model(args, file).to(accelerator.device).eval().requires_grad_(False)
    numbers = {name: getattr(args, name) for name in GRADIENT_SETTINGS}
    superclass = read_superclass(args)
    return args, accelerator, ScoreMapper(
        model, args.score_map_process, args.score_map_method, superclass, args.smoothing_ksize, numbers
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Load, explain one image, draw."""
    args, accelerator, mapper = load(argv)
    path = args.image or first_test_image(argv)
    image = read_image(path)
    fixed, tail = make_transforms(args.resize_size, args.crop_size)["test"]
    x = tail(fixed(image))[None].to(accelerator.device)

    _, probs = mapper.with_probs(x, torch.zeros(1, dtype=torch.long, device=x.device))
    mapper.dead.warn(int(mapper.dead.count), 1)
    classes = args.classes or probs[0].topk(min(3, probs.shape[1])).indices.tolist()
    strange = [c for c in classes if not 0 <= c < probs.shape[1]]
    if strange:
        raise UserError(f"--classes {strange[0]}: labels are 0..{probs.shape[1] - 1}")
    maps = mapper.of_classes(x, [0] * len(classes), classes).double()
    run = start_evaluation(args, SCRIPT, accelerator)
    run.log("image", **{f"p/{c}": float(probs[0, c]) for c in classes})
    for label, score_map in zip(classes, maps, strict=True):
        run.print(f"class {label}: p(y|x) {probs[0, label]:.4f}, mass of its map {score_map.sum():.4f}")
    figure = run.figure("explain")
    draw(figure, image, path.name[:24], args, maps, {c: float(probs[0, c]) for c in classes})
    run.print(f"figure: {figure}")
    run.finish(image=str(path), classes=classes, probabilities=[float(probs[0, c]) for c in classes])


def draw(figure: Path, image: Image.Image, name: str, args: Configs, maps: torch.Tensor, p: dict[int, float]) -> None:
    """The image, a normalised map (k,h,w) per class, and the difference of the first two."""
    picture, classes = np.asarray(image.resize((224, 224))), list(p)
    row, titles = [picture], [name]
    for label, score_map in zip(classes, normalize_maps(maps, args.norm_type).cpu().numpy(), strict=True):
        row.append(overlay(picture, score_map))
        titles.append(f"class {label}, p {p[label]:.3f}")
    if len(classes) > 1:
        row.append(difference_overlay(picture, (maps[0] - maps[1]).cpu().numpy()))
        titles.append(f"why {classes[0]} and not {classes[1]}")
    title = f"{args.attribution_method}, {args.score_map_process}, {args.norm_type}"
    save_grid(figure, [row], [titles], cell=2.4, suptitle=title)


if __name__ == "__main__":
    run_main(main)
