"""Model and optimiser of a run, with the errors for data that a model cannot take."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from cavl.cifar_models import convnet, densenet, resnet
from cavl.utils.datasets import PartialData
from cavl.utils.models import LeNet, linear_model, mlp_model
from common import checkpoint
from common.aliases import one_module
from common.cli import UserError

one_module(__name__, "cavl.utils.build")

HIDDEN = 500  # of the MLP, as in the reference
DROPOUT = 0.25  # of the convnet


def build_model(args: argparse.Namespace, data: PartialData) -> nn.Module:
    """The network of -mo for the shape of the data; UserError names the models that can take it."""
    shape = tuple(data.train_x.shape[1:])
    k = data.num_classes
    features = math.prod(shape)
    if args.mo in ("convnet", "resnet", "densenet") and len(shape) != 3:
        raise UserError(
            f"-mo {args.mo} takes images, {args.ds} has {features} features: use linear or mlp"
        )
    if args.mo == "convnet" and min(shape[1:]) < 28:
        raise UserError(
            f"-mo convnet takes images from 28x28 on, {args.ds} is {shape}: use another model"
        )
    if args.mo == "lenet" and shape != (1, 28, 28):
        raise UserError(
            f"-mo lenet takes 1x28x28, {args.ds} is {shape}: use linear, mlp, convnet, resnet or densenet"
        )
    makers = {
        "linear": lambda: linear_model(features, k),
        "mlp": lambda: mlp_model(features, HIDDEN, k),
        "lenet": lambda: LeNet(k),
        "convnet": lambda: convnet.Cnn(shape[0], k, DROPOUT),
        "resnet": lambda: resnet(depth=args.depth, num_classes=k, in_channels=shape[0]),
        "densenet": lambda: densenet(num_classes=k, in_channels=shape[0]),
    }
    return makers[args.mo]()


def require_full_batches(args: argparse.Namespace, data: PartialData, processes: int) -> None:
    """UserError where a process gets a batch of one image that the convnet's BatchNorm cannot take.

    Its last map is one pixel for 28x28, so that a single image leaves one value a channel.
    """
    n, batch = len(data.train_x), args.bs * processes
    smallest = (n % batch or batch) // processes
    if args.mo == "convnet" and data.train_x.shape[-1] < 32 and smallest < 2:
        told = (
            f"the last batch of {n} images leaves a single one"
            if args.bs > 1
            else "a single image a batch"
        )
        raise UserError(
            f"-bs {args.bs}: {told}, which convnet cannot normalise at 28x28; choose another size"
        )


def load_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """The network's weights in a checkpoint of main.py, or in a file of nothing else; UserError for other content."""
    saved = checkpoint.load(path)
    for key in ("state", "model"):
        saved = saved.get(key, saved) if isinstance(saved, Mapping) else saved
    if not isinstance(saved, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in saved.values()
    ):
        raise UserError(f"{path}: not a checkpoint of main.py, which holds weights by name")
    for name, value in saved.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinite values; name another checkpoint")
    return saved


def build_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """Adam (L2 in the gradient, not AdamW) or SGD with momentum 0.9."""
    settings = {"lr": args.lr, "weight_decay": args.wd, "fused": True}
    if args.op == "adam":
        return torch.optim.Adam(model.parameters(), **settings)
    return torch.optim.SGD(model.parameters(), momentum=0.9, **settings)


def set_learning_rate(
    args: argparse.Namespace, optimizer: torch.optim.Optimizer, epoch: int
) -> float:
    """The rate of an epoch (from 0): constant, or lr (1 + cos(pi epoch / epochs)) / 2; sets and returns it."""
    lr = (
        args.lr * (1 + math.cos(math.pi * epoch / args.ep)) / 2
        if args.schedule == "cosine"
        else args.lr
    )
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr
