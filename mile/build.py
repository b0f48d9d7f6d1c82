"""From the settings of a run to its objects.

Device, data, networks, learner. The last place that sees flags.
"""

import argparse
import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from common.aliases import one_module
from common.backbones import feature_network
from common.cli import UserError
from common.estimate import estimate, free_disk
from common.loading import seed_of
from common.peak import peak_memory
from mile import data
from mile.build_networks import build_network
from mile.data import IMAGENET, FolderSource, GridSource, Source, Statistics
from mile.data_labels import training_sets
from mile.data_location import Located
from mile.data_own import OwnPlace, own_pictures
from mile.evaluate import Outputs, Rule, Threshold
from mile.learning import IteratedLearning, LearningRate, trial_steps
from mile.method import Plan, prediction_set, pseudo_labels
from mile.models import CLASSES
from mile.models_backbones import as_plain, from_plain
from mile.models_backbones import statistics_of as statistics_of_network
from mile.options import Settings
from mile.options_table import COMPARABLE

one_module(__name__, "mile.build")


# ---- the device ----------------------------------------------------------------------------------


def is_there(device: str) -> bool:
    """Whether this machine has a device of the kind: cpu, cuda, cuda:N or mps."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind != "mps" or torch.backends.mps.is_available()


def device_named(device: str) -> torch.device:
    """The device, or the CPU (with one warning) where that is a GPU which is not there."""
    if is_there(device):
        return torch.device(device)
    warnings.warn(f"device {device}: no GPU here, using the CPU", stacklevel=2)
    return torch.device("cpu")


def choose_device(
    args: argparse.Namespace, say: Callable[[str], None] = print, *, is_asked: bool = True
) -> None:
    """Make accelerate follow args.device; where that GPU is not there, the CPU.

    is_asked: the user named the device, and is told.
    """
    if args.device == "cpu":
        args.cpu = True
    elif not args.cpu and not is_there(args.device):
        if is_asked:
            say(f"warning: device {args.device}, but there is no GPU here: this run uses the CPU")
        args.cpu = True
    elif args.device.startswith("cuda:") and "LOCAL_RANK" not in os.environ and not args.cpu:
        os.environ["ACCELERATE_TORCH_DEVICE"] = args.device


# ---- the data ------------------------------------------------------------------------------------


def open_source(settings: Settings, accelerator: Accelerator) -> Source:
    """The source of a located data set; UserError where its files or the batch size do not fit."""
    args = settings.args
    world = accelerator.num_processes
    if args.batch_size % world:
        raise UserError(f"batch_size {args.batch_size} is not divisible by the {world} processes")
    if args.dataset == "mnist":
        return _grids(args, settings.data, accelerator)
    return _folders(settings, accelerator)


def _grids(args: argparse.Namespace, place: Located, accelerator: Accelerator) -> GridSource:
    device = accelerator.device
    shared: dict[str, Any] = {
        "size": args.mnist_size,
        "redraw": args.mnist_redraw,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
    }

    def of_test(digits: data.Digits, grids: int) -> data.GridLoader:
        on_device = digits.on(device)
        return data.GridLoader(
            *on_device,
            train=False,
            batch_size=max(data.EVALUATED, args.batch_size),
            grids=grids,
            seed=data.TEST_SEED,
            **shared,
        )

    parts = data.read_digits(_known(place.root))
    digits = parts.train
    held_out = None
    if args.rho_cover is not None:
        digits, kept = digits.set_aside(data.HELD_OUT)
        held_out = of_test(kept, int(data.HELD_OUT * args.mnist_grids))
    train = data.GridLoader(
        *digits.on(device),
        train=True,
        batch_size=rows_of_step(args),
        parts=args.grad_accum,
        grids=args.mnist_grids,
        seed=args.seed or 0,
        **shared,
    )
    return GridSource(train, of_test(parts.test, args.mnist_test_grids), held_out)


def _own(args: argparse.Namespace, settings: Settings, accelerator: Accelerator) -> data.FolderSet:
    """The pictures of --data; every process reads the same."""
    return own_pictures(
        OwnPlace(args.data, args.images, args.classes),
        real=settings.data.real,
        known=settings.trained.classes,
        seed=args.seed or 0,
        skip_corrupt=args.skip_corrupt,
        say=accelerator.print,
    )


def _taught(args: argparse.Namespace, images: data.FolderSet) -> dict[str, list[int]] | None:
    """Training image -> the classes that --train_sets names for it; None without that flag."""
    if args.train_sets is None:
        return None
    files = data.files_of(images.train)
    sets = training_sets(files, Path(args.train_sets), images.class_names)
    return {str(file): labels for file, labels in zip(files, sets, strict=True)}


def _folders(settings: Settings, accelerator: Accelerator) -> FolderSource:
    args = settings.args
    place = settings.data
    if place.own is not None:
        images = _own(args, settings, accelerator)
    elif args.dataset == "webvision":
        images = data.webvision(_known(place.root), place.imagenet)
    elif args.dataset == "imagenet":
        images = data.imagenet(_known(place.train), _known(place.val), _known(place.real))
    else:
        images = data.own_folders(_known(place.train), _known(place.val), place.real)
    train = data.subset_of(
        images.train, file=args.subset_file, share=args.train_frac, seed=args.subset_seed
    )

    statistics = statistics_of(settings)
    mode = statistics.interpolation
    short = data.short_side(args.protocol, args.model)
    look = data.eval_transform(args.image_size, short, interpolation=mode)
    train_look = look
    has_chance = args.augment == "standard"
    if has_chance:
        train_look = data.train_transform(args.image_size, interpolation=mode)
    images = images._replace(train=train)
    return FolderSource(
        images,
        accelerator,
        train_look=train_look,
        look=look,
        image_size=args.image_size,
        batch_size=args.batch_size,
        grad_accum=args.grad_accum,
        workers=args.num_workers,
        seed=args.seed,
        skip_corrupt=args.skip_corrupt,
        holds_out=args.rho_cover is not None,
        reads_train=not args.eval_only or args.export_labels,
        has_chance=has_chance,
        weighs_classes=args.reweight == "uniform",
        names_empty=args.dataset == "folder" and place.own is None,
        sets=_taught(args, images),
        statistics=statistics,
    )


def rows_of_step(args: argparse.Namespace) -> int:
    """Images of a step of the optimiser, over all processes."""
    return args.batch_size * args.grad_accum


def _known(path: Path | None) -> Path:
    """A place that the data set has."""
    if path is None:
        raise UserError("the data set lacks a part; give its path")
    return path


# ---- networks and learner ------------------------------------------------------------------------


def statistics_of(settings: Settings) -> Statistics:
    """What pictures are normalised with: as the evaluated weights say, else the network's own.

    Our networks and torchvision's ResNets have ImageNet's, also weights of a run that does not say.
    """
    said = settings.trained.input
    if said is not None:
        return from_plain(said)
    args = settings.args
    if args.model in CLASSES or settings.trained.settings or args.dataset == "mnist":
        return IMAGENET
    with _seeded(args.seed or 0, 6):
        features = feature_network(args.model, image_size=args.image_size)
    return statistics_of_network(features)


def image_size_of(args: argparse.Namespace) -> int:
    """The side of the network's input."""
    return args.mnist_size if args.dataset == "mnist" else args.image_size


def estimate_of(
    args: argparse.Namespace,
    learner: IteratedLearning,
    source: Source,
    plan: Plan,
    accelerator: Accelerator,
    folder: Path,
) -> str:
    """A line: time, memory and disk of the run, by three steps of a copy of its network.

    Of the network alone: reading the pictures comes on top where the loader is slower.
    """
    size = image_size_of(args)
    share = max(1, args.batch_size // accelerator.num_processes)
    shape = source.feature_shape or (3, size, size)
    images = torch.zeros(share, *shape, device=accelerator.device)
    with torch.random.fork_rng():
        seconds = trial_steps(learner.student, images, accelerator.autocast)
    weights = sum(value.nbytes for value in learner.student.state_dict().values())
    networks = len(learner.trained) + (learner.frozen is not None)
    rows = rows_of_step(args)
    pictures = max(1, source.train_size // rows) * rows
    return estimate(
        [args.grad_accum * second for second in seconds],
        pictures=pictures,
        batch_size=rows,
        epochs=min(plan.steps, args.max_steps or plan.steps) * rows / pictures,
        checkpoint_bytes=(networks + len(learner.optimizers)) * weights,
        peak_bytes=peak_memory(),
        free_bytes=free_disk(folder),
    )


@contextlib.contextmanager
def _seeded(*parts: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(*parts))
        yield


def build_learner(
    args: argparse.Namespace, num_classes: int, accelerator: Accelerator
) -> IteratedLearning:
    """Teacher and, where it is a network of its own, student.

    SGD with lr * batch_size * grad_accum / 256 under scale_lr.
    """
    bias_init = args.bias_init
    if args.schema == "softmax":
        bias_init = "default"

    def network(say: Callable[[str], object] = lambda line: None) -> nn.Module:
        return build_network(
            args.model,
            num_classes,
            accelerator,
            bias_init=bias_init,
            pretrained=args.pretrained,
            image_size=image_size_of(args),
            is_trained=args.eval_only,
            is_frozen=bool(args.frozen_features),
            say=say,
        )

    def new_student(generation: int) -> nn.Module:
        with _seeded(args.seed, 3, generation):
            return network()

    lr = args.lr
    if args.scale_lr:
        lr = args.lr * (rows_of_step(args) / 256)
    teacher = network(accelerator.print)
    student = None
    student_init = "teacher"
    if args.schema == "MILe" and args.student_init != "teacher":
        student = network()
        student_init = args.student_init
    return IteratedLearning(
        teacher,
        student,
        num_classes=num_classes,
        rho=args.rho,
        threshold_on=args.threshold_on,
        reduction=args.reduction,
        student_init=student_init,
        keep_ground_truth=args.keep_ground_truth,
        lr=lr,
        nesterov=args.nesterov,
        accelerator=accelerator,
        parts=args.grad_accum,
        is_compiled=args.compile,
        schema=args.schema,
        new_student=new_student,
        is_body_frozen=bool(args.frozen_features),
    )


def build_plan(args: argparse.Namespace, pass_steps: int) -> Plan:
    """The generations of the run, or its passes of `pass_steps` steps."""
    return Plan(
        schema=args.schema,
        k_t=args.k_t,
        k_s=args.k_s,
        warmup=args.warmup,
        generations=args.epoch_num,
        total_steps=args.total_steps,
        pass_steps=pass_steps,
    )


def build_rates(args: argparse.Namespace, learner: IteratedLearning, plan: Plan) -> LearningRate:
    """The learning rate's schedule."""
    return LearningRate(args.lr_schedule, args.lr_milestones, learner.optimizers, plan)


# ---- how it is measured --------------------------------------------------------------------------


def rule_of(args: argparse.Namespace) -> Rule:
    """How label sets are predicted and counted.

    WebVision's published figures are top-1 and top-5.
    """
    return Rule(args.schema, args.protocol, args.eval_rho, top5=args.dataset == "webvision")


def threshold_of(args: argparse.Namespace) -> Threshold:
    """How the threshold of the pseudo labels is found."""
    return Threshold(args.rho, args.rho_start, args.rho_cover)


def comparable(args: argparse.Namespace, source: Source) -> dict[str, Any]:
    """What a weight file says of itself."""
    says: dict[str, Any] = {name: getattr(args, name) for name in COMPARABLE}
    return says | {"classes": list(source.class_names), "input": as_plain(source.statistics)}


def taught_sets(args: argparse.Namespace, rho: float) -> Callable[[Outputs], torch.Tensor]:
    """From outputs the sets (n,C) bool that a network teaches at rho.

    For softmax those that it predicts.
    """

    def sets_of(outputs: Outputs) -> torch.Tensor:
        if args.schema == "softmax":
            return prediction_set(outputs.logits, rho, "softmax", args.protocol)
        kept = outputs.label if args.keep_ground_truth else None
        return pseudo_labels(outputs.logits, rho, args.threshold_on, kept).bool()

    return sets_of


def describe_evaluation(settings: Settings, num_classes: int) -> str:
    """The line that says what --eval_only evaluates and how, and where that comes from."""
    args = settings.args
    size = args.mnist_size if args.dataset == "mnist" else args.image_size
    what = f"{args.model} on {args.dataset}, {num_classes} classes, {size}x{size} px"
    how = f"schema {args.schema}, protocol {args.protocol}, threshold {args.eval_rho:g}"
    source = "not in the weights, so as set or by default"
    if settings.trained.settings:
        source = "as the weights say"
        given = [name for name in COMPARABLE if name in settings.given]
        if given:
            source += f", but {', '.join(given)} as given"
    return f"evaluating {what}, ImageNet's mean and deviation; {how} ({source})"
