"""Name what is in pictures: a table, annotated pictures and, with --json, the scores as JSON.

python infer.py --model_path=./models/mtresnet_opim_86.72.pth --pic_path=./pics
python infer.py --sample             # drawn pictures, and a tiny network trained on the spot
"""

try:
    import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)
except ModuleNotFoundError:  # a clone that is not installed
    import sys

    print("error: this clone is not installed; type: pip install -e ..", file=sys.stderr)
    sys.exit(2)

from common.cli import parse_or_exit, run_main
from csl.options_infer import DEFAULT_DIR, Settings, build_parser, parse

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    settings_of_command = parse_or_exit(parse)

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.aliases import one_module
from common.cli import UserError
from common.files import atomic_write
from common.modes import evaluating
from common.pictures import Answers, find_pictures, printable, read_pictures, readable_pictures
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from csl.build import build_scored
from csl.data_errors import expanded, say
from csl.data_pictures import class_names, sample_pictures
from csl.data_pixels import Pixels, stack_pictures
from csl.evaluate import Forward, eval_kind
from csl.figures import draw_annotated, with_scores
from csl.src.helper_functions.helper_functions import parse_args
from csl.src.models.tresnet.fold import fold
from csl.src.models.utils.checkpoint import ZOO, find_file, names_of
from csl.src.models.utils.checkpoint_input import describe_network
from csl.src.models.utils.factory import activation_maps, statistics_of_model
from csl.src.models.utils.published import located

one_module(__name__, "csl.infer")

__all__ = ["infer", "infer_batch", "inference", "main", "parse_args", "parser"]

parser = build_parser()


def inference(
    im: Image.Image, model: nn.Module, class_list: Sequence[str], args: argparse.Namespace
) -> tuple[list[str], list[float], Image.Image]:
    """Names and scores in descending order, above args.th, at most args.top_k.

    And the picture as RGB.
    """
    im = im.convert("RGB")
    interpolation = getattr(args, "interpolation", "bilinear")
    pixels = Pixels(args.input_size, interpolation, statistics_of_model(model))
    found = infer_batch([im], model, class_list, pixels=pixels, th=args.th, top_k=args.top_k)
    names, scores = found[0]
    return names, scores, im


@torch.inference_mode()
def infer_batch(
    images: Sequence[Image.Image],
    model: nn.Module,
    class_list: Sequence[str],
    *,
    pixels: Pixels,
    th: float,
    top_k: int,
    autocast: torch.dtype | None = None,
) -> list[tuple[list[str], list[float]]]:
    """Names and scores of several RGB pictures, in one forward pass; as in `inference`.

    autocast: what the network computes in, as `csl.evaluate.Forward` takes it.
    """
    weight = next(model.parameters())
    batch = stack_pictures([pixels.whole(pixels.resize(image)) for image in images])
    numbers = pixels.to_numbers().to(weight.device)
    with evaluating(model):
        values = numbers(batch.to(weight.device)).to(weight.dtype)
        probabilities = Forward(autocast)(model, values).cpu()
    found = []
    for row in probabilities:
        scores, order = row.sort(descending=True, stable=True)
        kept = int((scores[:top_k] > th).sum())
        names = [class_list[place] for place in order[:kept].tolist()]
        found.append((names, scores[:kept].tolist()))
    return found


def find_inputs(settings: Settings) -> tuple[list[Path], int]:
    """The pictures, and how many cannot be read; sets --model_path to the file that is there.

    UserError where there is no network, or no picture.
    """
    args = settings.args
    if not settings.wants_sample_network:
        args.model_path = str(located(args.model_path, is_given="model_path" in settings.given))
    if not settings.wants_sample_network and find_file(args.model_path) is None:
        raise UserError(
            f"--model_path {args.model_path}: no such file; {ZOO}, or run with --sample"
        )
    if args.sample and "pic_path" not in settings.given:
        args.pic_path = sample_pictures()
    pictures, left_out = readable_pictures(
        args.pic_path, "--pic_path", skip_corrupt=args.skip_corrupt
    )
    unreadable = len(find_pictures(args.pic_path, "--pic_path")) - len(pictures)
    for line in left_out:
        say(line)
    return pictures, unreadable


@torch.inference_mode()
def batch_maps(images: Sequence[Image.Image], model: nn.Module, pixels: Pixels) -> np.ndarray:
    """The raw class activation maps of RGB pictures, (B,C,h,w) float32, negative values too."""
    weight = next(model.parameters())
    batch = stack_pictures([pixels.whole(pixels.resize(image)) for image in images])
    numbers = pixels.to_numbers().to(weight.device)
    with evaluating(model):
        values = numbers(batch.to(weight.device)).to(weight.dtype)
        return activation_maps(model, values).float().cpu().numpy()


def infer(settings: Settings) -> list[dict[str, Any]]:
    """Load the network, name what is in every picture, write table, pictures and JSON.

    Returns the records.

    Image size, interpolation, normalisation, classes and head are the checkpoint's unless their
    flag was given.
    """
    args = settings.args
    accelerator = make_accelerator(args)
    seed_everything(args.seed)

    # Pictures, before the network is read
    pictures, unreadable = find_inputs(settings)

    # Network
    with tempfile.TemporaryDirectory() as folder:
        if settings.wants_sample_network:
            args.model_path = train_sample_network(args, Path(folder))
        model, checkpoint, pixels = build_scored(args, settings.given, "input_size")
    args.input_size = pixels.size
    args.interpolation = pixels.interpolation
    descriptions = expanded(args.class_description_path, "--class_description_path")
    names = class_names(names_of(checkpoint), descriptions)
    model = fold(model).to(accelerator.device).to(memory_format=torch.channels_last)

    # Names
    labels = np.array(names)
    kind = eval_kind(args.eval_autocast, accelerator)
    run = start_run(args, DEFAULT_DIR, accelerator)
    run.print(f"{args.model_path}: {describe_network(checkpoint, pixels)}")
    answers = Answers(run.folder / "answers")
    for start in range(0, len(pictures), args.batch_size):
        paths = pictures[start : start + args.batch_size]
        images, damaged = read_pictures(paths, skip_corrupt=args.skip_corrupt)
        for line in damaged:
            say(line)
        unreadable += len(paths) - len(images)
        if not images:
            continue
        shown = list(images.values())
        kept = {"th": args.th, "top_k": args.top_k, "autocast": kind}
        results = infer_batch(shown, model, names, pixels=pixels, **kept)
        maps = batch_maps(shown, model, pixels) if args.npz else [None] * len(shown)
        for (path, image), answer, of_picture in zip(images.items(), results, maps, strict=True):
            found, scores = answer
            told = with_scores(found, scores)
            shown_line = ", ".join(told) or f"nothing above {args.th}"
            run.print(printable(f"{path.name}: {shown_line}"))
            name = answers.add(
                path,
                {"classes": found, "scores": [round(score, 6) for score in scores]},
                shown=image,
                caption=told[:3],
                arrays=None if of_picture is None else {"maps": of_picture, "classes": labels},
            )
            draw_annotated(run.figure(name), image, found, scores)
        run.progress.images += len(images)
        run.poll()

    # What the run leaves
    records = answers.records
    if records:
        answers.finish(run.folder / "contact_sheet.png")
    own = run.folder / "predictions.json"
    for path in {own, args.json or own}:
        atomic_write(path, (json.dumps(records, indent=1) + "\n").encode())
    count = sum(len(record["classes"]) for record in records)
    run.log("infer", pictures=len(records), names=count)
    if unreadable:
        run.print(f"{len(records)} pictures; {unreadable} could not be read and are left out")
    run.finish(pictures=len(records), skipped=unreadable, names=count, offline_sample=args.sample)
    return records


def train_sample_network(args: argparse.Namespace, folder: Path) -> str:
    """Train `args.model_name` at `args.input_size` on the COCO_2014 sample for a few epochs.

    Its weights.
    """
    from csl.train import main as train

    run = folder / "run"
    flags = "--sample --cpu --epochs 5 --partial_loss_mode selective"
    flags += " --simulate_partial_type rps --simulate_partial_param 0.5"
    flags += f" --seed {args.seed} --model_name {args.model_name} --image_size {args.input_size}"
    train([*flags.split(), "--output_dir", str(run)])
    return str(run / "checkpoints" / "best_ema.pth")


def main(argv: Sequence[str] | None = None, *, settings: Settings | None = None) -> None:
    """Name what is in the pictures."""
    infer(settings or parse(argv, parser))


if __name__ == "__main__":
    run_main(partial(main, settings=settings_of_command))
