"""Why this label: class activation maps of your own picture under a trained network.

    # a run whose network has maps: convnet, resnet, densenet
    python main.py -ds cifar10 -mo resnet
    # the five likeliest classes, then two candidates of your own
    python explain.py --run save/cifar10_resnet_cavl --image cat.png
    python explain.py --run save/cifar10_resnet_cavl --image cat.png --candidates 3 5

Writes RUN/figures/explain.png and prints which candidate the class activation value picks.
"""

import common.interrupt  # noqa: F401  (first: Ctrl-C during the imports ends in one line)

from cavl.options import parse_explain
from common.cli import UserError, parse_or_exit, run_main

if __name__ == "__main__":  # --help and mistakes are answered before torch is imported
    arguments = parse_or_exit(parse_explain)

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as F

from cavl.build_saved import load_run
from cavl.data_input import InputFormat
from cavl.data_resident import Images
from cavl.figures import CandidateMaps, save_rows
from cavl.method import select_by_cam, select_by_cav
from common.aliases import one_module
from common.images import read_own_picture

one_module(__name__, "cavl.explain")


def main(argv: Sequence[str] | None = None, *, arguments: argparse.Namespace | None = None) -> None:
    """Load the run's network, read the picture, draw, print the choice."""
    args = arguments or parse_explain(argv)
    saved = load_run(args.run)
    num_classes = saved.takes.num_classes
    require_candidates(args.candidates or [], num_classes)
    print(saved)

    x = network_input(args.image, saved.takes)
    maps = CandidateMaps(saved.model, x, saved.cav)
    listed = args.candidates or maps.outputs[0].topk(min(5, num_classes)).indices.tolist()
    candidates = torch.zeros_like(maps.outputs)
    candidates[0, listed] = 1
    among = f"of the candidates {', '.join(map(str, listed))}"
    if saved.select == "cam":
        largest = select_by_cam(maps.maps, candidates).item()
        rule = "the largest class activation map, by which the run selects, is that of"
        print(f"{among} {rule} {largest}")

    picked = select_by_cav(maps.outputs, candidates, cav=saved.cav, mask=saved.mask).item()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_rows(args.out, [maps.row(0, listed, args.image.name)])
    print(f"{among} the class activation value picks {picked}")
    print(f"picture: {args.out}")


def require_candidates(listed: list[int], num_classes: int) -> None:
    """UserError for a class that the network does not have, and for one that is listed twice."""
    for place, label in enumerate(listed):
        if not 0 <= label < num_classes:
            raise UserError(f"--candidates {label}: classes are 0 to {num_classes - 1}")
        if label in listed[:place]:
            raise UserError(f"--candidates: {label} stands there twice")


def network_input(path: Path, takes: InputFormat) -> torch.Tensor:
    """Return a picture file as network input (1, C, H, W) float32.

    It has the size, colours and scale of the run.
    """
    channels, *size = takes.shape
    image = read_own_picture(path).convert("L" if channels == 1 else "RGB")
    pixels = F.resize(F.pil_to_tensor(image), size, antialias=True)[None]
    images = Images(pixels, torch.device("cpu"), mean=takes.mean, std=takes.std)
    return images[torch.arange(1)]


if __name__ == "__main__":
    run_main(partial(main, arguments=arguments))
