"""Name what is in pictures: a table, annotated pictures and, with --json, the scores as JSON.

python infer.py --dataset_type=OpenImages --model_path=./models/mtresnet_opim_86.72.pth --pic_path=./pics
python infer.py --sample                       # drawn pictures, and a tiny network trained on the spot
"""

import common.interrupt  # noqa: F401

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from common.aliases import one_module
from common.checkpoint import atomic_write
from common.cli import (
    UserError,
    add_shared_flags,
    image_size,
    number,
    parse_given,
    positive_int,
    run_main,
    settle,
)
from common.images import CorruptImage, check_images, left_out, read_own_picture
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from csl.src import contradictions
from csl.src.errors import MissingFileError
from csl.src.evaluation import evaluating
from csl.src.helper_functions.files import expanded
from csl.src.models.tresnet.fold import fold
from csl.src.models.utils.checkpoint import (
    ZOO,
    describe_network,
    find_file,
    network_of,
    pixels_for,
    require_choice,
)
from csl.src.models.utils.factory import statistics_of_model
from csl.src.options import EitherDash, any_path
from csl.src.pictures import (
    SAMPLE_SETTINGS,
    class_names,
    draw_annotated,
    figure_name,
    find_pictures,
    printable,
    sample_pictures,
    train_sample_network,
)
from csl.src.pixels import INTERPOLATIONS, Pixels

one_module(__name__, "csl.infer")


def threshold(text: str) -> float | None:
    """argparse type: a probability, or None."""
    return None if text == "None" else number(0, 1)(text)


parser = EitherDash(prog="infer.py", description="Name what is in pictures.")
parser.add_argument("--model_path", default="./models/mtresnet_opim_86.72.pth")
parser.add_argument(
    "--pic_path",
    nargs="+",
    default=["./pics/000000000885.jpg"],
    help="pictures, folders or patterns",
)
parser.add_argument(
    "--model_name", default="tresnet_m", help="used where the checkpoint does not tell"
)
parser.add_argument(
    "--input_size", type=image_size, default=224, help="default: the checkpoint's, else 224"
)
parser.add_argument("--dataset_type", default="OpenImages", help="OpenImages, MS-COCO, or any other text; decides --th"
    " None")  # fmt: skip
parser.add_argument("--class_description_path", default="./data/oidv6-class-descriptions.csv", help="csv"
    " LabelName,DisplayName that spells out classes that are MIDs")  # fmt: skip
parser.add_argument(
    "--th", type=threshold, default=0.97, help="lowest probability that is shown; None: by data set"
)
parser.add_argument("--top_k", type=positive_int, default=30, help="most names of a picture")
parser.add_argument("--interpolation", choices=INTERPOLATIONS, default="bilinear", help="default: the checkpoint's,"
    " else bilinear; bicubic: as released")  # fmt: skip
parser.add_argument(
    "--which", choices=("ema", "model"), default="ema", help="of a run's last.pt or best.pt"
)
parser.add_argument("-b", "--batch_size", type=positive_int, default=16)
parser.add_argument(
    "--json", type=any_path, default=None, help="also write the scores into this file"
)
add_shared_flags(parser)
parser.set_defaults(output_dir="./outputs/infer")


def parse_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse; sets do_bottleneck_head, and th 0.995 for Open Images, 0.7 for others, where th is None.

    A default output_dir becomes None: not named, so that a second run gets a folder beside the first. With --sample
    the sample's network and pictures stand in for those that were not given.
    """
    defaults, given = parse_given(parser, argv)
    args = settle(defaults, given, {"output_dir": None}, _sample_settings(given))
    contradictions.refuse_flags_of_training(args, set(given))
    if args.json is not None:
        _require_writable(args.json)
    descriptions = expanded(args.class_description_path, "--class_description_path")
    if "class_description_path" in given and not descriptions.is_file():
        raise MissingFileError(f"--class_description_path {descriptions}: no such file")
    args.do_bottleneck_head = args.dataset_type == "OpenImages"
    if args.dataset_type not in ("OpenImages", "MS-COCO"):
        print(
            f"note: --dataset_type {args.dataset_type!r} is neither OpenImages nor MS-COCO: a plain head",
            flush=True,
        )
    if args.th is None:
        args.th = 0.995 if args.dataset_type == "OpenImages" else 0.7
    return args


def _sample_settings(given: dict) -> dict:
    """What the sample changes: its network is tiny, and less sure than one that was trained for weeks."""
    if not given.get("sample") or "model_path" in given:
        return {}
    return SAMPLE_SETTINGS


def _require_writable(path: Path) -> None:
    """UserError where --json names a folder, or nothing that can be written."""
    if path.is_dir():
        raise UserError(
            f"--json {path}: is a folder; name a file in it, such as {path / 'scores.json'}"
        )
    if path.exists() and not path.is_file():
        raise UserError(f"--json {path}: is no ordinary file")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--json {path}: {there} cannot be written into")


def inference(
    im: Image.Image, model: nn.Module, class_list: Sequence[str], args: argparse.Namespace
) -> tuple[list[str], list[float], Image.Image]:
    """Names and scores in descending order, above args.th, at most args.top_k; and the picture as RGB."""
    im = im.convert("RGB")
    names, scores = infer_batch([im], model, class_list, args)[0]
    return names, scores, im


@torch.inference_mode()
def infer_batch(
    images: Sequence[Image.Image],
    model: nn.Module,
    class_list: Sequence[str],
    args: argparse.Namespace,
) -> list[tuple[list[str], list[float]]]:
    """Names and scores of several RGB pictures, in one forward pass."""
    pixels = getattr(args, "_pixels", None)
    if pixels is None:
        interpolation = getattr(args, "interpolation", "bilinear")
        pixels = Pixels(args.input_size, interpolation, statistics_of_model(model))
    prepared = [pixels.tensor(pixels.resize(image)) for image in images]
    batch = torch.stack(prepared).to(next(model.parameters()))
    with evaluating(model):
        probabilities = model(batch).float().sigmoid().cpu()
    found = []
    for row in probabilities:
        scores, order = row.sort(descending=True, stable=True)
        kept = int((scores[: args.top_k] > args.th).sum())
        found.append(([class_list[i] for i in order[:kept].tolist()], scores[:kept].tolist()))
    return found


def readable_pictures(args: argparse.Namespace) -> tuple[list[Path], int]:
    """The pictures that --pic_path stands for, and how many were left out; before the network is read.

    CorruptImage names the first that cannot be read; with --skip_corrupt those are left out, and told.
    """
    pictures = find_pictures(args.pic_path)
    positions = check_images(pictures, what="--pic_path", skip_corrupt=args.skip_corrupt)
    if not len(positions):
        return pictures, 0
    print(printable(left_out(pictures, positions, "--pic_path")), file=sys.stderr, flush=True)
    if len(positions) == len(pictures):
        raise UserError("--pic_path: none of the pictures can be read")
    unreadable = set(positions.tolist())
    return [path for place, path in enumerate(pictures) if place not in unreadable], len(unreadable)


def _read(paths: Sequence[Path], skip_corrupt: bool) -> dict[Path, Image.Image]:
    """The pictures by path. Damage in the middle of a file shows only here."""
    images = {}
    for path in paths:
        try:
            images[path] = read_own_picture(path)
        except CorruptImage as error:
            if not skip_corrupt:
                raise
            print(printable(f"{error}; left out"), file=sys.stderr, flush=True)
    return images


def infer(args: argparse.Namespace) -> list[dict]:
    """Load the network, name what is in every picture, write table, pictures and JSON; returns the records.

    Image size, interpolation, normalisation, classes and head are the checkpoint's unless their flag was given.
    """
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    given = getattr(args, "_given", set())
    wants_network = args.sample and "model_path" not in given
    if not wants_network and find_file(args.model_path) is None:
        raise UserError(
            f"--model_path {args.model_path}: no such file; {ZOO}, or run with --sample"
        )
    if args.sample and "pic_path" not in given:
        args.pic_path = sample_pictures()
    pictures, unreadable = readable_pictures(args)
    with tempfile.TemporaryDirectory() as folder:
        if wants_network:
            args.model_path = train_sample_network(args, Path(folder))
        model, checkpoint = network_of(
            args.model_path, args.model_name, averaged=args.which == "ema"
        )
    require_choice(checkpoint, args.model_path, args.which, given)
    flags = {"input_size": "size", "interpolation": "interpolation"}
    pixels = pixels_for(
        checkpoint, args.input_size, args.interpolation, {flags[f] for f in flags if f in given}
    )
    contradictions.require_size(checkpoint.architecture, pixels.size, "--input_size")
    args.input_size = pixels.size
    args.interpolation = pixels.interpolation
    args._pixels = pixels
    names = class_names(
        checkpoint, expanded(args.class_description_path, "--class_description_path")
    )
    model = fold(model).to(accelerator.device)

    run = start_run(args, parser.get_default("output_dir"), accelerator)
    run.print(f"{args.model_path}: {describe_network(checkpoint, pixels)}")
    records = []
    for start in range(0, len(pictures), args.batch_size):
        paths = pictures[start : start + args.batch_size]
        images = _read(paths, args.skip_corrupt)
        unreadable += len(paths) - len(images)
        if not images:
            continue
        results = infer_batch(list(images.values()), model, names, args)
        for (path, image), (found, scores) in zip(images.items(), results, strict=True):
            shown = ", ".join(f"{n} {s:.3f}" for n, s in zip(found, scores, strict=True))
            run.print(printable(f"{path.name}: {shown or f'nothing above {args.th}'}"))
            draw_annotated(run.figure(figure_name(len(records), path)), image, found, scores)
            records.append(
                {"picture": str(path), "classes": found, "scores": [round(s, 6) for s in scores]}
            )
        run.progress.images += len(images)
        run.poll()
    for path in {run.folder / "predictions.json", args.json or run.folder / "predictions.json"}:
        atomic_write(path, (json.dumps(records, indent=1) + "\n").encode())
    count = sum(len(record["classes"]) for record in records)
    run.log("infer", pictures=len(records), names=count)
    if unreadable:
        run.print(f"{len(records)} pictures; {unreadable} could not be read and are left out")
    run.finish(pictures=len(records), skipped=unreadable, names=count, offline_sample=args.sample)
    return records


def main(argv: Sequence[str] | None = None) -> None:
    """Parse and infer."""
    infer(parse_args(parser, argv))


if __name__ == "__main__":
    run_main(main)
