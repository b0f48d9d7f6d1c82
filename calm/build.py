"""From settings to objects: data, network, optimiser, score maps, run directory."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from calm.build_checkpoint import (
    MissingCheckpoint,
    find_checkpoint,
    load_checkpoint,
    read_checkpoint,
    settings_of_checkpoint,
)
from calm.data import (
    SPLITS,
    DataSet,
    data_of,
    get_data_loader,
    read_superclass,
)
from calm.data_cub_trait import CUBTrait, has_segmentations
from calm.data_folders import find_data_set, listed_test_ids
from calm.data_frozen import with_features
from calm.data_own import OwnImages, OwnMasks, ids_of, own_images, read_own_data
from calm.evaluate import Tester
from calm.evaluate_cue import CueLocaliser, make_cues, make_trait
from calm.evaluate_maps import ScoreMapper, get_threshold_list
from calm.evaluate_pixels import UnfitDataset
from calm.evaluate_wsol import Masks
from calm.network import ARCHITECTURES
from calm.network.any import input_of, make_network
from calm.network.head import HEADS, AttributionNet
from calm.options import Settings, cub_root
from calm.options_data import OWN, require_same_classes
from calm.options_names import GRADIENT_SETTINGS
from calm.report import comparable, told_of_idle_flags
from common.aliases import one_module
from common.cli import UserError
from common.run import Run, start_run
from common.rundir import make_accelerator, seed_everything
from common.sync_bn import synchronised

one_module(__name__, "calm.build")

PLACEHOLDER = "checkpoint_name"  # of the original README's commands
# Substrings of the parameters that learn at lr (the others at lr x ratio), and those added with
# another checkpoint.
LOW_RATE = {
    "resnet": (("conv1", "layer1", "layer2", "layer3"), ("bn1", "layer4")),
    "vgg": (("features.",), ("conv6", "bn6")),
    "inception": (("Mixed", "Conv2d_1", "Conv2d_2", "Conv2d_3", "Conv2d_4"), ()),
    "small": (("features.",), ()),
}


@dataclass
class Parts:
    """What every run starts with.

    Args:
        settings: with the values that come from data and checkpoint.
        classes: how many the network has.
        loaders: split -> loader.
        trained: what the checkpoint says of its training; empty where there is none.
    """

    settings: Settings
    data: DataSet
    accelerator: Accelerator
    classes: int
    loaders: dict[str, DataLoader]
    model: AttributionNet
    checkpoint: Path | None = None
    trained: dict[str, Any] = field(default_factory=dict)


def build_parts(
    settings: Settings, *, is_evaluation: bool, splits: Iterable[str] = SPLITS
) -> Parts:
    """Data, loaders and network. An evaluation takes the network from the checkpoint."""
    checkpoint = None
    trained: dict[str, Any] = {}
    if is_evaluation:
        checkpoint = checkpoint_file(settings, settings.experiment)
        settings, trained = with_checkpoint(settings, checkpoint)
    elif settings.args.use_load_checkpoint:
        checkpoint = checkpoint_file(settings)

    settings, data = with_data(settings)
    if data.own is not None:
        require_same_classes(checkpoint, trained, data.own.classes)
    if is_evaluation:
        check_class_count(settings, data, checkpoint)
    args = settings.args
    accelerator = make_accelerator(args)
    seed = seed_everything(args.seed, fast=args.fast)
    classes = count_classes(settings, data)
    loaders = get_data_loader(
        data.paths,
        data.metadata,
        args.batch_size,
        args.workers,
        args.resize_size,
        args.crop_size,
        args.proxy_training_set,
        grad_accum=args.grad_accum,
        accelerator=accelerator,
        seed=seed,
        num_classes=classes,
        skip_corrupt=args.skip_corrupt,
        cache_images=args.cache_images and not is_evaluation,
        splits=splits,
        test_ids=test_ids(settings, data),
        as_bytes=True,
        is_frozen=args.frozen_features,
        own=None if data.own is None else partial(own_images, data.own),
    )
    settings = with_prior_activation(settings, checkpoint)
    model = build_model(settings, classes, checkpoint)
    for loader in loaders.values():
        data_of(loader).resize_with(model.interpolation)
    settings = settings.with_unset({"network_input": input_of(model)})
    if args.sync_bn and not is_evaluation:
        synchronised(model, accelerator)
    device = accelerator.device
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if args.frozen_features:
        model.freeze()
        loaders = with_features(loaders, model, args, device)
    return Parts(settings, data, accelerator, classes, loaders, model, checkpoint, trained)


def build_tester(settings: Settings, script: str) -> Tester:
    """Return an evaluation in the experiment's folder <script>_<process>_<method>/.

    It has a lock of its own.
    """
    parts = build_parts(settings, is_evaluation=True, splits=("test",))
    args = parts.settings.args
    model = parts.model.eval().requires_grad_(False)
    superclass = superclass_of(args, parts.classes)
    mapper = build_mapper(args, model, parts.accelerator, superclass)

    loader = parts.loaders["test"]
    name = f"{script}_{args.score_map_process}_{args.attribution_method}"
    run = start_evaluation(parts.settings, name, parts.accelerator)
    shown = f"{args.score_map_process}, {len(data_of(loader))} test images"
    run.print(f"{script}: {parts.checkpoint}, {shown}")
    print_what_counts(run, parts)
    return Tester(run, parts.accelerator, model, mapper, loader, args.skip_corrupt, args.mask_root)


def build_mapper(
    args: argparse.Namespace,
    model: AttributionNet,
    accelerator: Accelerator,
    superclass: dict[int, list[int]] | None = None,
) -> ScoreMapper:
    """The score maps of the flags."""
    return ScoreMapper(
        model,
        args.score_map_process,
        args.score_map_method,
        superclass,
        args.smoothing_ksize,
        gradient_settings(args),
        autocast=accelerator.autocast,
    )


def superclass_of(args: argparse.Namespace, classes: int) -> dict[int, list[int]] | None:
    """The groups of --superclass_file; None without that flag."""
    if args.superclass_file is None:
        return None
    return read_superclass(args.superclass_file, classes)


def gradient_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The numbers of the gradient processes."""
    return {name: getattr(args, name) for name in GRADIENT_SETTINGS}


def print_what_counts(run: Run, parts: Parts) -> None:
    """What a number depends on besides the images, and which flags have no effect."""
    run.print(comparable(vars(parts.settings.args), parts.trained, parts.classes))
    if parts.settings.idle:
        run.print(told_of_idle_flags(parts.settings.idle))


# ---- data ----------------------------------------------------------------------------


def with_data(settings: Settings) -> tuple[Settings, DataSet]:
    """Return the settings and the data set, whose metadata are found or built.

    The settings then say where OpenImages' masks lie.
    """
    settings = settings.located()
    args = settings.args
    if args.dataset_name == OWN:
        data = read_own_data(args)
        assert data.own is not None
        return settings.with_unset({"class_names": data.own.classes}), data
    metadata = args.metadata_root
    if settings.is_sample and "metadata_root" not in settings.given:
        metadata = settings.data_path / "metadata" / args.dataset_name  # beside its files
    data = find_data_set(args.dataset_name, settings.data_path, metadata, args.save_root)
    if data.name == "OpenImages":
        settings = settings.with_unset({"mask_root": str(data.root)})
    return settings, data


def build_trait(settings: Settings, needs: str) -> tuple[CUBTrait, str]:
    """The parts and attributes of CUB, and a line on what is the foreground.

    UnfitDataset, with `needs` for its beginning, for another data set.
    """
    args = settings.args
    if args.dataset_name != "CUB":
        raise UnfitDataset(f"{needs}; {args.dataset_name} has none")
    return make_trait(cub_root(settings.data_path), args.foreground, args.attribute_rule)


def build_cues(settings: Settings, trait: CUBTrait, tester: Tester) -> CueLocaliser:
    """What counts cue localisation for the pairs of the tested classes."""
    args = settings.args
    thresholds = get_threshold_list(args.cam_curve_interval, args.threshold_type)
    return make_cues(
        trait,
        tester.data,
        tester.mapper,
        thresholds,
        args.norm_type,
        args.max_pairs,
        args.crop_size if args.frozen_features else None,
    )


def build_masks(settings: Settings, tester: Tester) -> Masks | OwnMasks | None:
    """The masks of the data set; None where it has none."""
    name = settings.args.dataset_name
    if isinstance(tester.data, OwnImages):
        return None if tester.data.part.masks is None else OwnMasks(tester.data)
    if name == "OpenImages":
        return Masks(name, tester.data.metadata, Path(tester.mask_root))
    folder = cub_root(settings.data_path)
    if name == "CUB" and has_segmentations(folder):
        return Masks(name, tester.data.metadata, folder / "segmentations")
    return None


def count_classes(settings: Settings, data: DataSet) -> int:
    """--num_classes, else that of the data set."""
    return settings.args.num_classes or data.num_classes


def test_ids(settings: Settings, data: DataSet) -> list[str] | None:
    """The ids of --image_list; None without that flag."""
    if settings.args.image_list is None:
        return None
    known = None if data.own is None else ids_of(data.own.val)
    return listed_test_ids(settings.args.image_list, data.metadata, known)


# ---- checkpoints ---------------------------------------------------------------------


def checkpoint_file(settings: Settings, fallback: Path | None = None) -> Path:
    """Return the checkpoint file of --load_checkpoint, or of the run in `fallback`.

    The latter serves without that flag, and for the README's placeholder. MissingCheckpoint lists
    what was tried, UserError where there is neither flag nor fallback.
    """
    wanted = settings.args.load_checkpoint
    if wanted is None:
        if fallback is None:
            raise UserError("--use_load_checkpoint needs --load_checkpoint FILE or FOLDER")
        return find_checkpoint(fallback)
    try:
        return find_checkpoint(wanted, [Path(settings.args.save_root)])
    except MissingCheckpoint as missing:
        if Path(wanted).name != PLACEHOLDER or fallback is None:
            raise
        try:
            file = find_checkpoint(fallback)
        except MissingCheckpoint:
            problem = f"{missing}; nor does the experiment {fallback} hold one"
            raise MissingCheckpoint(problem) from None
        told = f"{wanted} is the README's placeholder and not there: using {fallback}"
        print(told, flush=True)
        return file


def with_checkpoint(
    settings: Settings, file: Path, same_data: bool = True
) -> tuple[Settings, dict[str, Any]]:
    """The settings with what makes a number comparable as the checkpoint has it, and what it says.

    Network, method, head, number of classes and size of the input, unless their flags were given.
    With `same_data` UserError where the network was trained on another data set than the one that
    is evaluated without being asked for by name. With --is_different_checkpoint the flags describe
    the network.
    """
    trained = settings_of_checkpoint(file)
    if settings.args.is_different_checkpoint:
        return settings, trained
    own = settings.args.dataset_name
    trained_on = trained.pop("dataset_name", own)
    if same_data and trained_on != own and not {"dataset_name", "data"} & settings.given:
        remedy = f"evaluate it with --dataset={trained_on}"
        if trained_on == OWN:
            remedy = "evaluate it with --data PLACE"
        raise UserError(f"{file}: was trained on {trained_on}; {remedy}")
    return settings.with_unset(trained), trained


def check_class_count(settings: Settings, data: DataSet, file: Path | None) -> None:
    """Check that the data set has as many classes as the checkpoint.

    UserError where it has another number, and none was asked for.
    """
    args = settings.args
    is_chosen = args.is_different_checkpoint or "num_classes" in settings.given
    if is_chosen or args.num_classes in (None, data.num_classes):
        return
    raise UserError(
        f"{file}: has {args.num_classes} classes, {data.name} in {data.root} {data.num_classes}; "
        "name the data that it was trained for with --data_root, "
        f"or --num_classes {args.num_classes} for lists of a subset"
    )


# ---- network, optimiser, teacher -----------------------------------------------------


def with_prior_activation(settings: Settings, checkpoint: Path | None = None) -> Settings:
    """Return the settings with the attention's activation.

    It is the checkpoint's, else ReLU, or softplus in a sample run.
    """
    if settings.args.prior_activation is not None:
        return settings
    activation = "softplus" if settings.is_sample else "relu"
    if checkpoint is not None:
        activation = read_checkpoint(checkpoint)[1].get("prior_activation", "relu")
    return settings.with_unset({"prior_activation": activation})


def build_model(settings: Settings, classes: int, checkpoint: Path | None = None) -> AttributionNet:
    """The network of the flags, with the weights of `checkpoint` or of ImageNet."""
    args = settings.args
    weights = args.weights if checkpoint is None else None
    pretrained = args.pretrained and checkpoint is None and weights is None
    if args.architecture == "small" and pretrained:
        raise UserError("small has no ImageNet weights; add --pretrained=False")
    model = make_network(args, classes, pretrained, weights)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint, args.is_different_checkpoint)
    return model


def low_rate_names(args: argparse.Namespace, names: Iterable[str]) -> set[str]:
    """Return the names of the parameters that learn at lr.

    They are chosen by the released substrings, or are everything but the heads (clean).
    """
    if args.param_groups == "clean" or args.architecture not in ARCHITECTURES:
        return {name for name in names if not name.startswith(HEADS)}
    for family, (always, with_another) in LOW_RATE.items():
        if args.architecture.startswith(family):
            substrings: tuple[str, ...] = always
            if args.is_different_checkpoint:
                substrings += with_another
    return {name for name in names if string_contains_any(name, substrings)}


def string_contains_any(text: str, substrings: Iterable[str]) -> bool:
    """Whether `text` contains one of `substrings`."""
    return any(part in text for part in substrings)


def build_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.SGD:
    """SGD with Nesterov momentum; group 0 at lr, group 1 at lr x lr_classifier_ratio.

    Weights that are frozen are in neither. One call for all weights: fused on a GPU, and on a CPU
    the form whose rounding is that of a loop over the weights.
    """
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    is_on_gpu = all(parameter.is_cuda for parameter in named.values())
    low = low_rate_names(args, named)
    slow: list[nn.Parameter] = []
    fast: list[nn.Parameter] = []
    for name, parameter in named.items():
        of_rate = slow if name in low else fast
        of_rate.append(parameter)
    return torch.optim.SGD(
        [
            {"params": slow, "lr": args.lr},
            {"params": fast, "lr": args.lr * args.lr_classifier_ratio},
        ],
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        nesterov=args.momentum > 0,
        fused=is_on_gpu,
        foreach=not is_on_gpu,
    )


def build_teacher(args: argparse.Namespace, model: nn.Module) -> AveragedModel | None:
    """The moving average whose posterior is the E-step with --em_teacher ema."""
    if args.em_teacher == "none":
        return None
    average = get_ema_multi_avg_fn(args.ema_decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True).eval().requires_grad_(False)


# ---- the run directory ---------------------------------------------------------------


def start_training(settings: Settings, accelerator: Accelerator) -> Run:
    """The run directory of a training: the one that the flags name, else a free one."""
    folder = settings.log_folder
    named = folder if settings.is_named else ""
    return start_run(settings.args, folder, accelerator, named=named)


def start_evaluation(settings: Settings, name: str, accelerator: Accelerator) -> Run:
    """Start the run directory of an evaluation, and return it.

    It is NAME in the experiment's folder, or --output_dir where that is no experiment.
    """
    named = settings.args.output_dir
    if named is None or settings.experiment == Path(named):
        named = ""
    return start_run(settings.args, settings.experiment / name, accelerator, named=named)
