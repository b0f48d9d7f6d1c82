"""Convert weight files between the official names and timm's.

Names are translated to timm's TResNet and back, and a state dict tells what architecture it is of.

python -m csl.src.models.utils.convert FILE OUT.pth              # official form -> timm's names
python -m csl.src.models.utils.convert FILE OUT.pth --to official
python -m csl.src.models.utils.convert FILE OUT.onnx --image_size 224
"""

import common.interrupt  # noqa: F401

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from common import checkpoint
from common.aliases import one_module
from common.cli import (
    DomainError,
    OneLineParser,
    UserError,
    image_size,
    parse_given,
    run_main,
    settle,
)

one_module(__name__, "csl.src.models.utils.convert")

EPS = 1e-5  # ABN's gamma is |weight| + EPS
BLOCKS = {11: "tresnet_m", 18: "tresnet_l", 24: "tresnet_xl", 23: "tresnet_l_v2", 1: "tresnet_tiny"}


def timm_name(key: str) -> str:
    """Return the name that timm gives an official entry.

    convN.0[.0] becomes convN.conv, and convN.[0.]1 becomes convN.bn.
    """
    for unit in (r"(conv\d+)\.0", r"(conv\d+)", r"(downsample\.\d+)"):
        key = re.sub(unit + r"\.0\.", r"\1.conv.", key)
        key = re.sub(unit + r"\.1\.", r"\1.bn.", key)
    return key


def is_timm(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> bool:
    """Whether `state` has timm's names while `wanted`, the network's, has the official ones."""
    return "body.conv1.conv.weight" in state and "body.conv1.0.weight" in wanted


def from_timm(
    state: Mapping[str, torch.Tensor], official_names: Mapping[str, object]
) -> dict[str, torch.Tensor]:
    """Official names for timm's; the norm weight is timm's - 1e-5, clamped at 0."""
    back = {timm_name(key): key for key in official_names}
    renamed = {}
    for name, value in state.items():
        if name.endswith("bn.weight"):
            value = (value - EPS).clamp(min=0)
        renamed[back.get(name, name)] = value
    return renamed


def to_timm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names for the official ones; the norm weight becomes |weight| + 1e-5."""
    renamed = {}
    for key, value in state.items():
        name = timm_name(key)
        if name.endswith("bn.weight"):
            value = value.abs() + EPS
        renamed[name] = value
    return renamed


def looks_like(state: Mapping[str, torch.Tensor]) -> str | None:
    """The TResNet that a state dict is of, by the blocks of layer3 and the form of layer1.

    None for another.
    """
    blocks = {int(m[1]) for key in state if (m := re.match(r"body\.layer3\.(\d+)\.", key))}
    if not blocks:
        return None
    if any(key.startswith("body.layer1.0.conv3") for key in state):
        return "tresnet_l_v2"
    return BLOCKS.get(max(blocks) + 1)


def export_onnx(model: nn.Module, path: Path, size: int) -> None:
    """Write `model` as ONNX, image (B,3,size,size) in 0..1 -> logits (B,C), any B.

    UserError without the package.
    """
    try:
        import onnx  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UserError(f"{path}: to write ONNX, `pip install onnx`") from error
    any_batch = {"image": {0: "batch"}, "logits": {0: "batch"}}

    def write(temporary: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of the exporter's own future, and of the test of the image's size
            torch.onnx.export(
                *(model, (torch.rand(2, 3, size, size),), str(temporary)),
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes=any_batch,
                opset_version=17,
                dynamo=False,  # the other exporter needs two packages more
            )

    checkpoint.atomic_save(path, write)


def main(argv: list[str] | None = None) -> None:
    """Convert a weights file."""
    from csl.src.models.tresnet.fold import fold
    from csl.src.models.utils.checkpoint import load_weights, official, read_checkpoint
    from csl.src.models.utils.factory import build_network

    parser = OneLineParser(
        prog="python -m csl.src.models.utils.convert", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "file", type=Path, help="official weights, timm's, or a checkpoint of train.py"
    )
    parser.add_argument("out", type=Path, help="the file to write: .pth or .onnx")
    parser.add_argument(
        "--to",
        choices=("timm", "official"),
        default="timm",
        help="the names in OUT, not of OUT.onnx",
    )
    parser.add_argument(
        "--image_size",
        type=image_size,
        default=448,
        help="of OUT.onnx; default: the checkpoint's, else 448",
    )
    defaults, given = parse_given(parser, argv)
    args = settle(defaults, given)
    is_onnx = args.out.suffix == ".onnx"
    if is_onnx and "to" in given:
        raise UserError(f"--to {args.to}: {args.out} is ONNX, which has no names to choose")
    if not is_onnx and "image_size" in given:
        raise UserError(f"--image_size {args.image_size}: only of OUT.onnx; weights serve any size")
    if args.out.is_dir():
        raise UserError(f"{args.out}: is a folder; name a file")

    found = read_checkpoint(args.file)
    architecture = looks_like(found.state_dict)
    if architecture is None or found.num_classes is None:
        raise DomainError(f"{args.file}: not a TResNet with a head of its own")
    bottleneck = found.head == "bottleneck"
    model = build_network(architecture, found.num_classes, bottleneck=bottleneck).eval()
    load_weights(model, found)
    state = model.state_dict()
    if is_onnx:
        size = (
            args.image_size
            if "image_size" in given
            else found.recorded.get("image_size", args.image_size)
        )
        export_onnx(fold(model), args.out, size)
    elif args.to == "timm":
        checkpoint.save(args.out, to_timm(state))
    else:
        info = {
            "num_classes": found.num_classes,
            "idx_to_class": found.idx_to_class,
            **found.recorded,
        }
        checkpoint.save(args.out, official(state, **info))
    print(f"{architecture}, {found.num_classes} classes, written to {args.out}")


if __name__ == "__main__":
    run_main(main)
