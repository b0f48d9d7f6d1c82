"""From the settings to what a run is made of: data and loader, student, teacher, optimiser, losses.

Below this room everything takes keywords, none the settings.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch.utils.data import DataLoader

from common.aliases import one_module
from common.cli import UserError
from common.compiling import compiled
from common.loading import train_loader
from common.own_data import OwnData
from common.rundir import make_accelerator
from common.sync_bn import synchronised
from oass.build_objective import Objective, PuzzleOptions, TilePass
from oass.build_optimizer import PolyOptimizer
from oass.build_pretrained import load_pretrained
from oass.build_trained import KEPT, Trained
from oass.core.backbones import other_network
from oass.core.networks import Classifier, load_backbone
from oass.data import TrainTransform, VOC_Dataset_For_Classification
from oass.data_own import OwnPictures, read_parts, require_classes
from oass.data_voc import CLASS_NAMES
from oass.evaluate import Walk
from oass.figures import PuzzlePictures
from oass.options import Settings
from oass.options_check import terms_of
from oass.options_flags import ARCHITECTURES, WITH_TEACHER

one_module(__name__, "oass.build")

RELEASED_STEPS = 661  # of an epoch, whatever the batch size (README, deviations: warmup_epoch)


def build_accelerator(settings: Settings) -> Accelerator:
    """accelerate's placement; UserError for flags that several processes contradict."""
    args = settings.args
    terms = terms_of(args.strategy, args.p_loss, args.loss_option)
    # Without cl the instance head has no gradient, nor has it with the strategy gap; heads of
    # timm's networks may lie behind the feature map.
    is_whole = "cl" in terms.present and args.strategy != "gap"
    is_whole = is_whole and args.architecture in ARCHITECTURES
    ddp = DistributedDataParallelKwargs(find_unused_parameters=not is_whole)
    accelerator = make_accelerator(args, kwargs_handlers=[ddp])
    if args.sync_bn and accelerator.num_processes > 1:
        _refuse_for_several_processes(settings)
    return accelerator


def _refuse_for_several_processes(settings: Settings) -> None:
    """Processes have different numbers of tiles, so they cannot share the tiles' statistics."""
    args = settings.args
    if args.teacher_bn == "batch":
        problem = "tiles of several processes have no common batch; group, eval"
        raise UserError(f"--teacher_bn batch with --sync_bn: {problem}")
    if args.tile_bn_stats and args.strategy not in WITH_TEACHER:
        problem = "tiles would move each process's running statistics apart"
        raise UserError(f"--tile_bn_stats with --sync_bn: {problem}")


def build_data(
    settings: Settings, accelerator: Accelerator
) -> tuple[VOC_Dataset_For_Classification, VOC_Dataset_For_Classification, DataLoader]:
    """Training and validation sets, and the training loader: whole batches only, as released.

    UserError where a picture of either cannot be read; with --skip_corrupt those of the validation
    set are left out of it, and batches are smaller where those of the training set come.
    """
    args = settings.args
    transform = TrainTransform(
        args.image_size, args.min_image_size, args.max_image_size, args.augment
    )
    if settings.own is not None:
        own = read_own_data(settings)
        shown = args.image_size if args.frozen_features else None
        train_data: VOC_Dataset_For_Classification = OwnPictures(
            own, "train", transform, side=shown
        )
        val_data: VOC_Dataset_For_Classification = OwnPictures(own, "val", side=args.image_size)
    else:
        root = settings.data_root
        train_data = VOC_Dataset_For_Classification(root, args.train_domain, transform)
        val_data = VOC_Dataset_For_Classification(root, args.val_domain)
    n = len(train_data)
    where = train_data.list_path
    if not train_data.split.labels.any():
        raise UserError(f"{where}: none of its {n} images has an object to learn from")

    world = accelerator.num_processes
    size = args.batch_size
    if size % world:
        raise UserError(f"--batch_size {size} cannot be divided among {world} processes")
    if size * args.grad_accum > n:
        raise UserError(too_large(args, n, f"only {n} training images"))
    if size // world < least_images(args.architecture):
        problem = "ResNeSt normalises pooled values and needs two images a process"
        raise UserError(f"--batch_size: {problem}")

    unreadable = train_data.unreadable(args.skip_corrupt, accelerator.print)
    if not train_data.split.without(unreadable).labels.any():
        raise UserError(f"{where}: no image with an object can be read; replace them")
    if args.frozen_features:
        train_data.leave_out(unreadable)
    val_data.leave_out(val_data.unreadable(args.skip_corrupt, accelerator.print))
    loader = train_loader(
        train_data,
        size // world * args.grad_accum,
        parts=args.grad_accum,
        seed=args.seed,
        accelerator=accelerator,
        workers=args.num_workers,
        drop_last=True,
        skip_corrupt=args.skip_corrupt,
    )
    return train_data, val_data, loader


def too_large(args: argparse.Namespace, images: int, told: str) -> str:
    """What to say of steps that have more than all `images`."""
    if args.grad_accum == 1:
        return f"--batch_size {args.batch_size}: {told}; at most --batch_size {images}"
    step = f"--batch_size {args.batch_size} --grad_accum {args.grad_accum}"
    return f"{step}: {told}; at most {images} a step"


def read_own_data(settings: Settings, *, seed: int | None = None) -> OwnData:
    """What lies at --data; seed: of the val part, default --seed."""
    args = settings.args
    drawn_by = args.seed if seed is None else seed
    return read_parts(args.data, args.images, args.classes, drawn_by, args.skip_corrupt)


def build_evaluated(settings: Settings, trained: Trained) -> VOC_Dataset_For_Classification:
    """The pictures that a trained network is evaluated on: --domain of the data.

    UserError where own data have no such part, or other classes than the network.
    """
    args = settings.args
    if settings.own is None:
        if trained.classes != tuple(CLASS_NAMES):
            problem = f"its {len(trained.classes)} classes are not VOC's"
            raise UserError(f"{trained.path}: {problem}; give its data with --data")
        return VOC_Dataset_For_Classification(settings.data_root, args.domain, labels="if present")
    if args.domain not in ("train", "val"):
        raise UserError(f"--domain {args.domain}: own data (--data) have the parts train and val")
    own = read_own_data(settings, seed=trained.seed)
    require_classes(own, trained.classes, trained.path)
    return OwnPictures(own, args.domain, side=args.image_size)


def least_images(architecture: str) -> int:
    """Images that a step of one process needs: ResNeSt normalises pooled values over the batch."""
    return 2 if architecture.startswith("resnest") else 1


def check_architecture(settings: Settings) -> None:
    """UserError where there is no such network, or none for this size; before anything is made."""
    args = settings.args
    if args.architecture not in ARCHITECTURES:
        with torch.random.fork_rng(devices=[]):
            other_network(args.architecture, False, args.image_size)


def build_student(
    settings: Settings, poll: Callable[[], None] = lambda: None, classes: int = len(CLASS_NAMES)
) -> Classifier:
    """The classifier with the weights of --weights.

    poll: called in every step of the sample's pretraining. classes: how many.
    """
    args = settings.args
    kind, _, path = args.weights.partition(":")
    is_pretrained = {"imagenet": True, "none": False, "sample": False, "backbone": False}
    pretrained = is_pretrained.get(kind, Path(args.weights))
    model = Classifier(
        args.architecture, classes, pretrained=pretrained, image_size=args.image_size
    )
    if kind == "backbone":
        load_backbone(model, path)
    if kind == "sample":
        load_pretrained(model, settings.data_root, poll)
    return model


def build_teacher(student: Classifier) -> Classifier:
    """A copy of the student whose parameters have no gradient."""
    return copy.deepcopy(student).requires_grad_(False).train()


def build_networks(
    settings: Settings,
    accelerator: Accelerator,
    poll: Callable[[], None],
    classes: int = len(CLASS_NAMES),
) -> tuple[Classifier, Classifier | None]:
    """The student, and the teacher of the strategies that have one, on the device.

    poll, classes: as for `build_student`.
    """
    student = build_student(settings, poll, classes)
    if settings.args.sync_bn:
        synchronised(student, accelerator)
    student.to(accelerator.device).to(memory_format=torch.channels_last)  # faster, on a CPU too
    if settings.args.strategy not in WITH_TEACHER:
        return student, None
    return student, build_teacher(student)


def build_objective(
    settings: Settings, student: Classifier, teacher: Classifier | None
) -> Objective:
    """The losses of a step."""
    args = settings.args
    update = args.tile_bn_stats and teacher is None
    return Objective(
        student,
        teacher,
        options=puzzle_options(settings),
        terms=terms_of(args.strategy, args.p_loss, args.loss_option),
        tile_maps=TilePass(args.teacher_bn, args.tile_chunk, update),
        look=compiled(student, args.compile),
    )


def build_pictures(
    settings: Settings,
    objective: Objective,
    accelerator: Accelerator,
    classes: Sequence[str] = CLASS_NAMES,
) -> PuzzlePictures:
    """What draws the puzzle after every epoch; classes: their names."""
    args = settings.args
    return PuzzlePictures(
        objective.options, objective.tile_maps, args.image_size, args.pictures, accelerator, classes
    )


def build_trained(settings: Settings) -> tuple[Trained, Settings]:
    """The network of --checkpoint, and the settings with all that its numbers depend on.

    What no flag says (values of None, absent ones) is as the checkpoint was trained and evaluated.
    """
    given = vars(settings.args)
    asked = {name: given.get(name) for name in KEPT}
    trained = Trained(settings.args.checkpoint, **asked)
    args = argparse.Namespace(**given | trained.in_use)
    if "domain" in given and args.domain is None:
        args.domain = trained.val_domain
    return trained, replace(settings, args=args)


def build_cut(settings: Settings) -> PuzzleOptions:
    """Where the puzzle is cut."""
    args = settings.args
    return PuzzleOptions(
        strategy=args.strategy,
        rule=args.keypoint_rule,
        k=args.topk,
        min_distance=args.min_distance,
        radius=args.radius,
    )


def puzzle_options(settings: Settings) -> PuzzleOptions:
    """Where the puzzle is cut and what its losses compare."""
    args = settings.args
    return replace(
        build_cut(settings),
        re_loss=args.re_loss,
        re_loss_option=args.re_loss_option,
        level=args.level,
        p_loss=args.p_loss,
        p_target=args.p_target,
    )


def build_walk(settings: Settings) -> Walk:
    """How an evaluation walks a split."""
    args = settings.args
    return Walk(args.image_size, args.batch_size, args.num_workers, args.skip_corrupt)


def build_measure(settings: Settings) -> dict[str, Any]:
    """How `oass.evaluate.measure` counts."""
    args = settings.args
    drop_last = args.batch_size if args.drop_last_eval else 0
    return {"difficult": args.difficult, "drop_last": drop_last}


def build_optimizer(settings: Settings, student: Classifier, steps: int) -> PolyOptimizer:
    """PolyOptimizer over PuzzleCAM's groups: rates x1, x2, x10, x20; decay of the weights only.

    steps: of an epoch.
    """
    args = settings.args
    scales = (1, 2, 10, 20)
    decays = (args.wd, 0, args.wd, 0)
    groups = []
    for parameters, scale, decay in zip(
        student.get_parameter_groups(None), scales, decays, strict=True
    ):
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if trained:
            groups.append({"params": trained, "lr": scale * args.lr, "weight_decay": decay})
    return PolyOptimizer(
        groups,
        args.lr,
        args.wd,
        args.warmup_epoch,
        args.max_epoch * steps,
        nesterov=args.nesterov,
        steps_per_epoch=RELEASED_STEPS if args.released else steps,
        sgd_momentum=args.sgd_momentum,
    )
