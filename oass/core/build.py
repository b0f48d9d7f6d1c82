"""What a run is made of: data and loader, student, teacher, optimiser."""

import argparse
import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from common import checkpoint
from common.aliases import one_module
from common.cli import UserError
from common.data import train_loader
from oass.core.datasets import VOC_Dataset_For_Classification
from oass.core.networks import HEAD, Classifier, load_backbone, load_classifier, read_state
from oass.core.options import BASELINES, DIFFICULT, PUZZLES, TILE_MODES, WITH_TEACHER
from oass.core.pretrain import load_pretrained
from oass.core.settings import check_size
from oass.core.transforms import TrainTransform
from oass.tools.ai.optim_utils import PolyOptimizer

one_module(__name__, "oass.core.build")

# What a trained network's numbers depend on: taken from its checkpoint where no flag says otherwise. The values
# here are for files without settings (official state dicts).
KEPT: dict[str, object] = {
    **{"architecture": "resnet50", "image_size": 512, "strategy": "cMax"},
    **{"keypoint_rule": "paper", "topk": 5, "min_distance": None, "radius": None},
    **{"teacher_bn": "group", "tile_chunk": None},
    **{"difficult": "include", "drop_last_eval": False, "batch_size": 32},
}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_count_or_none(value: object) -> bool:
    return value is None or _is_count(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _one_of(*choices: str) -> Callable[[object], bool]:
    return lambda value: _is_text(value) and value in choices


# Which values of a checkpoint's settings can be such.
WHAT_HOLDS: dict[str, Callable[[object], bool]] = {
    **{"architecture": _is_text, "val_domain": _is_text},
    **{"strategy": _one_of(*PUZZLES, *BASELINES), "keypoint_rule": _one_of("paper", "released")},
    **{"teacher_bn": _one_of(*TILE_MODES), "difficult": _one_of(*DIFFICULT)},
    **dict.fromkeys(("image_size", "topk", "batch_size"), _is_count),
    **dict.fromkeys(("min_distance", "radius", "tile_chunk"), _is_count_or_none),
    "drop_last_eval": lambda value: isinstance(value, bool),
}


def build_data(
    args: argparse.Namespace, accelerator: Accelerator
) -> tuple[VOC_Dataset_For_Classification, VOC_Dataset_For_Classification, DataLoader]:
    """Training and validation sets, and the training loader: whole batches only, as released.

    UserError where a picture of either cannot be read; with --skip_corrupt those of the validation set are left out
    of it, and batches are smaller where those of the training set come.
    """
    transform = TrainTransform(
        args.image_size, args.min_image_size, args.max_image_size, args.augment
    )
    train_data = VOC_Dataset_For_Classification(args._location.path, args.train_domain, transform)
    val_data = VOC_Dataset_For_Classification(args._location.path, args.val_domain)
    if not train_data.split.labels.any():
        raise UserError(
            f"{train_data.list_path}: none of its {len(train_data)} images has an object to learn from"
        )
    world = accelerator.num_processes
    n = len(train_data)
    if args.batch_size % world:
        raise UserError(f"--batch_size {args.batch_size} cannot be divided among {world} processes")
    if args.batch_size > n:
        raise UserError(
            f"--batch_size {args.batch_size}: only {n} training images; at most --batch_size {n}"
        )
    if args.batch_size // world < least_images(args.architecture):
        raise UserError(
            "--batch_size: ResNeSt normalises pooled values and needs two images a process"
        )
    unreadable = train_data.unreadable(args.skip_corrupt, accelerator.print)
    if not train_data.split.without(unreadable).labels.any():
        raise UserError(
            f"{train_data.list_path}: no image with an object can be read; replace them"
        )
    val_data.leave_out(val_data.unreadable(args.skip_corrupt, accelerator.print))
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


def least_images(architecture: str) -> int:
    """How many images a training step of one process needs: ResNeSt normalises pooled values over the batch."""
    return 2 if architecture.startswith("resnest") else 1


def refuse_for_several_processes(args: argparse.Namespace, accelerator: Accelerator) -> None:
    """UserError for flags that --sync_bn contradicts where there are several processes.

    Processes have different numbers of tiles, so they cannot share the tiles' statistics.
    """
    if not args.sync_bn or accelerator.num_processes == 1:
        return
    if args.teacher_bn == "batch":
        raise UserError(
            "--teacher_bn batch with --sync_bn: tiles of several processes have no common batch; group, eval"
        )
    if args.tile_bn_stats and args.strategy not in WITH_TEACHER:
        raise UserError(
            "--tile_bn_stats with --sync_bn: tiles would move each process's running statistics apart"
        )


def build_student(args: argparse.Namespace, poll: Callable[[], None] = lambda: None) -> Classifier:
    """The classifier with the weights of --weights. `poll` is called in every step of the sample's pretraining."""
    kind, _, path = args.weights.partition(":")
    whole = {"imagenet": True, "none": False, "sample": False, "backbone": False}
    model = Classifier(args.architecture, pretrained=whole.get(kind, Path(args.weights)))
    if kind == "backbone":
        load_backbone(model, path)
    if kind == "sample":
        load_pretrained(model, args._location.path, poll)
    return model


def build_teacher(student: Classifier) -> Classifier:
    """A copy of the student (D25) whose parameters have no gradient."""
    return copy.deepcopy(student).requires_grad_(False).train()


def build_optimizer(args: argparse.Namespace, student: Classifier, steps: int) -> PolyOptimizer:
    """PolyOptimizer over PuzzleCAM's groups: rates x1, x2, x10, x20; decay of the weights only (section e)."""
    groups = [
        {"params": group, "lr": scale * args.lr, "weight_decay": decay}
        for group, scale, decay in zip(
            student.get_parameter_groups(None),
            (1, 2, 10, 20),
            (args.wd, 0, args.wd, 0),
            strict=True,
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
    trained with, whatever `args` say. UserError where there is no such file, or it holds a backbone alone.
    """

    def __init__(self, path: Path, args: argparse.Namespace) -> None:
        self.path = run_checkpoint(path)
        self.saved = checkpoint.load(self.path)
        self.settings = self._part("settings")
        self._check_settings()
        self.overruled: list[str] = []
        for name, default in KEPT.items():
            kept = self.settings.get(name, default)
            if getattr(args, name, None) is None:
                setattr(args, name, kept)
            elif name in self.settings and getattr(args, name) != kept:
                self.overruled.append(f"--{name} {getattr(args, name)} (trained with {kept})")
        check_size(args.image_size)
        self.architecture = args.architecture
        self.strategy = self.settings.get("strategy", KEPT["strategy"])
        names = read_state(self.path, self.saved)
        if "fc.weight" in names:
            raise UserError(
                f"{self.path}: holds a backbone with classes of its own, no classifier to use"
            )
        self.has_head = any(name.startswith(HEAD) for name in names)

    def _part(self, name: str) -> Mapping[str, object]:
        """What the file holds under a name, values by name; empty where it holds nothing there (a state dict)."""
        part = self.saved.get(name, {}) if isinstance(self.saved, Mapping) else {}
        if not isinstance(part, Mapping | torch.Tensor):
            raise UserError(
                f"{self.path}: not a whole checkpoint of a run ({name} is {part!r:.40})"
            )
        return part if isinstance(part, Mapping) else {}

    def _check_settings(self) -> None:
        """UserError for the first kept setting, or name of a split, that cannot be one."""
        for name, holds in WHAT_HOLDS.items():
            if name in self.settings and not holds(self.settings[name]):
                shown = f"{name} is {self.settings[name]!r:.40}"
                raise UserError(f"{self.path}: not a whole checkpoint of a run ({shown})")

    @property
    def is_pooled(self) -> bool:
        """Whether its logits are GAP(F): trained as gap, or a classifier without an instance head (PuzzleCAM)."""
        return self.strategy == "gap" or not self.has_head

    @property
    def has_teacher(self) -> bool:
        """Whether it holds the averaged network too."""
        return isinstance(self._part("state").get("teacher"), Mapping)

    def describe(self, network: Classifier, args: argparse.Namespace) -> str:
        """What its numbers depend on, in a line; where flags overruled the checkpoint, another one that says so."""
        mean, std = (" ".join(f"{v:g}" for v in values) for values in network.normalisation)
        epoch = self._part("progress").get("epoch")
        place = f"{self.path}, epoch {epoch}" if epoch is not None else str(self.path)
        head = "GAP of the class maps" if self.is_pooled else "instance head"
        lines = [
            f"{place}: {self.strategy}, {self.architecture}, {head}, {network.num_classes} classes, "
            f"{args.image_size} px, pixels normalised by {mean} / {std}"
        ]
        if self.overruled:
            lines.append(f"other than in training: {', '.join(self.overruled)}")
        return "\n".join(lines)

    def network(self, name: str = "student") -> Classifier:
        """The student or the teacher, in eval mode. UserError where the file does not fit, or holds no teacher."""
        model = Classifier(self.architecture, pretrained=False)
        if name == "student":
            load_classifier(model, self.path, self.saved)
            return model.eval()
        if not self.has_teacher:
            raise UserError(f"{self.path}: holds no teacher; --network student")
        # the teacher's own running statistics are not averaged: the student's belong to it (README, D6)
        buffers = {key for key, _ in model.named_buffers(remove_duplicate=False)}
        state = self.saved["state"]
        state = {
            key: state["model"][key] if key in buffers else value
            for key, value in state["teacher"].items()
        }
        checkpoint.load_into(model, state, self.path)
        return model.eval()
