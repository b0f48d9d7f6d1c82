"""Around infer.py: which pictures, which class names, annotated pictures, the sample's network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common import samples
from common.cam import save_grid
from common.cli import UserError
from common.data import IMAGE_SUFFIXES
from csl.src.helper_functions.openimages import read_class_names
from csl.src.models.utils.checkpoint import Checkpoint


def find_pictures(given: Sequence[str]) -> list[Path]:
    """The image files that paths, folders and patterns such as pics/*.jpg stand for, in order.

    UserError names the first that stands for none.
    """
    found: list[Path] = []
    for text in given:
        path = Path(text).expanduser()
        if path.is_dir():
            here = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            here = [path]
        else:
            pattern = any(mark in path.name for mark in "*?[")
            here = sorted(path.parent.glob(path.name)) if pattern and path.parent.is_dir() else []
        if not here:
            raise UserError(
                f"--pic_path {text}: no picture there; give a picture, a folder or a pattern (the released ones are in "
                "pics/ of Alibaba-MIIL/PartialLabelingCSL), or run with --sample"
            )
        found += here
    return found


def class_names(checkpoint: Checkpoint, descriptions: Path) -> list[str]:
    """The name of every output: from the checkpoint, MIDs spelled out by the class-description csv.

    A name that the csv lacks stays as it is; one warning counts the MIDs among them.
    """
    names = checkpoint.idx_to_class or {k: f"class {k}" for k in range(checkpoint.num_classes or 0)}
    ordered = [names[k] for k in range(len(names))]
    mids = [name for name in ordered if name.startswith(("/m/", "/g/"))]
    if not mids:
        return ordered
    described = read_class_names(descriptions.parent, descriptions if descriptions.is_file() else None)
    missing = sum(mid not in described for mid in mids)
    if missing:
        print(
            f"{descriptions}: lacks {missing} of {len(mids)} classes; they keep their MID", file=sys.stderr, flush=True
        )
    return [described.get(name, name) for name in ordered]


def draw_annotated(path: Path, image: Image.Image, names: Sequence[str], scores: Sequence[float]) -> None:
    """The picture with its names and scores above it, as a PNG."""
    lines = [f"{name} {score:.3f}" for name, score in zip(names, scores, strict=True)][:10]
    side = 448 / max(image.size)
    shown = image.resize((max(1, round(image.width * side)), max(1, round(image.height * side))))
    save_grid(path, [[np.asarray(shown)]], [["\n".join(lines) or "nothing above the threshold"]], cell=4)


def train_sample_network(args: argparse.Namespace, folder: Path) -> tuple[str, list[str]]:
    """Train the tiny network on the COCO_2014 sample for a few epochs; its weights, and eight test pictures of it."""
    from csl.train import main as train

    root = samples.ensure("COCO_2014")
    epochs = ["--epochs", "5", "--simulate_partial_type", "rps", "--simulate_partial_param", "0.5"]
    train(["--sample", "--partial_loss_mode=selective", *epochs, "--output_dir", str(folder / "run"), "--cpu"])
    args.model_name, args.input_size, args.dataset_type = "tresnet_tiny", 64, "MS-COCO"
    args.th = min(args.th, 0.5)
    pictures = sorted((root / "val2014").glob("*.jpg"))[:8]
    return str(folder / "run" / "checkpoints" / "best_ema.pth"), [str(p) for p in pictures]
