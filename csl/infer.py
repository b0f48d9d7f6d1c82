"""Name what is in pictures: a table, annotated pictures and, with --json, the scores as JSON.

python infer.py --dataset_type=OpenImages --model_path=./models/mtresnet_opim_86.72.pth --pic_path=./pics
python infer.py --sample                       # drawn pictures, and a tiny network trained on the spot
"""

import common.interrupt  # noqa: F401

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import Compose, InterpolationMode, Resize, ToTensor

from common.cli import UserError, add_shared_flags, positive_int, run_main
from common.data import read_image
from common.run import start_run
from common.rundir import make_accelerator, seed_everything
from csl.src.evaluation import evaluating
from csl.src.models.tresnet.fold import fold
from csl.src.models.utils.checkpoint import ZOO, find_file, network_of
from csl.src.options import EitherDash, parse_given
from csl.src.pictures import class_names, draw_annotated, find_pictures, train_sample_network


def threshold(text: str) -> float | None:
    """argparse type: a number, or None."""
    return None if text == "None" else float(text)


parser = EitherDash(prog="infer.py", description="Name what is in pictures.")
parser.add_argument("--model_path", default="./models/mtresnet_opim_86.72.pth")
parser.add_argument("--pic_path", nargs="+", default=["./pics/000000000885.jpg"], help="pictures, folders or patterns")
parser.add_argument("--model_name", default="tresnet_m")
parser.add_argument("--input_size", type=positive_int, default=224)
parser.add_argument("--dataset_type", default="OpenImages", help="OpenImages, MS-COCO, or any other text")
parser.add_argument("--class_description_path", default="./data/oidv6-class-descriptions.csv")
parser.add_argument("--th", type=threshold, default=0.97, help="lowest probability that is shown; None: by data set")
parser.add_argument("--top_k", type=positive_int, default=30, help="most names of a picture")
parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear", help="bicubic: as released")
parser.add_argument("--which", choices=("ema", "model"), default="ema", help="of a run's last.pt or best.pt")
parser.add_argument("-b", "--batch_size", type=positive_int, default=16)
parser.add_argument("--json", type=Path, default=None, help="also write the scores there")
add_shared_flags(parser, skip_corrupt=False)
parser.set_defaults(output_dir="./outputs/infer")


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; sets do_bottleneck_head, and th 0.995 for Open Images, 0.7 for others, where th is None.

    A default output_dir becomes None: not named, so that a second run gets a folder beside the first.
    """
    defaults, given = parse_given(parser, argv)
    args = argparse.Namespace(**(defaults | {"output_dir": None} | given))
    args.do_bottleneck_head = args.dataset_type == "OpenImages"
    if args.dataset_type not in ("OpenImages", "MS-COCO"):
        print(f"note: --dataset_type {args.dataset_type!r} is neither OpenImages nor MS-COCO: a plain head", flush=True)
    if args.th is None:
        args.th = 0.995 if args.dataset_type == "OpenImages" else 0.7
    return args


def inference(
    im: Image.Image, model: nn.Module, class_list: Sequence[str], args: argparse.Namespace
) -> tuple[list[str], list[float], Image.Image]:
    """Names and scores in descending order, above args.th, at most args.top_k; and the picture as RGB."""
    im = im.convert("RGB")
    names, scores = infer_batch([im], model, class_list, args)[0]
    return names, scores, im


@torch.inference_mode()
def infer_batch(
    images: Sequence[Image.Image], model: nn.Module, class_list: Sequence[str], args: argparse.Namespace
) -> list[tuple[list[str], list[float]]]:
    """Names and scores of several RGB pictures, in one forward pass."""
    mode = InterpolationMode(getattr(args, "interpolation", "bilinear"))
    prepare = Compose([Resize((args.input_size, args.input_size), mode), ToTensor()])
    batch = torch.stack([prepare(image) for image in images]).to(next(model.parameters()))
    with evaluating(model):
        probabilities = model(batch).float().sigmoid().cpu()
    found = []
    for row in probabilities:
        scores, order = row.sort(descending=True, stable=True)
        kept = int((scores[: args.top_k] > args.th).sum())
        found.append(([class_list[i] for i in order[:kept].tolist()], scores[:kept].tolist()))
    return found


def infer(args: argparse.Namespace) -> list[dict]:
    """Load the network, name what is in every picture, write table, pictures and JSON; returns the records."""
    accelerator = make_accelerator(args)
    seed_everything(args.seed)
    if not args.sample and find_file(args.model_path) is None:
        raise UserError(f"--model_path {args.model_path}: no such file; {ZOO}, or run with --sample")
    with tempfile.TemporaryDirectory() as folder:
        if args.sample:
            args.model_path, args.pic_path = train_sample_network(args, Path(folder))
        pictures = find_pictures(args.pic_path)
        model, checkpoint = network_of(args.model_path, args.model_name, averaged=args.which == "ema")
    names = class_names(checkpoint, Path(args.class_description_path))
    model = fold(model).to(accelerator.device)

    run = start_run(args, parser.get_default("output_dir"), accelerator)
    records = []
    for start in range(0, len(pictures), args.batch_size):
        paths = pictures[start : start + args.batch_size]
        images = [read_image(path) for path in paths]
        for path, image, (found, scores) in zip(paths, images, infer_batch(images, model, names, args), strict=True):
            shown = ", ".join(f"{n} {s:.3f}" for n, s in zip(found, scores, strict=True))
            run.print(f"{path.name}: {shown or f'nothing above {args.th}'}")
            draw_annotated(run.figure(f"{len(records):04d}_{path.stem}"), image, found, scores)
            records.append({"picture": str(path), "classes": found, "scores": [round(s, 6) for s in scores]})
        run.progress.images += len(images)
        run.poll()
    for path in {run.folder / "predictions.json", args.json or run.folder / "predictions.json"}:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records, indent=1) + "\n")
    count = sum(len(record["classes"]) for record in records)
    run.log("infer", pictures=len(records), names=count)
    run.finish(pictures=len(records), names=count, offline_sample=args.sample)
    return records


def main(argv: Sequence[str] | None = None) -> None:
    """Parse and infer."""
    infer(parse_args(parser, argv))


if __name__ == "__main__":
    run_main(main)
