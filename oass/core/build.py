"""What a run is made of: data and loader, student, teacher, optimiser."""

import argparse
import copy
from pathlib import Path

from accelerate import Accelerator
from torch.utils.data import DataLoader

from common.cli import UserError
from common.data import train_loader
from oass.core import batch_norm
from oass.core.datasets import VOC_Dataset_For_Classification
from oass.core.networks import Classifier, load_backbone
from oass.core.pretrain import load_pretrained
from oass.core.transforms import TrainTransform
from oass.tools.ai.optim_utils import PolyOptimizer


def build_data(
    args: argparse.Namespace, accelerator: Accelerator
) -> tuple[VOC_Dataset_For_Classification, VOC_Dataset_For_Classification, DataLoader]:
    """Training and validation sets, and the training loader: whole batches only, as released."""
    transform = TrainTransform(args.image_size, args.min_image_size, args.max_image_size, args.augment)
    train_data = VOC_Dataset_For_Classification(args._location.path, args.train_domain, transform)
    val_data = VOC_Dataset_For_Classification(args._location.path, args.val_domain)
    world, n = accelerator.num_processes, len(train_data)
    if args.batch_size % world:
        raise UserError(f"--batch_size {args.batch_size} cannot be divided among {world} processes")
    if args.batch_size > n:
        raise UserError(f"--batch_size {args.batch_size}: only {n} training images; at most --batch_size {n}")
    if args.batch_size // world < 2 and args.architecture.startswith("resnest"):
        raise UserError("--batch_size: ResNeSt normalises pooled values and needs two images a process")
    loader = train_loader(
        train_data,
        args.batch_size // world,
        seed=args.seed,
        accelerator=accelerator,
        workers=args.num_workers,
        drop_last=True,
        skip_corrupt=args.skip_corrupt,
    )
    return train_data, val_data, loader


def build_student(args: argparse.Namespace) -> Classifier:
    """The classifier with the weights of --weights."""
    kind, _, path = args.weights.partition(":")
    whole = {"imagenet": True, "none": False, "sample": False, "backbone": False}
    model = Classifier(args.architecture, pretrained=whole.get(kind, Path(args.weights)))
    if kind == "backbone":
        load_backbone(model, path)
    if kind == "sample":
        load_pretrained(model, args._location.path)
    if args.sync_bn:
        batch_norm.synchronise(model)
    return model


def build_teacher(student: Classifier) -> Classifier:
    """A copy of the student (D25) whose parameters have no gradient."""
    return copy.deepcopy(student).requires_grad_(False).train()


def build_optimizer(args: argparse.Namespace, student: Classifier, steps: int) -> PolyOptimizer:
    """PolyOptimizer over PuzzleCAM's groups: rates x1, x2, x10, x20; decay of the weights only (section e)."""
    groups = [
        {"params": group, "lr": scale * args.lr, "weight_decay": decay}
        for group, scale, decay in zip(
            student.get_parameter_groups(None), (1, 2, 10, 20), (args.wd, 0, args.wd, 0), strict=True
        )
    ]
    return PolyOptimizer(
        [group for group in groups if group["params"]],
        *(args.lr, args.wd, args.warmup_epoch, args.max_epoch * steps),
        nesterov=args.nesterov,
        steps_per_epoch=661 if args.released else steps,
        sgd_momentum=args.sgd_momentum,
    )
