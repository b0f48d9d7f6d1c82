"""A run's network for use elsewhere: `python -m common.export RUN --to onnx`."""

import argparse
from pathlib import Path

import torch
from torch import nn

from calm.build import build_model
from calm.build_checkpoint import find_checkpoint, settings_of_checkpoint
from calm.data import MEAN, STD
from calm.network.head import AttributionNet
from calm.options import Settings, parse_flags
from common.aliases import one_module
from common.cli import UserError
from common.deployed import Deployed, Preparation, settings_of_run

one_module(__name__, "calm.build_deployed")


class Answering(nn.Module):
    """Images (B,3,H,W) to the logits (B,C) of an attribution network, in float32."""

    def __init__(self, model: AttributionNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """CAM's logits; for CALM log p(y|x), whose softmax is p(y|x)."""
        f, f_former, attention = self.model.encode(images)
        return self.model.process.input_for_loss(f, f_former, attention)["logits"]


def deployed(run: Path) -> Deployed:
    """The network of a run directory at its last checkpoint, on the CPU, in evaluation mode."""
    settings = settings_of_run(run)
    file = find_checkpoint(run)
    trained = settings_of_checkpoint(file)
    if "num_classes" not in trained:
        raise UserError(f"{file}: does not say how many classes it has")
    args = argparse.Namespace(**{**vars(parse_flags([]).args), **settings, **trained})
    model = build_model(Settings(args), args.num_classes, file).eval().requires_grad_(False)

    names = args.class_names or [str(label) for label in range(args.num_classes)]
    side = args.crop_size
    preparation = Preparation(
        size=(side, side), mean=MEAN, std=STD, interpolation=model.interpolation
    )
    process = "vanilla" if model.process.is_cam else "jointll"

    def maps(images: torch.Tensor) -> torch.Tensor:
        f, f_former, _ = model.encode(images)
        return model.process.class_maps(f, f_former, process)

    return Deployed(
        paper="calm",
        architecture=args.architecture,
        network=Answering(model),
        classes=tuple(names),
        preparation=preparation,
        answer="softmax",
        settings=settings,
        maps=maps,
    )
