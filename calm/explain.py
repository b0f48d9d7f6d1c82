"""Why this class: overlays of one image, for its most probable classes, and "why A and not B".

    python explain.py --image bird.jpg --experiment_name=NAME --attribution_method=CALM_EM \\
        --score_map_process=jointll --norm_type=clipping [--classes 12 34]

Writes figures/explain.png: the image, a map per class with its probability, and for the first two classes
map(A) - map(B), red where the evidence is for A and blue where it is for B.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from calm.config import configure
from calm.cue_localiser import normalize_maps
from calm.data_loaders import make_transforms
from calm.tester import Tester
from common.cam import overlay, save_grid
from common.cli import OneLineParser, UserError, run_main
from common.data import read_image

SCRIPT = "explain"


def difference_overlay(picture: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """A picture (H,W,3) uint8 under a signed map (h,w): red where positive, blue where negative."""
    height, width = picture.shape[:2]
    d = cv2.resize(difference.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    d = d / max(1e-12, float(np.abs(d).max()))
    colour = np.stack([np.clip(d, 0, 1), np.zeros_like(d), np.clip(-d, 0, 1)], -1) * 255
    alpha = np.abs(d)[..., None] * 0.8
    return (alpha * colour + (1 - alpha) * picture).round().astype(np.uint8)


def main(argv: list[str] | None = None) -> None:
    """Load, explain one image, draw."""
    own = OneLineParser(prog="explain.py", add_help=False)
    own.add_argument("--image", type=Path, default=None, help="an image file (default: the first test image)")
    own.add_argument(
        "--classes", type=int, nargs="+", default=None, help="labels from 0 (default: the three likeliest)"
    )
    mine, rest = own.parse_known_args(sys.argv[1:] if argv is None else argv)
    args = configure(rest, prog="explain.py")
    tester = Tester(args, SCRIPT)
    data = tester.loader.dataset.dataset
    path = mine.image or data.data_root / data.image_ids[0]
    image = read_image(path)
    fixed, tail = make_transforms(args.resize_size, args.crop_size)["test"]
    x = tail(fixed(image))[None].to(tester.device)

    _, probs = tester.mapper.with_probs(x, torch.zeros(1, dtype=torch.long, device=x.device))
    classes = mine.classes or probs[0].topk(min(3, probs.shape[1])).indices.tolist()
    strange = [c for c in classes if not 0 <= c < probs.shape[1]]
    if strange:
        raise UserError(f"--classes {strange[0]}: labels are 0..{probs.shape[1] - 1}")
    maps = tester.mapper.of_classes(x, [0] * len(classes), classes).double()
    shown = normalize_maps(maps, args.norm_type).cpu().numpy()

    picture = np.asarray(image.resize((224, 224)))
    row, titles = [picture], [path.name[:24]]
    for label, score_map in zip(classes, shown, strict=True):
        row.append(overlay(picture, score_map))
        titles.append(f"class {label}, p {probs[0, label]:.3f}")
    if len(classes) > 1:
        row.append(difference_overlay(picture, (maps[0] - maps[1]).cpu().numpy()))
        titles.append(f"why {classes[0]} and not {classes[1]}")
    figure = tester.run.figure("explain")
    save_grid(
        figure,
        [row],
        [titles],
        cell=2.4,
        suptitle=f"{args.attribution_method}, {args.score_map_process}, {args.norm_type}",
    )
    tester.run.log("image", **{f"p/{c}": float(probs[0, c]) for c in classes})
    for c in classes:
        tester.run.print(f"class {c}: p(y|x) {probs[0, c]:.4f}, mass of its map {maps[classes.index(c)].sum():.4f}")
    tester.run.print(f"figure: {figure}")
    tester.run.finish(image=str(path), classes=classes, probabilities=[float(probs[0, c]) for c in classes])


if __name__ == "__main__":
    run_main(main)
