"""What a run is made of: data and loader, student, teacher, optimiser."""

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from torch.utils.data import DataLoader

from common import checkpoint
from common.cli import UserError
from common.data import train_loader
from oass.core.datasets import VOC_Dataset_For_Classification
from oass.core.networks import Classifier, load_backbone, load_classifier
from oass.core.pretrain import load_pretrained
from oass.core.transforms import TrainTransform
from oass.tools.ai.optim_utils import PolyOptimizer

KEPT = {"architecture": "resnet50", "image_size": 512, "strategy": "cMax", "keypoint_rule": "paper", "topk": 5}
KEPT |= {"min_distance": None, "radius": None, "tile_chunk": None}


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


def run_checkpoint(path: Path) -> Path:
    """The file of a checkpoint, or of a run directory's best (else last) one."""
    files = [path / "checkpoints" / f"{name}.pt" for name in ("best", "last")]
    return next((file for file in files if file.is_file()), files[0]) if path.is_dir() else path


class Trained:
    """A checkpoint or run directory, read once: the settings that describe it, and its networks.

    Those settings (`KEPT`) are put into `args` where they are None or absent; `strategy` is what the checkpoint was
    trained with, whatever `args` say. UserError where there is no such file.
    """

    def __init__(self, path: Path, args: argparse.Namespace) -> None:
        self.path = run_checkpoint(path)
        self.saved = checkpoint.load(self.path)
        settings = self.saved.get("settings", {}) if isinstance(self.saved, Mapping) else {}
        for name, default in KEPT.items():
            if getattr(args, name, None) is None:
                setattr(args, name, settings.get(name, default))
        self.architecture = args.architecture
        self.strategy = settings.get("strategy", KEPT["strategy"])

    @property
    def has_teacher(self) -> bool:
        """Whether it holds the averaged network too."""
        return isinstance(self.saved, Mapping) and "teacher" in (self.saved.get("state") or {})

    def network(self, name: str = "student") -> Classifier:
        """The student or the teacher, in eval mode. UserError where the file does not fit, or holds no teacher."""
        model = Classifier(self.architecture, pretrained=False)
        if name == "student":
            load_classifier(model, self.path, self.saved)
            return model.eval()
        if not self.has_teacher:
            raise UserError(f"{self.path}: holds no teacher; --network student")
        # the teacher's own running statistics are not averaged: the student's belong to it (README, D6)
        buffers, state = {key for key, _ in model.named_buffers(remove_duplicate=False)}, self.saved["state"]
        state = {key: state["model"][key] if key in buffers else value for key, value in state["teacher"].items()}
        checkpoint.load_into(model, state, self.path)
        return model.eval()
