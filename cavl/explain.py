"""Why this label: class activation maps of your own picture under a trained network.

    python main.py -ds cifar10 -mo resnet                               # a run with maps: convnet, resnet, densenet
    python explain.py --run save/cifar10_resnet_cavl --image cat.png    # the five likeliest classes
    python explain.py --run save/cifar10_resnet_cavl --image cat.png --candidates 3 5

Writes RUN/figures/explain.png and prints which candidate the class activation value picks.
"""

import common.interrupt  # noqa: F401

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2 import functional as F

from cavl.utils import cam_pictures
from cavl.utils.build import build_model, load_weights
from cavl.utils.datasets import CIFAR_MEAN, CIFAR_STD, DATA_SETS, PartialData
from cavl.utils.input_format import InputFormat
from cavl.utils.options import MAP_MODELS, build_parser, is_resnet_depth
from cavl.utils.resident import Images
from cavl.utils.utils_algo import select_by_cam, selected_labels
from common import checkpoint
from common.aliases import one_module
from common.cli import OneLineParser, UserError, folder_path, run_main, whole
from common.images import read_own_picture
from common.text import expanded, require_file

one_module(__name__, "cavl.explain")

LARGEST_SIDE = 16384  # pixels
SIZES = {
    "idx": 28,
    "cifar": 32,
    "plcifar": 32,
}  # of checkpoints that do not say theirs, pixels a side


def main(argv: list[str] | None = None) -> None:
    """Load the run's network, read the picture, draw, print the choice."""
    parser = OneLineParser(prog="explain.py", description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=folder_path, required=True, help="run directory of main.py")
    parser.add_argument("--image", type=expanded, required=True, help="a picture file")
    parser.add_argument(
        "--candidates",
        type=whole(),
        nargs="+",
        default=None,
        help="classes (default: five likeliest)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="the figure, a PNG (default: RUN/figures/explain.png)",
    )
    args = parser.parse_args(argv)
    require_file(args.image)
    out = expanded(args.out or args.run / "figures" / "explain.png")
    require_writable(out, args.image)

    settings, model, input_format = load_run(args.run)
    k = input_format.num_classes
    require_candidates(args.candidates or [], k)
    print(describe(settings, input_format))

    x = network_input(args.image, input_format)
    maps = cam_pictures.CandidateMaps(model, x, settings.cav)
    listed = args.candidates or maps.outputs[0].topk(min(5, k)).indices.tolist()
    candidates = torch.zeros_like(maps.outputs)
    candidates[0, listed] = 1
    among = f"of the candidates {', '.join(map(str, listed))}"
    if settings.select == "cam":
        print(f"{among} the largest class activation map, by which the run selects, is that of "
              f"{select_by_cam(maps.maps, candidates).item()}")  # fmt: skip

    picked = selected_labels(maps.outputs, candidates, cav=settings.cav, mask=settings.mask).item()
    out.parent.mkdir(parents=True, exist_ok=True)
    cam_pictures.save(out, [maps.row(0, listed, args.image.name)])
    print(f"{among} the class activation value picks {picked}")
    print(f"picture: {out}")


def require_writable(out: Path, image: Path) -> None:
    """UserError where the figure cannot be the file `out`."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the figure is a PNG; give a name that ends in .png")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: is no file; name one")
    if out.exists() and out.samefile(image):
        raise UserError(f"--out {out}: is the picture itself; give another name")


def require_candidates(listed: list[int], num_classes: int) -> None:
    """UserError for a class that the network does not have, and for one that is listed twice."""
    for place, label in enumerate(listed):
        if not 0 <= label < num_classes:
            raise UserError(f"--candidates {label}: classes are 0 to {num_classes - 1}")
        if label in listed[:place]:
            raise UserError(f"--candidates: {label} stands there twice")


def describe(settings: argparse.Namespace, input_format: InputFormat) -> str:
    """What the run's checkpoint says about its network and its rule of selection."""
    model = f"{settings.mo} of depth {settings.depth}" if settings.mo == "resnet" else settings.mo
    return f"{model} trained on {settings.ds}: {input_format}, -cav {settings.cav}, -mask {settings.mask}"


def load_run(folder: Path) -> tuple[argparse.Namespace, torch.nn.Module, InputFormat]:
    """Settings and trained network of a run directory, in eval mode; UserError where its network has no maps.

    All of it comes from checkpoints/last.pt.
    """
    file = folder / "checkpoints" / "last.pt"
    if not file.is_file():
        raise UserError(
            f"--run {folder}: no checkpoints/last.pt in it; name a run directory of main.py"
        )
    saved = checkpoint.load(file)
    settings = settings_in(saved, folder)
    weights = load_weights(file)
    input_format = input_format_of(saved, settings.ds, weights, file)
    model = build_model(settings, images_of(settings.ds, input_format))
    checkpoint.load_into(model, weights, file)
    return settings, model.eval(), input_format


def settings_in(saved: Any, folder: Path) -> argparse.Namespace:
    """The settings of a run, of which those that are used here can be; UserError for a checkpoint of something else."""
    is_run = isinstance(saved, Mapping) and isinstance(saved.get("settings"), Mapping)
    settings = saved["settings"] if is_run else {}
    if not DATA_SETS.keys() & {str(settings.get("ds"))} or "mo" not in settings:
        raise UserError(
            f"--run {folder}: not a checkpoint of main.py of this paper; name a run directory of it"
        )
    if not saved.get("state"):
        raise UserError(f"--run {folder}: holds several runs, a folder each; name one of them")
    if settings["mo"] not in MAP_MODELS:
        raise UserError(
            f"--run {folder}: its network has no class activation maps; {', '.join(MAP_MODELS)} have them"
        )

    parser = build_parser()
    for name in ("cav", "mask", "select", "depth"):
        value = settings.get(name)
        choices = next(action.choices for action in parser._actions if action.dest == name)
        fits = value in choices if choices else is_resnet_depth(value)
        if not fits:
            raise UserError(
                f"--run {folder}: its checkpoint holds {name} {value!r:.40}, which is no value of -{name}"
            )
    return argparse.Namespace(**settings)


def input_format_of(
    saved: Any,
    ds: str,
    weights: Mapping[str, torch.Tensor],
    source: object = "checkpoint",
) -> InputFormat:
    """What the checkpoint says; where it is older and does not, what the data set `ds` and the weights say."""
    channels = next(
        (w.shape[1] for w in weights.values() if w.ndim == 4), None
    )  # the first convolution
    classes = next(
        (w.shape[0] for w in reversed(weights.values()) if w.ndim == 2), None
    )  # the linear layer
    if channels is None or classes is None:
        raise UserError(f"{source}: its weights are not those of {', '.join(MAP_MODELS)}")

    state = saved.get("state") if isinstance(saved, Mapping) else None
    if isinstance(state, Mapping) and "input" in state:
        try:
            found = InputFormat.from_state(state["input"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{source}: the format of its input is {state['input']!r:.80}, which is none"
            ) from error
        if len(found.shape) != 3 or max(found.shape) > LARGEST_SIDE:
            raise UserError(f"{source}: {found}, expected channels, height and width")
        if (found.shape[0], found.num_classes) != (channels, classes):
            raise UserError(
                f"{source}: {found}, but weights of {channels} channels and {classes} classes"
            )
        return found

    kind = DATA_SETS[ds].kind
    if kind not in SIZES:
        raise UserError(f"{source}: a network of images, trained on {ds}, which holds none")
    shape = (channels, SIZES[kind], SIZES[kind])
    if kind == "idx":
        return InputFormat(shape, classes)
    return InputFormat(shape, classes, CIFAR_MEAN, CIFAR_STD)


def images_of(ds: str, input_format: InputFormat) -> PartialData:
    """A data set without images: what `build_model` reads off one."""
    none = torch.empty(0, *input_format.shape)
    return PartialData(ds, none, none, none, none, input_format.num_classes, is_sample=False)


def network_input(path: Path, input_format: InputFormat) -> torch.Tensor:
    """A picture file as network input (1,C,H,W) float32, in the size, colours and scale of the run."""
    channels, *size = input_format.shape
    image = read_own_picture(path).convert("L" if channels == 1 else "RGB")
    pixels = F.resize(F.pil_to_tensor(image), size, antialias=True)[None]
    scale = {"mean": input_format.mean, "std": input_format.std}
    return Images(pixels, torch.device("cpu"), **scale)[torch.arange(1)]


if __name__ == "__main__":
    run_main(main)
