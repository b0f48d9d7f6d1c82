"""Around infer.py: which pictures, which class names, annotated pictures, the sample's network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common import samples
from common.aliases import one_module
from common.cli import UserError
from common.images import image_files, is_image
from common.plots import save_grid
from csl.src.helper_functions.files import expanded
from csl.src.helper_functions.openimages import read_class_names
from csl.src.models.utils.checkpoint import Checkpoint

one_module(__name__, "csl.src.pictures")


def find_pictures(given: Sequence[str]) -> list[Path]:
    """The image files that paths, folders and patterns such as pics/*.jpg stand for, in order.

    UserError names the first that stands for none.
    """
    found: list[Path] = []
    for text in given:
        path = expanded(text, "--pic_path")
        if path.is_dir():
            here = image_files(path)
        elif path.is_file():
            here = [path]
        else:
            pattern = any(mark in path.name for mark in "*?[")
            found_here = path.parent.glob(path.name) if pattern and path.parent.is_dir() else ()
            here = sorted(
                picture for picture in found_here if picture.is_file() and is_image(picture)
            )
        if not here:
            raise UserError(
                f"--pic_path {text}: no picture there; give a picture, a folder or a pattern (the released ones: pics/ "
                "of Alibaba-MIIL/PartialLabelingCSL), or run with --sample"
            )
        found += here
    return list(dict.fromkeys(found))  # pics/ and pics/a.jpg: once


def printable(text: str) -> str:
    """The text, with what no terminal can show spelled out: names of files may hold any bytes.

    >>> printable("a\\udcff.jpg")
    'a\\\\udcff.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def figure_name(number: int, path: Path) -> str:
    """The name of the annotated picture of a file, which may have a name as long as the system allows."""
    return f"{number:04d}_{path.stem[:60]}"


def class_names(checkpoint: Checkpoint, descriptions: Path) -> list[str]:
    """The name of every output: from the checkpoint, MIDs spelled out by the class-description csv.

    A name that the csv lacks stays as it is; one warning counts the MIDs among them.
    """
    names = checkpoint.idx_to_class or {k: f"class {k}" for k in range(checkpoint.num_classes or 0)}
    ordered = [names[k] for k in range(len(names))]
    mids = [name for name in ordered if name.startswith(("/m/", "/g/"))]
    if not mids:
        return ordered
    described = read_class_names(
        descriptions.parent, descriptions if descriptions.is_file() else None
    )
    missing = sum(mid not in described for mid in mids)
    if missing:
        print(
            f"{descriptions}: lacks {missing} of {len(mids)} classes; they keep their MID",
            file=sys.stderr,
            flush=True,
        )
    return [described.get(name, name) for name in ordered]


def draw_annotated(
    path: Path, image: Image.Image, names: Sequence[str], scores: Sequence[float]
) -> None:
    """The picture with its names and scores above it, as a PNG."""
    lines = [f"{name} {score:.3f}" for name, score in zip(names, scores, strict=True)][:10]
    side = 448 / max(image.size)
    shown = image.resize((max(1, round(image.width * side)), max(1, round(image.height * side))))
    save_grid(
        path, [[np.asarray(shown)]], [["\n".join(lines) or "nothing above the threshold"]], cell=4
    )


# Of infer.py --sample: a network of a minute is less sure of its names than one of weeks.
SAMPLE_SETTINGS = {
    "model_name": "tresnet_tiny",
    "input_size": 64,
    "dataset_type": "MS-COCO",
    "th": 0.5,
}


def sample_pictures(count: int = 8) -> list[str]:
    """The first test pictures of the COCO_2014 sample."""
    pictures = sorted((samples.ensure("COCO_2014") / "val2014").glob("*.jpg"))
    return [str(picture) for picture in pictures[:count]]


def train_sample_network(args: argparse.Namespace, folder: Path) -> str:
    """Train `args.model_name` at `args.input_size` on the COCO_2014 sample for a few epochs; its weights."""
    from csl.train import main as train

    flags = [
        "--sample",
        "--partial_loss_mode=selective",
        "--epochs",
        "5",
        "--output_dir",
        str(folder / "run"),
        "--cpu",
    ]
    flags += [
        "--simulate_partial_type",
        "rps",
        "--simulate_partial_param",
        "0.5",
        "--seed",
        str(args.seed),
    ]
    flags += ["--model_name", args.model_name, "--image_size", str(args.input_size)]
    train(flags)
    return str(folder / "run" / "checkpoints" / "best_ema.pth")
