"""Why this label: class activation maps of your own picture under a trained network.

    python main.py -ds cifar10 -mo resnet                               # a run with maps: convnet, resnet, densenet
    python explain.py --run save/cifar10_resnet_cavl --image cat.png    # the five likeliest classes
    python explain.py --run save/cifar10_resnet_cavl --image cat.png --candidates 3 5

Writes RUN/figures/explain.png and prints which candidate the class activation value picks.
"""

import common.interrupt  # noqa: F401

import argparse
import json
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as F

from cavl.utils import cam_pictures
from cavl.utils.build import build_model, load_weights
from cavl.utils.datasets import CIFAR_MEAN, CIFAR_STD, DATA_SETS, PartialData
from cavl.utils.options import MAP_MODELS
from cavl.utils.resident import Images
from cavl.utils.utils_algo import selected_labels
from common import checkpoint
from common.cli import OneLineParser, UserError, run_main
from common.data import read_image

SIZES = {"idx": 28, "cifar": 32, "plcifar": 32}  # pixels a side; idx sets are grey, white on black


def main(argv: list[str] | None = None) -> None:
    """Load the run's network, read the picture, draw, print the choice."""
    parser = OneLineParser(prog="explain.py", description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="run directory of main.py")
    parser.add_argument("--image", type=Path, required=True, help="a picture file")
    parser.add_argument("--candidates", type=int, nargs="+", default=None, help="classes (default: five likeliest)")
    parser.add_argument("--out", type=Path, default=None, help="the figure (default: RUN/figures/explain.png)")
    args = parser.parse_args(argv)

    settings, model = load_run(args.run)
    x = network_input(args.image, settings.ds)
    maps = cam_pictures.CandidateMaps(model, x, settings.cav)
    k = maps.outputs.shape[1]
    listed = args.candidates or maps.outputs[0].topk(min(5, k)).indices.tolist()
    strange = [c for c in listed if not 0 <= c < k]
    if strange:
        raise UserError(f"--candidates {strange[0]}: classes are 0 to {k - 1}")

    candidates = torch.zeros_like(maps.outputs)
    candidates[0, listed] = 1
    picked = selected_labels(maps.outputs, candidates, cav=settings.cav).item()
    out = args.out or args.run / "figures" / "explain.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    cam_pictures.save(out, [maps.row(0, listed, args.image.name)])
    print(f"of the candidates {', '.join(map(str, listed))} the class activation value picks {picked}")
    print(f"picture: {out}")


def load_run(folder: Path) -> tuple[argparse.Namespace, torch.nn.Module]:
    """Settings and trained network of a run directory, in eval mode; UserError where its network has no maps."""
    try:
        settings = argparse.Namespace(**json.loads((folder / "config.json").read_text())["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--run {folder}: no readable config.json; name a run directory of main.py") from error
    if getattr(settings, "mo", None) not in MAP_MODELS:
        raise UserError(f"--run {folder}: its network has no class activation maps; {', '.join(MAP_MODELS)} have them")
    file = folder / "checkpoints" / "last.pt"
    weights = load_weights(file)
    model = build_model(settings, shape_of(settings.ds, weights))
    checkpoint.load_into(model, weights, file)
    return settings, model.eval()


def shape_of(ds: str, weights: dict[str, torch.Tensor]) -> PartialData:
    """A data set without images: what `build_model` reads off one."""
    size = SIZES[DATA_SETS[ds].kind]
    channels = next(w.shape[1] for w in weights.values() if w.ndim == 4)  # the first convolution
    classes = next(w.shape[0] for w in reversed(weights.values()) if w.ndim == 2)  # the linear layer
    none = torch.empty(0, channels, size, size)
    return PartialData(ds, none, none, none, none, classes, is_sample=False)


def network_input(path: Path, ds: str) -> torch.Tensor:
    """A picture file as network input (1,C,H,W) float32, in the size and scale of the data set `ds`."""
    kind = DATA_SETS[ds].kind
    image = read_image(path).convert("L" if kind == "idx" else "RGB")
    pixels = F.resize(F.pil_to_tensor(image), [SIZES[kind]] * 2, antialias=True)[None]
    scale = {} if kind == "idx" else {"mean": CIFAR_MEAN, "std": CIFAR_STD}
    return Images(pixels, torch.device("cpu"), **scale)[torch.arange(1)]


if __name__ == "__main__":
    run_main(main)
